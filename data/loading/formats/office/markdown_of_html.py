"""HTML that a library makes or an e-book holds, to Markdown by markitdown's converter, as its reader sees it."""

from __future__ import annotations

import io
import re
from collections import Counter
from typing import Any

from data.loading.formats.page_tree import show, take_out_tables
from data.loading.formats.tables import write_table

_MARK, _MARK_END = "\ufdd4", "\ufdd5"  # noncharacters around the number of a table that was taken out
_PLACE = re.compile(rf"\s*{_MARK}(\d+){_MARK_END}\s*")


class PageConverter:
    """Stands in for the HTML converter inside markitdown's converters, and counts what it leaves out."""

    def __init__(self) -> None:
        from markitdown import converters

        self.left_out: Counter[str] = Counter()
        self._converter = converters.HtmlConverter()

    def convert_string(self, html_content: str, **_: Any) -> Any:
        """markitdown's result for a page, with tables whose rows and columns hold."""
        from markitdown import StreamInfo
        from selectolax.lexbor import LexborHTMLParser

        tree = LexborHTMLParser(re.sub(f"[{_MARK}{_MARK_END}]", "", html_content))
        self.left_out.update(show(tree))
        tables: list[str] = []
        for box in tree.css("input[type=checkbox]"):
            box.replace_with("[x] " if "checked" in box.attributes else "[ ] ")
        for table, rows in take_out_tables(tree):
            table.replace_with(f"{_MARK}{len(tables)}{_MARK_END}")
            tables.append(write_table(rows))
        info = StreamInfo(mimetype="text/html", extension=".html", charset="utf-8")
        result = self._converter.convert(io.BytesIO((tree.html or "").encode("utf-8", "replace")), info)
        result.markdown = _PLACE.sub(lambda place: f"\n\n{tables[int(place[1])]}\n\n", result.markdown).strip()
        return result
