"""Pages whose columns were drawn row by row, put back into reading order.

pdfium gives text in the order in which it was drawn, and joins what stands on one line. Where lines of two columns of
prose alternate, each column is read to its end. Tables are left alone: their cells are short, or end anywhere.
"""

from __future__ import annotations

import ctypes
from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

_LEAST_ROWS = 4
_NARROWEST_GUTTER = 7.0  # points
_NARROWEST_COLUMN = 9.0  # times the height of a line: some twenty letters
_LOOK_AT = 600  # pieces of lines, which are words where a page is justified
_FULL_SHARE = 0.5  # of a column's lines that reach into its last fifth

Box = tuple[float, float, float, float]
"""left, bottom, right, top, in points"""


def in_reading_order(textpage: Any, text: str) -> str:
    """`text` of a page of pypdfium2, its columns one after the other where they were drawn across."""
    gutters = find_gutters(_boxes(textpage, _LOOK_AT))  # columns show early, and most pages have none
    if not gutters or len(text) != textpage.count_chars():
        return text
    columns: list[list[str]] = [[] for _ in range(len(gutters) + 1)]
    lines: list[str] = []

    def flush() -> None:
        for column in columns:
            lines.extend(column)
            column.clear()

    start = 0
    for line in text.split("\n"):
        pieces = _pieces(textpage, line, start, gutters)
        start += len(line) + 1
        if pieces is None:  # it goes across
            flush()
            lines.append(line)
            continue
        for place, piece in pieces:
            columns[place].append(piece)
    flush()
    return "\n".join(lines)


def _boxes(textpage: Any, most: int) -> list[Box]:
    import pypdfium2.raw as raw

    left, top, right, bottom = (ctypes.c_double() for _ in range(4))
    boxes = []
    for number in range(min(textpage.count_rects(), most)):
        raw.FPDFText_GetRect(textpage.raw, number, left, top, right, bottom)
        boxes.append((left.value, bottom.value, right.value, top.value))
    return boxes


def find_gutters(boxes: Sequence[Box]) -> list[float]:
    """Where columns of prose are parted, in points from the left; none where no lines alternate.

    Args:
        boxes: of the pieces of lines, in the order in which they were drawn.
    """
    joins = [(a, b) for a, b in pairwise(boxes) if b[0] - a[2] >= _NARROWEST_GUTTER and _stand_side_by_side(a, b)]
    clusters: list[list[tuple[Box, Box]]] = []
    for join in sorted(joins, key=lambda pair: pair[0][2]):
        for cluster in clusters:
            left, right = _gap([*cluster, join])
            if right - left >= _NARROWEST_GUTTER:
                cluster.append(join)
                break
        else:
            clusters.append([join])
    gutters = [sum(_gap(cluster)) / 2 for cluster in clusters if len(cluster) >= _LEAST_ROWS and _is_prose(cluster)]
    return sorted(gutters)


def _stand_side_by_side(a: Box, b: Box) -> bool:
    height = min(a[3] - a[1], b[3] - b[1])
    overlap = min(a[3], b[3]) - max(a[1], b[1])
    return height > 0 and overlap > 0.6 * height and b[0] - a[2] >= 0.8 * height


def _gap(joins: Sequence[tuple[Box, Box]]) -> tuple[float, float]:
    return max(a[2] for a, _ in joins), min(b[0] for _, b in joins)


def _is_prose(joins: Sequence[tuple[Box, Box]]) -> bool:
    """Both columns are wide, and most of their lines are full."""
    for column in ([a for a, _ in joins], [b for _, b in joins]):
        left, right = min(box[0] for box in column), max(box[2] for box in column)
        height = median(box[3] - box[1] for box in column)
        full = sum(box[2] > right - 0.2 * (right - left) for box in column)
        if median(box[2] - box[0] for box in column) < _NARROWEST_COLUMN * height or full < _FULL_SHARE * len(column):
            return False
    return True


def _pieces(textpage: Any, line: str, start: int, gutters: Sequence[float]) -> list[tuple[int, str]] | None:
    """The line cut at the gutters, as (column, piece); None where its letters cross one."""
    pieces: list[tuple[int, str]] = []
    piece, place = "", -1
    before_right = None
    for offset, char in enumerate(line):
        if char.isspace():
            piece += char
            continue
        left, _, right, _ = textpage.get_charbox(start + offset)
        column = bisect(gutters, (left + right) / 2)
        if place >= 0 and column != place:
            if before_right is None or left - before_right < _NARROWEST_GUTTER or column < place:
                return None
            pieces.append((place, piece.rstrip() + "\r"))
            piece = ""
        piece, place, before_right = piece + char, column, right
    if place < 0:
        return [(0, line)] if line.strip() else []
    return [*pieces, (place, piece)]
