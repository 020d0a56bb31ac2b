"""Evaluates retrievers on questions with known gold chunks: side by side, by kind of document, worst questions first.

A search is evaluated as it is used: it is the production retriever's own, in each of its modes. Figures and rows come
out as JSON values; drawing them is left to the caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.nouns import Chunk, Hit, Progress, Question, Search
from raft_errors import BadInput
from retrieval.metrics import query_metrics

_QUERIES_A_CALL = 1024
_CHUNKS_PER_DOCUMENT = 5  # hits looked at for each document that is wanted


def evaluate_retrieval(
    questions: Sequence[Question],
    searches: Mapping[str, Search],
    *,
    grades: Mapping[str, Mapping[str, int]] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    depth: int = 100,
    group_of: Callable[[Question], str] | None = None,
    worst: int = 20,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compares searches on the same questions.

    Args:
        searches: name -> search, e.g. the retriever in its three modes.
        grades: question id -> {chunk id: grade} where relevance is graded; without them each gold chunk counts 1.
        depth: hits per question; MRR and MAP look no further.
        group_of: a question's group (media type of its gold document, say) for figures by group.
        worst: how many questions to list, those whose gold chunk even the best search ranks last.

    Returns:
        questions: their number; modes: name -> metric -> mean; scores: name -> question id -> metric -> value;
        groups: group -> {questions, modes}; worst: rows of question_id, question, gold_chunk_ids, group and, by search
        name, the rank of the first gold chunk (None = not within the depth) and the first hits' ids.

    Raises:
        BadInput: no question, one without gold chunks, or no search.
    """
    if not questions or not searches:
        raise BadInput(f"{len(questions)} questions for {len(searches)} searches", expected="at least one of each")
    for question in questions:
        if not question.gold_chunk_ids:
            raise BadInput(f"Question {question.id} has no gold chunk", do="leave it out")
    qrels: dict[str, Any] = {question.id: list(question.gold_chunk_ids) for question in questions}
    qrels |= grades or {}
    runs = {name: _run(search, questions, depth, name, progress) for name, search in searches.items()}
    rows = {name: query_metrics(run, qrels, ks=ks) for name, run in runs.items()}
    groups: dict[str, list[str]] = {}
    if group_of:
        for question in questions:
            groups.setdefault(group_of(question), []).append(question.id)
    return {
        "questions": len(qrels),
        "depth": depth,
        "modes": {name: _mean(row, list(qrels)) for name, row in rows.items()},
        "scores": rows,
        "groups": {
            group: {"questions": len(ids), "modes": {name: _mean(row, ids) for name, row in rows.items()}}
            for group, ids in sorted(groups.items())
        },
        "worst": _worst(questions, runs, depth, worst, group_of),
    }


def by_document(search: Search, chunks: Mapping[str, Chunk]) -> Search:
    """The search with documents as its hits, each at the place of its best chunk: any chunk of the right document
    counts. A hit's `chunk_id` is then a document's id."""

    def documents(queries: Sequence[str], k: int) -> list[list[Hit]]:
        rankings = []
        for hits in search(queries, _CHUNKS_PER_DOCUMENT * k):
            best: dict[str, Hit] = {}
            for hit in hits:
                best.setdefault(chunks[hit.chunk_id].document_id, hit)
            ranked = enumerate(list(best.items())[:k], 1)
            rankings.append([dataclasses.replace(hit, chunk_id=document, rank=n) for n, (document, hit) in ranked])
        return rankings

    return documents


def about_documents(
    questions: Sequence[Question], chunks: Mapping[str, Chunk], grades: Mapping[str, Mapping[str, int]] | None = None
) -> tuple[list[Question], dict[str, dict[str, int]] | None]:
    """Questions and grades for searches `by_document`: the gold chunks' documents in place of the chunks."""
    judged = [
        dataclasses.replace(q, gold_chunk_ids=tuple(dict.fromkeys(chunks[c].document_id for c in q.gold_chunk_ids)))
        for q in questions
    ]
    if grades is None:
        return judged, None
    return judged, {q: {chunks[chunk].document_id: g for chunk, g in row.items()} for q, row in grades.items()}


def gold_rank(question: Question, hits: Sequence[Hit]) -> int | None:
    """Rank of the first gold chunk, 1-based, or None where it is not among the hits."""
    return next((hit.rank for hit in hits if hit.chunk_id in question.gold_chunk_ids), None)


def _run(
    search: Search, questions: Sequence[Question], depth: int, name: str, progress: Progress | None
) -> dict[str, list[Hit]]:
    run: dict[str, list[Hit]] = {}
    for begin in range(0, len(questions), _QUERIES_A_CALL):
        block = questions[begin : begin + _QUERIES_A_CALL]
        run.update(zip((q.id for q in block), search([q.question for q in block], depth)))
        if progress:
            progress(begin + len(block), len(questions), f"search {name}")
    return run


def _mean(rows: Mapping[str, Mapping[str, float]], ids: Sequence[str]) -> dict[str, float]:
    names = next(iter(rows.values())).keys()
    return {name: round(sum(rows[i][name] for i in ids) / len(ids), 6) for name in names}


def _worst(
    questions: Sequence[Question],
    runs: Mapping[str, Mapping[str, list[Hit]]],
    depth: int,
    count: int,
    group_of: Callable[[Question], str] | None,
) -> list[dict[str, Any]]:
    def best(question: Question) -> int:
        return min(gold_rank(question, run[question.id]) or depth + 1 for run in runs.values())

    missed = sorted((q for q in questions if best(q) > 1), key=lambda q: (-best(q), q.id))
    return [
        {
            "question_id": question.id,
            "question": question.question,
            "gold_chunk_ids": list(question.gold_chunk_ids),
            "group": group_of(question) if group_of else None,
            "rank": {name: gold_rank(question, run[question.id]) for name, run in runs.items()},
            "first": {name: [hit.chunk_id for hit in run[question.id][:3]] for name, run in runs.items()},
        }
        for question in missed[:count]
    ]
