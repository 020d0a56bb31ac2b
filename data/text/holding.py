"""Whether an answer stands in a text as whole words, and not as a part of another word or of another number.

Texts come as `data.questions.library.comparable` makes them: lower case, scripts without spaces spaced out.
"""

from __future__ import annotations

import calendar
import functools
import re

from data.text.alike import MARKS, alike
from data.text.number_words import HYPHENATED
from data.text.unspaced import NUMERALS, spaced_out

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:[,' ]\d{3})+|\d+)(?:\.\d+)?")


_DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)")


def is_value(answer: str) -> bool:
    """Whether an answer is a number or a date alone, which a document may write in another form."""
    plain = alike(answer)
    return (_NUMBER.fullmatch(plain) or _DAY.fullmatch(plain)) is not None


def holds(text: str, answer: str) -> bool:
    """Whether the answer stands in the text: numbers however their thousands are parted, words whole."""
    return held_as(text, answer) != ""


def held_as(text: str, answer: str) -> str:
    """The answer as the text writes it, "" where it does not stand there."""
    plain, number = _sought(answer)
    if number is not None:
        matches = (m for m in number.finditer(text) if not _is_joined(text, m.start(), m.end(), alone=True))
        match = next(matches, None)
        return match.group() if match else ""
    at = text.find(plain) if plain else -1
    while at >= 0:
        if _stands_alone(text, at, at + len(plain)):
            return plain
        at = text.find(plain, at + 1)
    return ""


@functools.lru_cache(maxsize=10_000)
def _sought(answer: str) -> tuple[str, re.Pattern[str] | None]:
    """An answer as texts are, and the pattern for one that is a number."""
    plain = spaced_out(alike(answer)).lower().strip(" .。")
    if day := _DAY.fullmatch(plain):
        return plain, re.compile(rf"(?<!\w)(?:{'|'.join(_day_forms(*map(int, day.groups())))})(?!\w|[.,]\d)")
    if _NUMBER.fullmatch(plain):
        return plain, re.compile(rf"(?<!\w)(?<!\d[.,]){_digits(plain)}(?!\w|[.,]\d)")
    return plain, None


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether what stands there is no part of a longer word, nor a number at either end part of a longer one."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if _in_word(before[-1:]) or _in_word(after[:1]) or (after and after[0] in _MARKS):
        return False
    if _is_joined(text, start, end):
        return False
    first, last = text[start], text[end - 1]
    if first.isdigit() and before[-1:] in (".", ",") and before[:1].isdigit():
        return False
    if last.isdigit() and after[:1] in (".", ",") and after[1:].isdigit():
        return False
    if first in NUMERALS and before[-1:] == " " and before[:1] and before[0] in NUMERALS:
        return False
    return not (last in NUMERALS and after[:1] == " " and after[1:] and after[1] in NUMERALS)


_YEAR = re.compile(r"[12]\d{3}(?!\d)")
_NUMBER_BEFORE = re.compile(r"([^\W\d_]+)-$")
_NUMBER_AFTER = re.compile(r"-([^\W\d_]+)")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_LAST_WORD = re.compile(r"(?<![^\W\d_])[^\W\d_]+$")


def _is_joined(text: str, start: int, end: int, *, alone: bool = False) -> bool:
    """Whether a sign, a hyphen or a slash makes a number at either end part of another: -5, 14-16, 1/4, twenty-four.

    A year closes a span or a date and stands for itself (1998-2003, 12/04/2019). What follows a word and a hyphen may
    follow a dash (the toll-5 euros), unless the number is `alone` (covid-19).
    """
    before, sign = text[max(0, start - 2) : max(0, start - 1)], text[max(0, start - 1) : start]
    if text[start].isdigit():
        year = _YEAR.match(text, start) is not None and before.isdigit()
        if sign == "-" and not year and (alone or not before.isalpha()):
            return True
        if sign == "/" and not year and before.isalnum():
            return True
    if text[end - 1].isdigit() and text[end : end + 1] == "/" and text[end + 1 : end + 2].isdigit():
        return re.search(r"(?<!\d)[12]\d{3}$", text[max(0, end - 5) : end]) is None
    if sign == "-" and (word := _FIRST_WORD.match(text, start)) and word.group() in HYPHENATED:
        other = _NUMBER_BEFORE.search(text[max(0, start - 20) : start])
        return other is not None and other[1] in HYPHENATED
    if (after := _NUMBER_AFTER.match(text, end)) and after[1] in HYPHENATED:
        word = _LAST_WORD.search(text[max(start, end - 20) : end])
        return word is not None and word.group() in HYPHENATED
    return False


_MARKS = frozenset(MARKS)


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _day_forms(year: int, month: int, day: int) -> list[str]:
    """The ways in which documents write a day; with slashes only where day and month cannot be taken for each other."""
    name = calendar.month_name[month].lower() if 1 <= month <= 12 else "-"
    names = rf"(?:{name}|{name[:3]}\.?)"
    ordinal = rf"0?{day}(?:st|nd|rd|th|\.)?"
    forms = [
        rf"{year}-{month:02}-{day:02}",
        rf"{year}[/.]0?{month}[/.]0?{day}",
        rf"{ordinal} (?:of )?{names},? {year}",
        rf"{names} {ordinal},? {year}",
        rf"0?{day}\. ?0?{month}\. ?{year}",
        rf"{year} ?年 ?{month} ?月 ?{day} ?日",
    ]
    return forms + ([rf"0?{day}/0?{month}/{year}", rf"0?{month}/0?{day}/{year}"] if day > 12 else [])


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
