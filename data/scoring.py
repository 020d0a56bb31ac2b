"""Scores answers to records, one row a question and condition, and sums rows up into a comparison.

A row is plain JSON. What has no meaning for a row is None and left out of means; an answer that was never generated is
counted as missing and left out of the comparison; an empty or cut-off answer is scored as it is, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.answer_metrics import (
    check_quotes,
    citation_scores,
    classification_scores,
    closed_label,
    contains_answer,
    exact_match,
    groundedness,
    mean_defined,
    normalise,
    refusal_scores,
    rouge_l,
    token_f1,
)
from data.nouns import Record
from data.prompting import PromptTemplate, load_template, parse_answer
from data.record_report import passage_texts
from data.statistics import bootstrap_mean, detectable_difference, holm, paired_bootstrap

HEADLINE = "f1"
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
}
CLOSED = ("yes", "no", "maybe")
LEAST_FOR_SLICE = 5
LEAST_GROUPS = 10  # with fewer documents, resampling documents gives intervals that are far too narrow


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
    meta = record.metadata
    texts = passage_texts(record)
    row: dict[str, Any] = {
        "record_id": meta["record_id"],
        "question_id": meta["question_id"],
        "setting": setting,
        "condition": condition,
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
            for p, text in texts
        ],
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
    parsed = parse_answer(prediction, template=template or load_template())
    passages = [text for _, text in texts]
    quotes = check_quotes(parsed.quotes, passages, meta["oracle_positions"])
    cited = citation_scores(parsed.quotes, passages, meta["oracle_positions"])
    answers = meta["answers"] if meta["label"] == "answer" else []
    closed = bool(answers) and all(normalise(a) in CLOSED for a in answers)
    final = "" if parsed.refused else parsed.final_answer
    verbatim = [q["text"] for q in quotes if q["verbatim"]]
    row |= {
        "final_answer": parsed.final_answer,
        "refused": parsed.refused,
        "quotes": quotes,
        "flags": _flags(prediction, parsed.marked, finish_reason, passages),
        "metrics": {
            "f1": token_f1(final, answers, closed=closed) if answers else None,
            "exact_match": exact_match(final, answers) if answers else None,
            "contains": contains_answer(final, answers) if answers else None,
            "accuracy": float(closed_label(final, CLOSED) in [normalise(a) for a in answers]) if closed else None,
            "rouge_l": rouge_l(final, answers) if answers else None,
            "citation_precision": cited["precision"],
            "citation_recall": cited["recall"],
            "verbatim": cited["verbatim"],
            "supporting_f1": cited["supporting_f1"],
            "grounded": None if parsed.refused else groundedness(final, verbatim),
        },
    }
    return row


def _flags(prediction: str, marked: bool, finish_reason: str, passages: Sequence[str]) -> list[str]:
    """What is odd about an answer, scored as it is: empty, unmarked, cut_off, echo (it repeats a whole passage)."""
    flat = " ".join(prediction.split())
    found = [] if marked else ["unmarked"]
    if not flat:
        found.append("empty")
    if finish_reason == "length":
        found.append("cut_off")
    if any(len(p) > 80 and " ".join(p.split()) in flat for p in passages):
        found.append("echo")
    return found


def _difficulty(rank: int) -> str:
    if rank < 1:
        return "not found"
    return "rank 1" if rank == 1 else "rank 2 to 4" if rank <= 4 else "rank 5 and on"


def summarise(
    rows: Sequence[Mapping[str, Any]],
    *,
    base: str = "base",
    other: str = "adapter",
    headline_setting: str | None = None,
    samples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Sums up rows of `score_row`: per setting the means of each condition, and other - base with intervals.

    Questions are resampled by document where there are ten or more. The headline is token F1 in `headline_setting`, by default `retrieved` where
    there are such rows, else the first setting, over questions on documents that training never saw (`unseen` is
    false where there are none). JSON values only.
    """
    settings = list(dict.fromkeys(r["setting"] for r in rows))
    chosen = headline_setting or ("retrieved" if "retrieved" in settings else next(iter(settings), ""))
    by_setting = {
        s: _summarise_setting([r for r in rows if r["setting"] == s], base, other, samples, seed) for s in settings
    }
    return {
        "base": base,
        "other": other,
        "headline_metric": HEADLINE,
        "headline_setting": chosen,
        "headline": _headline([r for r in rows if r["setting"] == chosen], base, other, samples, seed),
        "settings": by_setting,
        "seed": seed,
        "samples": samples,
    }


def _headline(rows: list[Mapping[str, Any]], base: str, other: str, samples: int, seed: int) -> dict[str, Any] | None:
    unseen = _pairs([r for r in rows if r["slices"]["documents"] == "unseen"], base, other, HEADLINE)
    pairs = unseen or _pairs(rows, base, other, HEADLINE)
    return {**_difference(pairs, samples, seed), "unseen": bool(unseen)} if pairs else None


def _summarise_setting(rows: list[Mapping[str, Any]], base: str, other: str, samples: int, seed: int) -> dict[str, Any]:
    conditions = list(dict.fromkeys(r["condition"] for r in rows))
    conditions.sort(key=lambda c: (c != base, c != other))
    differences = {}
    for metric in METRICS:
        pairs = _pairs(rows, base, other, metric)
        if pairs:
            differences[metric] = _difference(pairs, samples, seed)
    adjusted = holm([d["p_value"] for d in differences.values()])
    for difference, p_value in zip(differences.values(), adjusted, strict=True):
        difference["p_holm"] = p_value
    return {
        "conditions": {c: _condition([r for r in rows if r["condition"] == c], samples, seed) for c in conditions},
        "differences": differences,
        "slices": _slices(rows, base, other, samples, seed),
        "positions": _positions(rows, conditions),
    }


def _condition(rows: list[Mapping[str, Any]], samples: int, seed: int) -> dict[str, Any]:
    scored = [r for r in rows if not r["failed"]]
    metrics = {}
    for metric in METRICS:
        kept = [r for r in scored if r["metrics"][metric] is not None]
        if kept:
            values = [r["metrics"][metric] for r in kept]
            metrics[metric] = bootstrap_mean(values, groups=_groups(kept)[0], samples=samples, seed=seed).to_dict()
    closed = [r for r in scored if r["metrics"]["accuracy"] is not None]
    words = [len(r["final_answer"].split()) for r in scored]
    seconds, _ = mean_defined([r["seconds"] for r in scored])
    return {
        "n": len(rows),
        "missing": sum(bool(r["failed"]) for r in rows),
        "flags": dict(sorted(Counter(f for r in scored for f in r["flags"]).items())),
        "metrics": metrics,
        "refusal": refusal_scores([r["refused"] for r in scored], [r["should_refuse"] for r in scored]),
        "closed": classification_scores(
            [closed_label(r["final_answer"], CLOSED) for r in closed], [normalise(r["answers"][0]) for r in closed]
        )
        if closed
        else None,
        "quotes": sum(len(r["quotes"]) for r in scored),
        "answer_words": round(float(np.mean(words)), 2) if words else None,
        "seconds": seconds,
    }


def _pairs(
    rows: Sequence[Mapping[str, Any]], base: str, other: str, metric: str
) -> list[tuple[float, float, Mapping[str, Any]]]:
    """(base, other, row) for each record on which both have a defined value, in order of record id."""
    values: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["condition"] in (base, other) and not row["failed"] and row["metrics"][metric] is not None:
            values.setdefault(row["record_id"], {})[row["condition"]] = row
    return [
        (both[base]["metrics"][metric], both[other]["metrics"][metric], both[base])
        for _, both in sorted(values.items())
        if len(both) == 2
    ]


def _difference(pairs: list[tuple[float, float, Mapping[str, Any]]], samples: int, seed: int) -> dict[str, Any]:
    first, second = [p[0] for p in pairs], [p[1] for p in pairs]
    groups, resampled, documents = _groups([p[2] for p in pairs])
    interval = paired_bootstrap(first, second, groups=groups, samples=samples, seed=seed)
    deviation = float(np.std(np.subtract(second, first), ddof=1)) if len(pairs) > 1 else 0.0
    verdict = "better" if interval.low > 0 else "worse" if interval.high < 0 else "no clear difference"
    return {
        "base": float(np.mean(first)),
        "other": float(np.mean(second)),
        **interval.to_dict(),
        "resampled": resampled,
        "documents": documents,
        "verdict": verdict,
        # What this many questions could have shown, so that "no clear difference" is not read as "equal".
        "detectable": detectable_difference(deviation, len(pairs)),
    }


def _groups(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str] | None, str, int]:
    """What to resample as a whole: documents, or single questions (None) where the documents are too few."""
    documents = [r["group"] for r in rows]
    count = len(set(documents))
    return (documents, "documents", count) if count >= LEAST_GROUPS else (None, "questions", count)


def _slices(rows: list[Mapping[str, Any]], base: str, other: str, samples: int, seed: int) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for name in dict.fromkeys(n for r in rows for n in r["slices"]):
        table = {}
        for value in sorted({r["slices"][name] for r in rows}):
            part = [r for r in rows if r["slices"][name] == value]
            pairs = _pairs(part, base, other, HEADLINE)
            refusals = {
                c: refusal_scores(
                    [r["refused"] for r in part if r["condition"] == c and not r["failed"]],
                    [r["should_refuse"] for r in part if r["condition"] == c and not r["failed"]],
                )["refused"]
                for c in (base, other)
            }
            entry: dict[str, Any] = {"records": len({r["record_id"] for r in part}), "refused": refusals}
            if pairs:
                entry |= {"n": len(pairs)} | _means(pairs)
            if len(pairs) >= LEAST_FOR_SLICE:
                entry["difference"] = _difference(pairs, samples, seed)
            table[value] = entry
        if len(table) > 1:
            tables[name] = table
    return tables


def _means(pairs: list[tuple[float, float, Mapping[str, Any]]]) -> dict[str, float]:
    return {"base": float(np.mean([p[0] for p in pairs])), "other": float(np.mean([p[1] for p in pairs]))}


def _positions(rows: list[Mapping[str, Any]], conditions: list[str]) -> dict[str, dict[str, Any]]:
    """Headline metric by the position of the first oracle, for records that show one."""
    table: dict[str, dict[str, Any]] = {}
    for position in sorted({r["oracle_position"] for r in rows if r["oracle_position"]}):
        for condition in conditions:
            kept = [r for r in rows if r["oracle_position"] == position and r["condition"] == condition]
            mean, count = mean_defined([r["metrics"].get(HEADLINE) for r in kept])
            if mean is not None:
                table.setdefault(str(position), {})[condition] = {"mean": mean, "n": count}
    return table
