"""Rich Text Format to Markdown: a small reader of groups, control words and the characters between them.

Fonts, colours, pictures, fields' instructions, headers and comments are skipped; hidden, struck-out and deleted text
is left out. A paragraph in a heading style becomes a heading, rows of cells a table. The standard is Microsoft's RTF
specification 1.9.1.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from data.loading.draft import Draft, draft_without
from data.loading.formats.rtf_text import Writer
from data.loading.options import Refused

_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|[\r\n]+|([^\\{}\r\n]+)"
)
_SKIPPED = {
    b"fonttbl", b"colortbl", b"stylesheet", b"info", b"pict", b"header", b"headerl", b"headerr", b"headerf", b"footer",
    b"footerl", b"footerr", b"footerf", b"fldinst", b"object", b"themedata", b"colorschememapping", b"datastore",
    b"latentstyles", b"listtable", b"listoverridetable", b"generator", b"rsidtbl", b"xmlnstbl", b"filetbl", b"revtbl",
    b"bkmkstart", b"bkmkend", b"annotation", b"atnid", b"atnauthor", b"pntext", b"listtext", b"nonshppict", b"private",
    b"sp", b"shprslt", b"nonesttables",
}  # fmt: skip
_READ = {b"shpinst", b"nesttableprops"}
"""Groups that older readers may pass over and that hold text."""
_SPECIAL = {
    b"line": "\n", b"tab": "\t", b"emdash": "\u2014", b"endash": "\u2013", b"lquote": "\u2018", b"rquote": "\u2019",
    b"ldblquote": "\u201c", b"rdblquote": "\u201d", b"bullet": "\u2022", b"emspace": " ", b"enspace": " ",
}  # fmt: skip
_PARAGRAPHS = (b"par", b"sect", b"page")
_SYMBOLS = {b"~": b" ", b"_": b"-", b"-": b"", b"\n": b"\n\n", b"\r": b"\n\n"}
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
    reader = _Reader(_known(f"cp{page[1].decode()}" if page else "cp1252"), fonts, styles)
    text = reader.read(raw)
    title = _TITLE.search(head)
    draft = Draft(
        [text],
        "application/rtf",
        markup="markdown",
        title=title[1].decode("cp1252", "replace") if title else "",
        metadata={"loader": "rtf"},
    )
    return draft_without(draft, reader.writer.left_out)


def _known(encoding: str) -> str:
    try:
        codecs.lookup(encoding)
    except LookupError:
        return "cp1252"
    return encoding


@dataclass(frozen=True)
class _Look:
    """What holds for the text of a group until the group ends."""

    skipped: bool = False
    fallback: int = 1  # characters that stand in for a \u
    font: str = ""
    unseen: str = ""  # why it is not shown
    height: int = 0
    closing: str = ""  # what its end is written as


class _Reader:
    """Where the reading is: the look of the open group, and its bytes that are not yet text."""

    def __init__(self, encoding: str, fonts: dict[int, str], styles: dict[int, int]) -> None:
        self.encoding, self.fonts, self.styles = encoding, fonts, styles
        self.writer = Writer()
        self.pending = bytearray()  # of one encoding, so that double-byte characters meet
        self.look = _Look(font=encoding)
        self.style = 0
        self.swallow = 0  # characters that stand in for the last \u

    def read(self, raw: bytes) -> str:
        stack: list[_Look] = []
        optional = False  # the group is one that readers may pass over
        position = 0
        while token := _TOKEN.match(raw, position):
            position = token.end()
            word, number, hexa, symbol, brace, plain = token.groups()
            if brace == b"{":
                if len(stack) >= _MAX_DEPTH:
                    raise Refused("unreadable", f"its groups nest deeper than {_MAX_DEPTH}; do not trust this file")
                self.flush()
                stack.append(self.look)
                self.look = replace(self.look, closing="")
                self.swallow = 0
            elif brace == b"}":
                self.flush()
                if not stack:
                    break
                if self.look.closing and not self.look.skipped:
                    self.writer.write(self.look.closing)
                self.look = stack.pop()
                self.swallow = 0
            elif symbol == b"*":
                optional = True
                continue
            elif word is not None:
                if word == b"bin":
                    position += max(0, int(number or 0))
                elif word in _SKIPPED or (optional and word not in _READ):
                    self.look = replace(self.look, skipped=True)
                elif not self.look.skipped:
                    self.control(word, int(number) if number else None)
            elif not self.look.skipped:
                self.characters(hexa, symbol, plain)
            optional = False
        self.flush()
        self.writer.end_paragraph(self.style)
        return self.writer.text()

    def control(self, word: bytes, value: int | None) -> None:
        """Obeys one control word."""
        if word == b"u" and value is not None:
            self.flush()
            self.emit(chr(value & 0xFFFF))
            self.swallow = self.look.fallback
        elif word == b"uc" and value is not None:
            self.look = replace(self.look, fallback=value)
        elif word == b"f" and value is not None:
            self.flush()
            self.look = replace(self.look, font=self.fonts.get(value) or self.encoding)
        elif word == b"pard":
            self.style = 0
        elif word == b"s" and value is not None:
            self.style = self.styles.get(value, 0)
        elif word in _SPECIAL:
            self.flush()
            self.emit(_SPECIAL[word])
        elif word in _PARAGRAPHS:
            self.flush()
            self.writer.end_paragraph(self.style)
        elif word == b"footnote":
            self.flush()
            self.writer.write(" [")
            self.look = replace(self.look, closing="]")
        elif word in Writer.TABLE_WORDS:
            self.flush()
            self.writer.table_word(word)
        else:
            self.change_look(word, value)

    def change_look(self, word: bytes, value: int | None) -> None:
        """Obeys a control word that says how text is shown."""
        on = value != 0
        look = self.look
        if word in (b"v", b"strike", b"striked", b"deleted"):
            kind = {b"v": "hidden", b"deleted": "deleted"}.get(word, "struck out")
            look = replace(look, unseen=kind if on else "" if look.unseen == kind else look.unseen)
        elif word in (b"super", b"up", b"sub", b"dn", b"nosupersub"):
            up = word in (b"super", b"up")
            look = replace(look, height=0 if word == b"nosupersub" or not on else 1 if up else -1)
        elif word == b"plain":
            look = replace(look, unseen="", height=0)
        if look != self.look:
            self.flush()
            self.look = look

    def characters(self, hexa: bytes | None, symbol: bytes | None, plain: bytes | None) -> None:
        """Takes characters, less those that stand in for one that was read already."""
        if hexa is not None:
            if self.swallow:
                self.swallow -= 1
            else:
                self.pending += bytes.fromhex(hexa.decode())
        elif symbol is not None:
            self.pending += _SYMBOLS.get(symbol, symbol)
        elif plain is not None:
            self.pending += plain[self.swallow :]
            self.swallow = max(0, self.swallow - len(plain))

    def flush(self) -> None:
        """Writes the bytes that are waiting, in the encoding of their font."""
        if self.pending:
            self.emit(self.pending.decode(self.look.font or self.encoding, "replace"))
            self.pending.clear()

    def emit(self, text: str) -> None:
        """Writes text with the look of its group."""
        self.writer.write(text, unseen=self.look.unseen, height=self.look.height)
