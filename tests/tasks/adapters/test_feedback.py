"""What people said about answers: kept whole, decided about, and only what was accepted becomes a question."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from data.questions.files import read_rows
from raft_errors import BadInput
from tasks.adapters.feedback import FeedbackLog, Shown, accepted_of, forget_feedback

MILL = Shown(chunk_id="a", source="guides/alder.md", text="Alder is known for a stone mill. It has four wheels.")
GATE = Shown(chunk_id="b", source="guides/birch.md", text="The gates of Birch are opened by the smith.")


@pytest.fixture
def log(tmp_path):
    return FeedbackLog(tmp_path, "town")


def say(log, question="What is Alder known for?", answer="a stone mill", verdict="up", **more):
    return log.add("town@1", question, answer, verdict, **{"passages": [MILL], **more})


def accepted(log):
    return (
        [json.loads(line) for line in log.accepted_file.read_text().splitlines()] if log.accepted_file.exists() else []
    )


def test_nothing_is_a_question_before_somebody_accepts_it(log, tmp_path):
    one, two = say(log, quotes=["a stone mill"]), say(log, "Who opens the gates of Birch?", "the baker", "down")
    assert [entry.state for entry in log.entries()] == ["pending", "pending"]
    assert accepted(log) == []
    log.decide(one.id[:6], "accept")
    log.decide(two.id, "reject")
    assert [entry.state for entry in log.entries()] == ["accepted", "rejected"]
    (row,) = accepted(log)
    assert (row["id"], row["origin"], row["answer"], row["quotes"]) == (
        one.id,
        "feedback",
        "a stone mill",
        ["a stone mill"],
    )
    log.decide(one.id, "open")
    assert not log.accepted_file.exists()
    assert log.accepted_file == accepted_of(tmp_path, "town")


def test_the_accepted_file_is_a_question_file_as_it_stands(log):
    right = say(log, quotes=["a stone mill"])
    wrong = say(log, "Who opens the gates of Birch?", "the baker", "down", correction="the smith", passages=[GATE])
    unknown = say(log, "What does the ferry cost?", "four", "down")
    log.decide(right.id, "accept")
    log.decide(wrong.id, "accept")
    log.decide(unknown.id, "accept", refuse=True)
    rows = read_rows(log.accepted_file)
    assert [(row.answers, row.answerable, row.feedback, row.fault) for row in rows] == [
        (("a stone mill",), True, True, ""),
        (("the smith",), True, True, ""),
        ((), False, True, ""),
    ]
    assert [row.quotes for row in rows] == [("a stone mill",), (), ()]  # those of a wrong answer prove nothing
    assert rows[1].context == GATE.text


def test_what_only_says_that_an_answer_is_wrong_cannot_be_accepted_as_it_is(log):
    entry = say(log, verdict="down")
    with pytest.raises(BadInput, match="not what is right"):
        log.decide(entry.id, "accept")
    log.decide(entry.id, "accept", answer="a stone mill with four wheels")
    assert accepted(log)[0]["answer"] == "a stone mill with four wheels"


@pytest.mark.parametrize(
    ("first", "second", "contradict"),
    [
        ({}, {"verdict": "down"}, True),  # right, and wrong
        ({}, {"verdict": "down", "correction": "an iron bridge"}, True),
        ({"verdict": "down", "correction": "a mill"}, {"verdict": "down", "correction": "a market"}, True),
        ({}, {"question": "what is ALDER known for", "answer": "A stone mill."}, False),  # the same in other letters
        ({"verdict": "down"}, {"verdict": "down"}, False),
        ({"verdict": "down"}, {"answer": "an iron bridge"}, False),  # another answer than the one that was wrong
        ({}, {"question": "What is Birch known for?", "answer": "an iron bridge"}, False),
    ],
)
def test_two_that_cannot_both_be_right_contradict_each_other(log, first, second, contradict):
    say(log, **first)
    say(log, **second)
    one, two = log.entries()
    assert one.contradicts(two) == two.contradicts(one) == contradict
    assert not one.contradicts(one)


def test_contradicting_ones_stand_together_and_are_never_both_accepted(log):
    one = say(log)
    say(log, "Who opens the gates of Birch?", "the smith")
    two = say(log, "What is Alder known for ?", "an iron bridge")
    assert [len(group) for group in log.groups()] == [2, 1]
    log.decide(one.id, "accept")
    with pytest.raises(BadInput, match="contradicts"):
        log.decide(two.id, "accept")
    with pytest.raises(BadInput, match="contradicts"):
        log.decide(two.id, "accept", refuse=True)
    assert len(accepted(log)) == 1
    log.decide(one.id, "reject")
    log.decide(two.id, "accept")
    assert [row["answer"] for row in accepted(log)] == ["an iron bridge"]


@pytest.mark.parametrize("id", ["", "zzzz"])
def test_an_id_names_one_entry(log, id):
    say(log)
    say(log)
    with pytest.raises(BadInput, match="no feedback"):
        log.decide(id, "accept")


def test_a_line_that_a_crash_cut_short_is_skipped_and_the_next_one_is_whole(log, caplog):
    one = say(log)
    path = log.folder / "feedback.jsonl"
    with path.open("ab") as file:
        file.write(path.read_bytes()[:40])
    two = say(log, "Who opens the gates of Birch?", "the smith")
    assert [entry.id for entry in log.entries()] == [one.id, two.id]
    assert "ignored" in caplog.text
    log.decide(two.id, "accept")
    with (log.folder / "decisions.jsonl").open("ab") as file:
        file.write(b'{"id": "' + two.id.encode())
    assert [entry.state for entry in log.entries()] == ["pending", "accepted"]


@pytest.mark.slow
def test_many_who_speak_at_once_are_all_heard(log):
    gate = threading.Barrier(6)

    def speak(number):
        gate.wait()  # nothing of the store is there yet, and all make it
        for turn in range(10):
            FeedbackLog(log.folder.parents[1], "town").add("town@1", f"Question {number} {turn}?", "an answer", "up")

    with ThreadPoolExecutor(6) as speakers:
        list(speakers.map(speak, range(6)))
    assert len({entry.feedback.question for entry in log.entries()}) == 60


def test_the_files_are_as_open_as_the_store_they_stand_in(log, tmp_path):
    before = os.umask(0)
    try:
        tmp_path.chmod(0o700)
        say(log)
        log.decide(log.entries()[0].id, "accept")
    finally:
        os.umask(before)
    files = list(log.folder.iterdir())
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_what_was_said_about_a_forgotten_document_is_gone_everywhere(log, tmp_path):
    mill, gate = say(log), say(log, "Who opens the gates of Birch?", "the smith", passages=[GATE, MILL])
    kept = say(log, "Who opens the gates of Birch?", "the smith", passages=[GATE])
    for entry in (mill, gate, kept):
        log.decide(entry.id, "accept")
    other = FeedbackLog(tmp_path, "other")
    say(other)
    assert forget_feedback(tmp_path, ["guides/alder.md"]) == 3
    assert [entry.id for entry in log.entries()] == [kept.id] == [row["id"] for row in accepted(log)]
    assert other.entries() == []
    text = "".join(path.read_text() for path in (tmp_path / "feedback").rglob("*.jsonl"))
    assert MILL.text not in text
    assert mill.id not in text
    assert forget_feedback(tmp_path, ["guides/alder.md"]) == 0
