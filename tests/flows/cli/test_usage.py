"""Arguments that a verb does not take: a message in words of ours, and one JSON object where that was asked for."""

import json

import pytest
from raft_project import raft_here


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "x", "-k", "0"), "-k is '0'.\nExpected: a number at least 1."),
        (("search", "x", "-k", "5000"), "-k is '5000'.\nExpected: a number at most 1000."),
        (("search", "x", "-k", "two"), "-k is 'two'.\nExpected: a whole number."),
        (("plan", "--memory", "much"), "--memory is 'much'.\nExpected: a number."),
        (("schedule", "--collision", "x"), "--collision is 'x'.\nExpected: one of 'enqueue', 'cancel'."),
        (("plan", "a.yaml", "b.yaml"), "b.yaml is one argument too many."),
        (("serch",), "No such command 'serch'.\nExpected: 'search', 'serve'."),
        (("search",), "Missing argument 'query'."),
        (("plan", "--engin"), "No such option: --engin"),
    ],
)
def test_what_a_verb_does_not_take_is_told_in_the_user_s_words(tmp_path, arguments, words):
    done = raft_here(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {words}")
    assert "--help`.\n" in done.stderr
    assert not done.stdout
    for theirs in ("Input should", "Value error", "argument(s)", "Usage:", "?."):
        assert theirs not in done.stderr


def test_the_command_alone_says_what_there_is(tmp_path):
    done = raft_here(tmp_path)
    assert done.returncode == 2
    assert "Begin:\n" in done.stderr + done.stdout
    assert "Error" not in done.stderr


def test_a_program_that_reads_json_gets_json_for_a_wrong_option_too(tmp_path):
    row = json.loads(raft_here(tmp_path, "search", "x", "-k", "0", "--json").stdout)
    assert (row["ok"], row["exit_code"], row["error"]) == (False, 2, "-k is '0'")


def test_a_file_that_the_system_refuses_is_told_by_its_name(tmp_path):
    done = raft_here(tmp_path, "init", "nowhere/raft.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: nowhere/raft.yaml: no such file or directory.\nDo: correct the path")
