"""How far a search prefers a passage: as its cross-encoder says, else by rank."""

import math

import pytest

from data.nouns import Hit
from retrieval.preference import preference
from retrieval.rerank import reordered


def test_a_cross_encoder_s_scores_come_back_as_their_softmax():
    raw = [4.0, 1.5, -2.0]
    hits = reordered([Hit(f"c{n}", 1.0, n + 1) for n in range(3)], raw, [])
    values = preference([h.rank for h in hits], [h.score for h in hits], weight=1.0, reranked=True)
    total = sum(map(math.exp, raw))
    assert [math.exp(v) for v in values] == pytest.approx([math.exp(s) / total for s in raw], rel=1e-5)


def test_scores_that_were_rounded_to_certainty_stay_finite_and_in_order():
    hits = reordered([Hit(f"c{n}", 1.0, n + 1) for n in range(3)], [90.0, 0.0, -90.0], [Hit("far", 0.5, 4)])
    values = preference([h.rank for h in hits], [h.score for h in hits], weight=1.0, reranked=True)
    assert all(map(math.isfinite, values))
    assert values[0] > values[1] > values[2] >= values[3]


@pytest.mark.parametrize("scores", [[31.0, 30.9, 2.0], [0.1, 0.09, 0.08]])
def test_without_one_the_rank_alone_counts(scores):
    values = preference([1, 2, 3], scores, weight=2.0, reranked=False)
    assert [math.exp(v) for v in values] == pytest.approx([(6 / 11) ** 2, (3 / 11) ** 2, (2 / 11) ** 2])


def test_where_there_is_nothing_to_prefer_there_is_no_preference():
    assert preference([1, 2], [0.5, 0.4], weight=0.0, reranked=False) == []
    assert preference([1], [0.5], weight=1.0, reranked=True) == []
    assert preference([], [], weight=1.0, reranked=False) == []
