"""Whether a sentence has the numbers of an answer, in digits or in words, or other ones in their place.

Another number is another answer, however many of the words are the same. Knows no chunks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data.questions.library import comparable
from data.questions.wording import numbers
from data.text.holding import holds
from data.text.number_words import word_values


def _values(text: str, language: str) -> frozenset[str]:
    return numbers(text) | word_values(text, language)


def missing_numbers(answer: str, evidence: str, language: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """The numbers of an answer, those of them that the evidence lacks, and those that it has instead."""
    own, other = _values(answer, language), _values(evidence, language)
    plain = comparable(evidence)
    bare = {re.sub("[.,]", "", number) for number in other}  # however thousands are parted
    lacking = frozenset(n for n in own if n not in other and n.replace(".", "") not in bare and not holds(plain, n))
    return own, lacking, other - own


def has_another_number(answers: Sequence[str], sentence: str, language: str) -> bool:
    """Whether a sentence lacks a number of the answer and has another: "two weeks" is no evidence of "three weeks"."""
    if not answers or holds(comparable(sentence), answers[0]):
        return False
    _, lacking, instead = missing_numbers(answers[0], sentence, language)
    return bool(lacking and instead)


def has_other_numbers(answers: Sequence[str], quotes: str, language: str) -> bool:
    """Whether the quotes of a row have numbers, but none of those that any of its answers has."""
    if not quotes or not answers or any(holds(comparable(quotes), a) for a in answers):
        return False
    comparisons = [missing_numbers(answer, quotes, language) for answer in answers]
    return all(own and own == lacking and instead for own, lacking, instead in comparisons)
