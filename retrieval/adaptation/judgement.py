"""Whether one search is better than another, on questions that neither was fitted to; and which weights fuse best.

A change is kept only where a paired test says that it helps. What is compared is the reciprocal rank of the first right
passage, since answers are written from the first few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.nouns import Question, Search
from data.statistics import paired_bootstrap
from retrieval.evaluation import gold_rank
from retrieval.search import Retriever

DEPTH = 30  # a right passage further down counts as not found
LEAST_QUESTIONS = 30  # below, no difference that matters could be told from chance
LEAST_GROUPS = 10  # documents from which on these, and not single questions, are resampled
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of BM25 in the fusion
EQUAL = 0.5


@dataclass(frozen=True)
class Judgement:
    """A paired comparison of two searches.

    Attributes:
        before, after: mean reciprocal ranks; before_first, after_first: shares of questions whose first hit is right.
        low, high: 95 % interval of the difference of the means.
        helps: whether it lies above zero.
    """

    questions: int
    before: float
    after: float
    before_first: float
    after_first: float
    low: float
    high: float
    helps: bool

    def to_dict(self) -> dict[str, Any]:
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in self.__dict__.items()}


def reciprocal_ranks(questions: Sequence[Question], search: Search, depth: int = DEPTH) -> list[float]:
    """1 / rank of the first right passage of each question, 0 where it is not among the first `depth`."""
    rankings = search([q.question for q in questions], depth)
    ranks = [gold_rank(question, hits) for question, hits in zip(questions, rankings, strict=True)]
    return [1 / rank if rank else 0.0 for rank in ranks]


def compare(questions: Sequence[Question], before: Sequence[float], after: Sequence[float]) -> Judgement:
    """Two searches by their reciprocal ranks of the same questions; too few questions never help."""
    documents = [q.document_ids[0] for q in questions]
    groups = documents if len(set(documents)) >= LEAST_GROUPS else None
    interval = paired_bootstrap(before, after, groups=groups)
    return Judgement(
        questions=len(questions),
        before=_mean(before),
        after=_mean(after),
        before_first=_mean([value == 1 for value in before]),
        after_first=_mean([value == 1 for value in after]),
        low=interval.low,
        high=interval.high,
        helps=len(questions) >= LEAST_QUESTIONS and interval.verdict == "better",
    )


def choose_share(questions: Sequence[Question], retriever: Retriever) -> tuple[float, dict[str, Any]]:
    """BM25's share in the fusion, and the figures behind it: the best of a small grid if it is better than equal
    weights by a paired test, else equal ones.
    """
    if len(questions) < LEAST_QUESTIONS:
        return EQUAL, {"questions": len(questions), "needed": LEAST_QUESTIONS}
    ranks = {
        share: reciprocal_ranks(questions, retriever.in_mode("hybrid", reranked=False, lexical_share=share).search)
        for share in SHARES
    }
    means = {share: _mean(values) for share, values in ranks.items()}
    best = max(SHARES, key=lambda share: (round(means[share], 6), -abs(share - EQUAL)))
    judgement = compare(questions, ranks[EQUAL], ranks[best])
    figures = {"grid": {str(share): round(mean, 4) for share, mean in means.items()}, "best": best}
    return best if judgement.helps else EQUAL, {**figures, **judgement.to_dict()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
