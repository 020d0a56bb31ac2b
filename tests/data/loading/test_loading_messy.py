"""The shared messy folder: nothing stops a load, everything is counted, and formats agree on the words."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from data.loading import Corpus, LoadOptions, load_corpus
from data.loading.parse import load_file
from data.loading.text import clean_text

pytestmark = pytest.mark.shared_data

EXPECTED = {
    "broken_made/bad_lines.jsonl#2": "bad-line",
    "broken_made/bad_lines.jsonl#4": "bad-line",
    "broken_made/bad_lines.jsonl#5": "bad-line",
    "broken_made/cut.docx": "unreadable",
    "broken_made/cut_in_half.pdf": "unreadable",
    "broken_made/empty.pdf": "empty",
    "broken_made/header_only.pdf": "unreadable",
    "broken_made/page.html.gz": "archive",
    "encodings_made/TRUTH.jsonl#51": "empty",
    "encodings_made/broken__empty.txt": "empty",
    "other/markitdown_MEDRPT-2024-PAT-3847_medical_report_scan.pdf": "no-text",
    "pdf_pypdf/libreoffice-writer-password.pdf": "encrypted",
}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def f1(one: list[str], other: list[str]) -> float:
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


@pytest.fixture(scope="module")
def messy(shared_data: Path) -> Corpus:
    return load_corpus([str(shared_data / "messy_docs")])


def text_of(path: Path) -> str:
    documents, quarantined, _ = load_file(path, path.name, LoadOptions())
    assert not quarantined
    return documents[0].text


@pytest.mark.slow
def test_every_file_of_the_messy_folder_is_loaded_dropped_as_a_duplicate_or_quarantined(
    messy: Corpus, shared_data: Path
):
    counts = messy.counts
    assert counts["found"] == counts["loaded"] + counts["quarantined"] + counts["duplicates"]
    named = {entry.source for entry in (*messy.documents, *messy.quarantined, *messy.duplicates)}
    root = shared_data / "messy_docs"
    for file in (path for path in root.rglob("*") if path.is_file()):
        source = file.relative_to(root).as_posix()
        assert source in named or any(name.startswith(source + "#") for name in named), source


@pytest.mark.slow
def test_the_broken_files_are_quarantined_with_their_reason(messy: Corpus):
    assert {entry.source: entry.reason for entry in messy.quarantined} == EXPECTED


@pytest.mark.slow
def test_text_that_was_loaded_can_be_stored_and_cited(messy: Corpus):
    for document in messy.documents:
        assert document.text == clean_text(document.text)
        assert document.title
        assert list(document.pages) == sorted(document.pages)
        for start, _, title in document.headings:
            line = clean_text(document.text[start : start + 1000])
            assert title.split()[0][:5] in line.replace("*", "").replace("\\", ""), (document.source, title)


def test_one_text_in_six_formats_gives_the_same_words(shared_data: Path):
    root = shared_data / "messy_docs"
    truth = words(text_of(root / "txt" / "eng_spa_mult.txt"))
    assert len(truth) > 400
    for name in (
        "docx/eng_spa_mult.docx",
        "html/eng_spa_mult.html",
        "other/eng_spa_mult.odt",
        "other/eng_spa_mult.rtf",
    ):
        assert words(text_of(root / name)) == truth, name
    epub = words(text_of(root / "other" / "eng_spa_mult.epub"))
    assert epub[-len(truth) :] == truth  # before it stand the book's title and authors


def test_slides_give_every_word_that_python_pptx_reads(shared_data: Path):
    pptx = pytest.importorskip("pptx")
    for name in ("simple.pptx", "markitdown_test.pptx"):
        path = shared_data / "messy_docs" / "other" / name
        shapes = [shape for slide in pptx.Presentation(path).slides for shape in slide.shapes]
        truth = [word for shape in shapes if shape.has_text_frame for word in words(shape.text_frame.text)]
        truth += [
            word
            for shape in shapes
            if shape.has_table
            for row in shape.table.rows
            for cell in row.cells
            for word in words(cell.text)
        ]
        assert len(truth) > 20
        assert not Counter(truth) - Counter(words(text_of(path))), name


def test_sheets_give_every_cell_that_openpyxl_reads(shared_data: Path):
    openpyxl = pytest.importorskip("openpyxl")
    path = shared_data / "messy_docs" / "other" / "markitdown_test.xlsx"
    book = openpyxl.load_workbook(path, data_only=True)
    cells = [c for sheet in book for row in sheet.iter_rows(values_only=True) for c in row if c is not None]
    assert len(cells) > 100
    assert not Counter(word for cell in cells for word in words(str(cell))) - Counter(words(text_of(path)))


def test_an_outlook_message_gives_its_subject_and_body(shared_data: Path):
    olefile = pytest.importorskip("olefile")
    path = shared_data / "messy_docs" / "other" / "markitdown_test_outlook_msg.msg"
    with olefile.OleFileIO(path) as message:
        subject, body = (
            message.openstream(f"__substg1.0_{tag}001F").read().decode("utf-16-le").strip() for tag in ("0037", "1000")
        )
    text = text_of(path)
    assert subject in text
    assert body in text


def test_an_outlook_message_with_a_page_for_a_body_gives_its_words(tmp_path: Path, shared_data: Path):
    raw = (shared_data / "messy_docs" / "other" / "markitdown_test_outlook_msg.msg").read_bytes()
    plain, page, rtf = (f"__substg1.0_{tag}".encode("utf-16-le") for tag in ("1000001F", "1013001F", "1009001F"))
    assert raw.count(plain) == 1
    (tmp_path / "page.msg").write_bytes(raw.replace(plain, page))
    (tmp_path / "rtf.msg").write_bytes(raw.replace(plain, rtf))
    words_of_it = words(text_of(shared_data / "messy_docs" / "other" / "markitdown_test_outlook_msg.msg"))
    assert words(text_of(tmp_path / "page.msg")) == words_of_it
    (document,), _, _ = load_file(tmp_path / "rtf.msg", "rtf.msg", LoadOptions())
    assert document.metadata["left_out"] == {"body in RTF": 1}


@pytest.mark.slow
def test_equations_of_a_docx_are_latex_though_one_cannot_be_turned(shared_data: Path):
    folder = shared_data / "messy_docs" / "docx"
    alone = text_of(folder / "word_sample.docx")
    equations = text_of(folder / "equations.docx")
    assert "inline equation: $A=πr^{2} $." in equations
    assert "\\sum_{n=1}" in equations
    assert text_of(folder / "word_sample.docx") == alone


def test_most_short_texts_in_35_encodings_are_read_exactly(shared_data: Path):
    folder = shared_data / "messy_docs" / "encodings_made"
    rows = [json.loads(line) for line in (folder / "TRUTH.jsonl").read_text("utf-8").splitlines()]
    rows = [row for row in rows if not row["file"].startswith("broken__")]
    right = sum(text_of(folder / row["file"]).strip() == clean_text(row["text"]).strip() for row in rows)
    assert len(rows) == 46
    assert right >= 44


def test_damaged_encodings_keep_their_words(shared_data: Path):
    folder = shared_data / "messy_docs" / "encodings_made"
    truth = {row["file"]: row["text"] for row in map(json.loads, (folder / "TRUTH.jsonl").open(encoding="utf-8"))}
    for name in ("broken__declared_utf8_is_cp1251.html", "broken__nul_bytes_inside.txt"):
        assert clean_text(truth[name]).strip() in text_of(folder / name)
    cut = "broken__utf8_cut_inside_a_character.txt"
    assert text_of(folder / cut)[:80] == truth[cut][:80]


def test_pdf_words_agree_with_the_reviewed_text(shared_data: Path):
    folder = shared_data / "messy_docs" / "pdf_docling"
    scores = {
        truth.stem: f1(words(text_of(folder / f"{truth.stem}.pdf")), words(text_of(truth)))
        for truth in sorted((folder / "groundtruth").glob("*.md"))
    }
    assert min(scores.values()) > 0.93, scores
    assert sum(scores.values()) / len(scores) > 0.97, scores


@pytest.mark.slow
def test_pages_and_outline_of_a_pdf_are_kept(messy: Corpus):
    by_source = {document.source: document for document in messy.documents}
    assert len(by_source["pdf/UC_Berkeley.pdf"].pages) == 49
    assert [heading[2] for heading in by_source["pdf_pypdf/pdflatex-outline.pdf"].headings][:2] == ["Foo", "Bar"]


@pytest.mark.slow
def test_one_book_as_html_text_and_pdf_gives_the_same_words(shared_data: Path):
    root = shared_data / "debian_faq"
    book = words(text_of(root / "txt" / "debian-faq.en.txt"))
    pdf = words(text_of(root / "pdf" / "debian-faq.en.pdf"))
    chapters = [text_of(path) for path in sorted((root / "html").glob("*.html"))]
    assert f1(book, pdf) > 0.95
    assert f1(book, words("\n".join(chapters))) > 0.9
