"""Files inside a text, as `data:` URIs or bare base64: letters that stand for a picture or a font and nobody reads."""

from __future__ import annotations

import re

_LONG = 120
"""Characters of data up to which a URI stays, as an example in a text about them."""
_NEAR = 2000
"""Characters around a URI in which the picture or tag that it belongs to must begin and end."""
_HEAD = re.compile(r"data:[\w.+-]{0,60}(?:/[\w.+-]{1,80})?(?:;[\w.+-]{1,40}(?:=[\w.\"+-]{0,60})?){0,4},")
_BASE64 = re.compile(
    r"[A-Za-z0-9+/%=_-]*(?:\\?\s{1,8}[A-Za-z0-9+/]{40,}={0,2})*(?:\s{1,8}[A-Za-z0-9+/]{1,80}={1,2}(?![\w=]))?"
)
_PERCENT = re.compile(r"[^\s\"'<>()]*")
_MEDIA = re.compile(r"data:(?:image|font|application|video|audio)/")
_PICTURE = re.compile(r"!?\[([^\[\]\n]*)\]\(\s*<?")
_PICTURE_END = re.compile(r">?(?:\s{1,8}[\"'][^\"'\n]{0,500}[\"'])?\s{0,8}\)")
_REFERENCE = re.compile(r"[ \t]{0,3}\[([^\]\n]+)\]:[ \t]*<?")
_TAG = re.compile(r"<(?:img|source|image|embed|object|use)\b", re.IGNORECASE)
_ALT = re.compile(r"\balt\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)
_RUN = re.compile(
    r"[A-Za-z0-9+/]{500,}={0,2}|^(?:[A-Za-z0-9+/]{60,80}\n){8,}(?:[A-Za-z0-9+/]{1,80}={0,2}$)?", re.MULTILINE
)
_LEAST_CHARACTERS = 40  # different ones, of 64
_USE = re.compile(r"!\[([^\[\]\n]{0,500})\]\[([^\[\]\n]{1,200})\]")


def without_data_uris(text: str) -> tuple[str, int]:
    """Takes out the data of all but short `data:` URIs; of a picture its alternative text stays.

    Returns:
        The text, and how many URIs were taken out.
    """
    parts: list[str] = []
    labels: set[str] = set()
    count = position = 0
    start = text.find("data:")
    while start >= 0:
        end = _end(text, start)
        if end - start > _LONG:
            first, last, words, label = _surroundings(text, start, end, position)
            parts += [text[position:first], words]
            labels |= {label} if label else set()
            position, count = last, count + 1
        start = text.find("data:", max(end, start + 5))
    text = "".join(parts) + text[position:]
    if labels:
        text = _USE.sub(lambda match: match[1] if match[2] in labels else match[0], text)
    return text, count


def without_base64(text: str) -> tuple[str, int]:
    """Takes out runs of base64, in one line or many, that are too long to be a word, a key or a sequence of genes."""
    count = 0

    def shorten(run: re.Match[str]) -> str:
        nonlocal count
        if len(set(run[0])) < _LEAST_CHARACTERS:
            return run[0]
        count += 1
        return "…\n" if run[0].endswith("\n") else "…"

    return _RUN.sub(shorten, text), count


def _end(text: str, start: int) -> int:
    """Where the URI at `start` ends; `start` itself where none is."""
    head = _HEAD.match(text, start)
    if not head:
        return start
    if head[0].endswith(";base64,"):
        end = _BASE64.match(text, head.end())
    else:
        end = _PERCENT.match(text, head.end()) if _MEDIA.match(head[0]) else None
    return end.end() if end else start


def _surroundings(text: str, start: int, end: int, floor: int) -> tuple[int, int, str, str]:
    """What to take out with a URI: from where to where, the words that stay, and the label if it defines one."""
    before = text[max(floor, start - _NEAR) : start]
    near = start - len(before)
    line = before.rpartition("\n")[2]
    bracket = before.rfind("[")
    if bracket > 0 and before[bracket - 1] == "!":
        bracket -= 1
    picture = _PICTURE.fullmatch(before, bracket) if bracket >= 0 else None
    closing = _PICTURE_END.match(text, end)
    if picture and closing:
        return near + bracket, closing.end(), picture[1], ""
    if reference := _REFERENCE.fullmatch(line):
        stop = text.find("\n", end, end + _NEAR)
        return start - len(line), (len(text) if stop < 0 else stop), "", reference[1]
    opening = before.rfind("<")
    if opening >= 0 and ">" not in before[opening:] and _TAG.match(before, opening):
        stop = text.find(">", end, end + _NEAR)
        if stop >= 0:
            alt = _ALT.search(before[opening:]) or _ALT.search(text, end, stop)
            return near + opening, stop + 1, (alt[1] or alt[2] or "") if alt else "", ""
    return text.index(",", start) + 1, end, "…", ""
