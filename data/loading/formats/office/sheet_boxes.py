"""The text boxes of a workbook, which lie on its sheets as drawings and which openpyxl does not read."""

from __future__ import annotations

import io
import posixpath
import zipfile
from typing import Any

from data.loading.formats.office.word_xml import parse_xml

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_S = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_XDR = "{http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing}"


def text_boxes(raw: bytes) -> dict[str, list[str]]:
    """The words of each text box, by the name of its sheet."""
    boxes: dict[str, list[str]] = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = set(archive.namelist())
        if not any(name.startswith("xl/drawings/drawing") for name in names):
            return {}
        book = parse_xml(archive.read("xl/workbook.xml"))
        parts = _links(archive, names, "xl/workbook.xml")
        for sheet in book.iter(_S + "sheet") if book is not None else ():
            part = parts.get(sheet.get(_R + "id", ""), "")
            for drawing in _links(archive, names, part).values():
                if drawing.startswith("xl/drawings/drawing") and drawing in names:
                    words = _words(parse_xml(archive.read(drawing)))
                    boxes.setdefault(sheet.get("name", ""), []).extend(words)
    return boxes


def _links(archive: zipfile.ZipFile, names: set[str], part: str) -> dict[str, str]:
    """The parts that one part names, by the id of the relation."""
    folder, name = posixpath.split(part)
    place = f"{folder}/_rels/{name}.rels"
    root = parse_xml(archive.read(place)) if place in names else None
    if root is None:
        return {}
    return {
        link.get("Id", ""): posixpath.normpath(posixpath.join("/", folder, link.get("Target", ""))).lstrip("/")
        for link in root
    }


def _words(drawing: Any) -> list[str]:
    """The paragraphs of a drawing's boxes, a box a text."""
    texts = []
    for box in drawing.iter(_XDR + "txBody") if drawing is not None else ():
        lines = ["".join(words.text or "" for words in paragraph.iter(_A + "t")) for paragraph in box.iter(_A + "p")]
        if text := "\n".join(line for line in lines if line.strip()):
            texts.append(text)
    return texts
