"""The text of an RTF file as it comes together: paragraphs, and rows of cells that become tables."""

from __future__ import annotations

from collections import Counter

from data.loading.formats.tables import write_table
from data.loading.raised import lowered, raised


class Writer:
    """Text so far, and the table that is open."""

    TABLE_WORDS = frozenset((b"trowd", b"cell", b"row", b"nestcell", b"nestrow", b"cellx", b"clvmrg", b"clmrg"))

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.out: list[str] = []
        self.paragraph = 0  # where the paragraph begins in `out`
        self.rows: list[list[str]] = []
        self.row: list[str] | None = None
        self.merged: list[str] = []  # of each cell that the row defines: `down`, `right` or nothing
        self.next_merged = ""

    def write(self, text: str, *, unseen: str = "", height: int = 0) -> None:
        """Adds text: `unseen` names why it is not shown, `height` is 1 where it is raised and -1 where lowered."""
        if unseen:
            self.left_out[unseen] += bool(text.strip())
            return
        if self.row is None and text.strip():
            self.close_table()
        self.out.append(raised(text) if height > 0 else lowered(text) if height < 0 else text)

    def end_paragraph(self, style: int) -> None:
        """Ends a paragraph, as a heading where its style is one of level `style`."""
        words = "".join(self.out[self.paragraph :]).strip()
        if self.row is None and style and words:
            self.out[self.paragraph :] = ["#" * min(style, 6) + " " + " ".join(words.split())]
        self.out.append("\n\n")
        self.paragraph = len(self.out)

    def table_word(self, word: bytes) -> None:
        """Obeys a control word of tables."""
        if word == b"trowd":
            self.merged, self.next_merged = [], ""
            if self.row is None:
                self.begin_row(len(self.out))
        elif word in (b"clvmrg", b"clmrg"):
            self.next_merged = "down" if word == b"clvmrg" else "right"
        elif word == b"cellx":
            self.merged.append(self.next_merged)
            self.next_merged = ""
        elif word == b"cell":
            if self.row is None:
                self.begin_row(self.paragraph)
            assert self.row is not None
            self.row.append(" ".join("".join(self.out[self.paragraph :]).split()))
            del self.out[self.paragraph :]
        elif word == b"row" and self.row is not None:
            self.rows.append(self.with_merged(self.row))
            self.row = None
            self.paragraph = len(self.out)
        elif word in (b"nestcell", b"nestrow"):
            self.out.append(", " if word == b"nestcell" else "; ")

    def begin_row(self, place: int) -> None:
        """Opens a row whose first cell begins at `place` in the text."""
        self.row = []
        self.paragraph = place

    def with_merged(self, row: list[str]) -> list[str]:
        """The row with the words of merged cells in each that they cover."""
        above = self.rows[-1] if self.rows else []
        for place, kind in enumerate(self.merged[: len(row)]):
            if kind == "down" and not row[place] and place < len(above):
                row[place] = above[place]
            elif kind == "right" and place and not row[place]:
                row[place] = row[place - 1]
        return row[:1] if len(set(row)) == 1 and "right" in self.merged else row

    def close_table(self) -> None:
        """Writes the rows so far as a table, before the text that follows them."""
        if self.rows:
            gap = "" if self.out and self.out[-1].endswith("\n\n") else "\n\n"
            self.out.append(f"{gap}{write_table(self.rows)}\n\n")
            self.rows = []
            self.paragraph = len(self.out)

    def text(self) -> str:
        """All of it."""
        if self.row:
            self.rows.append(self.row)
        self.close_table()
        return "".join(self.out)
