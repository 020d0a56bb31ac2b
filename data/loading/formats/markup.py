"""Markdown, reStructuredText and AsciiDoc as their reader sees them: without comments, and in Markdown without what is
hidden or struck out. Code is left as it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from data.loading.raised import lowered, raised

_CODE, _CODE_END = "\ufdd4", "\ufdd5"  # noncharacters around the number of a piece of code that was set aside
_GONE = "\ufdd6"  # where something was left out
_GONE_WITH_ITS_SPACE = re.compile(f"[ \t]?{_GONE}+(?=[\\s.,;:!?)]|\\Z)")
_PLACE = re.compile(f"{_CODE}(\\d+){_CODE_END}")
_MARK = re.compile(
    r"^[ \t>]*(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})[^\n]*$|(?P<escaped>\\[`<~])|(?P<ticks>`+)|(?P<comment><!--)"
    r"|^ {0,3}\[(?://|comment)\]:[ \t]*(?P<label>#|<>)[^\n]*$|(?<=\n\n)(?P<indented>(?:(?: {4}|\t)[^\n]*(?:\n|\Z))+)",
    re.MULTILINE | re.IGNORECASE,
)
_LIST_LINE = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s|\s")
_STRUCK = re.compile(r"<(del|s|strike)(?:\s[^<>]*)?>.{0,5000}?</\1\s*>", re.DOTALL | re.IGNORECASE)
_TILDES = re.compile(r"(?<![~\\])~~(?=[^\s~])(?:[^~\n]|\n(?!\s*\n)){1,2000}?(?<=\S)~~(?!~)")
_HIDDEN = re.compile(
    r"<([a-z][a-z0-9]*)(?=\s)(?:\s[^<>]{0,300})?(?:\shidden(?=[\s>/])|\sstyle\s*=\s*[\"'][^\"'<>]{0,200}display\s*:\s*none"
    r"[^\"'<>]{0,200}[\"'])[^<>]{0,300}>.{0,5000}?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_RAISED = re.compile(r"<(sup|sub)>([^<>\n]{1,200})</\1>", re.IGNORECASE)
_RST = re.compile(r"(\s*)\.\.(?:[ \t]+(\S.*))?[ \t]*$")
_RST_MARKUP = re.compile(r"[\w:+.-]+(?:\s*)::|\[[^\]]+\](?:\s|$)|__|_[^:]*:|_`[^`]+`:|\|[^|]+\|")
_RST_LITERAL = re.compile(r"(?:.*(?<!^\.\.)::|\s*\.\.\s+(?:code-block|code|sourcecode|parsed-literal|prompt)::.*)\s*$")


def shown_markdown(text: str) -> tuple[str, dict[str, int]]:
    """The text without comments, hidden and struck-out words, raised text marked; and what was left out."""
    left_out: Counter[str] = Counter()
    code: list[str] = []
    prose = "".join(_prose(text, code, left_out))
    for name, kind in (("svg", "embedded files"), ("style", "hidden"), ("script", "hidden")):
        prose = _without_elements(prose, name, kind, left_out)
    for pattern, kind in ((_HIDDEN, "hidden"), (_STRUCK, "struck out"), (_TILDES, "struck out")):
        if pattern is _TILDES or "<" in prose:
            prose, count = pattern.subn(_GONE, prose)
            left_out[kind] += count
    prose = _RAISED.sub(lambda mark: raised(mark[2]) if mark[1].lower() == "sup" else lowered(mark[2]), prose)
    prose = _GONE_WITH_ITS_SPACE.sub("", prose).replace(_GONE, "")
    return _PLACE.sub(lambda place: code[int(place[1])], prose), dict(+left_out)


def _without_elements(text: str, name: str, kind: str, left_out: Counter[str]) -> str:
    """The text without elements whose content is no text."""
    if f"</{name}" not in text.lower():
        return text
    parts: list[str] = []
    position = 0
    closing = re.compile(rf"</{name}\s*>", re.IGNORECASE)
    for opening in re.finditer(rf"<{name}(?=[\s>])", text, re.IGNORECASE):
        if opening.start() < position:
            continue
        end = closing.search(text, opening.end())
        if not end:
            break
        parts += [text[position : opening.start()], _GONE]
        position = end.end()
        left_out[kind] += 1
    return "".join(parts) + text[position:]


def _prose(text: str, code: list[str], left_out: Counter[str]) -> Iterator[str]:
    """The text with its code set aside and its comments left out."""
    text = re.sub(f"[{_CODE}{_CODE_END}{_GONE}]", "", text)
    position = 0
    last_comment = text.rfind("-->")
    while mark := _MARK.search(text, position):
        yield text[position : mark.start()]
        position, kind = mark.end(), mark.lastgroup
        if kind in ("comment", "label"):
            if kind == "comment" and mark.end() > last_comment + 2:
                yield mark[0]
                continue
            if kind == "comment":
                position = text.index("-->", mark.start() + 2) + 3
            left_out["comments"] += 1
            line = text[text.rfind("\n", 0, mark.start()) + 1 : mark.start()]
            if not line.strip() and text[position : position + 1] == "\n":
                position += 1  # the comment was the whole line
            else:
                yield _GONE
            continue
        if kind == "fence":
            closing = re.compile(rf"^[ \t>]*{mark['fence'][0]}{{{len(mark['fence'])},}}[ \t]*$", re.MULTILINE)
            end = closing.search(text, position)
            position = end.end() if end else len(text)
        elif kind == "ticks":
            paragraph = text.find("\n\n", position)
            ticks = re.compile(rf"(?<!`){mark['ticks']}(?!`)")
            end = ticks.search(text, position, len(text) if paragraph < 0 else paragraph)
            position = end.end() if end else position
        elif kind == "indented" and _LIST_LINE.match(_line_before(text, mark.start())):
            position = mark.start() + 1  # it goes on with an item of a list
            yield text[mark.start()]
            continue
        code.append(text[mark.start() : position])
        yield f"{_CODE}{len(code) - 1}{_CODE_END}"
    yield text[position:]


def _line_before(text: str, place: int) -> str:
    """The last line with words before a place, as far as it is near."""
    return text[max(0, place - 2000) : place].rstrip().rpartition("\n")[2]


def shown_rst(text: str) -> tuple[str, dict[str, int]]:
    """reStructuredText without its comments."""
    kept: list[str] = []
    count = 0
    literal = comment = -1  # indentation of the line that a literal block or comment belongs to
    for line, after in pairwise([*text.split("\n"), ""]):
        indent = len(line) - len(line.lstrip())
        if comment >= 0 and (not line.strip() or indent > comment):
            continue
        comment = -1
        if literal >= 0 and (not line.strip() or indent > literal):
            kept.append(line)
            continue
        literal = -1
        start = _RST.match(line)
        # dots alone begin a comment where the next line is indented; before an empty line they are empty themselves
        is_alone = bool(start and not start[2] and after.strip() and len(after) - len(after.lstrip()) > indent)
        if start and (is_alone or (start[2] and not _RST_MARKUP.match(start[2]))):
            comment, count = indent, count + 1
            continue
        if _RST_LITERAL.match(line):
            literal = indent
        kept.append(line)
    return "\n".join(kept), {"comments": count} if count else {}


def shown_asciidoc(text: str) -> tuple[str, dict[str, int]]:
    """AsciiDoc without its comments."""
    kept: list[str] = []
    count = 0
    block = ""
    for line in text.split("\n"):
        fence = line.rstrip() if re.fullmatch(r"(/{4,}|-{4,}|\.{4,}|\+{4,}|`{3,})\s*", line) else ""
        if block:
            if not block.startswith("/"):
                kept.append(line)
            block = "" if fence == block else block
        elif fence:
            block = fence
            if fence.startswith("/"):
                count += 1
            else:
                kept.append(line)
        elif line.startswith("//") and not line.startswith("///"):
            count += 1
        else:
            kept.append(line)
    return "\n".join(kept), {"comments": count} if count else {}
