"""Arabic, Hebrew and their like from pdfium: each line read from right to left by the places of its letters.

pdfium guesses the order from the letters alone: it leaves words of presentation forms backwards, turns the letters of
a ligature round and misplaces vowel marks and spaces. The page itself shows where each letter stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from data.loading.formats.pdf_pages.title import font_height

_LETTERS = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
_RIGHT_TO_LEFT = re.compile(f"[{_LETTERS}]")
_PRESENTATION = re.compile("[\ufb00-\ufdff\ufe70-\ufefc]+")
_AFTER_LATIN = re.compile("(?<=[A-Za-z])(?=[\u05d0-\u05ea\u0620-\u064a\u0671-\u06d3])")
_ALEFS = "اأإآٱ"
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_WORD_GAPS = (0.15, 0.45)  # of the font's size: a space is wider than something between these
_INVISIBLE = "\r\ufffe\u200e\u200f\u202a\u202b\u202c"
_LONGEST_LINE = 5_000


@dataclass(frozen=True)
class Glyph:
    """What stands at one place: a letter with its marks, or the letters of a ligature."""

    text: str
    left: float
    right: float


def holds_right_to_left(text: str) -> bool:
    """Whether a fifth of the letters are of a right-to-left script."""
    letters = sum(map(str.isalpha, text))
    return letters > 0 and len(_RIGHT_TO_LEFT.findall(text)) > 0.2 * letters


def read_from_right(textpage: Any) -> str:
    """The text of a page of pypdfium2, its right-to-left lines put in order."""
    lines, start = [], 0
    for line in _characters(textpage).split("\n"):
        if _is_from_right(line) and len(line) <= _LONGEST_LINE:
            glyphs, size, is_level = _glyphs(textpage, line, start)
            lines.append(put_in_order(glyphs, size) if glyphs and size > 0 and is_level else line)
        else:
            lines.append(line)
        start += len(line) + 1
    return "\n".join(lines)


def _characters(textpage: Any) -> str:
    """One character for each place of the page, as its text is not where pdfium leaves some out."""
    import pypdfium2.raw as raw

    codes = (raw.FPDFText_GetUnicode(textpage.raw, number) for number in range(textpage.count_chars()))
    return "".join(chr(code) if 0 < code < 0x110000 else "\ufffe" for code in codes)


def plain_letters(text: str) -> str:
    """Shapes of letters (initial, medial, ligatures such as `ﬁ`) as the letters that people type and search for."""
    return _PRESENTATION.sub(lambda shapes: unicodedata.normalize("NFKC", shapes[0]), text)


def put_in_order(glyphs: Sequence[Glyph], size: float) -> str:
    """The text of a line that begins at the right.

    Args:
        size: of the font, in the unit of the glyphs' places.
    """
    ordered = sorted(glyphs, key=lambda glyph: -(glyph.left + glyph.right))
    gaps = [before.left - glyph.right for before, glyph in pairwise(ordered)]
    least = _least_space(gaps, size)
    items = [ordered[0].text]
    for glyph, gap in zip(ordered[1:], gaps, strict=True):
        items += [" ", glyph.text] if gap > least else [glyph.text]
    turned = _AFTER_LATIN.sub(" ", "".join(_turn_runs(items)))
    opening, closing = turned.find("("), turned.find(")")
    if closing >= 0 and (opening < 0 or closing < opening):
        turned = turned.translate(_MIRRORED)
    return re.sub(" {2,}", " ", turned).strip()


def _least_space(gaps: Sequence[float], size: float) -> float:
    """The middle of the widest step from one gap to the next: fonts differ in how far the ink of letters is apart."""
    low, high = (share * size for share in _WORD_GAPS)
    edges = [low, *sorted(gap for gap in gaps if low < gap < high), high]
    start, end = max(pairwise(edges), key=lambda edge: edge[1] / edge[0])
    return (start + end) / 2


def _turn_runs(items: Sequence[str]) -> Iterator[str]:
    """Latin words and numbers, which run from left to right, with what stands between two of them."""
    run: list[str] = []
    between: list[str] = []
    for item in items:
        if _runs_from_left(item):
            run += [*between, item]
            between = []
        elif run and not _RIGHT_TO_LEFT.search(item):
            between.append(item)
        else:
            yield from reversed(run)
            yield from between
            yield item
            run, between = [], []
    yield from reversed(run)
    yield from between


def _runs_from_left(item: str) -> bool:
    return any(unicodedata.bidirectional(char) in ("L", "EN", "AN") for char in item)


def _is_from_right(line: str) -> bool:
    letters = sum(map(str.isalpha, line))
    return letters > 0 and len(_RIGHT_TO_LEFT.findall(line)) > 0.4 * letters


def _glyphs(textpage: Any, line: str, start: int) -> tuple[list[Glyph], float, bool]:
    """The glyphs of a line without the spaces that pdfium made up, the size of its font, and whether it lies level."""
    import pypdfium2.raw as raw

    glyphs: list[Glyph] = []
    marks: list[Glyph] = []
    box = None
    size = 0.0
    heights: list[float] = []
    for offset, char in enumerate(line):
        if (
            raw.FPDFText_IsGenerated(textpage.raw, start + offset) == 1
            or char in "\r\ufffe\u200e\u200f\u202a\u202b\u202c"
        ):
            continue
        place = textpage.get_charbox(start + offset)
        if char.isspace() and place[2] - place[0] < 0.1:
            continue
        heights += [place[1], place[3]]
        size = size or font_height(textpage, start + offset) or place[3] - place[1]
        if glyphs and place == box and not char.isspace():
            glyphs[-1] = Glyph(_ligature(glyphs[-1].text, char), glyphs[-1].left, glyphs[-1].right)
        elif unicodedata.combining(char):
            marks.append(Glyph(char, place[0], place[2]))
            continue
        else:
            glyphs.append(Glyph(char, place[0], place[2]))
        box = place
    for mark in marks:
        _put_on_letter(glyphs, mark)
    width = max((glyph.right for glyph in glyphs), default=0) - min((glyph.left for glyph in glyphs), default=0)
    return glyphs, size, len(glyphs) < 3 or width > max(heights) - min(heights)


def _ligature(letters: str, char: str) -> str:
    """pdfium gives the letters of a glyph backwards: lam comes before alef, a letter before its mark."""
    if letters[-1:] == "ل" and char in _ALEFS:
        return letters + char
    if unicodedata.combining(char):
        return letters + char
    return char + letters if _RIGHT_TO_LEFT.match(char) else letters + char


def _put_on_letter(glyphs: list[Glyph], mark: Glyph) -> None:
    middle = (mark.left + mark.right) / 2
    letters = [n for n, glyph in enumerate(glyphs) if not glyph.text.isspace()]
    if letters:
        nearest = min(letters, key=lambda n: abs((glyphs[n].left + glyphs[n].right) / 2 - middle))
        glyph = glyphs[nearest]
        glyphs[nearest] = Glyph(glyph.text + mark.text, glyph.left, glyph.right)
