"""OpenDocument text, spreadsheets and slides to Markdown, from `content.xml`.

Headings, paragraphs, lists and tables in their order; styles, notes of authors and pictures are left out.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError

from data.loading.draft import Draft
from data.loading.formats.zipped import check_zip
from data.loading.options import LoadOptions, Refused

_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_DC_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_SKIP = {_OFFICE + "annotation", _TEXT + "tracked-changes", _TEXT + "note-citation", _OFFICE + "forms"}
_MAX_REPEAT = 100


def load_odf(raw: bytes, options: LoadOptions) -> Draft:
    """Reads an odt, ods or odp file.

    Raises:
        Refused: what `check_zip` refuses; `encrypted`; `unreadable`.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    check_zip(raw, options)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            mimetype = archive.read("mimetype").decode("ascii", "replace").strip() if _has(archive, "mimetype") else ""
            if _has(archive, "META-INF/manifest.xml") and b"encryption-data" in archive.read("META-INF/manifest.xml"):
                raise Refused("encrypted", "it needs a password; save it without one")
            root = fromstring(archive.read("content.xml"))
            meta = fromstring(archive.read("meta.xml")) if _has(archive, "meta.xml") else None
    except (zipfile.BadZipFile, KeyError, ParseError, DefusedXmlException, ValueError) as error:
        raise Refused("unreadable", f"its OpenDocument content is damaged ({error}); save it anew") from error
    title = next((node.text or "" for node in meta.iter(_DC_TITLE)), "") if meta is not None else ""
    body = root.find(_OFFICE + "body")
    text = "\n\n".join(_blocks(body)) if body is not None else ""
    return Draft(
        [text], mimetype or "application/vnd.oasis.opendocument.text", "markdown", title, metadata={"loader": "odf"}
    )


def _has(archive: zipfile.ZipFile, name: str) -> bool:
    return name in archive.namelist()


def _blocks(node: Element) -> Iterator[str]:
    for child in node:
        if child.tag in _SKIP:
            continue
        if child.tag == _TEXT + "h":
            level = child.get(_TEXT + "outline-level", "1")
            if text := _inline(child).strip():
                yield "#" * min(int(level) if level.isdigit() else 1, 6) + " " + " ".join(text.split())
        elif child.tag == _TEXT + "p":
            if text := _inline(child).strip():
                yield text
        elif child.tag == _TEXT + "list":
            if items := list(_items(child, 0)):
                yield "\n".join(items)
        elif child.tag == _TABLE + "table":
            yield from _table(child)
        else:
            yield from _blocks(child)


def _items(node: Element, depth: int) -> Iterator[str]:
    for item in node:
        for child in item:
            if child.tag == _TEXT + "list":
                yield from _items(child, depth + 1)
            elif child.tag in (_TEXT + "p", _TEXT + "h") and (text := _inline(child).strip()):
                yield "  " * min(depth, 20) + "- " + text


def _table(table: Element) -> Iterator[str]:
    lines = []
    for row in table.iter(_TABLE + "table-row"):
        cells: list[str] = []
        for cell in row:
            if cell.tag not in (_TABLE + "table-cell", _TABLE + "covered-table-cell"):
                continue
            words = " ".join(" ".join(_inline(part).split()) for part in cell.iter(_TEXT + "p"))
            repeat = cell.get(_TABLE + "number-columns-repeated", "1")
            cells += [words.replace("|", "\\|")] * (min(int(repeat), _MAX_REPEAT) if repeat.isdigit() else 1)
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            lines.append("| " + " | ".join(cells) + " |")
            if len(lines) == 1:
                lines.append("|" + " --- |" * len(cells))
    if lines:
        name = table.get(_TABLE + "name", "")
        if name and name.lower().startswith("sheet"):
            yield "## " + name
        yield "\n".join(lines)


def _inline(node: Element) -> str:
    parts = [node.text or ""]
    for child in node:
        if child.tag == _TEXT + "s":
            count = child.get(_TEXT + "c", "1")
            parts.append(" " * (min(int(count), 100) if count.isdigit() else 1))
        elif child.tag == _TEXT + "tab":
            parts.append("\t")
        elif child.tag == _TEXT + "line-break":
            parts.append("\n")
        elif child.tag not in _SKIP:
            parts.append(_inline(child))
        parts.append(child.tail or "")
    return "".join(parts)
