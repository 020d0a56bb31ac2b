"""Words as the question filters see them: one-line text, content words, stems. Knows no chunks and no questions."""

from __future__ import annotations

import functools
import re
import unicodedata

import Stemmer

_STOP_WORDS = """
a about above after again against all also am an and any are as at be because been before being below between
both but by can cannot could did do does doing done down during each else few for from further had has have
having he her here hers him his how i if in into is it its itself just let may me might more most must my no
nor not now of off on once only onto or other ought our ours out over own per same shall she should so some
such than that the their theirs them then there these they this those through to too under until unless up
upon us very was we were what when where whether which while who whom whose why will with within without would
yes yet you your yours
"""
_STOP = frozenset(_STOP_WORDS.split())
_WORD = re.compile(r"[^\W_](?:[\w'’]|[.\-](?=\w))*|__?\w+", re.UNICODE)


def flat(text: str) -> str:
    """On one line: runs of space made one space, a word cut by a hyphen at a line's end made whole."""
    return re.sub(r"\s+", " ", re.sub(r"(?<=\w)-\s*\n\s*(?=[a-z])", "-", text)).strip()


@functools.lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """Lower case, without accents' variants, Snowball English stem; other scripts come back as they are."""
    word = unicodedata.normalize("NFKC", word).lower().strip("_'’-.").replace("’", "'").removesuffix("'s")
    return _stemmer().stemWord(word)


@functools.cache
def _stemmer() -> Stemmer.Stemmer:
    return Stemmer.Stemmer("english")


def words(text: str) -> list[str]:
    """The words in order, as written."""
    return _WORD.findall(text)


def content_words(text: str) -> frozenset[str]:
    """Stems of the words that carry meaning (stop words left out)."""
    return frozenset(s for w in words(text) if w.lower() not in _STOP and (s := stem(w)))


def is_stop_word(word: str) -> bool:
    """Whether a word carries no meaning of its own."""
    return word.lower() in _STOP


def stems(text: str) -> list[str]:
    """Stems of all the words, in order."""
    return [s for w in words(text) if (s := stem(w))]
