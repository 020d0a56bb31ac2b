"""Whether the first row of a CSV file names its columns.

A file without names loses a row where the first is taken for them; one with names gains a false row where it is not.
The second fault is the rarer one here: numbers and dates speak for data only where they cannot be names themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

_NUMBER = re.compile(r"[-+−]?[$€£]?\s?\d+(?:[.,]\d+)*\s?[%$€£]?")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?:[T ][\d:.]+Z?)?|\d{1,2}([./])\d{1,2}\1\d{2,4}")
_USUAL_NAMES = frozenset(["id", "text", "title", "name", "content", "question", "answer", "date", "key", "value"])


def numbered_columns(rows: Sequence[Sequence[str]]) -> list[str] | None:
    """`column_1`, `column_2`, … for rows of which the first is one of data; None where it names the columns."""
    if len(rows) < 2 or not rows[0][0].strip():  # an empty corner stands above the names of rows
        return None
    first = [cell.strip() for cell in rows[0]]
    if _USUAL_NAMES & {cell.lower() for cell in first}:
        return None
    kinds = [_kind(cell) for cell in first]
    columns = [[row[place].strip() for row in rows[1:] if len(row) > place] for place in range(len(first))]
    alike = [
        place
        for place, kind in enumerate(kinds)
        if kind and any(columns[place]) and all(_kind(cell) == kind for cell in columns[place] if cell)
    ]
    if not alike or _may_be_names(first, kinds, [cell for place in alike for cell in columns[place] if cell]):
        return None
    return [f"column_{number}" for number in range(1, len(first) + 1)]


def _kind(cell: str) -> str:
    if _DATE.fullmatch(cell):
        return "date"
    return "number" if _NUMBER.fullmatch(cell) else ""


def _may_be_names(first: Sequence[str], kinds: Sequence[str], below: Sequence[str]) -> bool:
    """Whether the numbers of a first row are those of a table across: years, or numbers that count up."""
    numbers = [cell for cell, kind in zip(first, kinds, strict=True) if kind == "number"]
    if numbers and all(map(_is_year, numbers)) and not all(map(_is_year, below)):
        return True
    if len(numbers) < 2 or not all(re.fullmatch(r"\d+(?:\.\d+)?", cell) for cell in numbers):
        return False
    steps = [after - before for before, after in pairwise(map(float, numbers))]
    if min(steps) <= 0:
        return False
    across = len(numbers) > 2 and len(numbers) == len(first) - 1 and not kinds[0]
    return across or set(steps) == {1.0} or (len(steps) > 1 and len(set(steps)) == 1)


def _is_year(cell: str) -> bool:
    return bool(re.fullmatch(r"1[89]\d\d|20\d\d|21\d\d", cell))
