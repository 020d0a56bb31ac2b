"""PDF pages to text with pypdfium2, and with pypdf where pdfium cannot open the file.

Pages stay apart, so that a citation can name its page. What pdfium gets wrong is mended beside it: columns, the order
of right-to-left scripts, fields of forms; a text layer in cipher is left out. Scans have no text here and are refused.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data.loading.draft import Draft, is_no_title
from data.loading.formats.pdf_pages.cipher import is_cipher
from data.loading.formats.pdf_pages.columns import in_reading_order
from data.loading.formats.pdf_pages.fields import fields_without_place, typed_lines
from data.loading.formats.pdf_pages.fonts import without_cipher_fonts
from data.loading.formats.pdf_pages.recognition import (
    TextLine,
    boxes_in,
    engine,
    is_covered_by_picture,
    knows_script,
    page_text,
    recognise,
    unsure_pages,
)
from data.loading.formats.pdf_pages.right_to_left import holds_right_to_left, plain_letters, read_from_right
from data.loading.formats.pdf_pages.title import shown_title
from data.loading.options import NO_TEXT_LAYER, LoadOptions, Refused
from data.loading.pages import drop_running_lines, join_divided_words, join_wrapped_lines
from data.loading.text import clean_text

_ENCRYPTED = "it needs a password; save it without one"
_LETTERS_PER_PAGE = 8
"""Fewer letters a page than this over the whole file is a scan with stray marks."""
_LETTERS_OF_A_STAMP = 60  # that a scanner's program puts on each page


_IN_CIPHER = (
    "its text layer is in cipher: a font names other letters than it shows; install the extra `ocr` "
    "(pip install 'jora-raft[ocr]') and set ingest.ocr to read it by text recognition (OCR), or print it anew"
)
_NOT_RECOGNISED = "its pages hold no text layer, and text recognition (OCR) finds no words on them; leave it out"
_OTHER_SCRIPT = (
    "its pages hold no text layer, and the documents around it are in {!r}, whose letters the text recognition of the "
    "extra `ocr` does not know; recognise it with another program first"
)


@dataclass
class _Reading:
    """What a reader took from a file: texts of the pages and what was typed on them; the pages (from 1) that are in
    cipher, that are pictures with a few words, and that were recognised, with their lines."""

    loader: str
    pages: list[str] = field(default_factory=list)
    typed: list[list[str]] = field(default_factory=list)
    ciphers: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    recognised: dict[int, list[TextLine]] = field(default_factory=dict)
    title: str = ""
    outline: list[tuple[int, int, str]] = field(default_factory=list)


def load_pdf(raw: bytes, options: LoadOptions) -> Draft:
    """Reads a PDF.

    Raises:
        Refused: `encrypted`, `too-large` (pages), `no-text` (a scan, a text layer in cipher) or `unreadable`.
    """
    try:
        reading = _pdfium(raw, options)
    except _CannotOpen as reason:
        reading = _pypdf(raw, options, str(reason))
    letters = sum(sum(map(str.isalnum, page)) for page in reading.pages)
    is_filled = any(reading.typed)
    if letters < _LETTERS_PER_PAGE * min(len(reading.pages), 4) and not is_filled:
        raise Refused("no-text", _why_no_text(reading, options))
    return _draft(reading)


def _why_no_text(reading: _Reading, options: LoadOptions) -> str:
    if not options.ocr:
        return _IN_CIPHER if reading.ciphers else NO_TEXT_LAYER
    return _NOT_RECOGNISED if knows_script(options.ocr_languages) else _OTHER_SCRIPT.format(options.ocr_languages[0])


class _CannotOpen(Exception):
    pass


def _pdfium(raw: bytes, options: LoadOptions) -> _Reading:
    import pypdfium2 as pdfium

    try:
        pdf = pdfium.PdfDocument(raw)
        count = len(pdf)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise Refused("encrypted", _ENCRYPTED) from error
        raise _CannotOpen(str(error)) from error
    try:
        if count == 0:
            raise _CannotOpen("it has no pages")
        _check_pages(count, options)
        if pdf.get_formtype():
            pdf.init_forms()
        reading = _Reading("pypdfium2", title=pdf.get_metadata_dict().get("Title", ""), outline=_outline(pdf))
        known: set[tuple[str, str]] = set()
        for number in range(count):
            try:
                _read_page(pdf, number, reading, known, options)
            except pdfium.PdfiumError:  # one damaged page is an empty page
                reading.pages.append("")
                reading.typed.append([])
        if pdf.get_formtype() and not any(reading.typed):
            reading.typed[-1] += fields_without_place(raw)
    finally:
        pdf.close()
    return reading


def _read_page(pdf: Any, number: int, reading: _Reading, known: set[tuple[str, str]], options: LoadOptions) -> None:
    page = pdf[number]
    textpage = page.get_textpage()
    text = textpage.get_text_range()
    if is_cipher(text):
        text, is_clear = "", False
    else:
        text, is_clear = without_cipher_fonts(textpage, text)
    if not is_clear:
        reading.ciphers.append(number + 1)
    elif holds_right_to_left(text):
        text = read_from_right(textpage)
    else:
        text = in_reading_order(textpage, text)
    letters = sum(map(str.isalnum, text))
    is_picture = _LETTERS_PER_PAGE <= letters < _LETTERS_OF_A_STAMP and is_covered_by_picture(page)
    if is_picture or letters < _LETTERS_PER_PAGE:
        lines = recognise(page) if options.ocr and knows_script(options.ocr_languages) else []
        words = page_text(lines)
        if sum(map(str.isalnum, words)) > letters and not is_cipher(words):
            reading.recognised[number + 1], text = lines, words
        elif is_picture and not options.ocr:
            reading.pictures.append(number + 1)
    typed = typed_lines(pdf, page, known)
    if number == 0 and is_no_title(reading.title) and is_clear:
        reading.title = shown_title(page, textpage, text)
    textpage.close()
    page.close()
    reading.pages.append(text)
    reading.typed.append(typed)


def _outline(pdf) -> list[tuple[int, int, str]]:
    import pypdfium2 as pdfium

    entries: list[tuple[int, int, str]] = []
    try:
        for bookmark in pdf.get_toc(max_depth=6):
            dest = bookmark.get_dest()
            page = dest.get_index() if dest else None
            if page is not None:
                entries.append((page, bookmark.level + 1, bookmark.get_title()))
            if len(entries) >= 10_000:
                break
    except (pdfium.PdfiumError, ValueError, AttributeError):
        return []
    return entries


def _pypdf(raw: bytes, options: LoadOptions, why: str) -> _Reading:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(raw), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Refused("encrypted", _ENCRYPTED)
        _check_pages(len(reader.pages), options)
        pages = [page.extract_text() for page in reader.pages]
        title = (reader.metadata.title if reader.metadata else "") or ""
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError) as error:
        raise Refused("unreadable", f"it is damaged or cut short ({why}); get it again or print it anew") from error
    if not pages:
        raise Refused("unreadable", f"it is damaged or cut short ({why}); get it again or print it anew")
    ciphers = [number for number, page in enumerate(pages, 1) if is_cipher(page)]
    clear = ["" if number in ciphers else page for number, page in enumerate(pages, 1)]
    typed: list[list[str]] = [*([] for _ in pages[1:]), fields_without_place(raw)]
    return _Reading("pypdf", clear, typed, ciphers, title=title)


def _check_pages(count: int, options: LoadOptions) -> None:
    if count > options.max_pages:
        raise Refused("too-large", f"{count} pages, over the limit of {options.max_pages}; split it or raise max_pages")


def _draft(reading: _Reading) -> Draft:
    kept, dropped = drop_running_lines(join_divided_words([plain_letters(page) for page in reading.pages]))
    parts = [
        "\n".join([join_wrapped_lines(page), *lines]).strip("\n")
        for page, lines in zip(kept, reading.typed, strict=True)
    ]
    metadata: dict[str, Any] = {"loader": reading.loader, "page_count": len(parts)}
    if dropped:
        metadata["running_lines_dropped"] = dropped
    if fields := sum(map(len, reading.typed)):
        metadata["form_fields"] = fields
    if reading.recognised:
        metadata["ocr"] = {"engine": engine(), "pages": list(reading.recognised)}
        metadata["boxes"] = [
            row
            for number, lines in reading.recognised.items()
            for row in boxes_in(clean_text(parts[number - 1]), number, lines)
        ]
    if blank := sum(not page.strip() for page in reading.pages):
        metadata["pages_without_text"] = blank
    warnings = []
    if lost := [number for number in reading.ciphers if number not in reading.recognised]:
        warnings.append(
            f"left out: text in cipher (a font names other letters than it shows){_on(lost)}; run OCR on it"
        )
    if unsure := unsure_pages(reading.recognised):
        warnings.append(f"recognised with little confidence{_on(unsure)}; look at what was read")
    if reading.pictures:
        metadata["pages_of_pictures"] = len(reading.pictures)
        warnings.append(f"pictures with a few words beside them{_on(reading.pictures)}; ingest.ocr reads them")
    if warnings:
        metadata["warnings"] = warnings
    return Draft(parts, "application/pdf", title=reading.title, paged=True, outline=reading.outline, metadata=metadata)


def _on(pages: Sequence[int]) -> str:
    return f" on page {', '.join(map(str, pages[:10]))}{', …' if len(pages) > 10 else ''}"
