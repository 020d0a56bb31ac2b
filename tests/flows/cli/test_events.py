"""What happens to a stage, as a person reads it: on the terminal, and in the log of a night."""

import io
import logging
import typing

import pytest
from rich.console import Console

from flows.cli.output import LINE_SECONDS, Display
from flows.retraining.log import log_event
from tasks.build.events import Damaged, Event, Finished, Progressed, Said, Started, Waiting, progress_of, voice_of
from tasks.store.manifest import Manifest


def manifest(seconds: float = 2.0) -> Manifest:
    return Manifest(stage="chunk", key="k" * 32, digest="d" * 64, files=[], summary="7 chunks", seconds=seconds)


EVENTS: list[tuple[Event, str, str]] = [
    (Waiting("chunk", None), "chunk is being built by another run: waiting for it", ""),
    (Damaged("chunk", "a.txt was altered"), "chunk in the store is damaged (a.txt was altered): making it again", ""),
    (Started("chunk"), "chunk …", ""),
    (Progressed("chunk", 3, 9, "cutting"), "  chunk: 3/9 cutting", "nothing"),
    (Finished(manifest(), cached=False), "✓ chunk (2.0 s): 7 chunks", "chunk (2.0 s): 7 chunks"),
    (Finished(manifest(), cached=True), "✓ chunk (cached): 7 chunks", "chunk (cached): 7 chunks"),
    (Said("one file has vanished"), "one file has vanished", ""),
]


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("flows.cli.output.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal():
    """A display, and what stands on it: no bars, as in a log file."""
    out = io.StringIO()
    display = Display(Console(file=out, highlight=False, width=200, color_system=None, force_terminal=False))
    return display, lambda: out.getvalue().splitlines()


def test_no_kind_of_event_is_forgotten_here():
    assert {type(event) for event, *_ in EVENTS} == set(typing.get_args(Event))


def test_each_event_is_a_line_on_the_terminal(terminal, clock):
    display, lines = terminal
    for event, *_ in EVENTS:
        clock[0] += LINE_SECONDS
        display(event)
    assert lines() == [line for _, line, _ in EVENTS]
    assert display.states == {"chunk": "cached"}


def test_each_event_is_a_line_in_the_log_of_a_night_except_progress(caplog):
    with caplog.at_level(logging.INFO, logger="raft.flows"):
        for event, *_ in EVENTS:
            log_event(event)
    assert caplog.messages == [logged or line for _, line, logged in EVENTS if logged != "nothing"]
    assert [record.levelname for record in caplog.records].count("WARNING") == 1, "what is damaged is worth a warning"


def test_a_sentence_stands_on_the_terminal_once(terminal):
    display, lines = terminal
    say = voice_of(display)
    for sentence in ("first", "second", "first"):
        say(sentence)
    assert lines() == ["first", "second"]


def test_without_a_terminal_progress_is_a_line_now_and_then(terminal, clock):
    display, lines = terminal
    progress = progress_of("embed", display)
    for done in range(1, 6):
        progress(done, None, "passages")
        clock[0] += LINE_SECONDS / 2
    assert lines() == ["  embed: 3 passages", "  embed: 5 passages"]
