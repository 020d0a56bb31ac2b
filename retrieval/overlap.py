"""Is this passage too close to the oracle, or does it give the answer away? Plain text tests, no model.

Text is compared after Unicode folding, without case and punctuation. The tests know strings, not meaning;
`retrieval.mining.false_distractor_rate` measures what they let through.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from data.nouns import Question
from data.text.alike import alike
from data.text.unspaced import LETTER, spaced_out

_NOT_WORD = re.compile(r"[\W_]+")
_ARTICLES = ("the ", "a ", "an ")
UNTESTABLE = frozenset({"yes", "no", "maybe", "true", "false"})  # words that stand in any passage
SHINGLE = 5


def folded(text: str) -> str:
    """Lower-case words with single spaces; compatibility forms and accents folded."""
    decomposed = unicodedata.normalize("NFKD", alike(text)).casefold()
    plain = decomposed if decomposed.isascii() else "".join(c for c in decomposed if not unicodedata.combining(c))
    return _NOT_WORD.sub(" ", plain).strip()


def answer_needles(question: Question, *, min_characters: int = 3) -> list[str]:
    """Folded strings that must not stand in a distractor: accepted answers and gold quotes.

    Answers shorter than `min_characters`, and bare yes / no / maybe / true / false, prove nothing and are left out;
    a leading article is dropped.
    """
    needles: dict[str, None] = {}
    for answer in (question.answer, *question.answers):
        needle = folded(answer)
        for article in _ARTICLES:
            if needle.startswith(article):
                needle = needle[len(article) :]
                break
        shortest = 2 if LETTER.search(needle) else min_characters
        if len(needle) >= shortest and needle not in UNTESTABLE:
            needles[needle] = None
    for quote in question.quotes:
        needle = folded(quote.text)
        if len(needle) >= min_characters and needle not in UNTESTABLE:
            needles[needle] = None
    return list(needles)


def contains(folded_passage: str, needle: str) -> bool:
    """Whether the folded needle stands in the folded passage as whole words (anywhere in scripts without spaces)."""
    return f" {_spaced_out(needle)} " in f" {_spaced_out(folded_passage)} "


_spaced_out = lru_cache(maxsize=50_000)(spaced_out)


def shingles(folded_text: str) -> frozenset[str]:
    """Its character 5-grams; the text itself where it is shorter."""
    if len(folded_text) <= SHINGLE:
        return frozenset([folded_text])
    return frozenset(folded_text[i : i + SHINGLE] for i in range(len(folded_text) - SHINGLE + 1))


def is_near_duplicate(first: frozenset[str], second: frozenset[str], *, jaccard: float, containment: float) -> bool:
    """Whether two shingle sets are largely the same, or one largely lies within the other."""
    smaller = min(len(first), len(second))
    if not smaller:
        return True
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared) >= jaccard or shared / smaller >= containment
