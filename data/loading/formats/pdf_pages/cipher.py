"""Whether a text layer is in cipher: letters that are others than those on the page, because a font names them wrongly.

Told by the letters alone: they are spread as in no language that is written in Latin letters, and no language is
recognised. What is done about it is the caller's business.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator

from data.loading.languages import language_of

_FREQUENCIES = {
    "a": 84, "b": 22, "c": 28, "d": 42, "e": 114, "f": 7, "g": 25, "h": 23, "i": 100, "j": 7, "k": 10, "l": 38, "m": 34,
    "n": 79, "o": 66, "p": 15, "q": 1, "r": 66, "s": 78, "t": 58, "u": 43, "v": 26, "w": 9, "x": 1, "y": 11, "z": 13,
}  # fmt: skip
"""Letters in a thousand, mean of English and 14 other languages; every one of these is at .80 or more of it."""
_LENGTH = math.sqrt(sum(n * n for n in _FREQUENCIES.values()))
_LEAST_LIKENESS = 0.78
_SUSPECT_LIKENESS = 0.75
_LEAST_LIKENESS_OF_FEW = 0.62
_FEWEST_LETTERS, _ENOUGH_LETTERS = 40, 80
_WORD = re.compile(r"[^\W\d_]+")
_NO_CHARACTERS = re.compile("[\ue000-\uf8ff\ufffd\x01-\x08\x0e-\x1f]|\\(cid:\\d+\\)")
_LATIN = re.compile("[a-zA-Z]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_WINDOW = 250


def is_cipher(text: str) -> bool:
    """Whether `text` is long enough to tell, looks like words, and is none of any language.

    Example:
        is_cipher("Uif wbmwf dmptft xifo uif xbufs jt ipuufs uibo ojofuz efhsfft, boe pqfot bt ju dppmt epxo bhbjo.")
    """
    solid = len("".join(text.split()))
    if solid >= _FEWEST_LETTERS and sum(map(len, _NO_CHARACTERS.findall(text))) > 0.3 * solid:
        return True
    foreign = [char for char in _NOT_ASCII.findall(text) if char.isalpha()]
    letters = len(_LATIN.findall(text)) + len(foreign)
    least = _LEAST_LIKENESS if letters >= _ENOUGH_LETTERS else _LEAST_LIKENESS_OF_FEW
    if letters < _FEWEST_LETTERS or (len(foreign) <= letters / 2 and likeness(text) >= least):
        return False
    other = sum("LATIN" not in unicodedata.name(char, "") for char in foreign)
    if other > 0.2 * letters or not _looks_like_words(text, letters, solid):
        return False
    return len(foreign) > letters / 2 or language_of(text) is None  # the first: Cyrillic in letters of Windows-1252


def may_hold_cipher(text: str) -> bool:
    """Whether a part of `text` is suspect, though the whole may not be: cheap, and wrong now and then."""
    return bool(_NO_CHARACTERS.search(text)) or any(likeness(part) < _SUSPECT_LIKENESS for part in _windows(text))


def likeness(text: str) -> float:
    """Cosine of the frequencies of the basic Latin letters in `text` and in languages; 1 without such letters."""
    plain = text if text.isascii() else unicodedata.normalize("NFD", text)
    plain = plain.lower()
    counts = {char: plain.count(char) for char in _FREQUENCIES}
    size = math.sqrt(sum(n * n for n in counts.values())) * _LENGTH
    return sum(n * _FREQUENCIES[char] for char, n in counts.items()) / size if size else 1.0


def _windows(text: str) -> Iterator[str]:
    for start in range(0, len(text), _WINDOW):
        part = text[start : start + _WINDOW]
        if len(_LATIN.findall(part)) >= _ENOUGH_LETTERS:
            yield part


def _looks_like_words(text: str, letters: int, solid: int) -> bool:
    """Not numbers, sequences or keys: mostly letters, of several kinds, in words of a usual length and case."""
    words = _WORD.findall(text)
    usual = sum(word.islower() or word.istitle() or word.isupper() for word in words)
    return (
        letters > 0.6 * solid
        and len(set(text.lower()) - set(" \n\r\t")) >= 12
        and 2.5 <= letters / len(words) <= 12
        and usual > 0.7 * len(words)
    )
