"""A supervised child is heard, its ends are told apart, and an interruption leaves its state saved."""

import os
from pathlib import Path

import pytest

from raft_errors import BadInput, RaftError
from tasks.build import supervisor
from tasks.build.supervisor import SECRETS, Transient, run_child


@pytest.fixture
def child(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))

    def run(*arguments, **options):
        run_child("child_program", arguments, log_file=tmp_path / "child.log", **options)

    return run


def test_events_are_heard_and_other_lines_are_not_mistaken_for_them(child):
    events = []
    child("events", on_event=events.append)
    assert [event["step"] for event in events] == [1, 2]


def test_bad_input_keeps_what_the_child_said(child):
    with pytest.raises(BadInput) as caught:
        child("bad")
    assert (caught.value.what, caught.value.expected, caught.value.do) == (
        "the file is wrong",
        "a right one",
        "mend it",
    )


def test_a_failure_shows_the_end_of_the_childs_log(child):
    with pytest.raises(RaftError, match="it broke") as caught:
        child("failed")
    assert not isinstance(caught.value, Transient)


@pytest.mark.parametrize(("kind", "words"), [("stopped", "saved its state"), ("killed", "SIGKILL")])
def test_a_stopped_or_killed_child_may_be_tried_again(child, kind, words):
    with pytest.raises(Transient, match=words):
        child(kind)


def test_the_child_has_its_own_process_group_and_knows_its_supervisor(child):
    events = []
    child("supervised", on_event=events.append)
    assert events[0]["parent"] == os.getpid()
    assert events[0]["group"] != os.getpgrp()


def test_the_child_is_given_neither_what_opens_prefects_server_nor_the_shares_key(child, monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "secret")
    events = []
    child("supervised", on_event=events.append)
    assert events[0]["secrets"] == []


def test_on_an_interruption_the_child_saves_its_state_before_it_goes(child, tmp_path):
    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child("saves", str(tmp_path / "state"), on_event=interrupt)
    assert (tmp_path / "state").read_text() == "state"


@pytest.mark.slow
def test_a_child_that_falls_silent_is_stopped_and_may_be_tried_again(child, tmp_path):
    with pytest.raises(Transient, match=r"nothing was heard of it for 2 s"):
        child("saves", str(tmp_path / "state"), silent_seconds=2)
    assert (tmp_path / "state").read_text() == "state"


@pytest.mark.slow
def test_a_child_that_hangs_for_good_is_killed(child, monkeypatch):
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.3)
    with pytest.raises(Transient, match="nothing was heard"):
        child("hangs", silent_seconds=2)


@pytest.mark.slow
def test_a_time_limit_saves_the_state_and_is_not_tried_again(child, tmp_path):
    with pytest.raises(RaftError, match="it ran for 2 s, its limit") as caught:
        child("saves", str(tmp_path / "state"), silent_seconds=60, limit_seconds=2)
    assert not isinstance(caught.value, Transient)
    assert (tmp_path / "state").read_text() == "state"
