"""The title that a PDF's first page shows: its largest text, where that stands out from the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

_STANDS_OUT = 1.2  # times the height of the page's text
_STANDS_OUT_FIRST = 1.1  # the page's first line
_SAME = 0.04
_MOST_LINES, _MOST_LETTERS, _FEWEST_LETTERS = 5, 250, 4
_LOOK_AT = 5_000  # characters of the page
_NO_TITLES = {
    "contents", "table of contents", "abstract", "index", "inhalt", "inhaltsverzeichnis", "table des matières",
    "sommaire", "índice", "indice", "introduction", "summary",
}  # fmt: skip


@dataclass(frozen=True)
class SizedLine:
    """A line of the page with the height of its font in points and the middle of the line above the page's foot."""

    text: str
    height: float
    middle: float


def shown_title(page: Any, textpage: Any, text: str) -> str:
    """The largest text of a page of pypdfium2; "" where all is of one size.

    Args:
        text: of the page as it is read, line by line; where scripts run from the right, pdfium's own is not that.
    """
    title = largest_text(_lines(textpage, text.split("\n")), page.get_height())
    return "" if title.strip(" .:").lower() in _NO_TITLES else title


def largest_text(lines: Sequence[SizedLine], page_height: float) -> str:
    """The largest lines of the upper two thirds that hold words, those of one size below each other together."""
    heights = [line.height for line in lines for _ in range(len(line.text.strip()))]
    if not heights:
        return ""
    usual = median(heights)
    wordy = [
        n
        for n, line in enumerate(lines)
        if line.middle > page_height / 3
        and line.height >= (_STANDS_OUT if n else _STANDS_OUT_FIRST) * usual
        and not line.text.rstrip().endswith((".", "。", "۔", ";", ","))
        and sum(map(str.isalpha, line.text)) >= max(_FEWEST_LETTERS, 0.5 * len(line.text.replace(" ", "")))
    ]
    if not wordy:
        return ""
    first = max(wordy, key=lambda n: (round(lines[n].height, 1), -n))
    title = [lines[first].text]
    for line in lines[first + 1 : first + _MOST_LINES]:
        if abs(line.height - lines[first].height) > _SAME * line.height or not line.text.strip():
            break
        title.append(line.text)
    words = " ".join(" ".join(title).split())
    return words if len(words) <= _MOST_LETTERS else ""


def font_height(textpage: Any, number: int) -> float:
    """The size of a character's font as it stands on the page, which fonts of other metrics share."""
    import pypdfium2.raw as raw

    matrix = raw.FS_MATRIX()
    size = raw.FPDFText_GetFontSize(textpage.raw, number)
    return size * math.hypot(matrix.b, matrix.d) if raw.FPDFText_GetMatrix(textpage.raw, number, matrix) else size


def _lines(textpage: Any, shown: Sequence[str]) -> list[SizedLine]:
    """The level lines of a page; text that runs upwards at its edge (a stamp) is left out."""
    text = textpage.get_text_range()
    if len(text) != textpage.count_chars():
        return []
    drawn = text.split("\n")
    if len(drawn) != len(shown):
        shown = drawn
    lines, start = [], 0
    for line, words in zip(drawn, shown):
        if start > _LOOK_AT:
            break
        places = [start + n for n, char in enumerate(line) if not char.isspace()]
        if places:
            first = textpage.get_charbox(places[0], loose=True)
            last = textpage.get_charbox(places[-1], loose=True)
            height, rise = font_height(textpage, places[len(places) // 2]), abs(last[1] - first[1])
            if rise <= height and (len(places) == 1 or abs(last[2] - first[0]) > rise):
                lines.append(SizedLine(words.rstrip("\r"), height, (first[1] + first[3]) / 2))
        start += len(line) + 1
    return lines
