"""Lines of the command on a terminal of 80 columns and in a pipe."""

import io

import pytest

from flows.cli.output import Terminal

WORDS = "The chain behind the adapter holds, " * 4
PATH = "/a/very/long/path/" + "part/" * 20 + "report.html"


def printed(text: str, terminal: bool) -> list[str]:
    file = io.StringIO()
    Terminal(file=file, width=80, force_terminal=terminal, color_system=None).print(text, soft_wrap=True)
    return file.getvalue().splitlines()


def test_a_terminal_breaks_sentences_between_words():
    lines = printed(WORDS, terminal=True)
    assert all(len(line) <= 80 for line in lines)
    assert " ".join(line.strip() for line in lines) == WORDS.strip()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_path_stays_whole(terminal):
    assert PATH in " ".join(printed(f"report {PATH}", terminal))


def test_a_pipe_has_one_line_for_one_sentence():
    assert [line.strip() for line in printed(WORDS, terminal=False)] == [WORDS.strip()]
