"""What fitting the retriever and calibrating citations will take is told before either was ever done."""

import dataclasses
from types import SimpleNamespace

import pytest

from tasks.config import RunConfig
from tasks.inputs.corpus import Corpus
from tasks.upkeep.estimates import estimate, workload

CORPUS = Corpus(("docs",), {"a.md": "sha"}, stamps={"a.md": "1:2:1000000:3:4"})


def seconds(stage="adapt", *, kept=3000, **sections):
    config = RunConfig(questions={"count": 6000}, **sections)
    work = dataclasses.replace(workload(config, CORPUS, {}, None), kept=kept, validation=kept * 0.1)
    return estimate(stage, config, work, None).seconds


def test_fitting_takes_what_is_fitted():
    weights = seconds(retrieval={"weights": "measured"})
    reranked = seconds(retrieval={"rerank": "auto"})
    embedder = seconds(adapt={"embedder": True})
    both = seconds(adapt={"embedder": True, "reranker": True}, retrieval={"rerank": "auto"})
    assert weights < reranked < both
    assert weights < embedder < both
    assert seconds(adapt={"embedder": True, "epochs": 1}) < embedder / 2
    assert seconds(adapt={"embedder": True}, kept=300) < embedder / 4
    deep = seconds(retrieval={"rerank": "auto", "rerank_depth": 40})
    assert 1.5 * reranked < deep < 2 * reranked


def test_a_kept_embedder_embeds_every_passage_once():
    fitted = seconds(adapt={"embedder": True}) - seconds(adapt={"embedder": True}, kept=0)
    assert fitted > 0
    assert seconds("embed_adapted") < seconds("embed") / 2
    sizes = RunConfig(adapt={"embedder": True})
    assert estimate("adapt", sizes, workload(sizes, CORPUS, {}, None), None).bytes == pytest.approx(91e6)


def test_calibrating_takes_the_answers_to_the_validation_questions():
    ask = {"citation_error": 0.1}
    few, many = (seconds("calibrate", ask=ask, kept=kept) for kept in (300, 3000))
    assert few < many
    assert seconds("calibrate", ask=ask, kept=30_000) == seconds("calibrate", ask=ask, kept=10_000)  # of at most 400
    config = RunConfig(ask=ask)
    work = dataclasses.replace(workload(config, CORPUS, {}, None), validation=200)
    last = SimpleNamespace(seconds=50, metrics={"questions": 100})
    assert estimate("calibrate", config, work, last).seconds == pytest.approx(100)
