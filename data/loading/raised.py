"""Raised and lowered text, written so that 10 to the power of six is `10^6` and never `106`.

Readers put marks around what a page shows raised or lowered; only when the text stands as a whole is each mark
written out, because that depends on its neighbours: `H2O`, but `log_2 8`; `1st`, but `10^n`.
"""

from __future__ import annotations

import re

# noncharacters: no text holds them, and `clean_text` would drop one that was left
_UP, _UP_END, _DOWN, _DOWN_END = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_MARKED = re.compile(f"{_UP}([^{_UP}-{_DOWN_END}]*){_UP_END}|{_DOWN}([^{_UP}-{_DOWN_END}]*){_DOWN_END}")
_FRACTION = re.compile(f"(\\d?){_UP}(\\d+){_UP_END}\\s*[/⁄]\\s*{_DOWN}(\\d+){_DOWN_END}")
_LEFTOVER = re.compile(f"[{_UP}-{_DOWN_END}]")
_JOINED = re.compile(r"(?i)(st|nd|rd|th|er|re|ère|ème|nde?|ten?|°|º|ª|\.?[oa]\.?)$")
"""Ordinals: what is raised after a number and read with it."""
_SIGNS = {"tm": "™", "sm": "℠", "®": "®", "©": "©", "™": "™", "℠": "℠", "*": "*", "†": "†", "‡": "‡", "°": "°"}
_PLAIN_INDEX = re.compile(r"(?:[A-Z][a-z]?|(?<![^\W\d_])[^\W\d_]|[)\]])$")
"""A chemical symbol, a single letter or a bracket: its index is written without a sign, as in `CO2`, `x1`, `(OH)2`."""
_SINGLE = re.compile(r"[+−–-]?[\w.,:′'*†‡§°]+[+−–-]?|\(.*\)|\[.*\]|\W+")
"""What needs no brackets as an exponent."""
_LONGEST = 24


def raised(text: str) -> str:
    """Marks text as superscript."""
    return f"{_UP}{text}{_UP_END}" if text.strip() else text


def lowered(text: str) -> str:
    """Marks text as subscript."""
    return f"{_DOWN}{text}{_DOWN_END}" if text.strip() else text


def write_raised(text: str) -> str:
    """Writes out all marks of `raised` and `lowered`."""
    if not _LEFTOVER.search(text):
        return text
    text = text.replace(_UP_END + _UP, "").replace(_DOWN_END + _DOWN, "")  # one exponent in several runs
    text = _FRACTION.sub(lambda match: f"{match[1]}{' ' if match[1] else ''}{match[2]}/{match[3]}", text)
    for _ in range(4):  # an exponent of an exponent
        text, count = _MARKED.subn(_written, text)
        if not count:
            break
    return _LEFTOVER.sub("", text)


def _written(match: re.Match[str]) -> str:
    up = match[1] is not None
    raw = match[1] if up else match[2]
    inner = " ".join(raw.split())
    before = _LEFTOVER.sub("", match.string[max(0, match.start() - 8) : match.start()])
    after = match.string[match.end() : match.end() + 3]
    if not inner:
        return raw
    base = before[-1:].strip()
    gap = " " if base else ""
    if len(inner) > _LONGEST:  # small print, no exponent
        return f"{gap}{inner}{_space(inner, after)}"
    if up and (sign := _SIGNS.get(inner.lower())):
        return sign
    if up and (inner[0] == "[" or (base.isdigit() and _JOINED.match(inner))):
        return inner
    if not base and not re.match(r"[A-Z][a-z]?(?![a-z])|\d", after):  # a note's number before its text
        return f"{inner}{' ' if after[:1].isalnum() else ''}"
    if not up and inner.isdigit() and _PLAIN_INDEX.search(before) and not after[:1].isdigit():
        return inner
    content = inner if _SINGLE.fullmatch(inner) else f"({inner})"
    return f"{'^' if up else '_'}{content}{_space(content, after)}"


def _space(content: str, after: str) -> str:
    """A space where the next character would be read as part of the exponent."""
    last, following = content[-1:], after[:1]
    same = (last.isdigit() and following.isdigit()) or (last.isalpha() and following.isalnum())
    return " " if same else ""
