"""Rich Text Format to plain text: a small reader of groups, control words and the characters between them.

Fonts, colours, pictures, fields' instructions and headers are skipped. A paragraph in a heading style becomes a
Markdown heading. The standard is Microsoft's RTF specification 1.9.1.
"""

from __future__ import annotations

import codecs
import re

from data.loading.draft import Draft
from data.loading.options import Refused

_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|[\r\n]+|([^\\{}\r\n]+)"
)
_SKIPPED = {
    b"fonttbl", b"colortbl", b"stylesheet", b"info", b"pict", b"header", b"headerl", b"headerr", b"headerf", b"footer",
    b"footerl", b"footerr", b"footerf", b"fldinst", b"object", b"themedata", b"colorschememapping", b"datastore",
    b"latentstyles", b"listtable", b"listoverridetable", b"generator", b"rsidtbl", b"xmlnstbl", b"filetbl", b"revtbl",
    b"bkmkstart", b"bkmkend", b"annotation", b"atnid", b"atnauthor", b"pntext", b"listtext", b"nonshppict", b"private",
}  # fmt: skip
_SPECIAL = {
    b"par": "\n\n", b"sect": "\n\n", b"page": "\n\n", b"line": "\n", b"tab": "\t", b"cell": " | ", b"row": "\n",
    b"emdash": "\u2014", b"endash": "\u2013", b"lquote": "\u2018", b"rquote": "\u2019", b"ldblquote": "\u201c",
    b"rdblquote": "\u201d", b"bullet": "\u2022", b"emspace": " ", b"enspace": " ", b"nestcell": " | ", b"nestrow": "\n",
}  # fmt: skip
_CHARSETS = {
    0: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 134: "gb18030", 136: "cp950", 161: "cp1253",
    162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874",
    238: "cp1250",
}  # fmt: skip
_FONT = re.compile(rb"\{\\f(\d+)[^{}]*?\\fcharset(\d+)")
_HEADING_STYLE = re.compile(rb"\{\\s(\d+)[^{}]*?heading (\d);\}", re.IGNORECASE)
_TITLE = re.compile(rb"\{\\title ([^{}\\]*)\}")
_MAX_DEPTH = 2000


def load_rtf(raw: bytes) -> Draft:
    """Reads an RTF file.

    Raises:
        Refused: `unreadable` when groups nest too deep.
    """
    head = raw[: 1 << 20]
    fonts = {int(number): _CHARSETS.get(int(charset), "") for number, charset in _FONT.findall(head)}
    styles = {int(style): int(level) for style, level in _HEADING_STYLE.findall(head)}
    page = re.search(rb"\\ansicpg(\d+)", head[:2000])
    text = _Reader(_known(f"cp{page[1].decode()}" if page else "cp1252"), fonts, styles).read(raw)
    title = _TITLE.search(head)
    return Draft(
        [text],
        "application/rtf",
        markup="markdown",
        title=title[1].decode("cp1252", "replace") if title else "",
        metadata={"loader": "rtf"},
    )


def _known(encoding: str) -> str:
    try:
        codecs.lookup(encoding)
    except LookupError:
        return "cp1252"
    return encoding


class _Reader:
    """Where the reading is: the state of the open group, and the words so far."""

    def __init__(self, encoding: str, fonts: dict[int, str], styles: dict[int, int]) -> None:
        self.encoding, self.fonts, self.styles = encoding, fonts, styles
        self.out: list[str] = []
        self.pending = bytearray()  # of one encoding, so that double-byte characters meet
        self.paragraph = 0  # where the paragraph begins in `out`

    def read(self, raw: bytes) -> str:
        skip, fallback, font, style = False, 1, self.encoding, 0
        stack: list[tuple[bool, int, str]] = []
        swallow = 0  # characters that stand in for the last \u
        position = 0
        while found := _TOKEN.match(raw, position):
            position = found.end()
            word, number, hexa, symbol, brace, plain = found.groups()
            if brace == b"{":
                if len(stack) >= _MAX_DEPTH:
                    raise Refused("unreadable", f"its groups nest deeper than {_MAX_DEPTH}; do not trust this file")
                self.flush(font)
                stack.append((skip, fallback, font))
                swallow = 0
            elif brace == b"}":
                self.flush(font)
                if not stack:
                    break
                skip, fallback, font = stack.pop()
                swallow = 0
            elif symbol == b"*":
                skip = True
            elif word is not None:
                value = int(number) if number else None
                if word in _SKIPPED:
                    skip = True
                elif word == b"bin":
                    position += max(0, value or 0)
                elif skip:
                    continue
                elif word == b"u" and value is not None:
                    self.flush(font)
                    self.out.append(chr(value & 0xFFFF))
                    swallow = fallback
                elif word == b"uc" and value is not None:
                    fallback = value
                elif word == b"f" and value is not None:
                    self.flush(font)
                    font = self.fonts.get(value) or self.encoding
                elif word == b"pard":
                    style = 0
                elif word == b"s" and value is not None:
                    style = self.styles.get(value, 0)
                elif word in _SPECIAL:
                    self.flush(font)
                    if word in (b"par", b"sect", b"page"):
                        self.end_paragraph(style)
                    self.out.append(_SPECIAL[word])
                    if word in (b"par", b"sect", b"page"):
                        self.paragraph = len(self.out)
            elif skip:
                continue
            elif hexa is not None:
                if swallow:
                    swallow -= 1
                else:
                    self.pending += bytes.fromhex(hexa.decode())
            elif symbol is not None:
                self.pending += {b"~": b" ", b"_": b"-", b"-": b"", b"\n": b"\n\n", b"\r": b"\n\n"}.get(symbol, symbol)
            elif plain is not None:
                self.pending += plain[swallow:]
                swallow = max(0, swallow - len(plain))
        self.flush(font)
        self.end_paragraph(style)
        return "".join(self.out)

    def flush(self, encoding: str) -> None:
        if self.pending:
            self.out.append(self.pending.decode(encoding or self.encoding, "replace"))
            self.pending.clear()

    def end_paragraph(self, style: int) -> None:
        words = "".join(self.out[self.paragraph :]).strip()
        if style and words and "|" not in words:
            self.out[self.paragraph :] = ["#" * min(style, 6) + " " + " ".join(words.split())]
