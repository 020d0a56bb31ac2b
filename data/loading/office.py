"""Office, e-book and Outlook files to Markdown through markitdown's converters.

The converters are called directly: markitdown's own file type guessing (a model) is not wanted, since `detect` has
already looked inside.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator

from data.loading.draft import Draft
from data.loading.options import LoadOptions, Refused
from data.loading.zipped import check_zip

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
def _equations_only_where_there_are_any() -> Iterator[None]:
    """Keeps markitdown from parsing and writing a whole docx anew to replace equations that it does not have.

    That is half of the time of a docx. Where a later markitdown has no such step, nothing is changed.
    """
    from markitdown.converter_utils.docx import pre_process

    step = getattr(pre_process, "_pre_process_math", None)
    if step is None:
        yield
        return
    pre_process._pre_process_math = lambda content: step(content) if b"oMath" in content else content
    try:
        yield
    finally:
        pre_process._pre_process_math = step


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
            with _equations_only_where_there_are_any():
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
