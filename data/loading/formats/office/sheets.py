"""A workbook (xlsx) to Markdown through openpyxl: a heading and a table for each sheet, cells as they stand in it.

Formulas give their saved value, or themselves where the program that wrote the file saved none. Hidden sheets, rows
and columns are left out; rows that a filter hides or that are folded are not hidden.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from typing import Any

from data.loading.draft import Draft, draft_without
from data.loading.formats.office.cell_values import shown_value
from data.loading.formats.office.sheet_boxes import text_boxes
from data.loading.formats.office.word_xml import drawn
from data.loading.formats.tables import write_table
from data.loading.options import Refused
from data.loading.raised import lowered, raised

_WITHOUT_VALUE = re.compile(rb"(?:</f>|<f\b[^<>]*/>)\s*(?:<v\s*/>|<v>\s*</v>|</c>)")
_ZEROES = re.compile(rb"(<sheetView\b[^<>]*\s)showZeroes(?=\s*=)")
_LONGEST_REPEAT = 300
_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def load_xlsx(raw: bytes) -> Draft:
    """Reads a workbook whose zip has been checked.

    Raises:
        Refused: `unreadable`.
    """
    from openpyxl import load_workbook

    try:
        raw, names, without_value = _look_inside(raw)
        with warnings.catch_warnings(action="ignore"):  # of shapes and extensions that openpyxl leaves out
            book = load_workbook(io.BytesIO(raw), data_only=True, rich_text=True, keep_links=False)
            formulas = load_workbook(io.BytesIO(raw), keep_links=False) if without_value else None
        left_out: Counter[str] = Counter(drawn(names, "charts/chart", "diagrams/data"))
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
        if hidden := len(book.worksheets) - len(sheets):
            left_out["hidden sheets"] += hidden
        boxes = text_boxes(raw)
        parts = []
        for sheet in sheets:
            table = _table(sheet, formulas[sheet.title] if formulas else None, left_out)
            blocks = [f"## {sheet.title}", table, *boxes.get(sheet.title, ())]
            parts.append("\n\n".join(block for block in blocks if block))
        title = (book.properties.title or "") if book.properties else ""
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # openpyxl raises anything on damaged files
        what = f"{type(error).__name__}: {error}"[:200]
        raise Refused("unreadable", f"it cannot be read as a workbook ({what}); save it anew") from error
    if not any("\n" in part for part in parts):
        parts = []  # names of empty sheets
    return draft_without(
        Draft(["\n\n".join(parts)], _XLSX, markup="markdown", title=title, metadata={"loader": "openpyxl"}), left_out
    )


def _look_inside(raw: bytes) -> tuple[bytes, list[str], bool]:
    """The file, with an attribute that openpyxl does not know renamed; its members; has it formulas without value?"""
    without_value = False
    repaired: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = archive.namelist()
        for name in names:
            if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                content = archive.read(name)
                without_value = without_value or bool(_WITHOUT_VALUE.search(content))
                if b"showZeroes" in content:
                    repaired[name] = _ZEROES.sub(rb"\1showZeros", content)
        if repaired:
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as target:
                for name in names:
                    target.writestr(name, repaired[name] if name in repaired else archive.read(name))
            raw = out.getvalue()
    return raw, names, without_value


def _table(sheet: Any, formulas: Any, left_out: Counter[str]) -> str:
    hidden_rows, hidden_columns = _hidden_rows(sheet), _hidden_columns(sheet)
    rows: dict[int, dict[int, str]] = {}
    columns: set[int] = set()
    # the cells that are there: going through rows and columns would make every empty cell up to the last one
    for (row, column), cell in sorted(sheet._cells.items()):
        if getattr(cell, "comment", None) is not None:
            left_out["comments"] += 1
        words = _words(cell, formulas, left_out)
        if not words:
            continue
        if row in hidden_rows or any(first <= column <= last for first, last in hidden_columns):
            left_out["cells in hidden rows and columns"] += 1
            continue
        rows.setdefault(row, {})[column] = words
        columns.add(column)
    for merged in sheet.merged_cells.ranges:
        _repeat(merged, rows, columns)
    return write_table([rows[row].get(column, "") for column in sorted(columns)] for row in sorted(rows))


def _words(cell: Any, formulas: Any, left_out: Counter[str]) -> str:
    value = cell.value
    if value is None and formulas is not None:
        value = formulas.cell(cell.row, cell.column).value
        value = getattr(value, "text", value)  # of an array of formulas
        if not isinstance(value, str) or not value.startswith("="):
            return ""
    if value is None:
        return ""
    if cell.has_style and cell.font is not None and cell.font.strike:
        left_out["struck out"] += 1
        return ""
    if isinstance(value, list):
        return _rich(value, left_out)
    return shown_value(value, cell.number_format)


def _rich(parts: list[Any], left_out: Counter[str]) -> str:
    words = []
    for part in parts:
        font, text = getattr(part, "font", None), getattr(part, "text", part)
        if font is not None and font.strike:
            left_out["struck out"] += 1
        elif font is not None and font.vertAlign in ("superscript", "subscript"):
            words.append(raised(text) if font.vertAlign == "superscript" else lowered(text))
        else:
            words.append(str(text))
    return "".join(words).strip()


def _hidden_rows(sheet: Any) -> set[int]:
    hidden = {
        row
        for row, dimension in sheet.row_dimensions.items()
        if dimension.hidden and not (dimension.outlineLevel or dimension.outline_level)
    }
    filtered = sheet.auto_filter
    if hidden and filtered is not None and filtered.ref and filtered.filterColumn:
        from openpyxl.utils import range_boundaries

        _, first, _, last = range_boundaries(filtered.ref)
        hidden = {row for row in hidden if not (first or 1) <= row <= (last or row)}
    return hidden


def _hidden_columns(sheet: Any) -> list[tuple[int, int]]:
    dimensions: Mapping[str, Any] = sheet.column_dimensions
    return [
        (dimension.min, dimension.max)
        for dimension in dimensions.values()
        if dimension.hidden and not dimension.outlineLevel and dimension.min and dimension.max
    ]


def _repeat(merged: Any, rows: dict[int, dict[int, str]], columns: set[int]) -> None:
    """The words of merged cells in each of them, as far as other cells stand in the row; a title stands once."""
    words = rows.get(merged.min_row, {}).get(merged.min_col, "")
    if not words or len(words) > _LONGEST_REPEAT:
        return
    across = [column for column in columns if merged.min_col <= column <= merged.max_col]
    for row, cells in rows.items():
        if merged.min_row <= row <= merged.max_row and (len(cells) > 1 or row != merged.min_row):
            for column in across:
                cells.setdefault(column, words)
