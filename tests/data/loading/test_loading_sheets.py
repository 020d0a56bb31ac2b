"""Workbooks: every cell is in its row and column as the sheet shows it."""

import datetime
import io
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.loading import LoadOptions
from data.loading.formats.office.cell_values import shown_value
from data.loading.parse import load_file
from data.nouns import Document

openpyxl = pytest.importorskip("openpyxl")


def load(tmp_path: Path, raw: bytes) -> Document:
    (tmp_path / "a.xlsx").write_bytes(raw)
    documents, quarantined, _ = load_file(tmp_path / "a.xlsx", "a.xlsx", LoadOptions())
    assert not quarantined
    return documents[0]


def saved(book: Any, replace: Callable[[bytes], bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    book.save(buffer)
    if replace is None:
        return buffer.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, replace(content) if name.startswith("xl/worksheets/sheet") else content)
    return out.getvalue()


def sheet_of(*rows: Sequence[Any]) -> tuple[Any, Any]:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(list(row))
    return book, book.active


def lines(document: Document) -> list[str]:
    return [line for line in document.text.splitlines() if line.startswith("|") and "---" not in line]


def test_cells_stand_as_in_the_sheet(tmp_path):
    book, _ = sheet_of(
        ("name", "since", "region", "open", "due", "note"),
        ("Anders", 2019, "NA", True, datetime.date(2024, 3, 1), "007"),
        ("Brandt", None, "EU", False, None, "N/A"),
        ("Castor", 2021, "None", None, datetime.datetime(2024, 3, 1, 9, 30), "a|b\nc"),
        ("Dorn", 2022.5, "nan", None, None, "#DIV/0!"),
    )
    assert lines(load(tmp_path, saved(book))) == [
        "| name | since | region | open | due | note |",
        "| Anders | 2019 | NA | TRUE | 2024-03-01 | 007 |",
        "| Brandt |  | EU | FALSE |  | N/A |",
        "| Castor | 2021 | None |  | 2024-03-01 09:30 | a\\|b c |",
        "| Dorn | 2022.5 | nan |  |  | #DIV/0! |",
    ]


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (2019.0, "General", "2019"),
        (0.1 + 0.2, "General", "0.3"),
        (3.14159, "0.00", "3.14159"),
        (12345678901234567890, "0", "12345678901234567890"),
        (0.125, "0.0%", "12.5%"),
        (0.07, "0%", "7%"),
        (1234, "00000", "01234"),
        (123456789, "000\\-00\\-0000", "123-45-6789"),
        (1234.5, '"€"#,##0.00', "€1234.5"),
        (1234.5, "#,##0.00 [$€-407]", "1234.5 €"),
        (-5, "[$$-409]#,##0.00;[Red]-[$$-409]#,##0.00", "-$5"),
        (-12, "_(* #,##0_);_(* (#,##0)", "-12"),
        (12, '0" kg"', "12 kg"),
        (2_500_000, '0.0,,"M"', "2.5M"),
        (-3, '"Profit "0;"Loss "0', "Loss 3"),
        (0.5, "# ?/?", "0.5"),
        (1200, "0.00E+00", "1200"),
        (datetime.datetime(2024, 3, 1, 9, 59, 59, 999_995), "yyyy-mm-dd h:mm", "2024-03-01 10:00"),
        (datetime.datetime(2024, 3, 1), "yyyy-mm-dd h:mm", "2024-03-01 00:00"),
        (datetime.time(9, 5), "h:mm", "09:05"),
        (datetime.timedelta(hours=26, minutes=30), "[h]:mm", "26:30:00"),
    ],
)
def test_a_value_is_shown_with_what_its_format_says_of_it(value, number_format, shown):
    assert shown_value(value, number_format) == shown


def test_a_formula_gives_its_saved_value_or_itself(tmp_path):
    book, _ = sheet_of(("item", "cost"), ("pump", 12), ("sum", "=SUM(B2:B2)"), ("twice", "=2*B2"))
    assert lines(load(tmp_path, saved(book)))[2:] == ["| sum | =SUM(B2:B2) |", "| twice | =2*B2 |"]

    def with_value(content: bytes) -> bytes:
        return re.sub(rb"<f>SUM\(B2:B2\)</f>\s*<v\s*/?>(</v>)?", b"<f>SUM(B2:B2)</f><v>12</v>", content)

    assert lines(load(tmp_path, saved(book, with_value)))[2:] == ["| sum | 12 |", "| twice | =2*B2 |"]


def test_merged_cells_are_repeated_and_a_title_is_not(tmp_path):
    book, sheet = sheet_of(
        ("Rates of the year", None, None),
        ("Region", "Place", None),
        ("North", "Mill", 4),
        (None, "Barn", 9),
    )
    for cells in ("A1:C1", "B2:C2", "A3:A4"):
        sheet.merge_cells(cells)
    assert lines(load(tmp_path, saved(book))) == [
        "| Rates of the year |  |  |",
        "| Region | Place | Place |",
        "| North | Mill | 4 |",
        "| North | Barn | 9 |",
    ]


def test_hidden_rows_columns_and_sheets_are_left_out_and_told_of(tmp_path):
    book, sheet = sheet_of(("name", "cost", "margin"), ("pump", 12, 3), ("hose", 30, 4), ("belt", 31, 5))
    sheet.row_dimensions[3].hidden = True
    sheet.column_dimensions["C"].hidden = True
    sheet.row_dimensions[4].hidden, sheet.row_dimensions[4].outlineLevel = True, 1  # folded
    book.create_sheet("Lookup").append(["secret"])
    book["Lookup"].sheet_state = "veryHidden"
    document = load(tmp_path, saved(book))
    assert lines(document) == ["| name | cost |", "| pump | 12 |", "| belt | 31 |"]
    assert "secret" not in document.text
    assert document.metadata["left_out"] == {"cells in hidden rows and columns": 6, "hidden sheets": 1}


def test_rows_that_a_filter_hides_are_content(tmp_path):
    book, sheet = sheet_of(("name", "cost"), ("pump", 12), ("hose", 30))
    sheet.auto_filter.ref = "A1:B3"
    sheet.auto_filter.add_filter_column(0, ["pump"])
    sheet.row_dimensions[3].hidden = True
    assert lines(load(tmp_path, saved(book)))[1:] == ["| pump | 12 |", "| hose | 30 |"]


def test_raised_and_struck_out_text_in_cells(tmp_path):
    from openpyxl.cell.rich_text import CellRichText, TextBlock
    from openpyxl.cell.text import InlineFont
    from openpyxl.comments import Comment
    from openpyxl.styles import Font

    book, sheet = sheet_of(("count", "limit"), (None, "50"))
    sheet["A2"] = CellRichText("10", TextBlock(InlineFont(vertAlign="superscript"), "6"), " cells")
    sheet["B2"].font = Font(strike=True)
    sheet["B1"].comment = Comment("who says so?", "Ann")
    document = load(tmp_path, saved(book))
    assert lines(document) == ["| count | limit |", "| 10^6 cells |  |"]
    assert document.metadata["left_out"] == {"comments": 1, "struck out": 1}


def test_an_attribute_that_openpyxl_does_not_know_is_no_reason_to_refuse(tmp_path):
    book, _ = sheet_of(("a", "b"), (1, 2))
    raw = saved(book, lambda content: content.replace(b"<sheetView ", b'<sheetView showZeroes="0" ', 1))
    assert lines(load(tmp_path, raw)) == ["| a | b |", "| 1 | 2 |"]


def test_a_far_cell_costs_no_time_and_an_empty_book_is_empty(tmp_path):
    book, sheet = sheet_of(("a", "b"))
    sheet.cell(1_000_000, 16_000).value = "far"
    assert lines(load(tmp_path, saved(book))) == ["| a | b |  |", "|  |  | far |"]
    (tmp_path / "e.xlsx").write_bytes(saved(openpyxl.Workbook()))
    assert load_file(tmp_path / "e.xlsx", "e.xlsx", LoadOptions())[1][0].reason == "empty"


def test_a_text_box_stands_below_the_table_of_its_sheet(tmp_path):
    book, _ = sheet_of(("a", "b"), (1, 2))
    book.create_sheet("Second").append(["c"])
    main = "http://schemas.openxmlformats.org/drawingml/2006/main"
    sheet_drawing = "http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing"
    drawing = (
        f'<d:wsDr xmlns:d="{sheet_drawing}" xmlns:a="{main}"><d:twoCellAnchor><d:sp><d:txBody><a:p><a:r>'
        "<a:t>Call </a:t></a:r><a:r><a:t>4711.</a:t></a:r></a:p><a:p/></d:txBody></d:sp></d:twoCellAnchor></d:wsDr>"
    )
    links = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="d1" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/drawing" '
        'Target="../drawings/drawing1.xml"/></Relationships>'
    )
    buffer = io.BytesIO(saved(book))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("xl/drawings/drawing1.xml", drawing)
        archive.writestr("xl/worksheets/_rels/sheet1.xml.rels", links)
    assert load(tmp_path, buffer.getvalue()).text == (
        "## Sheet\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nCall 4711.\n\n## Second\n\n| c |\n| --- |"
    )
