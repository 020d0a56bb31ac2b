"""Scores one answer to one record: a row of plain JSON with what was shown, what was answered and how good that is.

A figure that has no meaning for a row is None, never 0; an answer that was never generated has no metrics; an empty or
cut-off answer is scored as it stands, and flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data.evaluation.metrics import (
    check_quotes,
    citation_scores,
    closed_label,
    contains_answer,
    exact_match,
    groundedness,
    normalise,
    rouge_l,
    token_f1,
)
from data.nouns import Record
from data.prompting.contract import ParsedAnswer, PromptTemplate, load_template, parse_answer
from data.records.figures import passage_texts

METRICS = {
    "f1": "Token F1",
    "exact_match": "Exact match",
    "contains": "Answer contained",
    "accuracy": "Accuracy (yes / no)",
    "rouge_l": "ROUGE-L",
    "citation_precision": "Citation precision",
    "citation_recall": "Citation recall",
    "verbatim": "Quotes verbatim",
    "supporting_f1": "Cited passages F1",
    "grounded": "Grounded in quotes",
    "judged": "Judged right",
}
CLOSED = ("yes", "no", "maybe")


def score_row(
    record: Record,
    prediction: str | None,
    *,
    condition: str,
    setting: str = "records",
    template: PromptTemplate | None = None,
    finish_reason: str = "",
    seconds: float | None = None,
) -> dict[str, Any]:
    """Scores one answer to one record.

    Args:
        prediction: the generated text; None where generation failed: the row then has `failed` and no metrics.
        condition: who answered: `base`, `adapter`, or another name.
        setting: what was shown, e.g. `records`, `retrieved`, `closed_book`. Rows are compared within a setting.

    F1, exact match and the like are None where the record's label is a refusal; `should_refuse` and `refused` count
    those. Citation metrics are None where they are undefined (see `citation_scores`).
    """
    row = {
        "record_id": record.metadata["record_id"],
        "question_id": record.metadata["question_id"],
        "setting": setting,
        "condition": condition,
        **_context(record),
        "prediction": prediction,
        "finish_reason": finish_reason,
        "seconds": seconds,
        "failed": "" if prediction is not None else "missing",
        "final_answer": "",
        "refused": False,
        "quotes": [],
        "flags": [],
        "metrics": {},
    }
    if prediction is None:
        return row
    reply = parse_answer(prediction, template=template or load_template())
    passages = [text for _, text in passage_texts(record)]
    quotes = check_quotes(reply.quotes, passages, record.metadata["oracle_positions"])
    return row | {
        "final_answer": reply.final_answer,
        "refused": reply.refused,
        "quotes": quotes,
        "flags": _flags(prediction, reply.marked, finish_reason, passages),
        "metrics": _metrics(record, reply, quotes, passages),
    }


def _context(record: Record) -> dict[str, Any]:
    """What was asked and shown, the same for whoever answers."""
    meta = record.metadata
    return {
        "question": meta["question"],
        "answers": list(meta["answers"]),
        "label": meta["label"],
        "oracle_present": meta["oracle_present"],
        "should_refuse": meta["label"] == "refuse" or not meta["oracle_present"],
        "oracle_position": min(meta["oracle_positions"], default=0),
        "group": next(iter(meta["document_ids"]), meta["question_id"]),
        "slices": {
            "oracle": "shown" if meta["oracle_present"] else "not shown",
            "documents": meta["documents"],
            "document type": meta["document_type"],
            "question kind": meta["kind"],
            "difficulty": _difficulty(meta["difficulty"]),
        },
        "passages": [
            {
                "title": p["title"],
                "source": p["source"],
                "page": p["page"],
                "oracle": p["role"] == "oracle",
                "text": text,
            }
            for p, text in passage_texts(record)
        ],
    }


def _metrics(
    record: Record, reply: ParsedAnswer, quotes: Sequence[dict[str, Any]], passages: Sequence[str]
) -> dict[str, float | None]:
    """Every metric of `METRICS`; None where it has no meaning for this record and reply."""
    meta = record.metadata
    citations = citation_scores(reply.quotes, passages, meta["oracle_positions"])
    answers = meta["answers"] if meta["label"] == "answer" else []
    closed = bool(answers) and all(normalise(a) in CLOSED for a in answers)
    final = "" if reply.refused else reply.final_answer
    verbatim = [q["text"] for q in quotes if q["verbatim"]]
    return {
        "f1": token_f1(final, answers, closed=closed) if answers else None,
        "exact_match": exact_match(final, answers) if answers else None,
        "contains": contains_answer(final, answers) if answers else None,
        "accuracy": float(closed_label(final, CLOSED) in [normalise(a) for a in answers]) if closed else None,
        "rouge_l": rouge_l(final, answers) if answers else None,
        "citation_precision": citations["precision"],
        "citation_recall": citations["recall"],
        "verbatim": citations["verbatim"],
        "supporting_f1": citations["supporting_f1"],
        "grounded": None if reply.refused else groundedness(final, verbatim),
        "judged": None,  # `data.evaluation.teacher_judge` fills it in
    }


def _flags(prediction: str, marked: bool, finish_reason: str, passages: Sequence[str]) -> list[str]:
    """What is odd about an answer, scored as it is: empty, unmarked, cut_off, echo (it repeats a whole passage)."""
    flat = " ".join(prediction.split())
    flags = [] if marked else ["unmarked"]
    if not flat:
        flags.append("empty")
    if finish_reason == "length":
        flags.append("cut_off")
    if any(len(p) > 80 and " ".join(p.split()) in flat for p in passages):
        flags.append("echo")
    return flags


def _difficulty(rank: int) -> str:
    if rank < 1:
        return "not found"
    return "rank 1" if rank == 1 else "rank 2 to 4" if rank <= 4 else "rank 5 and on"
