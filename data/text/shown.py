"""Foreign text (file names, titles, passages, other programs' words) as a terminal or a page may show it.

A name stays what it is; only what is shown changes: `a\\nb` instead of a line break, `\\x1b` instead of an escape that
a terminal obeys, `\\u202e` instead of a mark that turns the reading order round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_HIDDEN = (
    "\x00-\x1f\x7f-\x9f"  # control characters, terminal escapes among them
    "\u2028\u2029"  # line and paragraph separators
    "\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates of the reading order
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # no-break of no width, annotations, invisible tags
    "\ud800-\udfff"  # halves of characters, which no terminal can be sent
)
_IN_NAMES = re.compile(f"[{_HIDDEN}\u200b\u200e\u200f\u061c]")  # names need no direction marks and no hidden spaces
_IN_LINES = re.compile(f"(?![\n\t])[{_HIDDEN}]")
_MARKDOWN = re.compile(r"[\\`*\[\]<>|]|^[#+-]")


def shown(text: str, *, lines: bool = False) -> str:
    """The text with every character that leaves no mark on the screen written out.

    Args:
        lines: line breaks and tabs may stay, as in a passage; in a name they are written out too.
    """
    return (_IN_LINES if lines else _IN_NAMES).sub(lambda match: _SHORT.get(match.group(), _code(match.group())), text)


def few(names: Sequence[str], most: int = 3) -> str:
    """The first of a list of names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def markdown(text: str) -> str:
    """The text as plain words for a Markdown page: it can make no picture, link, HTML, table or heading."""
    return _MARKDOWN.sub(lambda match: f"\\{match.group()}", shown(text))


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
