"""Reciprocal-rank fusion: one ranking out of several, by ranks alone, so that scores need no common scale."""

from __future__ import annotations

from collections.abc import Sequence

from data.nouns import Hit

CONSTANT = 10  # measured on four sets (docs/retrieval.md); 60 lets two middling ranks outdo one of the first ten


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Hit]], k: int, *, constant: int = CONSTANT, weights: Sequence[float] | None = None
) -> list[Hit]:
    """The k chunks with the highest sum of weight / (constant + rank) over the rankings.

    Args:
        rankings: each best first, ranks from 1. Equal sums are ordered by rank in the first ranking, then by chunk id.
        constant: damps the lead of the first ranks.
        weights: of the rankings; by default each counts 1.
    """
    scores: dict[str, float] = {}
    for weight, ranking in zip(weights or [1.0] * len(rankings), rankings, strict=True):
        for hit in ranking:
            scores[hit.chunk_id] = scores.get(hit.chunk_id, 0.0) + weight / (constant + hit.rank)
    first = {hit.chunk_id: hit.rank for ranking in rankings[:1] for hit in ranking}

    def place(entry: tuple[str, float]) -> tuple[float, float, str]:
        chunk_id, score = entry
        return -round(score, 12), first.get(chunk_id, float("inf")), chunk_id

    best = sorted(scores.items(), key=place)[:k]
    return [Hit(chunk_id, round(score, 9), rank) for rank, (chunk_id, score) in enumerate(best, 1)]
