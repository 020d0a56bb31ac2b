"""Each format gives its words, headings, pages and titles; rows are mapped to documents."""

import datetime
import decimal
import io
import json
import zipfile
from pathlib import Path

import pytest

from data.loading import LoadOptions, Quarantined
from data.loading.formats.html import render_html
from data.loading.parse import load_file
from data.nouns import Document

PAGE = """<!DOCTYPE html><html><head><title>Rivers</title><style>p {}</style></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<div class="titlepage"><div><div><h1>The river</h1></div></div></div>
<p>The river rises in the hills above the town and floods the meadows every spring, when the snow melts.</p>
<h2>Bridges</h2>
<p>A bridge of three arches was built by masons from the next valley; it has stood for four hundred years.</p>
<ul><li>stone bridge</li><li>wooden <b>bridge</b></li></ul>
<table><tr><th>name</th><th>arches</th></tr><tr><td>Old</td><td>3</td></tr></table>
<pre>ford = 1
  depth = 2</pre>
<footer>Copyright somebody</footer><script>var x;</script></body></html>"""


def load(tmp_path: Path, name: str, raw: bytes | str, **options) -> tuple[list[Document], list[Quarantined]]:
    file = tmp_path / name
    file.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    documents, quarantined, _ = load_file(file, name, LoadOptions(**options))
    return documents, quarantined


def one(tmp_path: Path, name: str, raw: bytes | str, **options) -> Document:
    documents, quarantined = load(tmp_path, name, raw, **options)
    assert not quarantined
    assert len(documents) == 1
    return documents[0]


def pdf(pages: list[str], title: str = "") -> bytes:
    """A PDF with one line of text a page, written by hand."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    objects.append(f"<< /Title ({title}) >>".encode())
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1,
        len(objects),
        start,
    )
    return bytes(out)


def zipped(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_html_keeps_headings_lists_tables_and_code_and_drops_the_frame(tmp_path):
    document = one(tmp_path, "page.html", PAGE)
    assert document.title == "Rivers"
    assert [heading[1:] for heading in document.headings] == [(1, "The river"), (2, "Bridges")]
    assert "- stone bridge\n- wooden bridge" in document.text
    assert "| name | arches |\n| --- | --- |\n| Old | 3 |" in document.text
    assert "```\nford = 1\n  depth = 2\n```" in document.text
    for gone in ("About us", "Copyright", "var x"):
        assert gone not in document.text
    assert document.media_type == "text/html"


def test_a_reference_page_without_prose_is_kept_whole(tmp_path):
    rows = "".join(f"<dt>option-{n}</dt><dd>sets {n}</dd>" for n in range(30))
    document = one(tmp_path, "options.html", f"<html><body><h1>Options</h1><dl>{rows}</dl></body></html>")
    assert all(f"option-{n}\n" in document.text for n in range(30))


def test_line_breaks_layout_tables_and_nested_lists_in_html():
    text = render_html(
        "<p>one<br>two</p><table><tr><td><h2>Left</h2><p>in layout</p></td><td><p>right</p></td></tr></table>"
        "<ul><li>a<ul><li>b</li></ul></li></ul>",
        whole=True,
    ).parts[0]
    assert text == "one\ntwo\n\n## Left\n\nin layout\n\nright\n\n- a\n- b"


def test_pdf_pages_keep_their_offsets(tmp_path):
    document = one(tmp_path, "book.pdf", pdf(["First page of words.", "", "Third page of words."], "A book"))
    assert document.title == "A book"
    assert document.text == "First page of words.\n\nThird page of words."
    assert len(document.pages) == 3
    assert document.text[document.pages[2] :] == "Third page of words."
    assert document.metadata["pages_without_text"] == 1
    assert load(tmp_path, "book.pdf", pdf(["words"] * 3), max_pages=2)[1][0].reason == "too-large"
    assert load(tmp_path, "scan.pdf", pdf(["", ""]))[1][0].reason == "no-text"


def test_a_junk_title_is_not_a_title(tmp_path):
    assert one(tmp_path, "report.pdf", pdf(["Some words on a page."], "Microsoft Word - x.doc")).title == "report"


def test_markdown_front_matter_gives_the_title_and_is_not_text(tmp_path):
    document = one(tmp_path, "a.md", "---\ntitle: 'Rivers'\ndate: 2020\n---\n\n# Head\n\nWords.\n")
    assert (document.title, document.text) == ("Rivers", "# Head\n\nWords.")
    assert document.media_type == "text/markdown"


def test_rst_and_notebook_and_mail(tmp_path):
    assert one(tmp_path, "a.rst", "Head\n====\n\nWords.\n").headings == ((0, 1, "Head"),)
    cells = [
        {"cell_type": "markdown", "source": ["# Note\n", "Words."]},
        {"cell_type": "code", "source": "x = 1", "outputs": [{"text": "noise"}]},
    ]
    book = one(tmp_path, "a.ipynb", json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    assert book.text == "# Note\nWords.\n\n```\nx = 1\n```"
    mail = one(
        tmp_path,
        "a.eml",
        "From: Ann <a@example.org>\nTo: b@example.org\nSubject: =?utf-8?q?Fl=C3=BCsse?=\nMIME-Version: 1.0\n"
        "Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
        "<p>Die Fl=C3=BCsse steigen.</p>\n",
    )
    assert mail.title == "Flüsse"
    assert mail.text.startswith("# Flüsse\nFrom: Ann <a@example.org>")
    assert mail.text.endswith("Die Flüsse steigen.")


def test_opendocument_text_and_tables(tmp_path):
    content = (
        '<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
        'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" '
        'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"><office:body><office:text>'
        '<text:h text:outline-level="2">Head</text:h><text:p>One<text:s text:c="2"/>two<text:tab/>three</text:p>'
        "<text:list><text:list-item><text:p>item</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell>"
        "<text:p>b</text:p></table:table-cell></table:table-row></table:table>"
        "</office:text></office:body></office:document-content>"
    )
    raw = zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content})
    document = one(tmp_path, "a.odt", raw)
    assert document.text == "## Head\n\nOne  two\tthree\n\n- item\n\n| a | b |\n| --- | --- |"


def test_rtf_characters_styles_and_skipped_groups(tmp_path):
    raw = (
        rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Cyr;}}"
        rb"{\stylesheet{\s1 heading 1;}}{\info{\title Rivers}{\author x}}"
        rb"\pard\s1 Head\par\pard Caf\'e9 \u8364?5 \{x\} \emdash  {\f1 \'cc\'e8\'f0}\line next\par"
        rb"{\pict 0a0b}{\*\unknown gone}{\field{\*\fldinst HYPERLINK}{\fldrslt link}}\par}"
    )
    document = one(tmp_path, "a.rtf", raw)
    assert document.title == "Rivers"
    assert document.text == "# Head\n\nCafé €5 {x} — Мир\nnext\n\nlink"


def test_office_files_through_markitdown(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Rivers"
    for row in (("name", "length"), ("Long", 300), ("Short", None)):
        book.active.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    document = one(tmp_path, "a.bin", buffer.getvalue())  # found by content, not by name
    assert document.headings == ((0, 2, "Rivers"),)
    assert "| Long | 300" in document.text
    assert "NaN" not in document.text


def test_rows_become_documents_with_fields_found_by_name(tmp_path):
    lines = [
        {"id": 7, "title": "Rivers", "text": "Rising.", "year": 2020, "tags": ["x"]},
        {"id": 7, "text": ["Falling.", "Rising."], "year": 2021},
        {"title": "No id", "text": "Flowing."},
    ]
    documents, quarantined = load(tmp_path, "r.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    assert not quarantined
    assert [(d.source, d.title, d.text) for d in documents] == [
        ("r.jsonl#7", "Rivers", "Rising."),
        ("r.jsonl#7~2", "r 2", "Falling.\nRising."),
        ("r.jsonl#3", "No id", "Flowing."),
    ]
    assert documents[0].metadata["fields"] == {"year": 2020}


def test_fields_can_be_named_and_a_row_without_them_is_a_bad_line(tmp_path):
    rows = [{"q": "Head", "words": "Rising.", "text": "not this"}, {"q": "Head"}]
    options = {"text_field": "words", "title_field": "q"}
    documents, quarantined = load(tmp_path, "r.json", json.dumps(rows), **options)
    assert [(d.title, d.text) for d in documents] == [("Head", "Rising.")]
    assert [(entry.source, entry.reason) for entry in quarantined] == [("r.json#2", "bad-line")]


def test_rows_without_a_text_field_are_written_out(tmp_path):
    rows = json.dumps([{"api": "get", "args": {"n": 1}, "none": None}])
    assert one(tmp_path, "r.json", rows).text == 'api: get\nargs: {"n": 1}'


def test_json_that_is_not_rows_is_text_and_wrapped_rows_are_found(tmp_path):
    assert one(tmp_path, "c.json", '{"colour": "red"}').text == '{"colour": "red"}'
    documents, _ = load(tmp_path, "w.json", json.dumps({"version": 1, "data": [{"text": "a b"}, {"text": "c d"}]}))
    assert [d.text for d in documents] == ["a b", "c d"]


def test_csv_rows_in_any_encoding_and_with_any_separator(tmp_path):
    raw = 'id;title;text\r\n1;Flüsse;"Zwei\r\nZeilen; ein Text"\r\n2;Täler;Grüne Täler\r\n3;zu;viele;Zellen\r\n'
    documents, quarantined = load(tmp_path, "a.csv", raw.encode("cp1252"))
    assert [(d.source, d.title, d.text) for d in documents] == [
        ("a.csv#1", "Flüsse", "Zwei\nZeilen; ein Text"),
        ("a.csv#2", "Täler", "Grüne Täler"),
    ]
    assert [entry.reason for entry in quarantined] == ["bad-line"]


@pytest.mark.parametrize("instruction", ["sep=;", '"sep=;"', "SEP=;;;"])
def test_the_separator_that_excel_is_told_is_no_header(tmp_path, instruction):
    documents, quarantined = load(tmp_path, "a.csv", f"{instruction}\r\ngate;opens, closes\r\nNorth;6, 9\r\n")
    assert [document.text for document in documents] == ["gate: North\nopens, closes: 6, 9"]
    assert [document.source for document in documents] == ["a.csv#3"]
    assert not quarantined


@pytest.mark.parametrize(
    ("table", "texts"),
    [
        (
            "Ann,34,York\nBen,29,Rome\n",
            ["column_1: Ann\ncolumn_2: 34\ncolumn_3: York", "column_1: Ben\ncolumn_2: 29\ncolumn_3: Rome"],
        ),
        ("mill,1990\nbarn,1985\n", ["column_1: mill\ncolumn_2: 1990", "column_1: barn\ncolumn_2: 1985"]),
        (
            "2024-03-01;open\n2024-03-02;shut\n",
            ["column_1: 2024-03-01\ncolumn_2: open", "column_1: 2024-03-02\ncolumn_2: shut"],
        ),
        ("7,7\n8,9\n", ["column_1: 7\ncolumn_2: 7", "column_1: 8\ncolumn_2: 9"]),
    ],
)  # fmt: skip
def test_a_csv_file_without_a_header_keeps_its_first_row(tmp_path, table, texts):
    documents, quarantined = load(tmp_path, "a.csv", table)
    assert [document.text for document in documents] == texts
    assert [len(document.metadata.get("warnings", ())) for document in documents] == [1, 0]
    assert "column_1" in documents[0].metadata["warnings"][0]
    assert not quarantined


@pytest.mark.parametrize(
    "header",
    ["region,2020,2021", "gate,1,2", "age,10,20,30", ",5,9", "name,34,7", "gate,width,height", "grain,0.5,4"],
)
def test_numbers_that_name_columns_stay_names(tmp_path, header):
    rows = "North,17,3\nSouth,12,8\n" if header != "grain,0.5,4" else "North,a,3\nSouth,b,x\n"
    documents, _ = load(tmp_path, "a.csv", f"{header}\n{rows}")
    assert len(documents) == 2
    assert f"{header.split(',')[1]}: {rows.split(',')[1]}" in documents[0].text
    assert "warnings" not in documents[0].metadata


def test_parquet_rows_through_datasets(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": ["a", "b"], "content": ["First words.", ""], "n": [1, 2]})
    parquet.write_table(table, tmp_path / "t.parquet")
    documents, quarantined, _ = load_file(tmp_path / "t.parquet", "t.parquet", LoadOptions())
    assert [(d.source, d.text, d.metadata["fields"]) for d in documents] == [("t.parquet#a", "First words.", {"n": 1})]
    assert [(entry.source, entry.reason) for entry in quarantined] == [("t.parquet#b", "empty")]


def test_numbers_gaps_and_dates_of_a_table_stand_as_they_were_meant(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    noon = datetime.datetime(2024, 3, 1, 12, 30)
    columns = {
        "name": ["Ann", "Ben"],
        "since": [2019.0, float("nan")],  # as pandas saves whole numbers with a gap
        "due": [datetime.datetime(2024, 3, 1), None],
        "at": [noon, noon],
        "day": [datetime.date(2024, 3, 1), None],
        "price": [decimal.Decimal("1.50"), None],
        "open": [True, None],
        "zip": ["007", "08"],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    documents, _, _ = load_file(tmp_path / "t.parquet", "t.parquet", LoadOptions())
    assert [document.text.splitlines() for document in documents] == [
        ["name: Ann", "since: 2019", "due: 2024-03-01", "at: 2024-03-01 12:30", "day: 2024-03-01", "price: 1.50",
         "open: true", "zip: 007"],
        ["name: Ben", "at: 2024-03-01 12:30", "zip: 08"],
    ]  # fmt: skip


def test_cells_of_a_csv_file_are_never_read_as_numbers(tmp_path):
    documents, _ = load(tmp_path, "a.csv", "name,zip,code,note\nAnn,007,1e5,NA\nBen,,12.0,None\n")
    assert [document.text for document in documents] == [
        "name: Ann\nzip: 007\ncode: 1e5\nnote: NA",
        "name: Ben\ncode: 12.0\nnote: None",
    ]
