"""OpenDocument and RTF: the same promises as for Word files and sheets."""

import io
import zipfile
from pathlib import Path

import pytest

from data.loading import LoadOptions
from data.loading.parse import load_file
from data.nouns import Document

NAMES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{full}:1.0"'
    for name, full in (
        ("office", "office"), ("text", "text"), ("table", "table"), ("style", "style"), ("draw", "drawing")
    )
)  # fmt: skip
STYLES = """
<style:style style:name="up" style:family="text"><style:text-properties style:text-position="super 58%"/></style:style>
<style:style style:name="upper" style:family="text" style:parent-style-name="up"/>
<style:style style:name="down" style:family="text"><style:text-properties style:text-position="-33% 58%"/></style:style>
<style:style style:name="gone" style:family="text"><style:text-properties text:display="none"/></style:style>
<style:style style:name="old" style:family="paragraph">
<style:text-properties style:text-line-through-style="solid"/></style:style>
<text:list-style style:name="steps"><text:list-level-style-number text:level="1" style:num-format="1"/>
<text:list-level-style-bullet text:level="2"/></text:list-style>
<style:style style:name="away" style:family="table"><style:table-properties table:display="false"/></style:style>
"""


def load(tmp_path: Path, name: str, raw: bytes) -> Document:
    (tmp_path / name).write_bytes(raw)
    documents, quarantined, _ = load_file(tmp_path / name, name, LoadOptions())
    assert not quarantined
    return documents[0]


def open_document(tmp_path: Path, body: str, kind: str = "text") -> Document:
    content = (
        f"<office:document-content {NAMES}><office:automatic-styles>{STYLES}</office:automatic-styles><office:body>"
        f"<office:{kind}>{body}</office:{kind}></office:body></office:document-content>"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mimetype", f"application/vnd.oasis.opendocument.{kind}")
        archive.writestr("content.xml", content)
    return load(tmp_path, "a.odf", buffer.getvalue())


def span(style: str, words: str) -> str:
    return f'<text:span text:style-name="{style}">{words}</text:span>'


def cells(*words: str) -> str:
    return "".join(f"<table:table-cell><text:p>{one}</text:p></table:table-cell>" for one in words)


def row(content: str, marks: str = "") -> str:
    return f"<table:table-row {marks}>{content}</table:table-row>"


def test_raised_hidden_and_struck_out_text_of_an_open_document(tmp_path):
    document = open_document(
        tmp_path,
        f"<text:p>10{span('up', '6')} and 10{span('upper', '3')}, CO{span('down', '2')}."
        f"{span('gone', ' secret')}</text:p>"
        '<text:p text:style-name="old">struck</text:p><text:section text:display="none"><text:p>secret</text:p>'
        "</text:section><text:tracked-changes><text:changed-region><text:deletion><text:p>cut</text:p></text:deletion>"
        "</text:changed-region></text:tracked-changes><text:p>End<office:annotation><text:p>why?</text:p>"
        "</office:annotation>.</text:p>",
    )
    assert document.text == "10^6 and 10^3, CO2.\n\nEnd."
    assert document.metadata["left_out"] == {"comments": 1, "deleted": 1, "hidden": 2, "struck out": 1}


def test_notes_and_text_boxes_stand_apart(tmp_path):
    note = (
        "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>See X.</text:p></text:note-body>"
    )
    box = "<draw:frame><draw:text-box><text:p>Call 4711.</text:p></draw:text-box></draw:frame>"
    body = f"<text:p>The gate{note}</text:note> opens.{box}</text:p><text:p>End.</text:p>"
    assert open_document(tmp_path, body).text == "The gate [See X.] opens.\n\nCall 4711.\n\nEnd."


def test_items_of_an_open_document_keep_their_numbers(tmp_path):
    def item(content: str, marks: str = "") -> str:
        return f"<text:list-item {marks}>{content}</text:list-item>"

    inner = f"<text:list>{item('<text:p>fore</text:p>')}</text:list>"
    steps = item(f"<text:p>moor</text:p>{inner}") + item("<text:p>unload</text:p><text:p>slowly</text:p>")
    steps += item("<text:p>leave</text:p>", 'text:start-value="7"')
    document = open_document(tmp_path, f'<text:list text:style-name="steps">{steps}</text:list>')
    assert document.text.splitlines() == ["1. moor", "  - fore", "2. unload", "   slowly", "7. leave"]


def test_merged_repeated_and_nested_cells_of_an_open_document(tmp_path):
    covered = "<table:covered-table-cell/>"
    inner = f"<table:table>{row(cells('low', '12'))}{row(cells('high', '40'))}</table:table>"
    table = (
        "<table:table><table:table-header-rows>"
        + row(
            '<table:table-cell table:number-columns-spanned="2"><text:p>Place</text:p></table:table-cell>'
            + covered + cells("Rate")
        )
        + "</table:table-header-rows>"
        + row(
            '<table:table-cell table:number-rows-spanned="2"><text:p>North</text:p></table:table-cell>'
            + cells("Mill", "4")
        )
        + row(covered + cells("Barn") + f"<table:table-cell>{inner}</table:table-cell>")
        + row(cells("West", "Dock", "7"), 'table:number-rows-repeated="2"')
        + "</table:table>"
    )  # fmt: skip
    assert open_document(tmp_path, table).text.splitlines() == [
        "| Place | Place | Rate |",
        "| --- | --- | --- |",
        "| North | Mill | 4 |",
        "| North | Barn | low, 12; high, 40 |",
        "| West | Dock | 7 |",
        "| West | Dock | 7 |",
    ]


def test_values_and_hidden_parts_of_an_open_sheet(tmp_path):
    value = "<table:table-cell office:value-type="
    body = (
        '<table:table table:name="Depots"><table:table-column/><table:table-column table:visibility="collapse"/>'
        '<table:table-column table:number-columns-repeated="20"/>'
        + row(cells("name", "margin", "since", "share", "sum"))
        + row(
            cells("Ann", "3")
            + f'{value}"date" office:date-value="2024-03-01"><text:p>01.03.24</text:p></table:table-cell>'
            + f'{value}"percentage" office:value="0.07"/>'
            + '<table:table-cell table:formula="of:=SUM([.B2:.B3])"/>'
            + '<table:table-cell table:number-columns-repeated="16000"/>'
        )
        + row(cells("Ben", "4"), 'table:visibility="collapse"')
        + row(cells("Cas", "5"), 'table:visibility="filter"')
        + '</table:table><table:table table:name="Lookup" table:style-name="away">' + row(cells("secret"))
        + "</table:table>"
    )  # fmt: skip
    document = open_document(tmp_path, body, "spreadsheet")
    assert document.text.splitlines() == [
        "## Depots",
        "",
        "| name | since | share | sum |",
        "| --- | --- | --- | --- |",
        "| Ann | 2024-03-01 | 7% | =SUM(B2:B3) |",
        "| Cas |  |  |  |",
    ]
    assert document.metadata["left_out"] == {"cells in hidden rows and columns": 5, "hidden sheets": 1}


@pytest.mark.parametrize(
    ("source", "written"),
    [
        (rb"about 10{\super 6} cells", "about 10^6 cells"),
        (rb"10\up6 6\up0  cells", "10^6 cells"),
        (rb"CO\sub 2\nosupersub  gas", "CO2 gas"),
        (rb"the limit is {\strike 50 }80", "the limit is 80"),
        (rb"seen\v  secret\v0  again", "seen again"),
        (rb"new{\deleted  cut}", "new"),
        (rb"new{\deleted{\b  cut}}\par next", "new\n\nnext"),
        (rb"gate{\footnote See X.} opens", "gate [See X.] opens"),
        (rb"Notice.\par{\shp{\*\shpinst{\sp{\sn a}{\sv b}}{\shptxt Call 4711.\par}}{\shprslt Call 4711.}}End.",
         "Notice.\n\nCall 4711.\n\nEnd."),
    ],
)  # fmt: skip
def test_looks_of_rtf_text(tmp_path, source, written):
    assert load(tmp_path, "a.rtf", rb"{\rtf1\ansi " + source + rb"\par}").text == written


def test_rows_of_rtf_are_a_table_with_its_columns(tmp_path):
    first = rb"\trowd\clvmgf\cellx1\cellx2\cellx3\intbl North\cell Mill\cell 4\cell\row"
    second = rb"\trowd\clvmrg\cellx1\cellx2\cellx3\intbl\cell Barn\cell 9\cell{\trowd\clvmrg\cellx1\cellx2\cellx3\row}"
    wide = rb"\trowd\clmgf\cellx1\clmrg\cellx2\cellx3 Total\cell\cell 13\cell\row"
    raw = rb"{\rtf1 Rates.\par " + first + second + wide + rb"\pard After.\par}"
    assert load(tmp_path, "a.rtf", raw).text.splitlines() == [
        "Rates.",
        "",
        "| North | Mill | 4 |",
        "| --- | --- | --- |",
        "| North | Barn | 9 |",
        "| Total | Total | 13 |",
        "",
        "After.",
    ]
