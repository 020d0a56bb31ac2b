"""Every night is one line; a line cut short by a crash costs that line alone."""

import json
import os

import pytest

from raft_errors import RaftError
from tasks.adapters.decisions import RetrainDecision, append, log_file, read_decisions
from tasks.store.store import Store

NIGHT = RetrainDecision(
    at="2026-01-01T03:00:00+00:00", action="refresh", reason="1 edited", result="refreshed", corpus="c", settings={}
)


def test_nights_are_read_back_in_order(tmp_path):
    store = Store(tmp_path)
    assert read_decisions(store, "law") == []
    other = NIGHT.model_copy(update={"action": "nothing", "result": "nothing"})
    for night in (NIGHT, other):
        append(store, "law", night)
    assert read_decisions(store, "law") == [NIGHT, other]
    assert read_decisions(store, "health") == []


def test_a_line_cut_short_is_passed_over_and_does_not_swallow_the_next(tmp_path):
    store = Store(tmp_path)
    append(store, "law", NIGHT)
    file = log_file(store, "law")
    file.write_bytes(file.read_bytes() + b'{"at": "2026-01-02T03:00')
    append(store, "law", NIGHT)
    assert read_decisions(store, "law") == [NIGHT, NIGHT]


@pytest.mark.parametrize(
    ("field", "value"), [("at", "yesterday"), ("at", "2026-01-02T03:00:00"), ("action", "dance"), ("settings", [])]
)
def test_a_whole_line_that_is_no_decision_is_passed_over_and_told(tmp_path, caplog, field, value):
    store = Store(tmp_path)
    append(store, "law", NIGHT)
    file = log_file(store, "law")
    file.write_bytes(file.read_bytes() + json.dumps({**NIGHT.model_dump(), field: value}).encode() + b"\n")
    assert read_decisions(store, "law") == [NIGHT]
    assert f"{file}, line 2 is not a decision ({field}" in caplog.text


@pytest.mark.parametrize("kind", ["FIFO", "folder"])
def test_what_is_no_log_is_refused_at_once_by_name(tmp_path, kind):
    store = Store(tmp_path)
    file = log_file(store, "law")
    file.parent.mkdir(parents=True)
    {"FIFO": os.mkfifo, "folder": os.mkdir}[kind](file)
    for use in (lambda: read_decisions(store, "law"), lambda: append(store, "law", NIGHT)):
        with pytest.raises(RaftError) as caught:
            use()
        assert f"{file} cannot be used (it is a {kind})" in caught.value.what
