"""What a model thought aloud is no part of its reply, in whichever tags; a tag that is only spoken of is a word."""

import pytest

from data.questions.answers import as_written
from data.teachers import without_thinking
from data.teachers.replies import problem_of

DRAFT = 'Perhaps {"answer": "no"}? <quote>No.</quote>\nWait, what is asked?'


@pytest.mark.parametrize("name", ["think", "thinking", "THINK", "thought", "reasoning", "reflection", "seed:think"])
@pytest.mark.parametrize("gap", ["\n\n", "\n", "", " "])
def test_a_block_before_the_reply_goes_in_any_tag_and_so_does_one_without_its_opening_tag(name, gap):
    assert without_thinking(f"<{name}>\n{DRAFT}\n</{name}>{gap}It is red.") == "It is red."
    assert without_thinking(f"{DRAFT}\n</{name}>{gap}It is red.") == "It is red."
    assert without_thinking(f"{DRAFT}</{name}>{gap}It is red.") == "It is red."


@pytest.mark.parametrize(
    "reply",
    [
        f"[THINK]{DRAFT}[/THINK]It is red.",
        f"◁think▷{DRAFT}◁/think▷It is red.",
        f"<|begin_of_thought|>{DRAFT}<|end_of_thought|><|begin_of_solution|>It is red.<|end_of_solution|>",
        f"<|START_THINKING|>{DRAFT}<|END_THINKING|><|START_RESPONSE|>It is red.<|END_RESPONSE|>",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>It is red.",
        f"<unused94>thought\n{DRAFT}<unused95>It is red.",
        f'<think duration="4s">{DRAFT}</think><answer>It is red.</answer>',
        "<think></think>\n\nIt is red.",
        f"<think>I open with <think>, {DRAFT}</think>It is red.",
        f"<think>a<think>b</think>{DRAFT}</think>It is red.",
        f"<think>a</think>It is <think>{DRAFT}</think>red.",
        f"It is red.\n<think>{DRAFT}",
    ],
)
def test_the_reply_is_what_stands_outside(reply):
    assert " ".join(without_thinking(reply).split()) == "It is red."


@pytest.mark.parametrize("reply", [f"<think>\n{DRAFT}", f"  <thinking>{DRAFT}", f"<think>{DRAFT}</think>\n"])
def test_nothing_is_left_where_all_is_thinking(reply):
    assert without_thinking(reply) == ""


@pytest.mark.parametrize(
    "reply",
    [
        "What is red?",
        'What does the tag "<think>" begin?',
        "Where does `</think>` end a block?",
        '{"quotes": ["A block ends with </think> and a line break."], "answer": "</think>"}',
        "<quote>It ends with </think> on a line.</quote>\nSo it is said.\nAnswer: a line",
        "What does <think> open?",
        "  indented, and x < y > z\n",
    ],
)
def test_a_reply_that_only_speaks_of_a_tag_stays_as_it_is(reply):
    assert without_thinking(reply) == reply


def test_a_model_that_repeats_a_bracket_without_end_stops_nothing():
    """Python's reader of JSON gives up with an error of its own on such a reply."""
    deep = "[" * 100_000
    assert without_thinking(f"{deep}\n<think>So be it.</think>") == deep
    assert as_written('{"answer": ' + deep + "}") == '{"answer": ' + deep + "}"
    assert problem_of(500, deep.encode()).status == 500
