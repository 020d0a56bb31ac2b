"""Word files, slides and e-books: what stands in them is in the text, and what no reader sees is not."""

import io
import zipfile
from pathlib import Path

import pytest

from data.loading import LoadOptions
from data.loading.parse import load_file
from data.nouns import Document

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
NAMES = (
    f'xmlns:w="{W}" xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" xmlns:v="urn:schemas-microsoft-com:vml"'
)
PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def zipped(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def word(body: str, **parts: str) -> bytes:
    """A Word file with this body; `parts` are further members of its folder `word`."""
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    return zipped(
        {
            "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" ContentType='
            '"application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType='
            f'"application/xml"/><Override PartName="/word/document.xml" ContentType="{kind}"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" '
            f'Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
            "word/_rels/document.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="s" '
            f'Type="{office}/styles" Target="styles.xml"/></Relationships>',
            "word/document.xml": f"<w:document {NAMES}><w:body>{body}</w:body></w:document>",
            "word/styles.xml": f"<w:styles {NAMES}></w:styles>",
            **{f"word/{name}.xml": content for name, content in parts.items()},
        }
    )


def run(words: str, looks: str = "") -> str:
    return f'<w:r><w:rPr>{looks}</w:rPr><w:t xml:space="preserve">{words}</w:t></w:r>'


def paragraph(*runs: str) -> str:
    return f"<w:p>{''.join(runs)}</w:p>"


def cell(content: str, marks: str = "") -> str:
    return f"<w:tc><w:tcPr>{marks}</w:tcPr>{content}</w:tc>"


def table(*rows: str) -> str:
    return f"<w:tbl><w:tblPr/><w:tblGrid/>{''.join(rows)}</w:tbl>"


def row(*cells: str, marks: str = "") -> str:
    return f"<w:tr><w:trPr>{marks}</w:trPr>{''.join(cells)}</w:tr>"


def words(*content: str) -> list[str]:
    return [cell(paragraph(run(text))) for text in content]


def one(tmp_path: Path, name: str, raw: bytes) -> Document:
    (tmp_path / name).write_bytes(raw)
    documents, quarantined, _ = load_file(tmp_path / name, name, LoadOptions())
    assert not quarantined
    assert len(documents) == 1
    return documents[0]


def text(tmp_path: Path, body: str, **parts: str) -> str:
    return one(tmp_path, "a.docx", word(body, **parts)).text


SUPER, SUB = '<w:vertAlign w:val="superscript"/>', '<w:vertAlign w:val="subscript"/>'


@pytest.mark.parametrize(
    ("runs", "written"),
    [
        ((run("about 10"), run("6", SUPER), run(" cells")), "about 10^6 cells"),
        ((run("10"), run("1", SUPER), run("2", SUPER)), "10^12"),
        ((run("CO"), run("2", SUB)), "CO2"),
        ((run("log"), run("2", SUB), run("8")), "log_2 8"),
        ((run("10"), run("6", '<w:position w:val="8"/>')), "10^6"),
        ((run("10"), run("6", '<w:rStyle w:val="Power"/>')), "10^6"),
    ],
)
def test_raised_runs_of_a_word_file_are_exponents(tmp_path, runs, written):
    styles = (
        f'<w:styles {NAMES}><w:style w:type="character" w:styleId="Power"><w:name w:val="Power"/>'
        f"<w:rPr>{SUPER}</w:rPr></w:style></w:styles>"
    )
    assert text(tmp_path, paragraph(*runs), styles=styles) == written


def test_hidden_deleted_and_struck_out_text_of_a_word_file_is_left_out(tmp_path):
    styles = (
        f'<w:styles {NAMES}><w:style w:type="character" w:styleId="Base"><w:name w:val="Base"/><w:rPr><w:vanish/>'
        '</w:rPr></w:style><w:style w:type="character" w:styleId="Own"><w:name w:val="Own"/><w:basedOn w:val="Base"/>'
        '</w:style><w:style w:type="paragraph" w:styleId="Gone"><w:name w:val="Gone"/><w:rPr><w:strike/></w:rPr>'
        "</w:style></w:styles>"
    )
    body = (
        paragraph(run("The limit is "), run("50", "<w:strike/>"), run("60", "<w:dstrike/>"), run("80"), run(" km/h."))
        + paragraph(run("Shown"), run(" secret", "<w:vanish/>"), run(" secret", '<w:rStyle w:val="Own"/>'), run("."))
        + paragraph(run("Kept."), run(" and kept", '<w:strike w:val="0"/>'))
        + '<w:p><w:pPr><w:pStyle w:val="Gone"/></w:pPr>' + run("old paragraph") + "</w:p>"
        + paragraph('<w:del w:id="1"><w:r><w:delText>deleted</w:delText></w:r></w:del>', run("At the river."))
        + paragraph('<w:moveFrom w:id="2">' + run("moved away") + "</w:moveFrom>")
        + paragraph('<w:moveTo w:id="3">' + run("Moved here.") + "</w:moveTo>")
    )  # fmt: skip
    document = one(tmp_path, "a.docx", word(body, styles=styles))
    assert document.text == "The limit is 80 km/h.\n\nShown.\n\nKept. and kept\n\nAt the river.\n\nMoved here."
    assert document.metadata["left_out"] == {"deleted": 1, "hidden": 2, "struck out": 3}


def test_merged_late_and_nested_cells_of_a_word_table_keep_their_columns(tmp_path):
    merged, goes_on, wide = '<w:vMerge w:val="restart"/>', "<w:vMerge/>", '<w:gridSpan w:val="2"/>'
    inner = table(row(*words("low", "12 km/h")), row(*words("high", "40 km/h")))
    body = paragraph(run("Speeds.")) + table(
        row(cell(paragraph(run("Model")), wide), *words("Speed")),
        row(cell(paragraph(run("Ant")), merged), *words("old", "30")),
        row(cell(paragraph(), goes_on), *words("new", "35")),
        row(*words("late", "28"), marks='<w:gridBefore w:val="1"/>'),
        row(*words("Bee", "all"), cell(inner + paragraph())),
    )
    assert text(tmp_path, body).split("\n\n")[1].splitlines() == [
        "| Model | Model | Speed |",
        "| --- | --- | --- |",
        "| Ant | old | 30 |",
        "| Ant | new | 35 |",
        "|  | late | 28 |",
        "| Bee | all | low, 12 km/h; high, 40 km/h |",
    ]


def test_a_noncharacter_in_the_text_means_nothing(tmp_path):
    assert text(tmp_path, paragraph(run("a\ufdd47\ufdd5b"))) == "a7b"


def test_a_table_of_one_cell_is_a_frame(tmp_path):
    inner = table(row(*words("a", "b")), row(*words("c", "d")))
    assert text(tmp_path, table(row(cell(paragraph(run("Before.")) + inner + paragraph())))) == (
        "Before.\n\n| a | b |\n| --- | --- |\n| c | d |"
    )


def box(content: str) -> str:
    return (
        "<w:drawing><wp:inline><wp:docPr/><a:graphic><a:graphicData><wps:wsp><wps:txbx><w:txbxContent>"
        f"{content}</w:txbxContent></wps:txbx></wps:wsp></a:graphicData></a:graphic></wp:inline></w:drawing>"
    )


def test_text_boxes_stand_once_behind_their_paragraph(tmp_path):
    inside = paragraph(run("Call 4711.")) + table(row(*words("day", "5")))
    assert text(tmp_path, paragraph(run("Notice."), f"<w:r>{box(inside)}</w:r>") + paragraph(run("End."))) == (
        "Notice.\n\nCall 4711.\n\n| day | 5 |\n| --- | --- |\n\nEnd."
    )
    old = f"<v:textbox><w:txbxContent>{paragraph(run('Call 4711.'))}</w:txbxContent></v:textbox>"
    for fallback in ("", f"<w:pict><v:shape>{old}</v:shape></w:pict>", f"<w:pict><v:oval>{old}</v:oval></w:pict>"):
        both = (
            f"<mc:AlternateContent><mc:Choice Requires='wps'>{box(paragraph(run('Call 4711.')))}</mc:Choice>"
            f"<mc:Fallback>{fallback}</mc:Fallback></mc:AlternateContent>"
        )
        found = text(tmp_path, paragraph(run("Notice."), f"<w:r>{both}</w:r>") + paragraph(run("End.")))
        assert found == "Notice.\n\nCall 4711.\n\nEnd."


def test_fields_and_controls_give_what_they_show(tmp_path):
    drop_down = (
        '<w:r><w:fldChar w:fldCharType="begin"><w:ffData><w:ddList><w:result w:val="1"/><w:listEntry w:val="rye"/>'
        '<w:listEntry w:val="oats"/></w:ddList></w:ffData></w:fldChar></w:r><w:r><w:instrText>FORMDROPDOWN'
        '</w:instrText></w:r><w:r><w:fldChar w:fldCharType="end"/></w:r>'
    )
    empty = "<w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr><w:sdtContent>" + run("Click here") + "</w:sdtContent></w:sdt>"
    filled = "<w:sdt><w:sdtPr/><w:sdtContent>" + run("Ann") + "</w:sdtContent></w:sdt>"
    ruby = "<w:r><w:ruby><w:rt>" + run("kana") + "</w:rt><w:rubyBase>" + run("漢字") + "</w:rubyBase></w:ruby></w:r>"
    body = (
        paragraph(run("Grain: "), drop_down)
        + paragraph(run("Name: "), filled, empty)
        + paragraph(run("See page "), f'<w:fldSimple w:instr="PAGEREF x">{run("12")}</w:fldSimple>')
        + paragraph(ruby, f"<w:customXml>{run(' word')}</w:customXml>")
        + paragraph("<w:r><w:t>one</w:t><w:cr/><w:t>two</w:t></w:r>")
    )
    document = one(tmp_path, "a.docx", word(body))
    assert document.text.replace("  \n", "\n") == "Grain: oats\n\nName: Ann\n\nSee page 12\n\n漢字 word\n\none\ntwo"
    assert document.metadata["left_out"] == {"empty form fields": 1}


def test_headers_comments_and_charts_are_told_of(tmp_path):
    raw = word(
        paragraph(run("Text.")),
        header1=f"<w:hdr {NAMES}>{paragraph(run('Top'))}</w:hdr>",
        footer1=f"<w:ftr {NAMES}>{paragraph()}</w:ftr>",
        comments=f'<w:comments {NAMES}><w:comment w:id="1">{paragraph(run("why?"))}</w:comment></w:comments>',
    )
    document = one(tmp_path, "a.docx", raw)
    assert document.text == "Text."
    assert document.metadata["left_out"] == {"comments": 1, "headers and footers": 1}


def test_slides_raised_text_merged_cells_and_what_is_hidden(tmp_path):
    pptx = pytest.importorskip("pptx")
    show = pptx.Presentation()
    first, second, third = (show.slides.add_slide(show.slide_layouts[5]) for _ in range(3))
    first.shapes.title.text = "Counts"
    frame = first.shapes.add_textbox(0, 2_000_000, 3_000_000, 400_000).text_frame.paragraphs[0]
    for part, looks in (
        ("10", {}),
        ("6", {"baseline": "30000"}),
        (" of ", {}),
        ("50", {"strike": "sngStrike"}),
        ("80", {}),
    ):
        piece = frame.add_run()
        piece.text = part
        for name, value in looks.items():
            piece.font._element.set(name, value)
    gone = first.shapes.add_textbox(0, 3_000_000, 3_000_000, 400_000)
    gone.text_frame.text = "secret"
    gone._element.nvSpPr.cNvPr.set("hidden", "1")
    second.shapes.title.text = "Hidden slide"
    second._element.set("show", "0")
    third.shapes.title.text = "Rates"
    cells = third.shapes.add_table(3, 2, 0, 2_000_000, 3_000_000, 900_000).table
    for place, content in {(0, 0): "Region", (0, 1): "Rate", (1, 0): "North", (1, 1): "5", (2, 1): "6"}.items():
        cells.cell(*place).text = content
    cells.cell(1, 0).merge(cells.cell(2, 0))
    buffer = io.BytesIO()
    show.save(buffer)
    document = one(tmp_path, "a.pptx", buffer.getvalue())
    assert document.text == (
        "# Counts\n10^6 of 80\n\n# Rates\n| Region | Rate |\n| --- | --- |\n| North | 5 |\n| North | 6 |"
    )
    assert len(document.pages) == 3
    assert document.metadata["left_out"] == {"hidden": 1, "hidden slides": 1, "struck out": 1}


def book(chapter: str, package: str = "", name: str = "text/one.xhtml") -> bytes:
    package = package or (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata xmlns:dc='
        '"http://purl.org/dc/elements/1.1/"><dc:title>The harbour</dc:title></metadata><manifest>'
        '<item id="n" href="nav.xhtml" properties="nav"/><item id="c" href="text/one.xhtml"/></manifest>'
        '<spine><itemref idref="n"/><itemref idref="c"/></spine></package>'
    )
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<c:container xmlns:c="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<c:rootfiles><c:rootfile full-path="in/book.opf"/></c:rootfiles></c:container>',
            "in/book.opf": package,
            "in/nav.xhtml": "<html><body><nav><ol><li>Contents</li></ol></nav></body></html>",
            f"in/{name}": chapter,
        }
    )


def test_chapters_with_prefixes_and_self_closing_elements(tmp_path):
    chapter = (
        '<?xml version="1.0"?><h:html xmlns:h="http://www.w3.org/1999/xhtml"><h:head><h:title/></h:head><h:body>'
        "<h:h1>Ships</h:h1><h:a id='p1'/><h:p>Led in at&#160;dawn.</h:p><h:script/>"
        "<h:p>10<h:sup>3</h:sup> tons&nbsp;a day.</h:p>"
        "<h:ol><h:li>Moor.</h:li><h:li>Unload.</h:li></h:ol><h:p hidden='hidden'>old</h:p>"
        "<![CDATA[a < b]]></h:body></h:html>"
    )
    document = one(tmp_path, "a.epub", book(chapter))
    assert document.title == "The harbour"
    assert document.text == (
        "**Title:** The harbour\n\n# Ships\n\nLed in at dawn.\n\n10^3 tons a day.\n\n1. Moor.\n2. Unload.\n\na < b"
    )
    assert document.metadata["left_out"] == {"hidden": 1}


def test_a_package_with_prefixes_and_encoded_names(tmp_path):
    package = (
        '<o:package xmlns:o="http://www.idpf.org/2007/opf" xmlns:d="http://purl.org/dc/elements/1.1/"><o:metadata>'
        "<d:title>Depots</d:title><d:creator>Ann</d:creator><d:creator>Ben</d:creator></o:metadata><o:manifest>"
        '<o:item id="c" href="text/first%20one.xhtml"/></o:manifest>'
        '<o:spine><o:itemref idref="c"/></o:spine></o:package>'
    )
    chapter = '<html xmlns="http://www.w3.org/1999/xhtml"><body><p>Łódź opens at six.</p></body></html>'
    declared = '<?xml version="1.0" encoding="utf-16"?>'
    raw = book(chapter, package, "text/first one.xhtml")
    assert one(tmp_path, "a.epub", raw).text == "**Title:** Depots\n**Authors:** Ann, Ben\n\nŁódź opens at six."
    wide = book("", package, "text/empty.xhtml")
    with zipfile.ZipFile(io.BytesIO(wide)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**members, "in/text/first one.xhtml": (declared + chapter).encode("utf-16")}.items():
            archive.writestr(name, content)
    assert "Łódź opens at six." in one(tmp_path, "b.epub", buffer.getvalue()).text
