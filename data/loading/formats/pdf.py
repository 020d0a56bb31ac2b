"""PDF pages to text with pypdfium2; pypdf where pdfium cannot open the file, and for right-to-left scripts.

Pages stay apart, so that a citation can name its page. Scans have no text here and are refused further on.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence

from data.loading.draft import Draft
from data.loading.options import LoadOptions, Refused
from data.loading.pages import drop_running_lines, join_wrapped_lines

_HYPHEN = re.compile("[\ufffe\u00ad\x02]\r?\n?")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_ENCRYPTED = "it needs a password; save it without one"
_LETTERS_PER_PAGE = 8
"""Fewer letters a page than this over the whole file is a scan with stray marks."""


def load_pdf(raw: bytes, options: LoadOptions) -> Draft:
    """Reads a PDF.

    Raises:
        Refused: `encrypted`, `too-large` (pages), `no-text` or `unreadable`.
    """
    try:
        draft = _pdfium(raw, options)
    except _CannotOpen as reason:
        draft = _pypdf(raw, options, str(reason))
    letters = _letters(draft)
    if _is_right_to_left(draft):  # pdfium writes the ligatures of Arabic in the wrong order
        with contextlib.suppress(Refused):
            other = _pypdf(raw, options, "")
            draft = other if _letters(other) >= 0.8 * letters else draft
    if letters < _LETTERS_PER_PAGE * min(len(draft.parts), 4):
        raise Refused("no-text", "its pages hold no text layer (a scan?); run text recognition (OCR) on it first")
    blank = sum(not page.strip() for page in draft.parts)
    if blank:
        draft.metadata["pages_without_text"] = blank
    return draft


def _letters(draft: Draft) -> int:
    return sum(sum(map(str.isalnum, page)) for page in draft.parts)


def _is_right_to_left(draft: Draft) -> bool:
    sample = "".join(draft.parts)[:20_000]
    letters = sum(map(str.isalpha, sample))
    return letters > 0 and len(_RIGHT_TO_LEFT.findall(sample)) > 0.2 * letters


class _CannotOpen(Exception):
    pass


def _pdfium(raw: bytes, options: LoadOptions) -> Draft:
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
        pages = []
        for number in range(count):
            try:
                page = pdf[number]
                textpage = page.get_textpage()
                pages.append(_HYPHEN.sub("", textpage.get_text_range()))
                textpage.close()
                page.close()
            except pdfium.PdfiumError:  # one damaged page is an empty page
                pages.append("")
        title = pdf.get_metadata_dict().get("Title", "")
        outline = _outline(pdf)
    finally:
        pdf.close()
    return _draft(pages, title, outline, "pypdfium2")


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


def _pypdf(raw: bytes, options: LoadOptions, why: str) -> Draft:
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
    return _draft(pages, title, [], "pypdf")


def _check_pages(count: int, options: LoadOptions) -> None:
    if count > options.max_pages:
        raise Refused("too-large", f"{count} pages, over the limit of {options.max_pages}; split it or raise max_pages")


def _draft(pages: Sequence[str], title: str, outline: list[tuple[int, int, str]], loader: str) -> Draft:
    kept, dropped = drop_running_lines(pages)
    return Draft(
        [join_wrapped_lines(page) for page in kept],
        "application/pdf",
        title=title,
        paged=True,
        outline=outline,
        metadata={
            "loader": loader,
            "page_count": len(pages),
            **({"running_lines_dropped": dropped} if dropped else {}),
        },
    )
