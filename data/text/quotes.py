"""Finds quoted words in a text and gives them back verbatim, and cuts a text into sentences with their offsets.

A quote is looked for exactly, then with spaces, quotation marks and dashes made alike, then by rapidfuzz; what comes
back is always an exact substring of the text. Nothing here knows questions, teachers or records.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal, NamedTuple

from rapidfuzz import fuzz

from data.text.alike import alike, alike_with_origins
from data.text.stops import goes_on
from data.text.unspaced import LETTER, NUMERALS


class Span(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """The words themselves."""
        return text[self.start : self.end]


class Located(NamedTuple):
    """Where a quote stands and how it was found; `text[start:end]` is the verbatim quote."""

    start: int
    end: int
    how: Literal["exact", "normalised", "repaired"]
    score: float = 100.0

    def of(self, text: str) -> str:
        """The words themselves, verbatim."""
        return text[self.start : self.end]


def locate_quote(quote: str, text: str, *, min_score: float = 95.0) -> Located | None:
    """The span of `text` that `quote` means, or None.

    Args:
        quote: words said to be in the text; outer spaces and one pair of outer quotation marks are ignored.
        text: the passage.
        min_score: rapidfuzz ratio (0-100) that a repaired quote must reach against the words it is replaced by.

    A repaired span is snapped to word boundaries, and to those of the sentence where they are a word or two away.
    Quotes shorter than 12 characters are never repaired: so few characters prove nothing.
    """
    quote = quote.strip()
    for form in (quote, _unquoted(quote)):
        if form and (start := text.find(form)) >= 0:
            return Located(start, start + len(form), "exact")
    quote = _unquoted(quote)
    plain_quote = _plain(quote)[0].strip()
    plain_text, starts, ends = _plain(text)
    if not plain_quote:
        return None
    for needle, hay in ((plain_quote, plain_text), (plain_quote.lower(), plain_text.lower())):
        if len(hay) == len(starts) and (start := hay.find(needle)) >= 0:
            return Located(starts[start], ends[start + len(needle) - 1], "normalised")
    if len(plain_quote) < 12:
        return None
    repaired = _repaired(plain_quote, plain_text, starts, ends, text, min_score)
    return repaired if repaired and _numbers(quote) <= _numbers(repaired.of(text)) else None


_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`", "„": "“"}


def _unquoted(quote: str) -> str:
    """Without one pair of quotation marks around the whole."""
    quote = quote.strip()
    if len(quote) > 2 and _PAIRS.get(quote[0]) == quote[-1] and quote[0] not in quote[1:-1]:
        return quote[1:-1].strip()
    return quote


def _plain(text: str) -> tuple[str, list[int], list[int]]:
    """`alike_with_origins` with a backtick for what people take it for, a quotation mark."""
    plain, starts, ends = alike_with_origins(text)
    return plain.replace("`", "'"), starts, ends


_NUMBER = re.compile(rf"\d+(?:[.,]\d+)*|[{NUMERALS}]+")


def _numbers(text: str) -> Counter[str]:
    """The numbers of a text: a quote with another one is another statement, however alike the words are."""
    return Counter(_NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", alike(text))))


def _repaired(
    plain_quote: str, plain_text: str, starts: list[int], ends: list[int], text: str, min_score: float
) -> Located | None:
    if len(plain_quote) > len(plain_text) * 1.1:
        return None
    alignment = fuzz.partial_ratio_alignment(plain_quote, plain_text, score_cutoff=min(min_score, 90.0) - 10.0)
    if alignment is None:
        return None
    shorter = len(plain_quote) <= len(plain_text)
    start, end = (alignment.dest_start, alignment.dest_end) if shorter else (0, len(plain_text))
    start, end = _to_words(plain_text, start, end)
    while start < end and plain_text[start] == " ":
        start += 1
    while end > start and plain_text[end - 1] == " ":
        end -= 1
    if start >= end:
        return None
    best = Span(starts[start], ends[end - 1])
    best_score = fuzz.ratio(plain_quote, _plain(best.of(text))[0])
    if (snapped := _to_sentence(text, best)) != best:
        score = fuzz.ratio(plain_quote, _plain(snapped.of(text))[0])
        if score >= min(best_score, min_score):
            best, best_score = snapped, score
    return Located(*best, "repaired", round(best_score, 2)) if best_score >= min_score else None


def _to_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Moves each end outwards to the nearest word boundary, or inwards where a word is only touched by a character."""

    def inside(at: int) -> bool:
        return (
            0 < at < len(text)
            and (text[at - 1].isalnum() or text[at - 1] == "_")
            and (text[at].isalnum() or text[at] == "_")
            and not (LETTER.match(text[at - 1]) and LETTER.match(text[at]))  # any of these may begin a word
        )

    left, right = start, end
    while inside(left):
        left -= 1
    while inside(right):
        right += 1
    if start - left > 2:  # most of the word lies outside: leave the word out if little of it lies inside
        inward = start
        while inward < end and inside(inward):
            inward += 1
        if inward - start <= 2:
            left = inward
    if right - end > 2:
        inward = end
        while inward > left and inside(inward):
            inward -= 1
        if end - inward <= 2:
            right = inward
    return left, right


def _to_sentence(text: str, span: Span, *, reach: int = 10) -> Span:
    """The span moved to the sentence boundaries that lie at most `reach` characters from its ends."""
    bounds = sentences(text)
    starts = [s.start for s in bounds if abs(s.start - span.start) <= reach]
    ends = [s.end for s in bounds if abs(s.end - span.end) <= reach]
    start = min(starts, key=lambda at: (abs(at - span.start), at), default=span.start)
    end = min(ends, key=lambda at: (abs(at - span.end), at), default=span.end)
    return Span(start, end) if start < end else span


_ABBREVIATIONS = frozenset(
    [
        "e.g",
        "i.e",
        "etc",
        "vs",
        "cf",
        "al",
        "dr",
        "mr",
        "mrs",
        "ms",
        "prof",
        "st",
        "fig",
        "figs",
        "no",
        "nos",
        "eq",
        "sec",
        "ch",
        "vol",
        "pp",
        "approx",
        "ca",
        "inc",
        "ltd",
        "co",
        "corp",
        "jr",
        "sr",
        "dept",
        "est",
        "jan",
        "feb",
        "mar",
        "apr",
        "jun",
        "jul",
        "aug",
        "sep",
        "sept",
        "oct",
        "nov",
        "dec",
        "u.s",
        "u.k",
        "a.m",
        "p.m",
        "resp",
        "incl",
        "viz",
        "ed",
        "eds",
        "ref",
        "refs",
    ]
)
_FULL_STOPS = "。！？｡\u104b\u17d4\u17d5"  # of scripts that go on without a space: Chinese, Japanese, Burmese, Khmer
_SPACED_STOPS = ".!?\u061f\u06d4\u0964\u0965\u0589\u1362"  # beside ours those of Arabic, Urdu, Hindi, Armenian, Amharic
_THAI = r"\u0e01-\u0e4e\u0e81-\u0ecd"  # and Lao: they write no stop, but a space may end a sentence
_LONG_ENOUGH = 40  # characters of a Thai sentence; spaces part clauses, names and numbers as well
_STOP = re.compile(
    rf"[{_SPACED_STOPS}]+[\"'”’»)\]*`]*(?=\s|$)|[{_FULL_STOPS}]+[”’」』）》】]*|(?<=[{_THAI}])[ \t]+(?=[{_THAI}])"
)
_BREAK = re.compile(
    r"\n[ \t]*\n\s*"  # an empty line
    r"|\n(?=[ \t]*(?:[*•\-–+]|\d{1,3}[.)]|[a-zA-Z][.)])[ \t]+\S)"  # the next line is a list item
    r"|\n[ \t]*(?:[=\-*~^#]{3,})[ \t]*(?:\n|$)"  # a rule under a heading
    r"|\n(?=[ \t]*(?:#{1,6}[ \t]|>>>|\.\.\.[ \t]))"
    r"|(?<=:)[ \t]*\n(?=[ \t]{2,}\S)"  # an indented block after a colon
)


def sentences(text: str) -> list[Span]:
    """Sentences, list items and headings of `text`, in order, without the space between them.

    Knows abbreviations, initials, numbered items, quoted stops and hard-wrapped lines; an empty line, a list marker
    and a heading's rule end a sentence as well. Every span is non-empty; spans do not overlap.
    """
    spans: list[Span] = []
    at = 0
    for brk in [*(m.span() for m in _BREAK.finditer(text)), (len(text), len(text))]:
        if brk[0] >= at:
            spans += _in_block(text, at, brk[0])
            at = brk[1]
    return spans


def _in_block(text: str, start: int, end: int) -> list[Span]:
    spans: list[Span] = []
    marker = re.compile(r"\s*(?:[*•\-–+]|\d{1,3}[.)])[ \t]+(?=\S)").match(text, start, end)
    begin = marker.end() if marker else start
    for stop in _STOP.finditer(text, begin, end):
        if _ends_sentence(text, begin, stop, end):
            spans.append(_trimmed(text, begin, stop.end()))
            begin = stop.end()
    spans.append(_trimmed(text, begin, end))
    return [s for s in spans if s.start < s.end and any(c.isalnum() for c in s.of(text))]


def _ends_sentence(text: str, begin: int, stop: re.Match[str], end: int) -> bool:
    if stop.group()[0] in _FULL_STOPS:
        return True
    if stop.group().isspace():
        return stop.start() - begin >= _LONG_ENOUGH
    rest = text[stop.end() : end].lstrip()
    if not rest:
        return True
    word = re.search(r"[^\s(\[\"'“‘]*$", text[begin : stop.start()])
    last = word.group() if word else ""
    if stop.group()[0] == "." and (last.lower() in _ABBREVIATIONS or re.fullmatch(r"[A-Z]", last)):
        # "etc." can end a sentence; the others are followed by what they abbreviate
        return last.lower() == "etc" and rest[0].isupper()
    if stop.group() == "." and goes_on(text[begin : stop.start()], last, rest):
        return False
    # a small letter continues the sentence (names such as "x.y", "`foo`" or "*bar*" are written small as well)
    return not rest[0].islower()


def _trimmed(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return Span(start, end)
