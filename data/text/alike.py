"""Texts that look the same made the same: the one form in which words are compared, wherever they are.

Composed and decomposed letters, curly and straight quotation marks, all the dashes, full-width letters, ligatures and
characters nobody sees are unified; super- and subscripts and fractions stay, since 10⁵ is not 105. ASCII text is left
as it is. What is shown or kept is always the text itself, never this form of it.
"""

from __future__ import annotations

import functools
import re
import unicodedata

_UNSEEN = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_PLAIN = {
    **dict.fromkeys("“”„‟«»″＂", '"'),
    **dict.fromkeys("‘’‚‛′´＇", "'"),
    **dict.fromkeys("‐‑‒–—―−﹣－", "-"),
    **dict.fromkeys(_UNSEEN, ""),
    "…": "...",
}
_KEPT = (
    *("<super>", "<sub>", "<fraction>", "<circle>"),  # unified, they would read as another number
    "<compat> 0020 ",  # accents that stand alone
)
_LAST_COMPATIBLE = 0x20000  # above, no character is another one's compatibility form

MARKS = "".join(c for c in map(chr, range(0x300, 0x10000)) if unicodedata.category(c)[0] == "M")
"""Characters of the basic plane that belong to the letter before them: accents, vowel signs, tone marks."""

_JOINING = rf"{MARKS}{_UNSEEN}\u1160-\u11ff\uff9e\uff9f"  # what may compose with what stands before it
_CLUSTER = re.compile(rf"[^{_JOINING}]?[{_JOINING}]+|\s+|[^\x00-\x7f]")
_RUN = r"\u3005-\u3007\u3040-\u3098\u309b-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"  # Han, kana
_INNER_SPACE = re.compile(rf"(?<=[{_RUN}，。、；：？！]) (?=[{_RUN}，。、；：？！])")


def alike(text: str) -> str:
    """The text as it is compared: look-alike characters unified, runs of white space shortened to one space."""
    if text.isascii():
        return " ".join(text.split())
    plain = " ".join(unicodedata.normalize("NFC", text).translate(_table()).split())
    return _INNER_SPACE.sub("", unicodedata.normalize("NFC", plain))


def alike_with_origins(text: str) -> tuple[str, list[int], list[int]]:
    """`alike(text)`, but that space at both ends stays, and where each of its characters begins and ends in `text`."""
    characters: list[str] = []
    starts: list[int] = []
    ends: list[int] = []

    def put(form: str, start: int, end: int) -> None:
        for character in form:
            if character != " " or not characters or characters[-1] != " ":
                characters.append(character)
                starts.append(start)
                ends.append(end)

    at = 0
    for match in _CLUSTER.finditer(text):
        for offset in range(at, match.start()):
            put(text[offset], offset, offset + 1)
        put(_unified(match.group()), *match.span())
        at = match.end()
    for offset in range(at, len(text)):
        put(text[offset], offset, offset + 1)
    whole = "".join(characters)
    inner = {match.start() for match in _INNER_SPACE.finditer(whole)}
    kept = [place for place in range(len(whole)) if place not in inner] if inner else range(len(whole))
    return (
        "".join(whole[place] for place in kept),
        [starts[place] for place in kept],
        [ends[place] for place in kept],
    )


def _unified(cluster: str) -> str:
    """A letter with what belongs to it, or white space, as it is compared."""
    if cluster.isspace():
        return " "
    composed = unicodedata.normalize("NFC", cluster).translate(_table())
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", composed))


@functools.cache
def _table() -> dict[int, str]:
    """Character -> what it is compared as, for those that are compared as something else."""
    table = {ord(character): plain for character, plain in _PLAIN.items()}
    for code in range(0x80, _LAST_COMPATIBLE):
        mapping = unicodedata.decomposition(chr(code))
        if mapping.startswith("<") and not mapping.startswith(_KEPT):
            table.setdefault(code, unicodedata.normalize("NFKC", chr(code)))
    return table
