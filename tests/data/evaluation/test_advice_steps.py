"""The next step for a retriever that misses much: none that is set, and what was tried with what it brought."""

import pytest

from data.evaluation.advice import Probe, SearchTrial, advise

TEST = {"questions": 80, "before_first": 0.4, "after_first": 0.6, "low": 0.05, "high": 0.2, "helps": True}
NOTHING_BETTER = SearchTrial(40, 4, any_hit=20, by_mode={"lexical": 12, "dense": 15}, by_passages={6: 20})
EVERYTHING = {
    "retrieval.mode": "hybrid",
    "retrieval.weights": "measured",
    "retrieval.rerank": "auto",
    "retrieval.rerank_seconds": 1.0,
    "adapt.embedder": True,
    "adapt.reranker": True,
}
STEPS = {
    "retrieval.rerank": "retrieval.rerank: auto",
    "retrieval.weights": "retrieval.weights: measured",
    "adapt.embedder": "adapt.embedder",
    "adapt.reranker": "adapt.reranker",
}


def first(trial=NOTHING_BETTER, fitted=None, **settings):
    changed = {**EVERYTHING, **{name.replace("__", "."): value for name, value in settings.items()}}
    return advise(Probe(any_hit=0.5, passages=4, trial=trial, settings=changed, fitted=fitted or {}))[0]


def test_where_everything_is_set_no_step_is_proposed_but_to_look():
    advice = first()
    assert advice.do == "look at what is missed (raft evaluate retrieval lists the worst questions)"
    assert not any(words in first(trial=None).do for words in STEPS.values())


@pytest.mark.parametrize(
    ("field", "off"),
    [
        ("retrieval.rerank", None),
        ("retrieval.weights", "equal"),
        ("adapt.embedder", False),
        ("adapt.reranker", False),
    ],
)
def test_what_is_not_set_is_the_next_step(field, off):
    assert STEPS[field] in first(**{field.replace(".", "__"): off}).do
    assert STEPS[field] in first(trial=None, **{field.replace(".", "__"): off}).do


def test_a_cross_encoder_that_is_not_used_is_not_to_be_fitted():
    assert "adapt.reranker" not in first(retrieval__rerank=None, adapt__reranker=False, trial=None).do
    dropped = {"rerank": {**TEST, "helps": False}, "choice": {"rerank": False}}
    assert "adapt.reranker" not in first(adapt__reranker=False, trial=None, fitted=dropped).do


def test_an_embedder_is_not_to_be_fitted_where_none_is_searched_with():
    assert "adapt.embedder" not in first(retrieval__mode="lexical", adapt__embedder=False, trial=None).do
    assert "adapt.embedder" not in first(retrieval__store={"kind": "qdrant"}, adapt__embedder=False, trial=None).do


def test_what_was_tried_is_told_with_what_it_brought():
    fitted = {
        "embedder": {**TEST, "after_first": 0.41, "helps": False, "low": -0.02, "high": 0.03},
        "rerank": TEST,
        "weights": {"questions": 12, "needed": 30},  # too few: nothing was compared
        "choice": {"mode": "hybrid", "lexical_share": 0.5, "rerank": True},
    }
    why = first(fitted=fitted).why
    assert (
        "the fitted embedder (dropped) put the right passage first for 41% of 80 validation questions, 40% without "
        "(reciprocal rank [-0.020, +0.030])"
    ) in why
    assert "reranking (kept) put the right passage first for 60%" in why
    assert "weights" not in why
    assert "dropped" in first(trial=None, fitted=fitted).why


def test_reranking_that_helps_and_was_dropped_for_its_time_is_the_next_step():
    advice = first(fitted={"rerank": TEST, "choice": {"rerank": False}})
    assert advice.do.startswith("allow reranking its time (retrieval.rerank_seconds, now 1;")
    assert "60% of 80 validation questions, 40% without" in advice.why
    unhelpful = {"rerank": {**TEST, "helps": False}, "choice": {"rerank": False}}
    assert "rerank_seconds" not in first(fitted=unhelpful).do


def test_what_a_trial_brought_goes_before_what_nobody_tried():
    better = SearchTrial(40, 4, any_hit=20, by_mode={"lexical": 12, "dense": 31}, by_passages={6: 20})
    assert first(trial=better, adapt__embedder=False).do == "search in mode dense (retrieval.mode)"
