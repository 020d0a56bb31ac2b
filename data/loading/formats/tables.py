"""Tables as rows of cells: merged cells keep their columns, and the rows become a Markdown table.

The words of a cell that spans rows or columns are repeated in each place that it covers, so that every row can be
read, cut off and quoted alone. A cell that spans a whole row is its title and stands once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_MOST_COLUMNS = 200
_LONGEST_REPEAT = 300
"""Characters up to which the words of a merged cell are repeated."""


class Grid:
    """The rows of one table as they are read, cell after cell."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self._row: list[str] = []
        self._cells = 0
        self._row_is_its_cell = True
        self._hanging: dict[int, tuple[int, str]] = {}  # column -> rows that a cell above still covers, its words

    def add(self, words: str, rows: int = 1, columns: int = 1) -> None:
        """The next cell of the row, at the first column that no cell from above covers."""
        self._pass_covered()
        self._cells += 1
        repeat = words if len(words) <= _LONGEST_REPEAT else ""
        for number in range(max(1, min(columns, _MOST_COLUMNS))):
            self._hanging.pop(len(self._row), None)
            if rows > 1 and len(self._row) < _MOST_COLUMNS:
                self._hanging[len(self._row)] = (rows - 1, repeat)
            self._row.append(repeat if number else words)

    def end_row(self) -> None:
        """Closes the row; one without a cell of its own adds none."""
        own = self._cells > 0
        title = self._cells == 1 and self._row_is_its_cell
        self._pass_covered(max(self._hanging, default=-1))
        if own:
            self.rows.append(self._row[:1] if title else self._row)
        self._row, self._cells, self._row_is_its_cell = [], 0, True

    def _pass_covered(self, last: int = -1) -> None:
        """Fills the columns that a cell from above covers; up to `last` also those that nothing covers."""
        while (column := len(self._row)) in self._hanging or column <= last:
            left, words = self._hanging.pop(column, (0, ""))
            self._row.append(words)
            self._row_is_its_cell = False
            if left > 1:
                self._hanging[column] = (left - 1, words)


def full_rows(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """Rows of equal length, less empty rows and the empty columns at the end."""
    kept = [list(row) for row in rows if any(row)]
    width = max((number for row in kept for number, words in enumerate(row, 1) if words), default=0)
    return [[*row[:width], *[""] * (width - len(row))] for row in kept]


def row_line(cells: Sequence[str]) -> str:
    """A row of a Markdown table; the cells' words come on one line, their bars escaped."""
    return "| " + " | ".join(" ".join(words.split()).replace("|", "\\|") for words in cells) + " |"


def write_table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first row the header; empty where no cell has words."""
    lines = [row_line(row) for row in full_rows(rows)]
    if lines:
        lines.insert(1, "|" + " --- |" * _width(lines[0]))
    return "\n".join(lines)


def write_inside_a_cell(rows: Iterable[Sequence[str]]) -> str:
    """A table that stands in the cell of another one: its rows apart by semicolons, its cells by commas."""
    return "; ".join(", ".join(" ".join(words.split()) for words in row if words.strip()) for row in rows if any(row))


def _width(line: str) -> int:
    return line.replace("\\|", "").count("|") - 1
