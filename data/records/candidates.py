"""Which passages may stand beside a question as distractors.

A distractor must not come from a document held out for a later split, must not repeat the oracle (same text or
overlapping span), and must not answer the question. Mined passages come first; where they run short, passages drawn
by consistent hashing fill the gap. Knows nothing of prompts or tokens.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from data.nouns import Chunk, Question, digest
from data.records.split_sides import SPLITS, Splits
from data.text.alike import alike
from data.text.normalisation import is_telling, normalise


class MinedLike(Protocol):
    """A mined distractor (`retrieval.mining.Mined`), best first in its list."""

    @property
    def chunk_id(self) -> str: ...

    @property
    def rank(self) -> int: ...

    @property
    def score(self) -> float: ...

    @property
    def mined_by(self) -> str: ...


@dataclass(frozen=True)
class ShownPassage:
    """A passage in its role, `oracle` or `distractor`; rank 0 where no search found it."""

    chunk: Chunk
    role: str
    mined_by: str = ""
    rank: int = 0
    score: float = 0.0


def is_unanswerable(question: Question) -> bool:
    """The right answer is the refusal; its gold chunks are then what it was asked about, not what answers it."""
    return question.kind == "unanswerable"


class Candidates:
    """Chooses distractors and counts what was left out (`left_out`: reason -> count)."""

    def __init__(
        self,
        chunks: Sequence[Chunk],
        hits: Mapping[str, Sequence[MinedLike]],
        splits: Splits,
        seed: int,
    ) -> None:
        self.chunks = {c.id: c for c in chunks}
        self.hits, self.seed = hits, str(seed)
        self.left_out: Counter[str] = Counter()
        self._text = {c.id: _flat(c.text) for c in chunks}
        self._words: dict[str, str] = {}  # normalised texts, made when first needed
        # A passage may be shown in its own split and in later ones; so may its twins, whichever document they are in.
        latest: dict[str, int] = {}
        for chunk in chunks:
            text, order = self._text[chunk.id], SPLITS.index(splits.side(chunk.id, chunk.document_id))
            latest[text] = max(order, latest.get(text, 0))
        self._order = {c.id: latest[self._text[c.id]] for c in chunks}
        self._pools = [sorted(c for c, o in self._order.items() if o <= i) for i in range(len(SPLITS))]

    def find(self, question: Question, split: str, count: int) -> list[ShownPassage]:
        """At most `count` distractors, best first, no two with the same text.

        Mined passages, retrieved and random, are used in the proportion in which they were mined, random ones last.
        """
        gold = [self.chunks[c] for c in question.gold_chunk_ids]
        # The passage that an unanswerable question was asked about is its hardest distractor.
        own_passages = [ShownPassage(c, "distractor", "asked_of", 1) for c in gold] if is_unanswerable(question) else []
        texts = {self._text[c.id] for c in gold}
        quotes = [_flat(q.text) for q in question.quotes]
        answers = [normalise(a) for a in (question.answers or (question.answer,))]
        answers = [a for a in answers if is_telling(a)]

        def usable(items: Iterable[ShownPassage]) -> Iterator[ShownPassage]:
            for item in items:
                reason = self._unfit(item.chunk, split, gold, texts, quotes, answers)
                if reason:
                    self.left_out[reason] += 1
                else:
                    texts.add(self._text[item.chunk.id])
                    yield item

        pool = list(usable(self._hits_of(question)))
        random_ones = [m for m in pool if m.mined_by == "random"]
        hits = [m for m in pool if m.mined_by != "random"]
        # A hash rounds the quota up or down, so that the share holds over many questions.
        draw = int(digest("random share", self.seed, question.id), 16) / 2**63
        quota = int(len(random_ones) / len(pool) * count + draw) if pool else 0
        distractors = [
            *own_passages,
            *hits[: max(0, count - quota)],
            *random_ones[:quota],
            *hits[max(0, count - quota) :],
        ]
        distractors = [*distractors, *random_ones[quota:]][:count]
        distractors += islice(usable(self._random_passages(question, split, count)), count - len(distractors))
        return sorted(distractors, key=lambda s: s.mined_by == "random")

    def _unfit(
        self,
        chunk: Chunk,
        split: str,
        gold: Sequence[Chunk],
        texts: Collection[str],
        quotes: Sequence[str],
        answers: Sequence[str],
    ) -> str:
        """Why the passage may not stand beside the question, or an empty text."""
        text = self._text[chunk.id]
        if self._order[chunk.id] > SPLITS.index(split):
            return "held_out_document"
        if text in texts:
            return "duplicate"
        if any(_overlap(chunk, g) for g in gold):
            return "overlaps_oracle"
        if any(q in text for q in quotes):
            return "holds_quote"
        if answers:
            words = self._words.get(chunk.id)
            if words is None:
                words = self._words[chunk.id] = f" {normalise(chunk.text)} "
            if any(f" {a} " in words for a in answers):
                return "holds_answer"
        return ""

    def _hits_of(self, question: Question) -> Iterator[ShownPassage]:
        for hit in self.hits.get(question.id, ()):
            chunk = self.chunks.get(hit.chunk_id)
            if chunk is None:
                self.left_out["not_in_corpus"] += 1
            else:
                yield ShownPassage(chunk, "distractor", hit.mined_by, int(hit.rank), round(float(hit.score), 6))

    def _random_passages(self, question: Question, split: str, count: int) -> Iterator[ShownPassage]:
        # Consistent hashing over ids: a document that comes or goes moves few of these.
        pool = self._pools[SPLITS.index(split)]
        for attempt in range(20 * count if pool else 0):
            place = bisect.bisect_left(pool, digest("fill", self.seed, question.id, str(attempt))) % len(pool)
            yield ShownPassage(self.chunks[pool[place]], "distractor", "random")


def _flat(text: str) -> str:
    return alike(text).casefold()


def _overlap(a: Chunk, b: Chunk) -> bool:
    return a.document_id == b.document_id and a.start < b.end and b.start < a.end
