"""Answers as they are compared: the one normalisation that records and evaluation share."""

from __future__ import annotations

import re
import string
import unicodedata

from data.text.alike import alike
from data.text.unspaced import LETTER, spaced_out

MIN_CHARACTERS = 4
"""Of a normalised answer that tells something of a passage it stands in: shorter ones ("5", "yes") stand in any."""

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The official SQuAD normalisation: lower case, no punctuation, no articles, single spaces.

    Beyond ASCII, look-alike characters are made alike first, all of Unicode's punctuation goes (as MLQA's evaluation
    has it, arXiv 1910.07475), and characters of scripts without spaces stand alone.
    """
    if text.isascii():
        return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
    plain = alike(text).lower().translate(_PUNCTUATION)
    plain = "".join(c for c in plain if c.isascii() or unicodedata.category(c)[0] != "P")
    return spaced_out(" ".join(_ARTICLES.sub(" ", plain).split()))


def is_telling(normal: str) -> bool:
    """Whether a normalised answer is long enough to be looked for: of Chinese and the like two characters will do."""
    return len(normal) >= MIN_CHARACTERS or (not normal.isascii() and len(LETTER.findall(normal)) >= 2)
