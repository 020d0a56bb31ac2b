"""Extracted pages made readable: divided words whole, running headers and footers out, wrapped lines joined.

Works on the lines of any paged text; nothing here knows PDF.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

_EDGE = 2  # lines at the top and bottom of a page that may be running ones
_LEAST_PAGES = 3
_LEAST_SHARE = 0.3
_SPACES = re.compile(r"[ \t\u00a0]+")
_DIGITS = re.compile(r"\d+")
_ENDS = tuple(".:!?;。！？؟")
_ITEM = re.compile(r"[-*•·▪◦‣–—]\s|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)]\s|\d+(?:\.\d+)+\s|\d+\s+[A-Z]")
_CITATIONS = re.compile(r"(?:\[\d{1,3}\])+$")
_WORD = re.compile(r"\w+")
_LEADERS = re.compile(r"(?:\s?\.){4,}")
_DIVIDED = re.compile("(\\w+)(?:[\ufffe\u00ad\x02]|-(?=[ \\t]*\\r?\\n))[ \\t]*\\r?\\n?[ \\t]*(\\w+)")
_SOFT = re.compile("[\ufffe\u00ad\x02]\\r?\\n?")
_COMPOUND = re.compile(r"\w+(?:-\w+)+")
_CONJUNCTIONS = {"and", "or", "und", "oder", "et", "ou", "och", "og"}


def join_divided_words(pages: Sequence[str]) -> list[str]:
    """Pages with words whole that a line's end divides.

    The hyphen stays where the document writes the compound elsewhere (`well-known`), before capitals and digits
    (`COVID-19`), and before `and` with its space (`pre- and post-war`). Elsewhere it goes.
    """
    compounds = {compound.lower() for page in pages for compound in _COMPOUND.findall(page)}
    words = {word.lower() for page in pages for word in _WORD.findall(_DIVIDED.sub(" ", page))}

    def join(parts: re.Match[str]) -> str:
        first, second = parts[1], parts[2]
        if "\u00ad" in parts[0]:
            return first + second
        if second.lower() in _CONJUNCTIONS:
            return f"{first}- {second}"
        if f"{first}-{second}".lower() in compounds:
            return f"{first}-{second}"
        if (first + second).lower() in words:
            return first + second
        if second[0].isdigit() or (second[0].isupper() and not first.isupper()) or first[-1].isdigit():
            return f"{first}-{second}"
        return first + second

    return [_SOFT.sub("", _DIVIDED.sub(join, page)) for page in pages]


def drop_running_lines(pages: Sequence[str]) -> tuple[list[str], int]:
    """Pages without the lines that stand at the top or bottom of many of them (page numbers aside), and their count."""
    split = [page.replace("\r", "").split("\n") for page in pages]
    edges = [{_shape(line) for line in _edge_lines(lines)} for lines in split]
    common = Counter(shape for shapes in edges for shape in shapes)
    least = max(_LEAST_PAGES, _LEAST_SHARE * sum(bool(shapes) for shapes in edges))
    running = {shape for shape, count in common.items() if count >= least}
    if not running:
        return list(pages), 0
    kept, dropped = [], 0
    for lines in split:
        filled = [number for number, line in enumerate(lines) if line.strip()]
        drop = {number for number in _edge_numbers(filled) if _shape(lines[number]) in running}
        dropped += len(drop)
        kept.append("\n".join(line for number, line in enumerate(lines) if number not in drop))
    return kept, dropped


def _edge_numbers(filled: Sequence[int]) -> list[int]:
    return list(dict.fromkeys([*filled[:_EDGE], *filled[-_EDGE:]]))


def _edge_lines(lines: Sequence[str]) -> list[str]:
    filled = [number for number, line in enumerate(lines) if line.strip()]
    return [lines[number] for number in _edge_numbers(filled)]


def _shape(line: str) -> str:
    return _DIGITS.sub("#", " ".join(line.split()))


def join_wrapped_lines(page: str) -> str:
    """The page with the lines of a paragraph joined by spaces.

    A line goes on in the next one when it is nearly as long as the page's long lines, or the next begins with a small
    letter, unless it ends a sentence or the next begins an item. So a boundary of lines is one of sentences.
    """
    lines = page.replace("\r", "").split("\n")
    lengths = sorted(len(line) for line in lines if line.strip())
    if len(lengths) < 2:
        return page
    full = 0.7 * lengths[int(0.9 * (len(lengths) - 1))]
    joined = [lines[0]]
    for before, line in pairwise(lines):
        if _goes_on(before, line, full):
            joined[-1] = joined[-1].rstrip() + " " + line.lstrip()
        else:
            joined.append(line)
    return "\n".join(joined)


def _goes_on(before: str, line: str, full: float) -> bool:
    before, line = before.strip(), line.strip()
    if (
        not before
        or not line
        or _CITATIONS.sub("", before).endswith(_ENDS)
        or _ITEM.match(line)
        or _LEADERS.search(before)
    ):
        return False
    if line[0].islower() and before[-1].isalpha() | (before[-1] in ",-)"):
        return True
    return len(before) >= full and len(before) >= 30
