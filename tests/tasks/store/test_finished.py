"""Finished runs are found again by their domain, and stable paths lead to the newest of them."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tasks.store.finished import finished_runs, needed, note, tidy
from tasks.store.store import Store

CORPUS = ("/somewhere/docs",)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "raft")
    store.prepare()
    return store


def put(store, stage, key):
    with store.publish(stage, key) as (out, manifest):
        (out / "adapter").mkdir()
        (out / "adapter" / "weights").write_text(key)
        (out / "report.html").write_text(key)
    return manifest


def finish(store, name, key, *calls, sources=CORPUS, **options):
    """A run of some calls, all with one key."""
    results = {call: put(store, call, key) for call in calls}
    places = {}
    if "export" in results:
        places["adapter"] = results["export"].path("adapter")
    if "evaluate" in results:
        places["report.html"] = results["evaluate"].path("report.html")
    return note(store, name, sources, results, places, **options)


def keys(store, name):
    return [{call: link.key for call, link in run.results.items()} for run in finished_runs(store, name)]


def text(path: Path) -> str:
    return path.read_text()


def test_a_run_that_went_as_far_takes_the_place_of_earlier_ones_and_a_shorter_one_does_not(store):
    finish(store, "law", "a", "index", "export")
    finish(store, "law", "b", "index")
    assert keys(store, "law") == [{"index": "b"}, {"index": "a", "export": "a"}]
    finish(store, "law", "c", "index", "export")
    assert keys(store, "law") == [{"index": "c", "export": "c"}]


def test_a_run_over_another_corpus_takes_no_place(store):
    finish(store, "law", "a", "index")
    finish(store, "law", "b", "index", sources=("/somewhere/else",))
    assert keys(store, "law") == [{"index": "b"}, {"index": "a"}]


def test_the_links_are_those_of_the_newest_run_with_an_adapter_and_all_of_one_run(store):
    latest = store.root / "latest"
    finish(store, "law", "a", "export", "evaluate")
    assert (text(latest / "adapter" / "weights"), text(latest / "report.html")) == ("a", "a")
    finish(store, "law", "b", "index")
    assert text(latest / "adapter" / "weights") == "a"
    finish(store, "law", "c", "export")
    assert text(latest / "adapter" / "weights") == "c"
    assert not (latest / "report.html").exists(), "the report that is there is about another adapter"


def test_the_links_lead_to_the_newest_run_also_where_the_clock_was_put_back(store):
    for key in "abcd":
        finish(store, "law", key, "export")
        assert text(store.root / "latest" / "adapter" / "weights") == key
        for links in (store.root / "runs").glob(".law.*/"):  # as if they were all made a day later
            os.utime(links, (2_000_000_000, 2_000_000_000))
    assert len(list((store.root / "runs").glob(".law.*/"))) == 2


def test_each_domain_has_its_own_and_latest_follows_the_one_that_ran_last(store):
    finish(store, "law", "a", "export")
    finish(store, "tax", "b", "export")
    assert text(store.root / "latest" / "adapter" / "weights") == "b"
    finish(store, "law", "a", "export")
    assert text(store.root / "latest" / "adapter" / "weights") == "a"
    assert text(store.root / "runs" / "tax" / "adapter" / "weights") == "b"


def test_a_run_beside_somebodys_own_leaves_latest_where_it_is(store):
    finish(store, "law-on-b", "b", "export", latest=False)
    assert not (store.root / "latest").is_symlink()
    finish(store, "law", "a", "export")
    for _ in range(2):
        finish(store, "law-on-b", "c", "export", latest=False)
        assert text(store.root / "latest" / "adapter" / "weights") == "a"
    assert text(store.root / "runs" / "law-on-b" / "adapter" / "weights") == "c"


def test_tidying_one_domain_leaves_latest_with_the_other(store):
    finish(store, "health", "b", "index")
    finish(store, "health", "c", "export", sources=("/somewhere/else",))
    finish(store, "law", "a", "export")
    shutil.rmtree(store.folder("index", "b"))
    tidy(store)
    assert keys(store, "health") == [{"export": "c"}]
    assert text(store.root / "latest" / "adapter" / "weights") == "a"


def test_a_project_that_is_moved_keeps_its_runs_and_its_paths(store, tmp_path):
    finish(store, "law", "a", "export", sources=(str(tmp_path / "docs"),))
    (tmp_path / "new").mkdir()
    moved = Store(store.root.rename(tmp_path / "new" / "raft"))
    (run,) = finished_runs(moved, "law")
    assert run.sources == ("../docs",)
    assert text(moved.root / "latest" / "adapter" / "weights") == "a"


def test_a_finished_run_is_needed_until_a_result_of_it_is_deleted(store):
    finish(store, "law", "a", "index", "export")
    assert needed(store) == {(s, "a"): "the last finished run of law" for s in ("index", "export")}
    tidy(store)
    assert keys(store, "law")
    shutil.rmtree(store.folder("index", "a"))
    tidy(store)
    assert keys(store, "law") == []
    assert needed(store) == {}
    assert not (store.root / "latest").is_symlink()
    assert not list((store.root / "runs").glob("law*/"))


def test_a_run_that_is_noted_again_writes_nothing(store):
    finish(store, "law", "a", "export")
    before = os.stat(store.root / "runs").st_mtime_ns
    finish(store, "law", "a", "export")
    assert os.stat(store.root / "runs").st_mtime_ns == before


def test_a_file_system_without_links_is_told_of_and_costs_nothing_else(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    words = finish(store, "law", "a", "export")
    assert "takes no links" in words
    assert keys(store, "law") == [{"export": "a"}]


def test_what_somebody_has_put_in_the_place_of_the_link_stays(store):
    (store.root / "latest").mkdir()
    finish(store, "law", "a", "export")
    assert list((store.root / "latest").iterdir()) == []
    assert text(store.root / "runs" / "law" / "adapter" / "weights") == "a"
