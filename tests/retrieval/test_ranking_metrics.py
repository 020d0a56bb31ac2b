"""Ranking metrics agree with cases worked by hand."""

import math

import pytest

from data.nouns import Hit
from raft_errors import BadInput
from retrieval.metrics import query_metrics, ranking_metrics


def hits(*chunk_ids, score=1.0):
    return [Hit(chunk_id, score, rank) for rank, chunk_id in enumerate(chunk_ids, 1)]


def test_two_gold_passages_at_ranks_one_and_three():
    metrics = ranking_metrics({"q": hits("a", "x", "b", "y")}, {"q": ["a", "b"]}, ks=(1, 2, 3))
    assert metrics["recall@1"] == 0.5
    assert metrics["recall@2"] == 0.5
    assert metrics["recall@3"] == 1.0
    assert metrics["MRR"] == 1.0
    assert metrics["MAP"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-5)
    ideal = 1 + 1 / math.log2(3)
    assert metrics["nDCG@10"] == pytest.approx((1 + 1 / math.log2(4)) / ideal, abs=1e-5)
    assert metrics["queries"] == 1


def test_the_share_of_the_oracles_and_any_of_them_are_two_measures():
    metrics = ranking_metrics(
        {"q": hits("x", "a", "y"), "r": hits("x", "y", "z")}, {"q": ["a", "b"], "r": ["c"]}, ks=(1, 3)
    )
    assert (metrics["recall@1"], metrics["any_hit@1"]) == (0, 0)
    assert (metrics["recall@3"], metrics["any_hit@3"]) == (0.25, 0.5)


def test_a_question_for_which_nothing_was_found_scores_zero_and_counts():
    metrics = ranking_metrics({"q1": hits("a"), "q2": []}, {"q1": ["a"], "q2": ["a"], "q3": ["b"]})
    assert metrics["queries"] == 3
    assert metrics["recall@1"] == pytest.approx(1 / 3, abs=1e-5)
    assert metrics["MRR"] == pytest.approx(1 / 3, abs=1e-5)


def test_the_order_of_the_hits_decides_when_scores_are_equal():
    rows = query_metrics({"q": hits("z", "a", score=0.5), "r": hits("a", "z", score=0.5)}, {"q": ["z"], "r": ["z"]})
    assert rows["q"]["MRR"] == 1.0
    assert rows["r"]["MRR"] == 0.5


def test_grades_weigh_in_ndcg():
    better = ranking_metrics({"q": hits("a", "b")}, {"q": {"a": 3, "b": 1}})["nDCG@10"]
    worse = ranking_metrics({"q": hits("b", "a")}, {"q": {"a": 3, "b": 1}})["nDCG@10"]
    assert better == pytest.approx(1.0)
    assert worse < better


def test_without_a_relevant_document_there_is_nothing_to_measure():
    with pytest.raises(BadInput):
        ranking_metrics({"q": hits("a")}, {"q": {"a": 0}})
