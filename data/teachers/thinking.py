"""Takes what a model thought aloud out of its reply: blocks in any of the tags that models use, whole or half.

A tag that is only spoken of (inside JSON, a quote, quotation marks or backticks) is a word like any other.
"""

from __future__ import annotations

import json
import re

_NAMES = (
    "think|thinking|thought|thoughts|reasoning|reason|reflection|analysis|scratchpad|inner_monologue|internal_monologue"
    "|seed:think|seed:thinking|antml:thinking|ant_thinking"
)
_MENTION_BEFORE, _MENTION_AFTER = r"(?<![`\"'“‘«])", r"(?![`\"'”’»])"
_PAIRS = (
    (rf"<(?:{_NAMES})(?:\s[^<>]*)?>", rf"</(?:{_NAMES})\s*>"),
    (r"\[think(?:ing)?\]", r"\[/think(?:ing)?\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|(?:begin_of_thought|start_thinking)\|>", r"<\|(?:end_of_thought|end_thinking)\|>"),
    (r"<\|think(?:ing)?\|>", r"<\|/think(?:ing)?\|>"),
    (r"<unused94>", r"<unused95>"),
    (r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)\b[^<]*<\|message\|>", r"<\|end\|>"),
)
_TAGS = tuple(
    tuple(re.compile(_MENTION_BEFORE + "(?:" + tag + ")" + _MENTION_AFTER, re.IGNORECASE) for tag in pair)
    for pair in _PAIRS
)
_FRAME = re.compile(  # what stands around the reply proper where a model names its parts
    r"(?:<\|start\|>assistant)?<\|channel\|>final\b[^<]*<\|message\|>|<\|(?:begin_of_solution|start_response)\|>"
    r"|<\|(?:end_of_solution|end_response|return|end)\|>",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"\s*<(answer|response|output|final|final_answer)>(.*?)(?:</\1>\s*)?", re.DOTALL | re.IGNORECASE)
_QUOTE = re.compile(r"<quote>(?:(?!</quote>).)*|##begin_quote##(?:(?!##end_quote##).)*", re.DOTALL | re.IGNORECASE)


def without_thinking(reply: str) -> str:
    """The reply proper; "" where it is all thinking, and the reply as it is where nothing was thought aloud.

    A whole block goes, wherever it stands; so does all that comes before a closing tag without an opening one (chat
    templates open the block themselves), and all that follows an opening tag that is never closed.
    """
    if not any(tag.search(reply) for pair in _TAGS for tag in pair) or _is_json(reply):
        return reply
    text = reply
    for opening, closing in _TAGS:
        text = _without_blocks(text, opening, closing)
    text = _FRAME.sub("", text).strip()
    wrapped = _WRAPPED.fullmatch(text)
    return wrapped.group(2).strip() if wrapped else text


def _without_blocks(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    marks = sorted(
        [(match.start(), match.end(), True) for match in opening.finditer(text) if not _quoted(text, match.start())]
        + [(match.start(), match.end(), False) for match in closing.finditer(text) if not _quoted(text, match.start())]
    )
    kept, resume, block = "", 0, -1  # block: where the one began that is open
    for start, end, opens in marks:
        if opens and block < 0:
            kept, block = kept + text[resume:start], start
        elif not opens:  # where nothing opened it, all before it was thought
            kept = kept if block >= 0 else ""
            block, resume = -1, end
    if block < 0:
        return kept + text[resume:]
    begins_line = not text[:block].rpartition("\n")[2].strip()
    return kept if begins_line else kept + text[block:]


def _quoted(text: str, place: int) -> bool:
    """Whether the place is within a quote that the reply gives."""
    return any(match.start() < place < match.end() for match in _QUOTE.finditer(text))


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):  # a small model may repeat a bracket without end
        return False
