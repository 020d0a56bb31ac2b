"""What is served follows the store: a version by the registry's file, the search by the runs that have finished."""

import time
from types import SimpleNamespace

import pytest

from flows import offers
from flows.offers import Offer, versions
from raft_errors import BadInput, RaftError
from tasks.adapters.registry import Registry
from tasks.store import finished
from tasks.store.access import make_folder, write_whole
from tasks.store.manifest import Link
from tasks.store.store import Store
from tasks.upkeep.forget import forgotten_file

NAME = "faq"


@pytest.fixture
def run(tmp_path):
    store = Store(tmp_path / "raft")
    store.prepare()
    return SimpleNamespace(store=store, config=SimpleNamespace(name=NAME, corpus=["docs"]))


def export(store, number):
    with store.publish("export", f"export{number}") as (out, manifest):
        (out / "adapter.txt").write_text(str(number))
    return {"export": manifest}


@pytest.fixture
def registry(run):
    registry = Registry(run.store, NAME)
    for number in (1, 2):
        registry.register(export(run.store, number), reason="test")
    return registry


@pytest.fixture
def find(run, monkeypatch):
    def nothing(run, until, command):
        raise BadInput("not built")

    monkeypatch.setattr(offers, "ready_of", nothing)
    return versions(run, "raft run")


def test_the_version_in_use_is_that_of_the_registry_at_every_question(registry, find):
    with pytest.raises(BadInput, match="No version of faq is promoted"):
        find(None)
    for number in (1, 2, 1):
        registry.promote(number, reason="test")
        assert find(None).id == f"faq@{number}"
        assert (find(None).folder.parent / "adapter.txt").read_text() == str(number)
    registry.roll_back(reason="test")
    assert find(None).id == "faq@2"
    assert find(1).id == "faq@1"
    with pytest.raises(BadInput, match="no version 9"):
        find(9)


def test_after_a_rollback_to_none_nothing_is_served_under_the_name_not_even_what_was_rolled_back(
    run, registry, monkeypatch
):
    built = {"export": SimpleNamespace(path=lambda name: run.store.folder("export", "export1") / name)}
    monkeypatch.setattr(offers, "ready_of", lambda run, until, command: SimpleNamespace(built=built))
    find = versions(run, "raft run")
    assert find(None).id == NAME, "what the last run made, since none was ever promoted"
    registry.promote(1, reason="test")
    assert find(None).id == "faq@1"
    registry.roll_back(reason="complaints")
    with pytest.raises(BadInput, match="No version of faq is in use since it was rolled back"):
        find(None)
    with pytest.raises(BadInput, match="rolled back"):
        versions(run, "raft run")(None)
    assert find(1).id == "faq@1", "by its number it can still be asked"
    registry.promote(2, reason="test")
    assert find(None).id == "faq@2"


def test_the_registry_is_read_again_only_after_a_change(registry, find, monkeypatch):
    registry.promote(1, reason="test")
    find(None)
    reads, read = [], Registry.read
    monkeypatch.setattr(Registry, "read", lambda self: reads.append(1) or read(self))
    for _ in range(5):
        find(None)
    assert reads == []
    registry.promote(2, reason="test")
    reads.clear()
    assert find(None).id == "faq@2"
    assert len(reads) == 1


def test_a_damaged_registry_is_no_rollback(registry, find):
    registry.promote(1, reason="test")
    (registry.folder / "registry.json").write_text("{")
    with pytest.raises(RaftError) as error:
        find(None)
    assert not isinstance(error.value, BadInput), "that would take the version out of use"


@pytest.fixture
def renewed(run, monkeypatch):
    """What opens the search anew, with the index that is newest."""
    newest = SimpleNamespace(key="one")

    def built():
        return {"index": SimpleNamespace(link=Link(stage="index", key=newest.key, digest="d" * 64))}

    monkeypatch.setattr(offers, "ready_of", lambda run, until, command: (run, built(), None))
    monkeypatch.setattr(offers, "open_search", lambda run, built, **_: f"search of {built['index'].link.key}")
    monkeypatch.setattr(offers, "Run", SimpleNamespace(of=lambda config: run))
    domain = Offer(run, built(), None, lambda number: None).domain()
    assert (domain.retriever, domain.index) == ("search of one", "one")
    return SimpleNamespace(newest=newest, look=domain.renewed)


def note(run, key):
    results = {"index": Link(stage="index", key=key, digest="d" * 64)}
    finished.note(run.store, NAME, ("docs",), results, {})


def test_the_search_is_opened_anew_when_a_run_has_ended_with_another_index(run, renewed):
    assert renewed.look() is None
    note(run, "one")
    assert renewed.look() == ("search of one", "one"), "the same, but a run has ended"
    assert renewed.look() is None
    renewed.newest.key = "two"
    note(run, "two")
    assert renewed.look() == ("search of two", "two")
    assert renewed.look() is None


def test_a_search_that_could_not_be_opened_is_tried_again(run, renewed, monkeypatch):
    renewed.newest.key = "two"
    note(run, "two")
    with monkeypatch.context() as patch:
        patch.setattr(offers, "open_search", lambda *_, **__: (_ for _ in ()).throw(OSError("the disk is away")))
        with pytest.raises(OSError, match="away"):
            renewed.look()
    assert renewed.look() == ("search of two", "two")
    assert renewed.look() is None


def test_what_was_forgotten_is_noticed_though_the_index_is_the_same(run, renewed):
    file = forgotten_file(run.store)
    make_folder(file.parent)
    for _ in range(2):
        time.sleep(0.01)
        write_whole(file, b"now\n")
        assert renewed.look() == ("search of one", "one")
        assert renewed.look() is None
    assert finished.needed(run.store) == {}, "it is taken for no run"
