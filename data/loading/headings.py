"""Headings of clean text: Markdown, reStructuredText and AsciiDoc, as (offset, level, text) in order.

Only line structure is read: enough for heading paths and section splits, not a parser of these languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Heading = tuple[int, int, str]

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ASCIIDOC = re.compile(r"(={1,6})[ \t]+(\S.*)$")
_RST_LINE = re.compile(r"([!-/:-@\[-`{-~])\1+$")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"(\*\*|__|`|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w))")
_NOT_SETEXT = re.compile(r" {0,3}([-*+>|]|\d+[.)]|#)|( {4}|\t)")


def find_headings(text: str, markup: str) -> tuple[Heading, ...]:
    """Headings of clean `text`; `markup` is `markdown`, `rst`, `asciidoc` or anything else (then none)."""
    readers = {"markdown": _markdown, "rst": _rst, "asciidoc": _asciidoc}
    return tuple(readers[markup](text)) if markup in readers else ()


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1


def _plain(text: str) -> str:
    return " ".join(_MARKS.sub("", _LINK.sub(r"\1", text)).split())


def _markdown(text: str) -> Iterator[Heading]:
    fence = ""
    before: tuple[int, str] | None = None
    for start, line in _lines(text):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        if mark:
            fence, before = mark[1], None
            continue
        found = _ATX.match(line)
        if found:
            if title := _plain(found[2] or ""):
                yield start, len(found[1]), title
            before = None
            continue
        under = _SETEXT.match(line)
        if under and before and len(under[1]) > 1:
            if title := _plain(before[1]):
                yield before[0], 1 if under[1][0] == "=" else 2, title
            before = None
            continue
        # only a one-line paragraph is a setext heading: the line above must be blank
        if not line.strip():
            before = (start, "")
        elif (before is None or not before[1]) and not _NOT_SETEXT.match(line):
            before = (start, line) if before is not None or start == 0 else None
        else:
            before = None


def _rst(text: str) -> Iterator[Heading]:
    """Titles underlined (and perhaps overlined) with punctuation; a style's level is the order of its first use."""
    lines = list(_lines(text))
    styles: list[str] = []
    number = 0
    while number < len(lines) - 1:
        start, line = lines[number]
        over = _RST_LINE.match(line) if len(line) >= 3 else None
        if over and number + 2 < len(lines) and _is_rst_title(lines[number + 1][1], lines[number + 2][1], over[1]):
            style, title, step = over[1] * 2, lines[number + 1][1], 3
        elif line[:1].strip() and not over and _is_rst_title(line, lines[number + 1][1], None):
            style, title, step = lines[number + 1][1][0], line, 2
        else:
            number += 1
            continue
        if style not in styles:
            styles.append(style)
        yield start, styles.index(style) + 1, _plain(title)
        number += step


def _is_rst_title(title: str, under: str, char: str | None) -> bool:
    mark = _RST_LINE.match(under)
    if not mark or not title.strip() or (char is not None and mark[1] != char):
        return False
    return len(under) >= min(len(title.rstrip()), 60) and len(under) >= 2 and any(c.isalnum() for c in title)


def _asciidoc(text: str) -> Iterator[Heading]:
    block = ""
    for start, line in _lines(text):
        if line[:4] in ("----", "....", "====", "++++") and len(set(line)) == 1:
            block = "" if block == line else (block or line)
            continue
        found = None if block else _ASCIIDOC.match(line)
        if found:
            yield start, len(found[1]), _plain(found[2])
