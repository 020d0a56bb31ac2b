"""What an adapter rehearses: instructions that the exam of general skills does not hold, each as often as any other."""

import re
from collections import Counter

import pytest

from data.evaluation import general_skills
from data.records.rehearsal import draw, instructions, rehearsal_count

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


def test_each_is_drawn_as_often_as_any_other_and_the_same_with_the_same_seed():
    items = [f"i{number}" for number in range(7)]
    for count in (0, 3, 7, 40):
        drawn = draw(items, count, 5)
        assert drawn == draw(items, count, 5)
        counts = Counter(drawn)
        assert len(drawn) == count
        assert {counts[item] for item in items} <= {count // 7, -(-count // 7)}
    assert draw(items, 7, 5) != draw(items, 7, 6)
    assert draw([], 9, 5) == []
