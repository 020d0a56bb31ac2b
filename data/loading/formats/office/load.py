"""Word files, slides and Outlook messages to Markdown through markitdown's converters.

The converters are called directly: markitdown's own file type guessing (a model) is not wanted, since `detect` has
already looked inside. What they lose or show of what no reader sees is mended beside them, in the XML before and in
the HTML between.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from data.loading.draft import Draft, draft_without
from data.loading.formats.html import declared_encoding, render_html
from data.loading.formats.office.epub import load_epub
from data.loading.formats.office.markdown_of_html import PageConverter
from data.loading.formats.office.sheets import load_xlsx
from data.loading.formats.office.slides_xml import mend_pptx
from data.loading.formats.office.word_xml import mend_docx
from data.loading.formats.zipped import check_zip
from data.loading.options import LoadOptions, Refused
from data.loading.text import decode

_OOXML = "application/vnd.openxmlformats-officedocument."
MEDIA_TYPES = {
    "docx": _OOXML + "wordprocessingml.document",
    "pptx": _OOXML + "presentationml.presentation",
    "xlsx": _OOXML + "spreadsheetml.sheet",
    "epub": "application/epub+zip",
    "msg": "application/vnd.ms-outlook",
}
_PICTURE = re.compile(r"!\[([^\]\n]*)\]\([^)\n]*\)")
_LINK = re.compile(r"\[([^\[\]\n]*)\]\([^()\s]*(?:\s\"[^\"\n]*\")?\)")
_ESCAPED = re.compile(r"\\([*_])")
_SLIDE = re.compile(r"<!-- Slide number: \d+ -->\n?")
_BETWEEN = "_html_converter"  # what turns the HTML that a converter makes into Markdown
_NO_BODY = "## Content"  # how markitdown ends a message without text
_HTML_BODIES = {"__substg1.0_10130102": "", "__substg1.0_1013001F": "utf-16-le"}  # PidTagBodyHtml, as bytes and as text
_EQUATION_STEPS = ("_pre_process_math", "_convert_omath_to_latex")
_MSG_SUBJECT = re.compile(r"^\*\*Subject:\*\* (.+)$", re.MULTILINE)


def load_office(raw: bytes, kind: str, options: LoadOptions) -> Draft:
    """Converts a docx, pptx, xlsx, epub or msg file to a Markdown draft.

    Raises:
        Refused: what `check_zip` refuses, and `unreadable` where the converter fails.
    """
    if kind != "msg":
        check_zip(raw, options)
    if kind == "xlsx":
        return load_xlsx(raw)
    draft = load_epub(raw) if kind == "epub" else _load_by_markitdown(raw, kind)
    return replace(draft, parts=[_ESCAPED.sub(r"\1", _LINK.sub(r"\1", _PICTURE.sub(r"\1", p))) for p in draft.parts])


def _load_by_markitdown(raw: bytes, kind: str) -> Draft:
    left_out: Counter[str] = Counter()
    hidden: set[int] = set()
    try:
        if kind == "docx":
            raw, counts = mend_docx(raw)
            left_out.update(counts)
        elif kind == "pptx":
            raw, counts, hidden = mend_pptx(raw)
            left_out.update(counts)
    except (zipfile.BadZipFile, KeyError, ValueError, zlib.error) as error:
        raise Refused("unreadable", f"its parts are damaged ({error}); save it anew") from error
    text, title, more = _convert(raw, kind)
    left_out.update(more)
    parts = _SLIDE.split(text) if kind == "pptx" else [text]
    if len(parts) > 1 and not parts[0].strip():
        parts = parts[1:]
    if kind == "msg" and text.rstrip().endswith(_NO_BODY):
        body = _html_body(raw)
        parts = [f"{text}\n\n{body}"]
        left_out["body in RTF"] += not body
    if kind == "msg" and not title and (subject := _MSG_SUBJECT.search(text[:4000])):
        title = subject[1]
    draft = Draft(
        ["" if number in hidden else part for number, part in enumerate(parts)],
        MEDIA_TYPES[kind],
        markup="markdown",
        title=title,
        paged=kind == "pptx",
        metadata={"loader": "markitdown"},
    )
    return draft_without(draft, left_out)


def _html_body(raw: bytes) -> str:
    """The body of an Outlook message that has it as HTML and not as text."""
    import olefile

    with contextlib.suppress(OSError, ValueError), olefile.OleFileIO(io.BytesIO(raw)) as message:
        for stream, encoding in _HTML_BODIES.items():
            if message.exists(stream):
                content = message.openstream(stream).read()
                page = content.decode(encoding) if encoding else decode(content, declared_encoding(content))[0]
                return "".join(render_html(page, whole=True).parts)
    return ""


@contextlib.contextmanager
def _careful_with_equations() -> Iterator[None]:
    """Mends markitdown's step that turns the equations of a docx into LaTeX.

    It parses and writes the whole file anew where there are none, which is half of a docx's time, and gives up all of
    them for one that it cannot turn; that one's plain symbols are taken here. Without such a step nothing is changed.
    """
    from markitdown.converter_utils.docx import pre_process

    step, convert = (getattr(pre_process, name, None) for name in _EQUATION_STEPS)
    if step is None or convert is None:
        yield
        return

    def latex(tag: Any) -> str:
        try:
            return convert(tag)
        except Exception:  # noqa: BLE001  its converter raises anything
            return str(tag.get_text(" ", strip=True))

    def mended(content: bytes) -> bytes:
        return step(content) if b"oMath" in content else content

    mending = (mended, latex)
    try:
        for name, function in zip(_EQUATION_STEPS, mending, strict=True):
            setattr(pre_process, name, function)
        yield
    finally:
        for name, function in zip(_EQUATION_STEPS, (step, convert), strict=True):
            setattr(pre_process, name, function)


def _convert(raw: bytes, kind: str) -> tuple[str, str, Mapping[str, int]]:
    """Text and title, and what was left out of the HTML between."""
    from markitdown import StreamInfo, converters

    converter = {
        "docx": converters.DocxConverter,
        "pptx": converters.PptxConverter,
        "msg": converters.OutlookMsgConverter,
    }[kind]()
    html = PageConverter()
    setattr(converter, _BETWEEN, html)
    info = StreamInfo(extension=f".{kind}", mimetype=MEDIA_TYPES[kind])
    try:
        try:
            with _careful_with_equations():
                result = converter.convert(io.BytesIO(raw), info)
        except Exception:
            if kind != "docx":
                raise
            result = converter.convert(io.BytesIO(raw), info)  # looking for equations repairs some damaged XML
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # third-party parsers raise anything on damaged files
        what = f"{type(error).__name__}: {error}"[:200]
        raise Refused("unreadable", f"the {kind} converter failed on it ({what}); save it anew") from error
    return result.markdown or "", result.title or "", html.left_out
