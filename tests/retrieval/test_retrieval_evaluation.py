"""Retrievers are compared on the same questions, by group, and the worst questions are named; reranking reorders."""

import dataclasses

import pytest
from retrieval_samples import make_question, make_tiny_model

from data.nouns import Hit
from raft_errors import BadInput
from retrieval.evaluation import about_documents, by_document, evaluate_retrieval
from retrieval.rerank import Reranker
from retrieval.search import Retriever, passage_text


def fixed(order):
    """A search that gives the same chunks for every query."""
    return lambda queries, k: [[Hit(c.id, 1 / (i + 1), i + 1) for i, c in enumerate(order[:k])] for _ in queries]


def test_means_groups_and_worst_questions(town):
    questions = [make_question(f"About {i}?", "x", town[i]) for i in (0, 1, 3)]
    report = evaluate_retrieval(
        questions,
        {"good": fixed(town), "poor": fixed(town[::-1][:6])},
        ks=(1, 2),
        group_of=lambda q: "bridge" if q.gold_chunk_ids[0] in {town[0].id, town[1].id} else "market",
        worst=2,
    )
    assert report["questions"] == 3
    assert report["modes"]["good"]["recall@1"] == pytest.approx(1 / 3, abs=1e-5)
    assert report["modes"]["good"]["recall@2"] == pytest.approx(2 / 3, abs=1e-5)
    assert report["modes"]["good"]["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3, abs=1e-5)
    assert report["modes"]["poor"]["recall@1"] == 0
    assert report["groups"]["bridge"]["questions"] == 2
    assert report["groups"]["market"]["modes"]["good"]["MRR"] == 0.25
    assert [row["rank"] for row in report["worst"]] == [{"good": 4, "poor": 5}, {"good": 2, "poor": None}]
    assert report["worst"][0]["question"] == "About 3?"


def test_any_chunk_of_the_right_document_counts_where_documents_are_judged(town):
    parts = [dataclasses.replace(c, document_id=f"d{i // 2}") for i, c in enumerate(town)]
    chunks = {c.id: c for c in parts}
    question = make_question("About 1?", "x", parts[1])
    (judged,), grades = about_documents([question], chunks, {question.id: {parts[1].id: 2}})
    assert (judged.gold_chunk_ids, grades) == (("d0",), {question.id: {"d0": 2}})
    search = by_document(fixed([parts[2], parts[3], parts[0], parts[1]]), chunks)
    assert [(h.chunk_id, h.rank) for h in search(["?"], 2)[0]] == [("d1", 1), ("d0", 2)]
    report = evaluate_retrieval([judged], {"documents": search}, grades=grades)
    assert (report["modes"]["documents"]["any_hit@1"], report["modes"]["documents"]["MRR"]) == (0, 0.5)


def test_questions_without_gold_cannot_judge(town):
    question = dataclasses.replace(make_question("Who?", "x", town[0]), gold_chunk_ids=())
    for questions, searches in (([], {"a": fixed(town)}), ([question], {"a": fixed(town)}), ([question], {})):
        with pytest.raises(BadInput):
            evaluate_retrieval(questions, searches)


def test_three_modes_of_one_retriever_can_be_compared(town):
    question = make_question("Which lamp did the lighthouse keeper light?", "the oil lamp", town[2])
    report = evaluate_retrieval([question], {"lexical": Retriever(None, None, town, mode="lexical").search})
    assert report["modes"]["lexical"]["recall@1"] == 1.0
    assert report["worst"] == []


class ByLength:
    """Prefers long passages."""

    def scores(self, query, passages):
        return [float(len(p)) for p in passages]


def test_the_first_hits_are_reordered_and_the_rest_keep_their_place(town):
    query = ["ships, the bridge and the railway tunnel"]
    (found,) = Retriever(None, None, town, mode="lexical").search(query, 8)
    retriever = Retriever(None, None, town, mode="lexical", reranker=ByLength(), rerank_depth=3)
    (hits,) = retriever.search(query, 8)
    near, far = found[:3], found[3:]
    first = sorted(near, key=lambda hit: -len(passage_text(retriever.chunks[hit.chunk_id])))
    assert len(far) > 0
    assert [h.chunk_id for h in hits] == [h.chunk_id for h in [*first, *far]]
    assert [h.rank for h in hits] == list(range(1, len(found) + 1))
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert retriever.search(query, 2)[0] == hits[:2]


def test_a_cross_encoder_scores_pairs_alone_as_in_a_batch(tmp_path, town):
    import json

    from transformers import BertConfig, BertForSequenceClassification

    folder = make_tiny_model(tmp_path / "cross", seed=0)
    for leftover in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / leftover).unlink()
    config = BertConfig.from_pretrained(folder, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    reranker = Reranker.load(folder, device="cpu", max_tokens=24)
    passages = [c.text for c in town]
    together = reranker.scores("the iron bridge", passages)
    assert together == pytest.approx([reranker.scores("the iron bridge", [p])[0] for p in passages], abs=1e-5)
    assert len(set(together)) > 1
    assert reranker.scores("x", []) == []


def test_a_folder_that_is_no_cross_encoder_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="safetensors"):
        Reranker.load(tmp_path)
