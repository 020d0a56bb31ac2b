"""Reciprocal-rank fusion: one ranking out of several, by ranks alone, so that scores need no common scale."""

from __future__ import annotations

from collections.abc import Sequence

from data.nouns import Hit


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Hit]], k: int, *, constant: int = 60) -> list[Hit]:
    """The k chunks with the highest sum of 1 / (constant + rank) over the rankings; ties by chunk id.

    Args:
        rankings: each best first, ranks from 1.
        constant: damps the lead of the first ranks; 60 is the published and measured choice.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for hit in ranking:
            scores[hit.chunk_id] = scores.get(hit.chunk_id, 0.0) + 1.0 / (constant + hit.rank)
    best = sorted(scores.items(), key=lambda item: (-round(item[1], 12), item[0]))[:k]
    return [Hit(chunk_id, round(score, 9), rank) for rank, (chunk_id, score) in enumerate(best, 1)]
