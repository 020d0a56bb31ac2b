"""Garbage collection: what an adapter in use or the latest run needs stays, and nothing is ever half deleted."""

import shutil

import pytest
import small_chain

from raft_errors import RaftError
from tasks.adapters.registry import Registry
from tasks.store.store import Store
from tasks.upkeep import gc


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def generations(store):
    """Three generations of one domain, oldest first."""
    texts = dict(small_chain.TEXTS)
    runs = []
    for number in range(3):
        texts["elm.md"] = f"Elm has {number} halls."
        runs.append(small_chain.write_chain(store, texts, seed=number))
    return runs


def entries(things):
    return {(t.stage, t.key) for t in things}


def of(built):
    return {(m.stage, m.key) for m in built.values()}


def test_the_plan_deletes_nothing_and_keeps_the_newest_run(store, generations):
    first, second, third = generations
    plan = gc.plan(store)
    assert entries(plan.keep) == of(third)
    assert entries(plan.drop) == of(first) | of(second)
    assert plan.freed > 0
    assert all(m.folder.is_dir() for m in first.values())


def test_what_a_promoted_adapter_and_its_rollback_target_need_stays(store, generations):
    first, second, third = generations
    registry = Registry(store, "adapter")
    for number, built in enumerate((first, second), 1):
        registry.promote(registry.register(built, reason="test").number, reason="test")
        assert registry.read().promoted == number
    gc.collect(store)
    assert {m.stage for built in generations for m in built.values() if m.folder.is_dir()} == set(small_chain.STAGES)
    for built in (first, second, third):
        assert all(store.load(m.stage, m.key) for m in built.values())
    registry.promote(registry.register(third, reason="test").number, reason="test")
    outcome = gc.collect(store)
    learned = ("train", "export", "evaluate")  # the first version's records are the frozen test set
    assert entries(outcome.drop) == of({stage: first[stage] for stage in learned})
    assert not any(first[stage].folder.exists() for stage in learned)
    assert all(store.load(m.stage, m.key) for built in (second, third) for m in built.values())


def test_named_results_stay_with_everything_they_were_built_from(store, generations):
    first, second, _ = generations
    plan = gc.plan(store, runs=[first["train"].link])
    kept = of({s: first[s] for s in ("ingest", "chunk", "embed", "index", "questions", "records", "train")})
    assert kept <= entries(plan.keep)
    assert (first["export"].stage, first["export"].key) in entries(plan.drop)
    assert entries(gc.plan(store, days=1).drop) == set()
    assert of(second) <= entries(gc.plan(store, days=0).drop)


def test_nothing_is_deleted_while_a_run_is_at_work(store, generations):
    running = store.running(shared=True)
    assert running.acquire()
    with pytest.raises(RaftError, match="is in use by process"):
        gc.collect(store)
    running.release()
    first = generations[0]["records"]
    build = store.lock(first.stage, first.key)
    assert build.acquire()
    with pytest.raises(RaftError, match="nothing was deleted"):
        gc.collect(store)
    assert all(m.folder.is_dir() for built in generations for m in built.values())
    build.release()
    assert gc.collect(store).drop


def test_two_runs_work_side_by_side_and_hold_off_a_collection(store):
    store.prepare()
    one, two, collector = store.running(shared=True), store.running(shared=True), store.running()
    assert one.acquire(0)
    assert two.acquire(0)
    assert not collector.acquire(0)
    one.release()
    assert not collector.acquire(0)
    two.release()
    assert collector.acquire(0)
    assert not one.acquire(0)


def test_a_collection_that_dies_leaves_whole_results_or_none(store, generations, monkeypatch):
    calls = []

    def dies(path, ignore_errors=False):
        calls.append(path)
        if len(calls) > 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            gc.collect(store)
    for manifest in store.manifests():
        assert store.load(manifest.stage, manifest.key), "what is still there under its name is whole"
    assert {t.kind for t in gc.plan(store).drop} == {"result", "leftover"}
    gc.collect(store)
    assert gc.plan(store).drop == ()
    assert not list((store.root / "store").glob("*/.*"))


def test_the_newest_checkpoint_of_a_stage_stays(store, generations):
    import os

    for age, key in enumerate(("new", "old")):
        folder = store.scratch("train", key)
        folder.mkdir(parents=True)
        (folder / "checkpoint").write_text("state")
        os.utime(folder, (1_000_000 - age, 1_000_000 - age))
    gc.collect(store)
    assert store.scratch("train", "new").is_dir()
    assert not store.scratch("train", "old").exists()
