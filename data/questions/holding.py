"""Whether an answer stands in a text as whole words, and not as a part of another word or of another number.

Texts come as `data.questions.library.comparable` makes them: lower case, scripts without spaces spaced out.
"""

from __future__ import annotations

import functools
import re

from data.text.alike import MARKS, alike
from data.text.unspaced import NUMERALS, spaced_out

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:[,' ]\d{3})+|\d+)(?:\.\d+)?")


def is_number(answer: str) -> bool:
    """Whether an answer is a number alone."""
    return _NUMBER.fullmatch(alike(answer)) is not None


def holds(text: str, answer: str) -> bool:
    """Whether the answer stands in the text: numbers however their thousands are parted, words whole."""
    return held_as(text, answer) != ""


def held_as(text: str, answer: str) -> str:
    """The answer as the text writes it, "" where it does not stand there."""
    plain, pattern = _sought(answer)
    if pattern is None or (plain and plain not in text):
        return ""
    match = pattern.search(text)
    return match.group() if match else ""


@functools.lru_cache(maxsize=10_000)
def _sought(answer: str) -> tuple[str, re.Pattern[str] | None]:
    """What must be in the text at least ("" for numbers), and the pattern that decides."""
    plain = spaced_out(alike(answer)).lower().strip(" .。")
    if not plain:
        return "", None
    if _NUMBER.fullmatch(plain):
        return "", re.compile(rf"(?<!\w)(?<!\d[.,]){_digits(plain)}(?!\w|[.,]\d)")
    # a digit or numeral at either end must not go on as a longer number
    left = r"(?<!\d[.,])" if plain[0].isdigit() else rf"(?<![{NUMERALS}] )" if plain[0] in NUMERALS else ""
    right = r"(?![.,]\d)" if plain[-1].isdigit() else rf"(?! [{NUMERALS}])" if plain[-1] in NUMERALS else ""
    return plain, re.compile(rf"(?<!\w){left}{re.escape(plain)}(?![\w{MARKS}]){right}")


def _digits(number: str) -> str:
    """A pattern for a number: thousands parted by a comma, a point, an apostrophe, a space or not at all; zeros at the
    end of its decimals, or none."""
    whole, _, decimals = re.sub(r"[,' ]", "", number).partition(".")
    sign, whole = ("-" if whole.startswith("-") else ""), whole.lstrip("-")
    head = len(whole) % 3 or 3
    groups = [whole[:head], *(whole[at : at + 3] for at in range(head, len(whole), 3))]
    points = ",.' " if len(groups) > 2 else ",' "  # 1.234 is a decimal as likely as not
    decimals = decimals.rstrip("0")
    tail = rf"[.,]{decimals}0*" if decimals else r"(?:[.,]0{1,2})?"
    return sign + f"[{points}]?".join(groups) + tail
