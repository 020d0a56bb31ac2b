"""Words as the question filters see them: one-line text, content words, stems. Knows no chunks and no questions.

A language is told by its ISO 639 code, and decides stop words and stemmer. Scripts without spaces have no words here
but pieces of their runs (`data.text.unspaced`), whatever the language.
"""

from __future__ import annotations

import functools
import re
import unicodedata

import Stemmer

from data.loading.languages import snowball_of
from data.text.alike import MARKS, alike
from data.text.question_words import QUESTION_WORDS
from data.text.unspaced import NUMERALS, in_pieces

_STOP_WORDS = """
a about above after again against all also am an and any are as at be because been before being below between
both but by can cannot could did do does doing done down during each else few for from further had has have
having he her here hers him his how i if in into is it its itself just let may me might more most must my no
nor not now of off on once only onto or other ought our ours out over own per same shall she should so some
such than that the their theirs them then there these they this those through to too under until unless up
upon us very was we were what when where whether which while who whom whose why will with within without would
yes yet you your yours
"""
_WORD = re.compile(rf"[^\W_](?:[\w'’{MARKS}]|[.\-](?=\w))*|__?\w+", re.UNICODE)
_UNSEEN = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")


def flat(text: str) -> str:
    """On one line: runs of space made one space, a word cut by a hyphen at a line's end made whole."""
    return re.sub(r"\s+", " ", re.sub(r"(?<=\w)-\s*\n\s*(?=[a-z])", "-", text)).strip()


@functools.lru_cache(maxsize=200_000)
def stem(word: str, language: str = "en") -> str:
    """Lower case, without accents' variants, Snowball stem of the language; other scripts come back as they are."""
    word = alike(word).lower().strip("_'-.").removesuffix("'s")
    stemmer = _stemmer(language)
    return stemmer.stemWord(word) if stemmer else word


@functools.cache
def _stemmer(language: str) -> Stemmer.Stemmer | None:
    name = snowball_of(language)
    return Stemmer.Stemmer(name) if name in Stemmer.algorithms() else None


@functools.cache
def _stop_words(language: str) -> frozenset[str]:
    if language == "en":
        return frozenset(_STOP_WORDS.split())
    from bm25s import stopwords

    lists = {
        "da": stopwords.STOPWORDS_DANISH, "de": stopwords.STOPWORDS_GERMAN, "es": stopwords.STOPWORDS_SPANISH,
        "fr": stopwords.STOPWORDS_FRENCH, "it": stopwords.STOPWORDS_ITALIAN, "nl": stopwords.STOPWORDS_DUTCH,
        "no": stopwords.STOPWORDS_NORWEGIAN, "nb": stopwords.STOPWORDS_NORWEGIAN, "nn": stopwords.STOPWORDS_NORWEGIAN,
        "pt": stopwords.STOPWORDS_PORTUGUESE, "ru": stopwords.STOPWORDS_RUSSIAN, "sv": stopwords.STOPWORDS_SWEDISH,
        "tr": stopwords.STOPWORDS_TURKISH,
    }  # fmt: skip
    return frozenset(word.lower() for word in lists.get(language, ())) | QUESTION_WORDS.get(language, frozenset())


def has_stop_words(language: str) -> bool:
    """Whether the words of a language that carry no meaning are known."""
    return bool(_stop_words(language))


def words(text: str) -> list[str]:
    """The words in order, as written; of a run without spaces its pieces."""
    return _WORD.findall(text if text.isascii() else in_pieces(_as_typed(text)))


def _as_typed(text: str) -> str:
    """Composed letters, nothing unseen, and the hyphens that a keyboard has."""
    text = _UNSEEN.sub("", unicodedata.normalize("NFC", text)).replace("‐", "-").replace("‑", "-")
    return re.sub(r"(?<=\d)[–−](?=\d)", "-", text)


def content_words(text: str, language: str = "en") -> frozenset[str]:
    """Stems of the words that carry meaning (stop words left out)."""
    stop = _stop_words(language)
    return frozenset(s for w in words(text) if w.lower() not in stop and (s := stem(w, language)))


def numbers(text: str) -> frozenset[str]:
    """The numbers of a text: in digits, however their thousands are parted, and in Chinese numerals."""
    plain = alike(text)
    return frozenset(_FIGURES.findall(re.sub(r"(?<=\d),(?=\d{3})", "", plain))) | numerals(plain)


def numerals(text: str) -> frozenset[str]:
    """The runs of Chinese numerals, but for a bare one, which as often means "a", "whole" or "same"."""
    return frozenset() if text.isascii() else frozenset(_NUMERALS.findall(text)) - {"一"}


_FIGURES = re.compile(r"\d+(?:[.,]\d+)*")
_NUMERALS = re.compile(f"[{NUMERALS}]+")


def is_stop_word(word: str) -> bool:
    """Whether an English word carries no meaning of its own."""
    return word.lower() in _stop_words("en")


def stems(text: str, language: str = "en") -> list[str]:
    """Stems of all the words, in order."""
    return [s for w in words(text) if (s := stem(w, language))]
