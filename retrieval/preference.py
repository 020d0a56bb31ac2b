"""How far a search prefers each of the passages that are shown to the others.

A cross-encoder's score is a log-odds of relevance, so its softmax over the passages says how likely each is the right
one. The scores of the other searches have no such scale (a fused one is made of ranks, cosines of unlike passages lie
close together, BM25 grows with the length of the question), so there the rank alone counts: passage n as 1 / n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CERTAIN = 1 - 1e-9  # a probability that is nearer to 0 or 1 was rounded to it


def preference(ranks: Sequence[int], scores: Sequence[float], *, weight: float, reranked: bool) -> list[float]:
    """`weight` times the natural log of a probability for each passage, [n]; empty where none is preferred.

    Args:
        ranks: in the search, from 1.
        scores: as hits carry them.
        reranked: whether these are a cross-encoder's (`retrieval.rerank.reordered`: its logistic function, 0 to 1).
    """
    if len(ranks) < 2 or not weight:
        return []
    values = [_log_odds(score) for score in scores] if reranked else [-math.log(rank) for rank in ranks]
    most = max(values)
    total = most + math.log(sum(math.exp(value - most) for value in values))
    return [weight * (value - total) for value in values]


def _log_odds(probability: float) -> float:
    p = min(max(probability, 1 - CERTAIN), CERTAIN)
    return math.log(p) - math.log1p(-p)
