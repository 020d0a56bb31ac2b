"""Ranking metrics by ir_measures (trec_eval's own figures): recall@k, any_hit@k, nDCG@10, MRR, MAP.

`recall@k` is the share of a query's relevant documents among its first k hits, `any_hit@k` is 1 where at least one of
them is there (trec_eval's success). They differ where a query has several, and are computed nowhere else.

Every judged question counts: one without hits scores 0. The order of the hits decides, not their scores, so that our
rule for ties holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import ir_measures
from ir_measures import AP, RR, R, Success, nDCG

from data.nouns import Hit
from raft_errors import BadInput

Qrels = Mapping[str, Mapping[str, int] | Iterable[str]]
"""query id -> {document id: grade}, or just the relevant document ids (grade 1)."""


def ranking_metrics(
    run: Mapping[str, Sequence[Hit]], qrels: Qrels, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Means over the judged queries: `recall@k` and `any_hit@k` for each k, `nDCG@10`, `MRR`, `MAP`, and `queries`.

    Args:
        run: query id -> hits, best first. Queries without judgement are ignored.
    """
    rows = query_metrics(run, qrels, ks=ks)
    names = next(iter(rows.values())).keys()
    means = {name: round(sum(row[name] for row in rows.values()) / len(rows), 6) for name in names}
    return {**means, "queries": len(rows)}


def query_metrics(
    run: Mapping[str, Sequence[Hit]], qrels: Qrels, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, dict[str, float]]:
    """The same figures for each judged query, in the order of `qrels`: they show which questions are worst."""
    every = {query: _grades(relevance) for query, relevance in qrels.items()}
    grades = {query: row for query, row in every.items() if any(grade > 0 for grade in row.values())}
    if not grades:
        raise BadInput(
            "There is no judged query to measure on", expected="at least one relevant document", do="check qrels"
        )
    scores = {query: {hit.chunk_id: -float(place) for place, hit in enumerate(run.get(query, ()))} for query in grades}
    by_depth = {f"recall@{k}": R @ k for k in ks} | {f"any_hit@{k}": Success @ k for k in ks}
    measures = {**by_depth, "nDCG@10": nDCG @ 10, "MRR": RR, "MAP": AP}
    names = {str(measure): name for name, measure in measures.items()}
    rows = {query: dict.fromkeys(measures, 0.0) for query in grades}
    with_hits = {query: row for query, row in scores.items() if row}
    if with_hits:
        for value in ir_measures.iter_calc(list(measures.values()), grades, with_hits):
            rows[value.query_id][names[str(value.measure)]] = float(value.value)
    return rows


def _grades(relevance: Mapping[str, int] | Iterable[str]) -> dict[str, int]:
    return {k: int(v) for k, v in relevance.items()} if isinstance(relevance, Mapping) else dict.fromkeys(relevance, 1)
