"""Bytes to clean text: the guess of an encoding, and the one cleaning that every format goes through.

Every character offset in the project counts characters of text that left `clean_text`. Formats are not known here.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

from data.loading.damage import mend_utf8
from data.loading.encodings import codecs_of, guess_encoding
from data.loading.options import Refused

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ISO2022 = re.compile(rb"\x1b(\$[@AB]|\$\([CD]|\([IJ]|\$\)C)")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\ufeff\ufdd0-\ufdef\ufffe\uffff]")
_CONTROL_BYTES = bytes(range(0, 9)) + bytes(range(14, 27)) + bytes(range(28, 32))
_NEWLINE = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACES = re.compile("[\u00a0\u2007\u202f]")
_TRAILING = re.compile(r"[^\S\n]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")
_SAMPLE = 256 * 1024


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which JSON can write and no tokenizer, file or database takes; a
    pair becomes the character that it stands for."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean_text(text: str) -> str:
    """The text as documents hold it.

    Newlines are `\\n`, Unicode is NFC, no-break spaces are spaces, lines have no trailing spaces, there are at most two
    blank lines in a row and none at the ends. Control characters, soft hyphens and byte order marks are dropped; a lone
    surrogate becomes U+FFFD. Cleaning twice changes nothing.
    """
    text = _CONTROL.sub("", _NEWLINE.sub("\n", whole_characters(text)))
    text = unicodedata.normalize("NFC", _SPACES.sub(" ", text))
    text = _BLANK_LINES.sub("\n\n\n", _TRAILING.sub("", text))
    return text.strip("\n")


def decode(raw: bytes, declared: str | None = None) -> tuple[str, str]:
    """Decodes bytes of unknown encoding; returns the text (not yet clean) and the name of the encoding.

    In order: byte order mark, ISO 2022 escapes, strict UTF-8, UTF-16 without a mark, the declared encoding where it
    decodes, UTF-8 with a few damaged characters, the guess of charset-normalizer, Windows-1252.

    Raises:
        Refused: `unsupported` when the bytes are not text.
    """
    for mark, name in _BOMS:
        if raw.startswith(mark):
            if mark == codecs.BOM_UTF8 and (mended := mend_utf8(raw[len(mark) :])):
                return mended
            return raw.decode(name, "replace"), name.removesuffix("-sig")
    if _ISO2022.search(raw[:_SAMPLE]):
        for name in ("iso2022_jp_2", "iso2022_kr"):
            if (text := _strict(raw, name)) is not None:
                return text, name
    nuls = raw.count(0)
    if nuls and (nuls * 10 > len(raw) or _strict(raw, "utf-8") is None) and (guess := _utf16(raw)):
        return guess
    if nuls > max(8, len(raw) // 100) or _looks_binary(raw):
        raise Refused("unsupported", "its bytes are not text in any known format; convert it or leave it out")
    if (text := _strict(raw, "utf-8")) is not None:
        return text, "utf-8"
    named = codecs_of(declared) if declared else ()
    for codec in named:
        if (text := _whole_characters(raw, codec)) is not None:
            return text, str(declared).lower()
    if mended := mend_utf8(raw):
        return mended
    for codec in named:  # as declared, but for a few damaged characters
        text = raw.decode(codec, "replace")
        if text.count("\ufffd") * 200 <= sum(c > "\x7f" for c in text):
            return text, str(declared).lower()
    return _guess(raw)


def _strict(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except (UnicodeDecodeError, LookupError, ValueError):
        return None


def _whole_characters(raw: bytes, encoding: str) -> str | None:
    """The text, without a last character that is cut off."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(raw)
    except (UnicodeDecodeError, LookupError, ValueError):
        return None


def _utf16(raw: bytes) -> tuple[str, str] | None:
    """UTF-16 without a mark: the byte order in which nearly all is letters, spaces and punctuation of few scripts."""
    raw = raw[: len(raw) // 2 * 2]  # it may be cut inside a character
    best: tuple[float, str, str] | None = None
    for name in ("utf-16-le", "utf-16-be"):
        text = raw.decode(name, "replace")
        if text.count("\ufffd") * 100 > len(text):
            continue
        sample = text[:4096]
        good = sum(unicodedata.category(c)[0] in "LNZ" or c in "\n\r\t.,;:!?'\"()-、。，" for c in sample)
        spaces = sum(c in " \n、。" for c in sample)
        if sample and good / len(sample) > 0.9 and spaces and (best is None or good + spaces > best[0]):
            best = (good + spaces, text, name)
    return (best[1], best[2]) if best else None


def _looks_binary(raw: bytes) -> bool:
    sample = raw[:8192]
    return len(sample) - len(sample.translate(None, _CONTROL_BYTES)) > max(4, len(sample) // 50)


def _guess(raw: bytes) -> tuple[str, str]:
    name = guess_encoding(raw[:_SAMPLE])
    try:
        return raw.decode(name, "replace"), name
    except LookupError:
        return raw.decode("cp1252", "replace"), "cp1252"
