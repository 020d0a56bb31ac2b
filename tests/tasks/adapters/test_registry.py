"""One version is in use, every change has a reason, and nobody ever sees half a switch."""

import json
import multiprocessing
import os
import shutil

import pytest

from raft_errors import BadInput, RaftError
from tasks.adapters import registry as registry_module
from tasks.adapters.registry import Registry, adapters, needed
from tasks.store.store import Store


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


@pytest.mark.slow
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


def change(body, *place, to):
    """Sets one value of a parsed registry."""
    for part in place[:-1]:
        body = body[part]
    body[place[-1]] = to


CONTRADICTIONS = {
    "version 7 is in use, but does not exist": lambda b: change(b, "promoted", to=7),
    "version none is in use, but marked as promoted: 1": lambda b: change(b, "promoted", to=None),
    "version 2 is in use, but marked as promoted: 1": lambda b: change(b, "promoted", to=2),
    "version 1 is in use, but marked as promoted: 1, 2": lambda b: change(b, "versions", 1, "state", to="promoted"),
    "there are 2 versions 1": lambda b: change(b, "versions", 1, "number", to=1),
    "version 2 names no export": lambda b: b["versions"][1]["stages"].pop("export"),
    "version 1 names a result of train as its export": lambda b: change(
        b, "versions", 0, "stages", "export", to=b["versions"][0]["stages"]["train"]
    ),
    "version 2 was started from 2, which is not an earlier version": lambda b: change(
        b, "versions", 1, "started_from", to=2
    ),
    "version 2 was started from 9, which is not an earlier version": lambda b: change(
        b, "versions", 1, "started_from", to=9
    ),
    "its history names version 9, which does not exist": lambda b: change(b, "history", -1, "was", to=9),
    "a version is on trial, but none is in use": lambda b: (
        change(b, "promoted", to=None),
        change(b, "versions", 0, "state", to="retired"),
        change(b, "on_trial", to=True),
    ),
    "it belongs to villages": lambda b: change(b, "name", to="villages"),
    "versions.0.number: Input should be greater than or equal to 1": lambda b: change(b, "versions", 0, "number", to=0),
    "versions.0.stages.export.key: String should match pattern": lambda b: change(
        b, "versions", 0, "stages", "export", "key", to="../../../etc"
    ),
    "versions.0.created: a time without its zone": lambda b: change(
        b, "versions", 0, "created", to="2026-01-01T03:00:00"
    ),
    "versions.0.created: Invalid isoformat string": lambda b: change(b, "versions", 0, "created", to="yesterday"),
    "versions: Input should be a valid array": lambda b: change(b, "versions", to="none"),
}


@pytest.mark.parametrize("wrong", CONTRADICTIONS)
def test_a_registry_that_contradicts_itself_is_refused_by_name_by_all_that_read_it(registry, wrong):
    one, _ = add(registry, "one", "two")
    registry.promote(one, reason="first")
    file = registry.folder / "registry.json"
    body = json.loads(file.read_text())
    CONTRADICTIONS[wrong](body)
    file.write_text(json.dumps(body))
    before = file.read_bytes()
    for use in (
        registry.read,
        lambda: registry.promote(one, reason="again"),
        lambda: registry.roll_back(reason="worse"),
        lambda: add(registry, "three"),
        lambda: needed(registry.store),
    ):
        with pytest.raises(RaftError) as caught:
            use()
        assert f"The registry {file} is damaged ({wrong}" in caught.value.what
        assert "restore it from a copy" in caught.value.do
    assert file.read_bytes() == before


@pytest.mark.parametrize("kind", ["FIFO", "folder"])
def test_what_is_no_registry_file_is_refused_at_once(registry, kind):
    add(registry, "one")
    file = registry.folder / "registry.json"
    file.unlink()
    {"FIFO": os.mkfifo, "folder": os.mkdir}[kind](file)
    with pytest.raises(RaftError, match=rf"registry\.json is damaged \(it is a {kind}\)"):
        registry.read()


def test_what_lies_in_the_place_of_the_link_is_named_before_anything_is_changed(registry):
    (one,) = add(registry, "one")
    registry.pointer.mkdir()
    with pytest.raises(RaftError, match="promoted is in the way"):
        registry.promote(one, reason="first")
    assert registry.read().promoted is None


def test_collection_must_keep_candidates_the_promoted_one_and_the_way_back(registry):
    one, two, three, four = add(registry, "one", "two", "three", "four")
    for number in (one, two, three):
        registry.promote(number, reason="better")
    reasons = needed(registry.store)
    assert {key for stage, key in reasons if stage == "export"} == {"export-two", "export-three", "export-four"}
    assert reasons["export", "export-two"] == "towns 2 (rollback target)"
    assert reasons["train", "train-four"] == f"towns {four} (candidate)"
    assert [r.name for r in adapters(registry.store)] == ["towns"]
