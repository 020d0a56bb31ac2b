"""UTF-8 in which single bytes are of another encoding or broken: what can be told is mended, the rest is marked.

Files come to this when lines from old systems are pasted or appended, or when a transfer damages bytes. A letter is
mended only where it makes a word; all else becomes U+FFFD, which documents count as `damaged_characters`.
"""

from __future__ import annotations

import re

from data.loading.encodings import alphabet_share

_STRAY = re.compile("[\udc80-\udcff]+")
_CANDIDATES = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257")
_PUNCTUATION = {0x91: "‘", 0x92: "’", 0x93: "“", 0x94: "”", 0x96: "–", 0x97: "—", 0x85: "…", 0x80: "€", 0xA0: " "}
_HIGH = bytes(range(128, 256))
_MOST_HIGH = 0.25  # share of bytes beyond ASCII up to which a text is mostly plain
_MOST_BROKEN = 10  # broken bytes for each whole letter in such a text
_REPLACEMENT = "\ufffd"


def mend_utf8(raw: bytes) -> tuple[str, str] | None:
    """Text and a name of its encoding that tells of the damage; None where most of it is not UTF-8."""
    text = raw.decode("utf-8", "surrogateescape")
    strays = _STRAY.findall(text)
    broken = sum(map(len, strays))
    foreign = "".join(sorted({char for char in text if char > "\x7f" and not "\udc80" <= char <= "\udcff"}))
    whole = sum(char > "\x7f" for char in text) - broken
    # in mostly plain text two high bytes that make a letter of some alphabet are no chance
    is_plain = len(raw) - len(raw.translate(None, _HIGH)) <= _MOST_HIGH * len(raw) and alphabet_share(foreign) == 1
    if broken > whole * (_MOST_BROKEN if is_plain else 1):
        return None
    single = bytes(ord(stray) & 0xFF for stray in strays if len(stray) == 1)
    codec = max(_CANDIDATES, key=lambda name: alphabet_share(foreign + _letters(single, name)))
    mended = 0

    def mend(stray: re.Match[str]) -> str:
        nonlocal mended
        letter = _letter(stray, text, codec, foreign) if len(stray[0]) == 1 else ""
        mended += bool(letter)
        return letter or _REPLACEMENT * (1 if len(stray[0]) < 4 else len(stray[0]) // 2)

    text = _STRAY.sub(mend, text)
    return text, f"utf-8 (damaged: {mended} read as {codec})" if mended else "utf-8"


def _letters(raw: bytes, codec: str) -> str:
    return "".join(char for char in raw.decode(codec, "replace") if char.isalpha())


def _letter(stray: re.Match[str], text: str, codec: str, foreign: str) -> str:
    """What a single byte stands for in its word; empty where that cannot be told."""
    byte = ord(stray[0]) & 0xFF
    before, after = text[max(0, stray.start() - 1) : stray.start()], text[stray.end() : stray.end() + 2]
    if byte in _PUNCTUATION and codec in ("cp1252", "cp1250"):
        inside = before.isalpha() and after[:1].isalpha()
        at_edge = not before.strip() or not after[:1].strip() or not (before + after[:1]).isalnum()
        return _PUNCTUATION[byte] if (inside and byte == 0x92) or (at_edge and byte != 0x80 and before + after) else ""
    try:
        letter = bytes((byte,)).decode(codec)
    except UnicodeDecodeError:
        return ""
    if not letter.isalpha() or byte < 0xC0:
        return ""
    if letter.islower():
        return letter if before.isalpha() or after[:1].isalpha() else ""
    # a capital begins a word, and is also what the first byte of a cut letter looks like
    begins = not before.isalnum() and after.isalpha() and after.islower()
    return letter if begins and alphabet_share(foreign + letter) == 1 and byte not in (0xC2, 0xC3) else ""
