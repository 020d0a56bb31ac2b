"""What was typed into a PDF: values of form fields and text put on top of a page, which no text layer holds.

A password, a hidden field, an empty one and a box that is not ticked are left out.
"""

from __future__ import annotations

import ctypes
import io
import re
from collections.abc import Iterator
from typing import Any

_PUSH_BUTTON, _CHECK_BOX, _RADIO_BUTTON, _CHOICES, _TEXT, _SIGNATURE = 1, 2, 3, (4, 5), 6, 7
_WIDGET, _FREE_TEXT = 20, 3
_HIDDEN = 2 | 32  # annotation flags: hidden, not to be viewed
_PASSWORD = 1 << 13  # field flag of text fields
_PART = re.compile(r"\[\d+\]$")
_MOST = 10_000  # annotations of one page


def typed_lines(pdf: Any, page: Any, known: set[tuple[str, str]]) -> list[str]:
    """`name: value` for each filled field of a page of pypdfium2, and the texts typed on it.

    Args:
        known: fields that an earlier page showed; a field may stand on several.
    """
    return list(_lines(pdf, page, known))


def fields_without_place(raw: bytes) -> list[str]:
    """The filled fields of a form whose pages do not show them, as pypdf finds them."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        fields = PdfReader(io.BytesIO(raw), strict=False).get_fields() or {}
        return [
            f"{_last_part(name)}: {value}"
            for name, entry in fields.items()
            if entry.field_type in ("/Tx", "/Ch")
            and not int(entry.flags or 0) & _PASSWORD
            and (value := " ".join(_plain_value(entry.value).split()))
        ]
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError):
        return []


def _plain_value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _lines(pdf: Any, page: Any, known: set[tuple[str, str]]) -> Iterator[str]:
    import pypdfium2.raw as raw

    form = pdf.formenv.raw if pdf.formenv else None
    for number in range(min(raw.FPDFPage_GetAnnotCount(page.raw), _MOST)):
        annotation = raw.FPDFPage_GetAnnot(page.raw, number)
        if not annotation:
            continue
        try:
            if raw.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
                continue
            kind = raw.FPDFAnnot_GetSubtype(annotation)
            if kind == _FREE_TEXT:
                words = _string(raw.FPDFAnnot_GetStringValue, annotation, b"Contents")
                if words.strip():
                    yield words.strip()
            elif kind == _WIDGET and form is not None:
                name, value = _field(raw, form, annotation)
                if value and (name, value) not in known:
                    known.add((name, value))
                    yield f"{name}: {value}" if name else value
        finally:
            raw.FPDFPage_CloseAnnot(annotation)


def _field(raw: Any, form: Any, annotation: Any) -> tuple[str, str]:
    kind = raw.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind in (_PUSH_BUTTON, _SIGNATURE) or kind < _PUSH_BUTTON:
        return "", ""
    label = _string(raw.FPDFAnnot_GetFormFieldAlternateName, form, annotation).strip()
    name = " ".join((label or _last_part(_string(raw.FPDFAnnot_GetFormFieldName, form, annotation))).split())
    if kind in (_CHECK_BOX, _RADIO_BUTTON):
        if not raw.FPDFAnnot_IsChecked(form, annotation):
            return name, ""
        value = _string(raw.FPDFAnnot_GetFormFieldExportValue, form, annotation)
        is_plain = kind == _CHECK_BOX and value in ("", "Yes", "On", "1")
        return name, "yes" if is_plain else value
    if kind == _TEXT and raw.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD:
        return name, ""
    if kind in _CHOICES and (chosen := _chosen(raw, form, annotation)):
        return name, ", ".join(chosen)
    return name, _string(raw.FPDFAnnot_GetFormFieldValue, form, annotation).strip()


def _chosen(raw: Any, form: Any, annotation: Any) -> list[str]:
    """The labels of what is chosen in a list, where the value may be a code."""
    count = raw.FPDFAnnot_GetOptionCount(form, annotation)
    return [
        _string(raw.FPDFAnnot_GetOptionLabel, form, annotation, n)
        for n in range(min(max(count, 0), _MOST))
        if raw.FPDFAnnot_IsOptionSelected(form, annotation, n)
    ]


def _last_part(name: str) -> str:
    """`form1[0].address[0].town[0]` is `town`."""
    parts = [_PART.sub("", part) for part in name.split(".")]
    return next((part for part in reversed(parts) if part), "")


def _string(getter: Any, *arguments: Any) -> str:
    """What a getter of pdfium writes as UTF-16 into a buffer, asked once for the length."""
    length = getter(*arguments, None, 0)
    if length <= 2:
        return ""
    buffer = ctypes.create_string_buffer(length)
    pointer = ctypes.cast(buffer, getter.argtypes[-2])
    getter(*arguments, pointer, length)
    return buffer.raw[: length - 2].decode("utf-16-le", "replace").replace("\r\n", "\n").replace("\r", "\n")
