"""What the styles of an OpenDocument file say of hidden, struck-out, raised and lowered text."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element

TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_STYLE = "{urn:oasis:names:tc:opendocument:xmlns:style:1.0}"
_FAMILIES = {TEXT + "span": "text", TEXT + "p": "paragraph", TEXT + "h": "paragraph", TEXT + "a": "text"}
_HEIGHT = re.compile(r"\s*(super|sub|-?\d+(?:\.\d+)?%)")


class Styles:
    """The styles of a file, those that the content makes for itself and those with a name."""

    def __init__(self, content: Element, named: Element | None) -> None:
        self._own: dict[tuple[str, str], Element] = {}
        self._numbered: set[tuple[str, str]] = set()  # list styles by name and level
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        for root in (named, content):
            for style in root.iter(_STYLE + "style") if root is not None else ():
                self._own[style.get(_STYLE + "family", ""), style.get(_STYLE + "name", "")] = style
            for style in root.iter(TEXT + "list-style") if root is not None else ():
                for level in style.iter(TEXT + "list-level-style-number"):
                    if level.get(_STYLE + "num-format"):
                        self._numbered.add((style.get(_STYLE + "name", ""), level.get(TEXT + "level", "1")))

    def of(self, node: Element) -> dict[str, Any]:
        """`hidden` and `struck` where they hold, and `height` (`up` or `down`)."""
        family = _FAMILIES.get(str(node.tag))
        name = node.get(TEXT + "style-name")
        return self._looks(family, name, 0) if family and name else {}

    def is_numbered(self, style: str, depth: int) -> bool:
        """Whether the items of a list have numbers at a depth from 0."""
        return (style, str(depth + 1)) in self._numbered

    def is_hidden_table(self, table: Element) -> bool:
        """Whether it is a sheet that is not shown."""
        style = self._own.get(("table", table.get(TABLE + "style-name", "")))
        looks = style.find(_STYLE + "table-properties") if style is not None else None
        return looks is not None and looks.get(TABLE + "display") == "false"

    def _looks(self, family: str, name: str, depth: int) -> dict[str, Any]:
        key = family, name
        style = self._own.get(key)
        if style is None or depth > 20:
            return {}
        if key not in self._known:
            looks = dict(self._looks(family, style.get(_STYLE + "parent-style-name", ""), depth + 1))
            stated = style.find(_STYLE + "text-properties")
            if stated is not None:
                looks.update(_stated(stated))
            self._known[key] = looks
        return self._known[key]


def _stated(properties: Element) -> dict[str, Any]:
    looks: dict[str, Any] = {}
    if display := properties.get(TEXT + "display"):
        looks["hidden"] = display == "none"
    lines = [properties.get(f"{_STYLE}text-line-through-{name}") for name in ("style", "type")]
    if any(lines):
        looks["struck"] = "none" not in lines
    if height := _HEIGHT.match(properties.get(_STYLE + "text-position", "")):
        amount = {"super": 1.0, "sub": -1.0}.get(height[1])
        amount = float(height[1].rstrip("%")) if amount is None else amount
        looks["height"] = "up" if amount > 0 else "down" if amount < 0 else ""
    return looks


def number_of(node: Element, attribute: str) -> int:
    """A count that an attribute states; 1 where it states none."""
    value = node.get(attribute, "1")
    return max(1, int(value)) if value.isascii() and value.isdigit() and len(value) < 10 else 1
