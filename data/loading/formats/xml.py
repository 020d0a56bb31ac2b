"""XML to text: an element a line, feeds as Markdown with an entry a section, HTML inside an element as its text.

The document type goes before anything is parsed, so nothing outside the file is ever opened. What a damaged or
cut-off file still holds is kept, and the document says so.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from html.entities import html5
from typing import Any

from data.loading.draft import Draft
from data.loading.formats.html import html_blocks, to_markdown
from data.loading.options import Refused

_DECLARATION = re.compile(r"\A\ufeff?\s*<\?xml\b.*?\?>", re.DOTALL)
_DOCTYPE = re.compile(r"<!DOCTYPE\b", re.IGNORECASE)
_DOCTYPE_PARTS = re.compile(r"<!--.*?-->|<\?.*?\?>|\"[^\"]*\"|'[^']*'|[\[\]<>]", re.DOTALL)
_ENTITY = re.compile(r"<!ENTITY\s+([\w:][\w:.-]*)\s+(?:\"([^\"]*)\"|'([^']*)'|(?:SYSTEM|PUBLIC)\b)", re.DOTALL)
_REFERENCE = re.compile(r"<!\[CDATA\[.*?\]\]>|<!--.*?-->|&([\w:][\w:.-]*);", re.DOTALL)
_BAD_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|&#(?:0*(?:[0-8]|1[124-9]|2\d|3[01])|[xX]0*"
                             r"(?:[0-8bcefBCEF]|1[0-9a-fA-F]));")  # fmt: skip
_PREDEFINED = {"lt", "gt", "amp", "quot", "apos"}
_MOST_EXPANDED = 1_000_000
"""Characters into which the entities of a file may grow."""
_TAG = re.compile(
    r"</?(?:p|br|div|span|a|b|i|em|strong|img|ul|ol|li|h[1-6]|table|tr|td|th|blockquote|pre|code|figure|hr)"
    r"(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_SOURCE_CODE = {"programlisting", "screen", "literallayout", "code", "pre", "source", "listing", "markup", "script"}
_FEEDS = {"rss", "feed", "RDF"}
_ENTRIES = {"item", "entry"}
_BODIES = ("encoded", "content", "description", "summary")  # the longer one first
_NO_WORDS = {"guid", "id", "link", "comments", "enclosure", "generator", "docs", "ttl", "cloud", "image", "logo",
             "icon", "items", "base", "thumbnail"}  # fmt: skip
_TITLE_HOLDERS = {"info", "bookinfo", "articleinfo", "head", "header", "front", "metadata", "channel"}


def load_xml(text: str, metadata: dict[str, Any]) -> Draft:
    """Reads decoded XML.

    Raises:
        Refused: `unreadable` when its entities grow beyond all bounds, or no element can be read.
    """
    root, warnings = _parse(text)
    if warnings:
        metadata = {**metadata, "warnings": warnings}
    if _name(root) in _FEEDS and (entries := [e for e in root.iter() if _name(e) in _ENTRIES]):
        return Draft(
            [_feed(root, entries)], "application/xml", markup="markdown", title=_title(root), metadata=metadata
        )
    lines = list(_lines(root))
    markup = "markdown" if any(is_markdown for _, is_markdown in lines) else "plain"
    words = "\n".join(line for line, _ in lines)
    return Draft([words], "application/xml", markup=markup, title=_title(root), metadata=metadata)


def _parse(text: str) -> tuple[Any, list[str]]:
    from lxml import etree

    body, lost = _without_doctype(_DECLARATION.sub("", text, count=1))
    warnings = [f"left out: {lost} references to entities that stand outside the file"] if lost else []
    parser = etree.XMLParser(
        recover=True, resolve_entities=False, load_dtd=False, no_network=True, huge_tree=True, encoding="utf-8",
        remove_comments=True, remove_pis=True,
    )  # fmt: skip
    raw = _BAD_CHARACTERS.sub("", body).encode("utf-8", "replace")
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise Refused("unreadable", f"its XML is damaged ({error}); repair it") from error
    faults = [entry for entry in parser.error_log if entry.level_name == "FATAL"]
    if root is None or (faults and not any(part.strip() for part in root.itertext())):
        reason = faults[0].message if faults else "it has no element"
        raise Refused("unreadable", f"its XML is damaged ({reason}); repair it")
    if faults:
        first = faults[0]
        warnings.append(f"damaged or cut off at line {first.line} ({first.message}); what could be read is kept")
    return root, warnings


def _without_doctype(text: str) -> tuple[str, int]:
    """The elements of the file with its own entities written out, and how many references lead outside it."""
    entities: dict[str, str] = {}
    start = _DOCTYPE.search(text, 0, max(text.find("<!"), 0) + 100_000)
    if start and not re.search(r"<[\w:]", text[: start.start()]):
        end = _end_of_doctype(text, start.end())
        for entity in _ENTITY.finditer(text, start.end(), end):
            value = entity[2] if entity[2] is not None else entity[3]
            if value is not None:
                entities.setdefault(entity[1], value)
        text = text[end:]
    if "&" not in text:
        return text, 0
    expanded, lost = 0, 0

    def written_out(reference: re.Match[str]) -> str:
        nonlocal expanded, lost
        name = reference[1]
        if name is None or name in _PREDEFINED:
            return reference[0]
        if name in entities:
            value = _expand(name, entities, ())
            expanded += len(value)
            if expanded > _MOST_EXPANDED:
                raise Refused("unreadable", _BOMB)
            return value
        if character := html5.get(f"{name};"):
            return html.escape(character)
        lost += 1
        return ""

    return _REFERENCE.sub(written_out, text), lost


_BOMB = "its XML defines entities that grow beyond all bounds (billion laughs?); do not trust this file"


def _end_of_doctype(text: str, start: int) -> int:
    depth = 0
    for part in _DOCTYPE_PARTS.finditer(text, start):
        if part[0] in ("[", "<"):
            depth += 1
        elif part[0] == "]":
            depth -= 1
        elif part[0] == ">":
            if depth <= 0:
                return part.end()
            depth -= 1
    return len(text)


def _expand(name: str, entities: dict[str, str], above: tuple[str, ...]) -> str:
    """The value of an entity with those inside it; one that holds itself, or too much, is a bomb."""
    if name in above or len(above) > 20:
        raise Refused("unreadable", _BOMB)

    def inner(reference: re.Match[str]) -> str:
        inside = reference[1]
        return _expand(inside, entities, (*above, name)) if inside in entities else reference[0]

    value = entities[name]
    if "&" in value:
        value = _REFERENCE.sub(inner, value)
        if len(value) > _MOST_EXPANDED:
            raise Refused("unreadable", _BOMB)
        entities[name] = value  # written out once
    return value


def _name(element: Any) -> str:
    """The local name; prefixes that a file forgot to declare are left out too."""
    tag = element.tag
    return tag.rpartition("}")[2].rpartition(":")[2] if isinstance(tag, str) else ""


def _title(root: Any) -> str:
    for element in root:
        if _name(element) == "title":
            return _one_line(element)
    for holder in root:
        if _name(holder) in _TITLE_HOLDERS:
            for element in holder:
                if _name(element) == "title":
                    return _one_line(element)
    return ""


def _one_line(element: Any) -> str:
    words = "".join(element.itertext())
    return " ".join((_rendered(words, 0) if _TAG.search(words) else html.unescape(words)).split())


def _rendered(page: str, deeper: int) -> str:
    """HTML as Markdown, its headings `deeper` levels down."""
    blocks = html_blocks(page)
    return to_markdown([replace(b, level=min(6, b.level + deeper)) if b.kind == "heading" else b for b in blocks])


def _body(element: Any, deeper: int) -> str:
    """The words of an element that may hold HTML: written as text, in CDATA, or as XHTML elements."""
    from lxml import etree

    if len(element):
        return _rendered(etree.tostring(element, encoding="unicode", with_tail=False), deeper)
    words = element.text or ""
    if _TAG.search(words):
        return _rendered(words, deeper)
    return "\n".join(line for part in html.unescape(words).splitlines() if (line := " ".join(part.split())))


def _feed(root: Any, entries: list[Any]) -> str:
    """The feed's own words, then its entries: title as heading, what is told about it, the longest body."""
    inside = set(entries)
    channel = next((e for e in root if _name(e) == "channel"), root)
    parts = [f"# {title}"] if (title := _title(root)) else []
    parts += _told([e for e in channel if e not in inside and _name(e) != "title"], 1)
    for entry in entries:
        children = list(entry)
        heading = next((line for e in children if _name(e) == "title" and (line := _one_line(e))), "")
        parts += [f"## {heading}"] if heading else []
        parts += _told([e for e in children if _name(e) != "title"], 2)
    return "\n\n".join(parts)


def _told(elements: list[Any], deeper: int) -> list[str]:
    facts = [
        f"{_name(e)}: {words}"
        for e in elements
        if _name(e) not in _NO_WORDS and _name(e) not in _BODIES and (words := " ".join("".join(e.itertext()).split()))
    ]
    bodies: list[str] = []
    for name in _BODIES:
        for element in elements:
            if _name(element) == name and (words := _body(element, deeper)) and not _stands_in(words, bodies):
                bodies.append(words)
    return (["\n".join(facts)] if facts else []) + bodies


def _stands_in(words: str, bodies: list[str]) -> bool:
    """An excerpt that repeats the start of the body, cut with an ellipsis, says nothing new."""
    start = " ".join(words.split()).rstrip(".… []")
    return any(start in " ".join(body.split()) for body in bodies)


def _lines(root: Any) -> Iterator[tuple[str, bool]]:
    """Lines in order, each with whether it is Markdown: an element a line, but words with elements among them whole."""
    from lxml import etree

    words: list[str] = []
    mixed = [False]  # for each open element, from outside in: do words stand between its elements?

    def flush() -> Iterator[tuple[str, bool]]:
        line = " ".join("".join(words).split())
        words.clear()
        if line:
            yield line, False

    for event, element in etree.iterwalk(root, events=("start", "end")):
        if event == "start":
            mixed.append(_is_mixed(element))
        alone = not mixed[-2] or (len(element) > 1 and not mixed[-1])
        if event == "end":
            mixed.pop()
        if alone:
            yield from flush()
        if event == "start":
            text = element.text or ""
            if not len(element) and _TAG.search(text) and _name(element) not in _SOURCE_CODE:
                yield from flush()
                yield from ((line, True) for line in _rendered(text, 0).split("\n"))
            elif len(element) == 0 and _name(element) in _SOURCE_CODE and alone:
                yield from ((line.rstrip(), False) for line in text.strip("\n").split("\n") if line.strip())
            else:
                words.append(text)
        elif element is not root:
            words.append(element.tail or "")
    yield from flush()


def _is_mixed(element: Any) -> bool:
    return bool((element.text or "").strip()) or any((child.tail or "").strip() for child in element)
