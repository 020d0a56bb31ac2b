"""Scans: what the quarantine advises, which files get a second look, and what recognition gives where it is there."""

import io
import textwrap
from pathlib import Path

import pytest
from pdf_writer import Line, Page, write_pdf

from data.loading import LoadOptions, load_corpus
from data.loading.formats.pdf_pages.recognition import (
    TextLine,
    boxes_in,
    in_columns,
    is_installed,
    page_text,
    unsure_pages,
)
from data.loading.scans import better_of, check_recognition, holds_scans, recognition_options
from data.nouns import Document, MemoryCache
from raft_errors import BadInput

needs_engine = pytest.mark.skipif(
    not is_installed(), reason="the extra `ocr` is not installed: pip install -e '.[ocr]'"
)
WORDS = (
    "The lamp of the tower was lit by oil until the year in which wires were laid along the pier. Its keeper had to "
    "climb 214 steps at dusk, at midnight and at dawn, so that the flame would never go out."
)


def picture(text: str, width: int = 1240, height: int = 700):
    """A page of a scan at 150 dots an inch, in a serif font."""
    image = pytest.importorskip("PIL.Image")
    from matplotlib import get_data_path
    from PIL import ImageDraw, ImageFont

    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSerif.ttf"), 25)
    page = image.new("L", (width, height), 255)
    for number, line in enumerate(textwrap.wrap(text, 60)):
        ImageDraw.Draw(page).text((120, 100 + 46 * number), line, font=font, fill=0)
    return page


def scan(*texts: str, turned: int = 0) -> bytes:
    buffer = io.BytesIO()
    first, *rest = [picture(text).rotate(turned) for text in texts]
    first.save(buffer, "PDF", resolution=150, save_all=True, append_images=rest)
    return buffer.getvalue()


def document(language: str | None, **metadata) -> Document:
    return Document("i", "s", "t", "x", "text/plain", "0", metadata={"language": language, **metadata})


def test_the_quarantine_names_the_extra_and_its_setting(tmp_path):
    (tmp_path / "scan.pdf").write_bytes(scan(WORDS))
    (tmp_path / "a.md").write_text("Words.")
    (refusal,) = load_corpus([str(tmp_path)], options=LoadOptions(workers=1)).quarantined
    assert refusal.reason == "no-text"
    assert "jora-raft[ocr]" in refusal.detail
    assert "ingest.ocr" in refusal.detail


def test_recognition_without_its_extra_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr("data.loading.scans.is_installed", lambda: False)
    (tmp_path / "a.md").write_text("Words.")
    with pytest.raises(BadInput, match=r"jora-raft\[ocr\]"):
        load_corpus([str(tmp_path)], options=LoadOptions(ocr=True))
    check_recognition(LoadOptions())


def test_only_files_with_pages_without_text_get_a_second_look():
    from data.loading import Quarantined

    assert holds_scans(([], [Quarantined("a", "no-text", "d")]))
    assert holds_scans(([document("en", pages_without_text=2)], []))
    assert not holds_scans(([document("en")], [Quarantined("a", "bad-line", "d")]))


def stamped(picture_pdf: bytes, stamp: str) -> bytes:
    """The pages with a line of text on top, as programs of scanners write it."""
    pypdf = pytest.importorskip("pypdf")
    pages = pypdf.PdfWriter(clone_from=io.BytesIO(picture_pdf))
    line = pypdf.PdfReader(io.BytesIO(write_pdf([Page([Line(stamp, 72, 20)])]))).pages[0]
    for page in pages.pages:
        page.merge_page(line)
    buffer = io.BytesIO()
    pages.write(buffer)
    return buffer.getvalue()


def test_a_scan_with_a_stamp_on_each_page_is_told(tmp_path):
    (tmp_path / "scan.pdf").write_bytes(stamped(scan(WORDS, WORDS), "Scanned by TinyScanner"))
    (document,) = load_corpus([str(tmp_path)], options=LoadOptions(workers=1)).documents
    assert "TinyScanner" in document.text
    assert document.metadata["warnings"] == [
        "pictures with a few words beside them on page 1, 2; ingest.ocr reads them"
    ]
    assert holds_scans(([document], []))


def test_the_languages_of_a_scan_are_those_of_the_documents_around_it():
    loaded = [([document("de"), document("en")], []), ([document("de"), document(None)], [])]
    assert recognition_options(LoadOptions(ocr=True), loaded).ocr_languages == ("de", "en")
    assert recognition_options(LoadOptions(ocr=True), []).ocr_languages == ()


def test_a_second_look_that_fails_costs_no_text():
    first, failed = ([document("en")], []), ([], [])
    assert better_of(first, failed) == first
    assert better_of(([], []), first) == first


def test_recognised_lines_are_put_in_rows_and_columns():
    left = [TextLine(f"left line number {n} of the column", (70, 100 + 14 * n, 290, 111 + 14 * n)) for n in range(6)]
    right = [TextLine(f"right line number {n} of that one", (320, 101 + 14 * n, 540, 112 + 14 * n)) for n in range(6)]
    heading = TextLine("A heading that goes across the page", (70, 60, 540, 75))
    mixed = [line for pair in zip(right, left, strict=True) for line in pair]
    assert in_columns([*mixed, heading], 792) == [heading, *left, *right]
    cells = [
        TextLine("rope", (70, 100, 95, 111)),
        TextLine("40", (300, 100, 315, 111)),
        TextLine("tar", (70, 120, 90, 131)),
    ]
    assert page_text(in_columns(cells, 792)) == "rope 40\ntar"


def test_boxes_are_found_in_the_finished_text():
    lines = [
        TextLine("The lamp-", (1, 2, 3, 4)),
        TextLine("light burns", (5, 6, 7, 8)),
        TextLine("again", (9, 9, 9, 9)),
    ]
    assert boxes_in("The lamplight burns again", 3, lines) == [
        [3, 0, 1, 2, 3, 4],
        [3, 8, 5, 6, 7, 8],
        [3, 20, 9, 9, 9, 9],
    ]


def test_a_page_that_was_hard_to_read_is_told():
    clear, faint = TextLine("clear", (0, 0, 1, 1), 0.98), TextLine("fa1nt", (0, 0, 1, 1), 0.5)
    assert unsure_pages({1: [clear, clear], 4: [faint, clear], 7: [faint]}) == [4, 7]


@pytest.mark.slow
@needs_engine
def test_a_scan_is_read_with_its_pages_and_boxes(tmp_path):
    clear = write_pdf([Page([Line("A page with a text layer of its own.", 72, 700)])])
    (tmp_path / "clear.pdf").write_bytes(clear)
    (tmp_path / "scan.pdf").write_bytes(scan(WORDS, "Nets are mended in the long shed behind the church."))
    cache = MemoryCache()
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(workers=1, ocr=True), cache=cache)
    read = corpus.documents[1]
    assert read.source == "scan.pdf"
    assert read.text.split("\n\n") == [WORDS, "Nets are mended in the long shed behind the church."]
    assert read.metadata["ocr"]["pages"] == [1, 2]
    assert read.metadata["ocr"]["engine"].startswith("rapidocr ")
    page, start, left, top, right, bottom = next(row for row in read.metadata["boxes"] if row[0] == 2)
    assert read.text[read.pages[page - 1] + start :].startswith("Nets are")
    assert 50 <= left < right <= 600
    assert 40 <= top < bottom <= 80
    assert "ocr" not in corpus.documents[0].metadata
    again = load_corpus([str(tmp_path)], options=LoadOptions(workers=1, ocr=True), cache=cache)
    assert again == corpus
    assert again.cached == 2


@pytest.mark.slow
@needs_engine
def test_a_scan_among_documents_in_a_script_that_is_not_known_is_refused_by_its_language(tmp_path):
    (tmp_path / "scan.pdf").write_bytes(scan(WORDS))
    (tmp_path / "a.txt").write_text("Смотритель зажигает огонь каждый вечер и записывает направление ветра в журнал.")
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(workers=1, ocr=True))
    (refusal,) = corpus.quarantined
    assert "'ru'" in refusal.detail


@pytest.mark.slow
@needs_engine
def test_a_stamped_scan_and_one_upside_down_are_read(tmp_path):
    text = "Nets are mended in the long shed behind the church."
    (tmp_path / "stamped.pdf").write_bytes(stamped(scan(text), "Scanned by TinyScanner"))
    (tmp_path / "turned.pdf").write_bytes(scan(text + " Its roof is old.", turned=180))
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(workers=1, ocr=True))
    stamp, turned = corpus.documents
    assert text in stamp.text
    assert turned.text == text + " Its roof is old."
    assert turned.metadata["boxes"][0][3] > 200  # where it stands on the page as it lies
