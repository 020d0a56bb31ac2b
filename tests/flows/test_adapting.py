"""A run that fits its retriever: what was kept embeds, searches, makes the records and stands in the contract."""

import json
from pathlib import Path

import pytest
from retrieval_samples import make_tiny_reranker

from retrieval.adaptation import judgement
from retrieval.embedding.embedder import Embedder

pytestmark = pytest.mark.slow
QUERY = "Who opens the gates of Elm every morning?"
ADAPT = {
    "embedder": True, "epochs": 1, "batch": 8, "rate": 0.01, "least_questions": 8, "max_likeness": 1.0,
}  # fmt: skip


@pytest.fixture
def fitting(project, monkeypatch):
    """A project that fits its embedder, with few questions being enough, and whatever is fitted being better."""
    real = judgement.compare
    monkeypatch.setattr(judgement, "LEAST_QUESTIONS", 2)
    monkeypatch.setattr(judgement, "compare", lambda *a: judgement.Judgement(**{**real(*a).__dict__, "helps": True}))
    project.values["adapt"] = ADAPT
    project.values["retrieval"] = {"mode": "hybrid"}
    project.write()
    return project


def rows(reply):
    return {row["stage"]: row for row in reply["stages"]}


def test_records_searches_and_contract_are_made_with_what_was_kept(fitting):
    plain = fitting.json("search", QUERY, "-k", "8", "--set", "adapt.embedder=false", check=False)
    assert plain["ok"] is False, "nothing is built yet"
    fitting.raft("index", "--no-prefect")
    before = fitting.json("search", QUERY, "-k", "8")["hits"]
    planned = [row["stage"] for row in fitting.json("plan")["stages"]]
    assert planned[4:9] == ["questions", "adapt", "embed_adapted", "index_adapted", "records"]
    reply = fitting.json("run", "--no-prefect")
    built = {name: Path(row["folder"]) for name, row in rows(reply).items()}
    kept = json.loads((built["adapt"] / "retriever.json").read_text())["embedder"]["digest"]
    assert Embedder.load(built["adapt"] / "embedder", device="cpu").info.digest == kept
    index = json.loads((built["index_adapted"] / "index.json").read_text())
    assert index["embedder"]["digest"] == kept
    assert json.loads((built["index"] / "index.json").read_text())["embedder"]["digest"] != kept
    hits = fitting.json("search", QUERY, "-k", "8")["hits"]
    assert [(h["chunk_id"], h["score"]) for h in hits] != [(h["chunk_id"], h["score"]) for h in before]
    manifest = json.loads((built["records"] / "manifest.json").read_text())
    assert {"adapt", "index"} <= {*manifest["ingredients"]["inputs"]}
    contract = json.loads((built["export"] / "adapter" / "raft.json").read_text())
    assert contract["retrieval"]["adapted"]["embedder"]["digest"] == kept
    assert contract["retrieval"]["embedder"]["digest"] == kept
    assert "adapt" in contract["lineage"]
    assert fitting.json("ask", QUERY, "--max-tokens", "8")["passages"]
    assert rows(fitting.json("run", "--no-prefect"))["evaluate"]["digest"] == rows(reply)["evaluate"]["digest"]
    assert fitting.json("run", "--no-prefect")["ran"] == []


def test_a_run_that_fits_nothing_has_no_such_stage_and_says_what_to_set(project):
    assert "adapt" not in rows(project.json("plan"))
    for verb in ("adapt", "embed_adapted", "index_adapted"):
        reply = project.json(verb, "--no-prefect", check=False)
        assert reply["exit_code"] == 2
        assert "does not fit the retriever" in reply["error"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"adapt": {"embedder": True}, "retrieval": {"mode": "lexical"}}, "uses no embedder"),
        ({"adapt": {"reranker": True}}, "without a reranker"),
        ({"adapt": {"embedder": True}, "retrieval": {"store": {"kind": "faiss", "at": "x"}}}, "retrieval.store"),
        ({"retrieval": {"rerank": "auto"}, "records": {"validation": 0}}, "records.validation"),
    ],
)
def test_settings_that_do_not_go_together_are_bad_input(project, settings, words):
    project.values |= settings
    project.write()
    reply = project.json("plan", check=False)
    assert reply["exit_code"] == 2
    assert words in reply["error"]


def test_weights_and_a_reranker_are_chosen_without_training(project, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.retrieval.DEFAULT_RERANKER", str(make_tiny_reranker(tmp_path / "cross", seed=0)))
    project.values["retrieval"] = {"mode": "hybrid", "rerank": "auto", "weights": "measured", "rerank_depth": 4}
    project.write()
    reply = rows(project.json("records", "--no-prefect"))
    choice = json.loads((Path(reply["adapt"]["folder"]) / "retriever.json").read_text())
    assert choice == {"mode": "hybrid", "lexical_share": 0.5, "rerank": False}, "a handful of questions decides nothing"
    assert "rerank" not in reply["records"]["metrics"]
    assert len(project.json("search", QUERY, "-k", "3")["hits"]) == 3
