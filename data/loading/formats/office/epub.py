"""An e-book (EPUB 2 and 3) to Markdown: what its package states, then its chapters in reading order.

Chapters are XHTML, which may carry name-space prefixes, close any element in itself (`<title/>`) and be in any
encoding that XML can declare; a parser of HTML is told the same in its own way. Tables of contents are left out.
"""

from __future__ import annotations

import html
import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import ParseError

from data.loading.draft import Draft, draft_without
from data.loading.formats.html import declared_encoding
from data.loading.formats.office.markdown_of_html import PageConverter
from data.loading.options import Refused
from data.loading.text import decode

_PREFIX = re.compile(r"xmlns:([\w.-]{1,40})\s*=\s*[\"']http://www\.w3\.org/1999/xhtml[\"']")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_EMPTY = re.compile(r"<([A-Za-z][\w:.-]*)((?:\s[^<>]*)?)/>")
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_SHOWN = {
    "title": "Title",
    "creator": "Authors",
    "publisher": "Publisher",
    "date": "Date",
    "description": "Description",
}
_CHAPTERS = (".xhtml", ".html", ".htm")


def load_epub(raw: bytes) -> Draft:
    """Reads an e-book whose zip has been checked.

    Raises:
        Refused: `unreadable`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            stated, chapters = _package(archive)
            converter = PageConverter()
            parts = [converter.convert_string(as_html(archive.read(name))).markdown.strip() for name in chapters]
    except (zipfile.BadZipFile, KeyError, ParseError, ValueError, RecursionError) as error:
        raise Refused("unreadable", f"its e-book package is damaged ({error}); save it anew") from error
    stated["date"] = stated.get("date", [])[:1]  # further ones say when the file was made
    lines = [f"**{label}:** {', '.join(stated[key])}" for key, label in _SHOWN.items() if stated.get(key)]
    draft = Draft(
        ["\n\n".join(["\n".join(lines), *parts])],
        "application/epub+zip",
        markup="markdown",
        title=stated.get("title", [""])[0],
        metadata={"loader": "epub"},
    )
    return draft_without(draft, converter.left_out)


def as_html(raw: bytes) -> str:
    """An XHTML page as HTML says it."""
    page, _ = decode(raw, declared_encoding(raw))
    for prefix in set(_PREFIX.findall(page)):
        page = re.sub(rf"<(/?){re.escape(prefix)}:", r"<\1", page)
    page = re.sub(r"<\?xml[^<>]*\?>", "", page)
    page = _CDATA.sub(lambda match: html.escape(match[1], quote=False), page)
    return _EMPTY.sub(
        lambda match: match[0] if match[1].lower() in _VOID else f"<{match[1]}{match[2]}></{match[1]}>", page
    )


def _package(archive: zipfile.ZipFile) -> tuple[dict[str, list[str]], list[str]]:
    """What the package states of the book, and the names of its chapters in reading order."""
    from defusedxml.ElementTree import fromstring

    names = set(archive.namelist())
    container = fromstring(archive.read("META-INF/container.xml"))
    place = next((node.get("full-path", "") for node in _named(container, "rootfile")), "")
    if place not in names:
        place = next((name for name in sorted(names) if name.endswith(".opf")), "")
    stated: dict[str, list[str]] = {}
    chapters: list[str] = []
    if place:
        package = fromstring(archive.read(place))
        for node in package.iter():
            key = _local(node)
            if (
                key in _SHOWN
                and "purl.org/dc/elements" in str(node.tag)
                and (words := " ".join("".join(node.itertext()).split()))
            ):
                stated.setdefault(key, []).append(words)
        items = {item.get("id"): item for item in _named(package, "item")}
        for entry in _named(package, "itemref"):
            item = items.get(entry.get("idref"))
            if item is not None and "nav" not in item.get("properties", "").split():
                chapters += _member(item.get("href", ""), posixpath.dirname(place), names)
    if not chapters:
        chapters = [name for name in sorted(names) if name.lower().endswith(_CHAPTERS)]
    return stated, list(dict.fromkeys(chapters))


def _named(root: Any, name: str) -> Iterator[Any]:
    return (node for node in root.iter() if _local(node) == name)


def _local(node: Any) -> str:
    return str(node.tag).rpartition("}")[2]


def _member(href: str, folder: str, names: set[str]) -> list[str]:
    """The member that a link of the package means; links are percent-encoded, names are not always."""
    for one in (unquote(href), href):
        name = posixpath.normpath(posixpath.join(folder, one))
        if name in names and not name.lower().endswith((".svg", ".png", ".jpg", ".jpeg", ".gif")):
            return [name]
    return []
