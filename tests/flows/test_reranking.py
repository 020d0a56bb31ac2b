"""`retrieval.rerank`: one cross-encoder orders the passages of records, evaluation and searches, and counts by its
bytes; documents, index and questions do not depend on it."""

import json
from pathlib import Path

import pytest
from retrieval_samples import make_tiny_reranker

from data.nouns import Chunk, read_jsonl
from retrieval.rerank import Reranker
from retrieval.search import passage_text
from tasks.inputs.models import resolve

pytestmark = pytest.mark.slow
QUERY = "Who opens the gates of Elm every morning?"


@pytest.fixture(scope="module")
def crosses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crosses")
    return [make_tiny_reranker(folder / f"cross{seed}", seed=seed) for seed in (0, 1)]


@pytest.fixture
def reranked(project, crosses):
    """A project with a finished plain run up to the records, and the reranker set afterwards."""
    project.raft("records", "--no-prefect")
    project.values["retrieval"] = {"rerank": str(crosses[0]), "rerank_depth": 6}
    project.write()
    return project


def rows(reply):
    return {row["stage"]: row for row in reply["stages"]}


def test_a_search_is_the_first_search_in_the_order_of_the_cross_encoder(reranked, crosses):
    first = reranked.json("search", QUERY, "-k", "8", "--set", "retrieval.rerank=null")["hits"]
    hits = reranked.json("search", QUERY, "-k", "8")["hits"]
    folder = Path(rows(reranked.json("chunk"))["chunk"]["folder"])
    texts = {c.id: passage_text(c) for c in read_jsonl(folder / "chunks.jsonl", Chunk)}
    near = [hit["chunk_id"] for hit in first[:6]]
    scores = Reranker.load(crosses[0], device="cpu").score([(QUERY, texts[name]) for name in near])
    expected = [name for _, name in sorted(zip(scores, near), reverse=True)]
    assert [hit["chunk_id"] for hit in hits] == expected + [hit["chunk_id"] for hit in first[6:]]
    assert expected != near, "a reranker that changes nothing shows nothing"


def test_records_and_what_follows_depend_on_the_reranker_and_nothing_before_does(reranked, crosses):
    planned = {row["stage"]: row for row in reranked.json("plan")["stages"]}
    assert {row["state"] for name, row in planned.items() if name in ("ingest", "chunk", "embed", "index")} == {
        "cached"
    }
    assert planned["records"]["state"] == "run"
    reply = reranked.json("records", "--no-prefect")
    assert "records" in reply["ran"]
    assert not {"embed", "index"} & {*reply["ran"]}
    figures = rows(reply)["records"]["metrics"]["rerank"]
    assert figures["candidates"] == 6
    assert figures["pairs"] >= figures["computed"] > 0
    unset = {row["stage"]: row for row in reranked.json("plan", "--set", "retrieval.rerank=null")["stages"]}
    assert unset["records"]["state"] == "run", "a reranker that is set no more is no model of the run"
    notices = reranked.json("plan")["notices"]
    assert any("6 candidates a question" in notice and "s a question" in notice for notice in notices)
    reranked.values["retrieval"]["rerank"] = str(crosses[1])
    reranked.write()
    again = {row["stage"]: row for row in reranked.json("plan")["stages"]}
    assert again["questions"]["state"] == "cached"
    assert "model reranker changed" in again["records"]["why"]


def test_contract_and_report_name_it_and_a_copy_of_it_is_the_same(reranked, crosses, tmp_path):
    import shutil

    built = {row["stage"]: Path(row["folder"]) for row in reranked.json("run", "--no-prefect")["stages"]}
    contract = json.loads((built["export"] / "adapter" / "raft.json").read_text())
    assert contract["retrieval"]["reranker"]["digest"] == resolve(str(crosses[0])).digest
    assert contract["retrieval"]["search"]["rerank_depth"] == 6
    report = (built["evaluate"] / "report.html").read_text()
    assert "seconds_per_question" in report
    assert reranked.json("evaluate", "retrieval")["configured"] == "hybrid, reranked"
    reranked.values["retrieval"]["rerank"] = str(shutil.copytree(crosses[0], tmp_path / "copied"))
    reranked.write()
    assert {row["state"] for row in reranked.json("plan")["stages"]} == {"cached"}
