"""Prefect's pages are a display: they are told enough, not too often, and whatever goes wrong there stops no stage."""

import re

import pytest

from tasks.build.events import Finished, Progressed, Started, silent
from tasks.prefect import artifacts as pages
from tasks.store.manifest import FileEntry, Manifest


@pytest.fixture
def told(monkeypatch):
    """What would be sent to the server, as (kind, key or percent)."""
    sent = []
    for kind in ("markdown", "table", "link"):
        name = f"create_{kind}_artifact"
        monkeypatch.setattr(pages, name, lambda *a, kind=kind, key, **k: sent.append((kind, key)))
    monkeypatch.setattr(pages, "create_progress_artifact", lambda *a, key, **k: sent.append(("progress", key)) or "id")
    monkeypatch.setattr(pages, "update_progress_artifact", lambda made, percent, **k: sent.append(("update", percent)))
    return sent


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pages.time, "monotonic", lambda: now[0])
    return now


def manifest(tmp_path):
    names = ("report.html", "rows.jsonl", "adapter/page.html")
    files = [FileEntry(path=name, size=3, sha256="a" * 64) for name in names]
    made = Manifest(stage="evaluate", key="b" * 32, digest="c" * 64, files=files, summary="12 answers")
    made.metrics = {"answers": 12, "headline": {"difference": 0.4, "rows": [1, 2]}}
    made._folder = tmp_path
    return made


def test_a_stage_shows_summary_figures_and_its_pages(told, tmp_path):
    made = manifest(tmp_path)
    pages.publish(made)
    assert told == [("markdown", "evaluate"), ("table", "evaluate-figures"), ("link", "evaluate-report")]
    assert dict(pages.flat(made.metrics)) == {"answers": 12, "headline.difference": 0.4}
    assert "rows.jsonl | 3 | `aaaaaaaaaaaaaaaa`" in pages.summary(made)


def test_the_link_to_a_page_is_one_that_a_browser_follows_under_any_name_of_the_server(told, tmp_path, monkeypatch):
    links = []
    monkeypatch.setattr(pages, "create_link_artifact", lambda link, *_, **__: links.append(link))
    pages.publish(manifest(tmp_path))
    assert links == [f"/raft/evaluate/{'b' * 32}/report.html"]


def test_progress_is_told_every_few_seconds_and_at_the_end(told, clock):
    reporter = pages.Pages(silent)
    reporter(Started("train"))
    for step in range(1, 5):
        clock[0] += 2
        reporter(Progressed("train", step, 4, "loss 2.0"))
    assert told == [("progress", "train-progress"), ("update", 75.0), ("update", 100.0)]


def test_the_progress_of_a_finished_stage_stands_at_its_end(told, clock, tmp_path):
    reporter = pages.Pages(silent)
    clock[0] += 60
    for event in (Started("evaluate"), Progressed("evaluate", 12, 100, "12 answers")):
        reporter(event)
    reporter(Finished(manifest(tmp_path), cached=False))
    assert told[:2] == [("progress", "evaluate-progress"), ("update", 100.0)]
    assert ("markdown", "evaluate") in told


def test_a_name_of_two_words_is_a_key_too(told, tmp_path):
    reporter = pages.Pages(silent)
    evaluated = manifest(tmp_path)
    evaluated.stage = "evaluate_again"
    for event in (Started("evaluate_again"), Finished(evaluated, cached=False)):
        reporter(event)
    keys = [key for kind, key in told if kind != "update"]
    assert keys[:2] == ["evaluate-again-progress", "evaluate-again"]
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)


def test_a_cached_stage_leaves_the_pages_of_the_run_that_built_it(told, tmp_path):
    pages.Pages(silent)(Finished(manifest(tmp_path), cached=True))
    assert told == []


def test_a_server_that_is_away_is_asked_once_and_the_stage_goes_on(told, clock, monkeypatch, tmp_path, caplog):
    asked, events = [], []

    def away(*a, **k):
        asked.append(1)
        raise ConnectionError("no server")

    monkeypatch.setattr(pages, "update_progress_artifact", away)
    monkeypatch.setattr(pages, "create_markdown_artifact", away)
    reporter = pages.Pages(events.append)
    steps = [Progressed("train", step, 3, "loss 2.0") for step in range(1, 4)]
    for event in (Started("train"), *steps):
        clock[0] += 60
        reporter(event)
    assert events == [Started("train"), *steps]
    assert len(asked) == 1
    pages.publish(manifest(tmp_path))
    assert "were not told: no server" in caplog.text
