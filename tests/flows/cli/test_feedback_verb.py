"""`raft feedback`: listed, reviewed by a person or a script, accepted and rejected by id."""

import io
import json
import sys

import pytest
from kept_json import checked
from raft_project import raft_here

from tasks.adapters.feedback import FeedbackLog, Shown
from tasks.config import load_config

PASSAGE = Shown(chunk_id="a", source="alder.md", text="Alder is known for a stone mill.")


@pytest.fixture
def log(tmp_path):
    (tmp_path / "raft.yaml").write_text("name: town\n")
    return FeedbackLog(tmp_path / ".raft", "town")


def say(log, question="What is Alder known for?", answer="a stone mill", verdict="up", **more):
    return log.add("town@1", question, answer, verdict, passages=[PASSAGE], **more).id


def listed(folder, *arguments):
    done = raft_here(folder, "feedback", *arguments, "--json")
    return checked(["feedback"], json.loads(done.stdout.splitlines()[-1]))


def test_it_lists_what_waits_with_what_contradicts_it(log, tmp_path):
    assert "Nobody" in raft_here(tmp_path, "feedback").stdout
    one, two = say(log), say(log, answer="an iron bridge")
    three = say(log, "Who opens the gates?", "the smith", "down", correction="the baker")
    reply = listed(tmp_path)
    assert [(row["id"], row["contradicts"]) for row in reply["feedback"]] == [(one, [two]), (two, [one]), (three, [])]
    assert reply["feedback"][2]["right"] == "the baker"
    assert reply["feedback"][0]["sources"] == ["alder.md"]
    assert (reply["counts"], reply["file"]) == ({"pending": 3, "accepted": 0, "rejected": 0}, None)
    text = raft_here(tmp_path, "feedback", "list").stdout
    assert one in text
    assert "the baker" in text
    assert "raft feedback review" in text


def test_it_accepts_and_rejects_by_id(log, tmp_path):
    one, two = say(log), say(log, "Who opens the gates?", "the smith", "down")
    reply = listed(tmp_path, "accept", one)
    assert [(row["id"], row["state"]) for row in reply["feedback"]] == [(one, "accepted")]
    assert (reply["counts"]["accepted"], reply["file"]) == (1, str(log.accepted_file))
    assert raft_here(tmp_path, "feedback", "accept", two).returncode == 2
    assert raft_here(tmp_path, "feedback", "accept", two, "--answer", "the baker").returncode == 0
    assert listed(tmp_path, "reject", one, two)["file"] is None
    assert [row["state"] for row in listed(tmp_path, "--all")["feedback"]] == ["rejected", "rejected"]
    assert listed(tmp_path)["feedback"] == []
    listed(tmp_path, "reopen", one)
    assert [row["id"] for row in listed(tmp_path)["feedback"]] == [one]


@pytest.mark.parametrize(
    "arguments",
    [["burn"], ["accept"], ["list", "abc"], ["reject", "abc", "--refuse"], ["accept", "a", "b", "--answer", "x"]],
)
def test_what_makes_no_sense_is_bad_input(log, tmp_path, arguments):
    assert raft_here(tmp_path, "feedback", *arguments).returncode == 2


def review(folder, monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return raft_here(folder, "feedback", "review").stdout


def test_a_review_shows_contradicting_ones_together_and_settles_them(log, tmp_path, monkeypatch):
    say(log)
    say(log, "Who opens the gates?", "the smith", "down")
    say(log, "what is alder known for", "an iron bridge")
    text = review(tmp_path, monkeypatch, "a\na 1\ne the baker\n")
    assert text.index("an iron bridge") < text.index("Who opens the gates?")
    assert "contradict each other" in text
    assert "is not understood" in text  # which of two
    states = [(entry.state, entry.answer) for entry in log.entries()]
    assert states == [("accepted", "a stone mill"), ("accepted", "the baker"), ("rejected", "an iron bridge")]
    assert "2 questions are accepted" in text


@pytest.mark.parametrize(
    ("lines", "states"),
    [
        ("", ["pending", "pending"]),
        ("q\n", ["pending", "pending"]),
        ("s\nr\n", ["pending", "rejected"]),
        ("f\ne 1 the baker\n", ["accepted", "accepted"]),
        ("e\nx\na 7\ns\ns\n", ["pending", "pending"]),
    ],
)
def test_a_script_can_review(log, tmp_path, monkeypatch, lines, states):
    say(log)
    say(log, "Who opens the gates?", "the smith", "down")
    review(tmp_path, monkeypatch, lines)
    assert [entry.state for entry in log.entries()] == states


def test_words_of_others_do_not_control_the_terminal(log, tmp_path, monkeypatch):
    say(log, "[red]What\x1b[2J is it?", "a [bold]mill\x1b]0;x\x07")
    text = review(tmp_path, monkeypatch, "q\n") + raft_here(tmp_path, "feedback").stdout
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert text.count("[red]What") == 2


def test_the_accepted_file_is_imported_by_itself_unless_the_configuration_says_otherwise(log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config().questions.feedback == "accepted"
    log.decide(say(log), "accept")
    assert load_config().questions.feedback == str(log.accepted_file)
    assert load_config(None, ["questions.feedback=null"]).questions.feedback is None
    assert load_config(None, ["name=other"]).questions.feedback == "accepted"
    assert load_config(None, ["questions.feedback=own.jsonl"]).questions.feedback == str(tmp_path / "own.jsonl")
