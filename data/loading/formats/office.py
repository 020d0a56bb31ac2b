"""Office, e-book and Outlook files to Markdown through markitdown's converters.

The converters are called directly: markitdown's own file type guessing (a model) is not wanted, since `detect` has
already looked inside.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

from data.loading.draft import Draft
from data.loading.formats.zipped import check_zip
from data.loading.options import LoadOptions, Refused

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
_EMPTY_CELL = re.compile(r"(?<=\| )NaN(?= \|)")
_UNNAMED = re.compile(r"(?<=\| )Unnamed: \d+(?= \|)")
_SLIDE = re.compile(r"<!-- Slide number: \d+ -->\n?")
_EQUATION_STEPS = ("_pre_process_math", "_convert_omath_to_latex")
_EPUB_TITLE = re.compile(r"^\*\*Title:\*\* (.+)$", re.MULTILINE)
_MSG_SUBJECT = re.compile(r"^\*\*Subject:\*\* (.+)$", re.MULTILINE)


def load_office(raw: bytes, kind: str, options: LoadOptions) -> Draft:
    """Converts a docx, pptx, xlsx, epub or msg file to a Markdown draft.

    Raises:
        Refused: what `check_zip` refuses, and `unreadable` where the converter fails.
    """
    if kind != "msg":
        check_zip(raw, options)
    text, title = _convert(raw, kind)
    text = _ESCAPED.sub(r"\1", _LINK.sub(r"\1", _PICTURE.sub(r"\1", text)))
    if kind == "xlsx":
        text = _UNNAMED.sub("", _EMPTY_CELL.sub("", text))
    if kind == "pptx":
        parts = _SLIDE.split(text)
        return Draft(
            parts[1:] if len(parts) > 1 and not parts[0].strip() else parts,
            MEDIA_TYPES[kind],
            markup="markdown",
            title=title,
            paged=True,
            metadata={"loader": "markitdown"},
        )
    stated = {"epub": _EPUB_TITLE, "msg": _MSG_SUBJECT}.get(kind)
    if not title and stated and (found := stated.search(text[:4000])):
        title = found[1]
    return Draft([text], MEDIA_TYPES[kind], markup="markdown", title=title, metadata={"loader": "markitdown"})


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


def _convert(raw: bytes, kind: str) -> tuple[str, str]:
    from markitdown import StreamInfo, converters

    converter = {
        "docx": converters.DocxConverter,
        "pptx": converters.PptxConverter,
        "xlsx": converters.XlsxConverter,
        "epub": converters.EpubConverter,
        "msg": converters.OutlookMsgConverter,
    }[kind]()
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
    return result.markdown or "", result.title or ""
