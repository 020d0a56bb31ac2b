"""BM25 over the chunks' words (bm25s), beside the dense index.

Words are lower-cased, stop words dropped and the rest stemmed; runs of scripts without spaces are indexed by their
pairs of characters (of Thai and the like by threes). It is built in memory in seconds, so it has no file of its own.
Equal scores are ordered by chunk id; a chunk that shares no word with the query is no hit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer

from data.loading.languages import main_language, snowball_of
from data.nouns import Hit
from data.text.alike import MARKS, alike
from data.text.unspaced import LETTER, in_pieces
from raft_errors import BadInput

logging.getLogger("bm25s").setLevel(logging.NOTSET)  # its import makes it talk; whoever sets up logging decides

_TOKEN = rf"\w[\w{MARKS}]+|{LETTER.pattern}"  # two characters or more, as bm25s has it, or one that is a word


class LexicalIndex:
    """BM25 index of texts under their ids.

    Args:
        chunk_ids: distinct ids, as many as texts.
        texts: what is searched; usually `passage_text(chunk)`.
        language: a Snowball language (`english`, `german`, ...), or `auto`: that of most texts, unstemmed where
            there is no stemmer. Stop words are dropped where bm25s has a list.
    """

    def __init__(self, chunk_ids: Sequence[str], texts: Sequence[str], *, language: str = "auto") -> None:
        if len(chunk_ids) != len(texts) or len(set(chunk_ids)) != len(chunk_ids):
            raise BadInput(
                f"{len(chunk_ids)} chunk ids ({len(set(chunk_ids))} distinct) for {len(texts)} texts",
                expected="one distinct id for each text",
                do="chunk the corpus again",
            )
        self._language = snowball_of(main_language(texts)) if language == "auto" else language
        self._stemmer = None
        if language != "auto" or self._language in Stemmer.algorithms():
            self._stemmer = _stemmer(self._language)
        order = sorted(range(len(chunk_ids)), key=lambda i: chunk_ids[i])  # so that row order is id order
        self._ids = [chunk_ids[i] for i in order]
        words = self._words([texts[i] for i in order])
        self._bm25: bm25s.BM25 | None = None
        if any(words):
            self._bm25 = bm25s.BM25()
            self._bm25.index(words, show_progress=False)

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, queries: Sequence[str], k: int, *, allowed: Sequence[str] | None = None) -> list[list[Hit]]:
        """At most k hits for each query, best first; none where no word of the query occurs in the corpus.

        Args:
            allowed: only these chunk ids may be found.
        """
        if k < 1:
            raise BadInput(f"k is {k}", expected="at least 1", do="ask for one hit or more")
        mask = None if allowed is None else ~np.isin(self._ids, list(allowed))
        return [self._one(words, k, mask) for words in self._words(queries)]

    def _one(self, words: list[str], k: int, mask: np.ndarray | None) -> list[Hit]:
        terms = [word for word in words if self._bm25 is not None and word in self._bm25.vocab_dict]
        if self._bm25 is None or not terms:
            return []
        scores = self._bm25.get_scores(terms)
        if mask is not None:
            scores[mask] = 0.0
        rows = np.flatnonzero(scores > 0)
        if len(rows) > k:  # every chunk level with the k-th stays in, so that the id decides which go
            border = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
            rows = rows[scores[rows] >= border]
        order = rows[np.lexsort((rows, -scores[rows]))][:k]
        return [Hit(self._ids[row], round(float(scores[row]), 6), rank) for rank, row in enumerate(order, 1)]

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        stopwords = self._language if self._language in _LANGUAGES_WITH_STOPWORDS else []
        return bm25s.tokenize(
            [in_pieces(alike(text)) for text in texts],
            token_pattern=_TOKEN,
            stopwords=stopwords,
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
        )


def _stemmer(language: str) -> Stemmer.Stemmer:
    try:
        return Stemmer.Stemmer(language)
    except KeyError as error:
        raise BadInput(
            f"There is no stemmer for language {language!r}",
            expected="auto, " + ", ".join(Stemmer.algorithms()),
            do="choose one of these",
        ) from error


# fmt: off
_LANGUAGES_WITH_STOPWORDS = frozenset({
    "danish", "dutch", "english", "french", "german", "italian",
    "norwegian", "portuguese", "russian", "spanish", "swedish", "turkish",
})
# fmt: on
