"""One version is in use, every change has a reason, and nobody ever sees half a switch."""

import multiprocessing
import shutil

import pytest

from raft_errors import BadInput, RaftError
from tasks import registry as registry_module
from tasks.registry import Registry, adapters, needed
from tasks.store import Store


@pytest.fixture
def registry(tmp_path):
    store = Store(tmp_path / "raft")
    store.prepare()
    return Registry(store, "towns")


def made(store, text):
    """The manifests of a small chain whose export holds `text`."""
    chain = {}
    for stage in ("train", "export"):
        with store.publish(stage, f"{stage}-{text}") as (out, manifest):
            (out / "adapter.txt").write_text(text)
        chain[stage] = manifest
    return chain


def add(registry, *texts):
    return [registry.register(made(registry.store, text), reason=f"trained {text}").number for text in texts]


def states(registry):
    return [v.state for v in registry.read().versions]


def test_a_new_version_is_a_candidate_and_the_same_export_is_the_same_version(registry):
    assert add(registry, "one", "two", "one") == [1, 2, 1]
    assert states(registry) == ["candidate", "candidate"]
    assert registry.read().promoted is None
    assert not registry.pointer.exists()


def test_promotion_switches_the_pointer_and_retires_the_one_before(registry):
    one, two = add(registry, "one", "two")
    registry.promote(one, reason="first")
    assert (registry.pointer / "adapter.txt").read_text() == "one"
    adapter = registry.promote(two, reason="better", on_trial=True)
    assert (registry.pointer / "adapter.txt").read_text() == "two"
    assert (adapter.promoted, adapter.on_trial, adapter.before) == (2, True, 1)
    assert states(registry) == ["retired", "promoted"]
    assert not registry.settle(two, reason="smoke test passed").on_trial


def test_a_rollback_returns_to_what_was_before_and_in_the_end_to_none(registry):
    one, two, three = add(registry, "one", "two", "three")
    for number in (one, two, three):
        registry.promote(number, reason="better")
    assert registry.roll_back(reason="smoke test failed").promoted == two
    assert (registry.pointer / "adapter.txt").read_text() == "two"
    assert registry.roll_back(reason="worse").promoted == one
    assert registry.roll_back(reason="worse").promoted is None
    assert not registry.pointer.is_symlink()
    assert [e.action for e in registry.read().history[-3:]] == ["rolled back"] * 3
    assert {v.reason for v in registry.read().versions} == {"rolled back: smoke test failed", "rolled back: worse"}
    with pytest.raises(BadInput, match="No version"):
        registry.roll_back(reason="once more")


def test_a_rollback_meant_for_one_version_leaves_another_alone(registry):
    one, two = add(registry, "one", "two")
    registry.promote(one, reason="first")
    registry.promote(two, reason="meanwhile")
    assert registry.roll_back(reason="smoke test of 1 failed", number=one).promoted == two


def test_what_is_not_whole_in_the_store_is_neither_promoted_nor_returned_to(registry):
    one, two = add(registry, "one", "two")
    registry.promote(one, reason="first")
    registry.promote(two, reason="better")
    (registry.store.folder("export", "export-one") / "adapter.txt").write_text("eno")
    with pytest.raises(RaftError, match=r"adapter\.txt was altered"):
        registry.roll_back(reason="worse")
    shutil.rmtree(registry.store.folder("export", "export-one"))
    with pytest.raises(RaftError, match="not in the store"):
        registry.promote(one, reason="by hand")
    assert registry.read().promoted == two


def test_the_version_in_use_cannot_be_retired(registry):
    one, two = add(registry, "one", "two")
    registry.promote(one, reason="first")
    with pytest.raises(BadInput, match="in use"):
        registry.retire(one, reason="forgotten source")
    registry.retire(two, reason="rejected")
    assert states(registry) == ["promoted", "retired"]


def test_a_crash_between_file_and_link_is_mended_by_the_next_change(registry, monkeypatch):
    one, two = add(registry, "one", "two")
    registry.promote(one, reason="first")
    real = registry_module.write_whole

    def write_and_die(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry_module, "write_whole", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            registry.promote(two, reason="better")
    assert (registry.pointer / "adapter.txt").read_text() == "one"
    assert registry.read().promoted == two, "the file is the truth"
    registry.settle(two, reason="seen")
    assert (registry.pointer / "adapter.txt").read_text() == "two"


def test_a_failed_write_leaves_the_old_state(registry, monkeypatch):
    one, two = add(registry, "one", "two")
    registry.promote(one, reason="first")
    before = registry.read()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        registry.promote(two, reason="better")
    assert registry.read() == before


def _promote(root, number):
    Registry(Store(root), "towns").promote(number, reason=f"by process {number}")


def test_concurrent_promotions_happen_one_after_another(registry):
    numbers = add(registry, *(f"v{i}" for i in range(6)))
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_promote, args=(registry.store.root, n)) for n in numbers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    adapter = registry.read()
    switches = [e for e in adapter.history if e.action == "promoted"]
    assert sorted(e.version for e in switches) == numbers
    assert [e.was for e in switches] == [None, *(e.version for e in switches[:-1])], "each saw the one before"
    assert adapter.promoted == switches[-1].version
    assert states(registry).count("promoted") == 1


def test_a_damaged_registry_is_an_error_and_not_an_empty_one(registry):
    add(registry, "one")
    (registry.folder / "registry.json").write_text("{")
    with pytest.raises(RaftError, match="damaged"):
        registry.read()


def test_collection_must_keep_candidates_the_promoted_one_and_the_way_back(registry):
    one, two, three, four = add(registry, "one", "two", "three", "four")
    for number in (one, two, three):
        registry.promote(number, reason="better")
    found = needed(registry.store)
    assert {key for stage, key in found if stage == "export"} == {"export-two", "export-three", "export-four"}
    assert found["export", "export-two"] == "towns 2 (rollback target)"
    assert found["train", "train-four"] == f"towns {four} (candidate)"
    assert [r.name for r in adapters(registry.store)] == ["towns"]
