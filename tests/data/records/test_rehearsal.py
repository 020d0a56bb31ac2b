"""What an adapter rehearses: instructions that the exam of general skills does not hold, each as often as any other."""

import re
from collections import Counter

import pytest

from data.evaluation import general_skills
from data.records.rehearsal import DRAWS, drawn, instructions, rehearsal_count

ASKING = {
    "what",
    "which",
    "is",
    "the",
    "a",
    "an",
    "of",
    "in",
    "to",
    "are",
    "how",
    "many",
    "does",
    "do",
    "for",
    "give",
    "that",
}
ASKING |= {"word", "words", "number", "translate", "into", "write", "name", "list", "sentence", "one", "answer", "with"}


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - ASKING


def test_none_of_them_is_in_the_exam_of_general_skills():
    rehearsed = instructions()
    assert len(set(rehearsed)) == len(rehearsed) > 90
    for item in general_skills.instructions():
        own = words(item.instruction)
        for one in rehearsed:
            assert one.lower() != item.instruction.lower()
            both = own & words(one)
            assert len(both) < 0.6 * len(own | words(one)), (item.instruction, one)


@pytest.mark.parametrize(("records", "share", "count"), [(156, 0.2, 39), (10, 0.5, 10), (100, 0.0, 0), (0, 0.5, 0)])
def test_their_number_makes_up_the_share_of_all(records, share, count):
    assert rehearsal_count(records, share) == count
    assert not count or count / (records + count) == pytest.approx(share, abs=0.01)


def test_each_is_drawn_as_often_as_any_other_with_another_reply_each_time():
    every = instructions()
    for count in (0, 3, len(every), 2 * len(every) + 7):
        asks = drawn(count, 5)
        assert asks == drawn(count, 5)
        assert len(asks) == len(set(asks)) == count
        counts = Counter(instruction for _, instruction in asks)
        assert {counts[one] for one in every} <= {count // len(every), -(-count // len(every))}
    assert drawn(7, 5) != drawn(7, 6)
    more = drawn((DRAWS + 1) * len(every), 5)
    assert more[: len(every)] == more[-len(every) :], "the first replies come again"
