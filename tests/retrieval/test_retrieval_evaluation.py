"""Retrievers are compared on the same questions, by group, and the worst questions are named."""

import dataclasses

import pytest
from retrieval_samples import make_question

from data.nouns import Hit
from raft_errors import BadInput
from retrieval.evaluation import about_documents, by_document, evaluate_retrieval
from retrieval.search import Retriever


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
