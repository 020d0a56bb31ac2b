"""Signs that look like inline markup and are none: the `$` of `$40`, the `~` of `~5`, a lone `*` or `_`.

The Markdown splitter takes them for the start of an element and cuts behind them, which parts a sign from its amount.
It is therefore given a copy of the text in which they are other signs, as long and joined to what follows.
"""

from __future__ import annotations

import re

# connector punctuation: no markup, and by Unicode's rules no word ends between it and a letter or digit
_STAND_INS = {"$": "\u203f", "~": "\ufe4d", "*": "\ufe4e", "_": "\ufe4f"}
_TO_STAND_INS = str.maketrans(_STAND_INS)
_FROM_STAND_INS = str.maketrans({stand_in: sign for sign, stand_in in _STAND_INS.items()})
_BEFORE_NUMBER = re.compile(
    r"(?<![\\$])\$(?=\d|[.,]\d)(?![^$\n]{0,200}[^\s$]\$(?![\d.,]*\d))"  # `$2^n$` is an equation
    r"|(?<![\\~\w])~(?=\d)(?![^~\n]{0,200}[^\s~]~(?!\w))"
)
_BEFORE_WORD = re.compile(r"(?<![\\\w*_])([*_])(?=\w)")
_PARAGRAPH = re.compile(r"(?:[^\n]+\n?)+")


def hide_loose_marks(text: str) -> str:
    """The text with other signs, of the same length, for marks that are no markup."""
    if not any(sign in text for sign in _STAND_INS) or any(sign in text for sign in _STAND_INS.values()):
        return text
    text = _BEFORE_NUMBER.sub(lambda mark: mark[0].translate(_TO_STAND_INS), text)
    return _PARAGRAPH.sub(_hide_lone, text) if _BEFORE_WORD.search(text) else text


def show_loose_marks(text: str) -> str:
    """The marks of `hide_loose_marks` back in their places."""
    return text.translate(_FROM_STAND_INS)


def _hide_lone(paragraph: re.Match[str]) -> str:
    """A paragraph in which a mark that no other one can close is hidden."""
    lone = {mark for mark in "*_" if paragraph[0].count(mark) == 1}
    return _BEFORE_WORD.sub(lambda mark: mark[1].translate(_TO_STAND_INS) if mark[1] in lone else mark[1], paragraph[0])
