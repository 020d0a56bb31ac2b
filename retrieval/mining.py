"""Distractors for each question, mined from the retriever that the model will live with.

A distractor is a passage that the retriever would really put beside the oracle and that, as far as strings can tell,
does not answer the question. Each question draws from its own random stream, so that adding a question or a document
changes the distractors of other questions only where it changes what the retriever finds.
"""

from __future__ import annotations

import bisect
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from data.nouns import Chunk, Hit, Noun, Progress, Question, Search, digest
from data.text.unspaced import in_pieces
from raft_errors import BadInput
from retrieval.overlap import answer_needles, contains, folded, is_near_duplicate, shingles

log = logging.getLogger("raft.retrieval")

_QUERIES_A_CALL = 1024
_RANDOM_TRIES = 50  # draws for each random distractor before we give up


@dataclass(frozen=True)
class Mined(Noun):
    """One distractor, mined_by `retrieved` or `random`. rank and score are the retriever's; 0 for a random one."""

    chunk_id: str
    rank: int
    score: float
    mined_by: str


@dataclass(frozen=True)
class MiningOptions:
    """How distractors are chosen.

    Attributes:
        first_rank, last_rank: window of ranks, 1-based and inclusive, from which retrieved distractors come. A later
            first_rank gives easier and safer ones.
        relative_margin: keep only hits that score at most this share of the best gold chunk's score (0.95 is usual);
            None switches it off. Without a gold chunk in the window the best hit's score is used.
        random_share: share of the distractors drawn from the whole corpus, so that there are easy ones too.
        distinct_documents: prefer one passage per document, none of a gold document, until the window is used up.
        near_duplicate_jaccard, near_duplicate_containment: character 5-gram overlap with an oracle, or with a
            distractor already selected, from which on a passage is refused.
        min_answer_characters: passages are not searched for answers shorter than this.
    """

    first_rank: int = 1
    last_rank: int = 50
    relative_margin: float | None = None
    random_share: float = 0.2
    distinct_documents: bool = True
    near_duplicate_jaccard: float = 0.7
    near_duplicate_containment: float = 0.85
    min_answer_characters: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.first_rank <= self.last_rank:
            raise BadInput(f"Rank window {self.first_rank}..{self.last_rank}", expected="1 <= first_rank <= last_rank")
        if not 0 <= self.random_share <= 1:
            raise BadInput(f"random_share is {self.random_share}", expected="between 0 and 1")
        if self.relative_margin is not None and not 0 < self.relative_margin <= 1:
            raise BadInput(f"relative_margin is {self.relative_margin}", expected="above 0, at most 1, or none")


def mine_distractors(
    questions: Sequence[Question],
    chunks: Sequence[Chunk],
    search: Search,
    *,
    count: int,
    seed: int,
    options: MiningOptions | None = None,
    counts: Counter[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, list[Mined]]:
    """At most `count` distractors for each question id, in order of preference.

    Retrieved ones come hardest first, with the random ones spread among them, so that a caller who takes only the first
    few keeps about the same share of random ones.

    Args:
        chunks: the whole corpus behind `search`.
        search: the production retriever's.
        seed: of the random ones; each question's stream depends on seed and question id only.
        counts: filled with the numbers of candidates selected (`retrieved`, `random`) and refused (`refused:<reason>`),
            and of questions that are `short` of `count`.

    A corpus that is too small or too uniform gives fewer: compare the length.
    """
    if count < 0:
        raise BadInput(f"count is {count} distractors", expected="0 or more")
    options = options or MiningOptions()
    tally: Counter[str] = Counter() if counts is None else counts
    corpus = _Corpus(chunks)
    distractors: dict[str, list[Mined]] = {}
    for begin in range(0, len(questions), _QUERIES_A_CALL):
        block = questions[begin : begin + _QUERIES_A_CALL]
        rankings = search([q.question for q in block], options.last_rank) if count else [[] for _ in block]
        for question, hits in zip(block, rankings):
            distractors[question.id] = _mine_one(question, hits, corpus, count, seed, options, tally)
        if progress:
            progress(begin + len(block), len(questions), "mine distractors")
    if tally["short"]:
        log.warning("%d of %d questions have fewer than %d distractors", tally["short"], len(questions), count)
    return distractors


def _mine_one(
    question: Question,
    hits: Sequence[Hit],
    corpus: _Corpus,
    count: int,
    seed: int,
    options: MiningOptions,
    tally: Counter[str],
) -> list[Mined]:
    rng = random.Random(digest("distractors", str(seed), question.id))
    selection = _Selection(question, corpus, options)
    slots = ["random" if rng.random() < options.random_share else "retrieved" for _ in range(count)]
    quota = slots.count("retrieved")
    near: list[Mined] = []
    ceiling = _ceiling(question, hits, options)
    window = [hit for hit in hits if options.first_rank <= hit.rank <= options.last_rank]
    window = [hit for hit in window if hit.chunk_id in corpus.chunks]
    refusals: dict[str, str] = {}
    for strict in (True, False) if options.distinct_documents else (False,):
        for hit in window:
            if len(near) >= quota:
                break
            reason = "margin" if hit.score > ceiling else selection.refuses(hit.chunk_id, new_document=strict)
            if reason:
                refusals[hit.chunk_id] = reason
                continue
            refusals.pop(hit.chunk_id, None)
            selection.add(hit.chunk_id)
            near.append(Mined(hit.chunk_id, hit.rank, hit.score, "retrieved"))
    near.sort(key=lambda m: m.rank)
    tally["retrieved"] += len(near)
    tally.update(f"refused:{reason}" for reason in refusals.values() if reason not in ("taken", "document"))
    far: list[Mined] = []
    gap = count - len(near)
    for chunk_id in corpus.draw(rng, _RANDOM_TRIES * gap):
        if len(far) >= gap:
            break
        if not selection.refuses(chunk_id, new_document=False):
            selection.add(chunk_id)
            far.append(Mined(chunk_id, 0, 0.0, "random"))
    tally["random"] += len(far)
    tally["short"] += len(near) + len(far) < count
    return _in_slots(slots, near, far)


def _in_slots(slots: Sequence[str], near: Sequence[Mined], far: Sequence[Mined]) -> list[Mined]:
    """Both lists in their order, each in its own slots; if one runs out, the rest of the other comes last."""
    sources = {"retrieved": list(near), "random": list(far)}
    in_order = [sources[slot].pop(0) for slot in slots if sources[slot]]
    return [*in_order, *sources["retrieved"], *sources["random"]]


def _ceiling(question: Question, hits: Sequence[Hit], options: MiningOptions) -> float:
    """The highest score a distractor may have."""
    if options.relative_margin is None or not hits:
        return float("inf")
    gold = [hit.score for hit in hits if hit.chunk_id in question.gold_chunk_ids]
    return options.relative_margin * max(gold, default=max(hit.score for hit in hits))


class _Corpus:
    """Chunks with their folded text and shingles, computed when first needed, and a stable way to draw at random."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = {chunk.id: chunk for chunk in chunks}
        # A hash ring: a draw is the chunk after a random point. Unlike an index into a list, it stays the same when
        # others come and go, so an edited corpus leaves most records as they were.
        self._ring = sorted((int(digest("ring", chunk_id), 16), chunk_id) for chunk_id in self.chunks)
        self.folded = lru_cache(maxsize=50_000)(lambda chunk_id: folded(self.chunks[chunk_id].text))
        self.shingles = lru_cache(maxsize=5_000)(lambda chunk_id: shingles(self.folded(chunk_id)))

    def draw(self, rng: random.Random, times: int) -> Iterator[str]:
        for _ in range(times if self._ring else 0):
            place = bisect.bisect(self._ring, (rng.getrandbits(63), ""))
            yield self._ring[place % len(self._ring)][1]


class _Selection:
    """The passages of one question so far (oracles, distractors), and the tests that a candidate must pass."""

    def __init__(self, question: Question, corpus: _Corpus, options: MiningOptions) -> None:
        self._corpus, self._options = corpus, options
        self._needles = answer_needles(question, min_characters=options.min_answer_characters)
        self._ids = set(question.gold_chunk_ids)
        self._documents = set(question.document_ids)
        self._passages = [chunk_id for chunk_id in question.gold_chunk_ids if chunk_id in corpus.chunks]
        self._golds = len(self._passages)

    def add(self, chunk_id: str) -> None:
        self._ids.add(chunk_id)
        self._documents.add(self._corpus.chunks[chunk_id].document_id)
        self._passages.append(chunk_id)

    def refuses(self, chunk_id: str, *, new_document: bool) -> str:
        """Why the chunk cannot be added, or an empty string."""
        if chunk_id in self._ids:
            return "taken"
        if new_document and self._corpus.chunks[chunk_id].document_id in self._documents:
            return "document"
        passage = self._corpus.folded(chunk_id)
        if any(contains(passage, needle) for needle in self._needles):
            return "answer"
        for place, other in enumerate(self._passages):
            if is_near_duplicate(
                self._corpus.shingles(chunk_id),
                self._corpus.shingles(other),
                jaccard=self._options.near_duplicate_jaccard,
                containment=self._options.near_duplicate_containment,
            ):
                return "near-duplicate" if place < self._golds else "repeat"
        return ""


def false_distractor_rate(
    questions: Sequence[Question], chunks: Sequence[Chunk], mined: Mapping[str, Sequence[Mined]]
) -> dict[str, float | int]:
    """How often a distractor still seems to answer its question, by a laxer test than mining uses.

    The test asks whether every word of an accepted answer (nine in ten for a long answer or a gold quote) stands in the
    passage, in any order and with any ending. It over-counts (HotpotQA's own distractors fail a stricter test for
    18.8 % of its questions): the true rate among the questions it can test is lower.

    Returns:
        questions: how many have distractors; untestable: how many of these have no quote and only answers that are too
        short or a bare yes/no; flagged_questions, flagged_distractors: counts; question_rate, distractor_rate: shares
        of the testable ones.
    """
    corpus = _Corpus(chunks)
    words = lru_cache(maxsize=50_000)(lambda chunk_id: frozenset(_stems(corpus.folded(chunk_id))))
    total = untestable = distractors = bad_questions = bad_distractors = 0
    for question in questions:
        passages = mined.get(question.id, ())
        total += bool(passages)
        needles = [_stems(needle) for needle in answer_needles(question)]
        if passages and not needles:
            untestable += 1
            continue
        bad = sum(any(_covers(words(m.chunk_id), needle) for needle in needles) for m in passages)
        distractors += len(passages)
        bad_questions += bool(bad)
        bad_distractors += bad
    return {
        "questions": total,
        "untestable": untestable,
        "flagged_questions": bad_questions,
        "flagged_distractors": bad_distractors,
        "question_rate": round(bad_questions / (total - untestable), 4) if total > untestable else 0.0,
        "distractor_rate": round(bad_distractors / distractors, 4) if distractors else 0.0,
    }


def _stems(text: str) -> list[str]:
    """Rough stems of folded words: the first six letters, which most inflections of a word share."""
    return [word[:6] for word in in_pieces(text).split()]


def _covers(passage: frozenset[str], needle: Sequence[str]) -> bool:
    distinct = set(needle)
    share = len(distinct & passage) / len(distinct)
    return share == 1.0 if len(distinct) < 10 else share >= 0.9
