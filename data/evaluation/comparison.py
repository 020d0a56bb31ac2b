"""Sums scored rows up into a comparison of two conditions: means, paired differences with intervals, slices.

Answers that were never generated and scores that are not finite are counted and left out, and every mean says how many
values it covers. Rows come from `data.evaluation.scoring`; `data.reports.report` shows the result.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.evaluation.metrics import classification_scores, closed_label, mean_defined, refusal_scores
from data.evaluation.scoring import CLOSED, METRICS
from data.statistics import TOO_FEW, bootstrap_mean, detectable_difference, holm, paired_bootstrap
from data.text.normalisation import normalise

HEADLINE = "f1"
LEAST_GROUPS = 10  # with fewer documents, resampling documents gives intervals that are far too narrow


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

    Questions are resampled by document where there are ten or more. The headline is token F1 in `headline_setting`, by
    default `retrieved` where there are such rows, else the first setting; it covers questions about documents that
    training never saw or, failing those, about passages that it never saw (`unseen` says which). `against` holds
    the same difference between `other` and every further condition (an earlier adapter). JSON values only.
    """
    settings = list(dict.fromkeys(r["setting"] for r in rows))
    headline = headline_setting or ("retrieved" if "retrieved" in settings else next(iter(settings), ""))
    by_setting = {
        s: _summarise_setting([r for r in rows if r["setting"] == s], base, other, samples, seed) for s in settings
    }
    leading = [r for r in rows if r["setting"] == headline]
    further = [c for c in dict.fromkeys(r["condition"] for r in leading) if c not in (base, other)]
    against = {c: _headline(leading, c, other, samples, seed) for c in further}
    return {
        "base": base,
        "other": other,
        "headline_metric": HEADLINE,
        "headline_setting": headline,
        "headline": _headline(leading, base, other, samples, seed),
        "against": {c: difference for c, difference in against.items() if difference},
        "settings": by_setting,
        "seed": seed,
        "samples": samples,
    }


def _headline(rows: list[Mapping[str, Any]], base: str, other: str, samples: int, seed: int) -> dict[str, Any] | None:
    for novelty, words in (("unseen", "documents"), ("unseen passage", "passages")):
        pairs = _pairs([r for r in rows if r["slices"]["documents"] == novelty], base, other, HEADLINE)
        if pairs:
            return {**_difference(pairs, samples, seed), "unseen": words}
    pairs = _pairs(rows, base, other, HEADLINE)
    return {**_difference(pairs, samples, seed), "unseen": ""} if pairs else None


def _summarise_setting(rows: list[Mapping[str, Any]], base: str, other: str, samples: int, seed: int) -> dict[str, Any]:
    conditions = list(dict.fromkeys(r["condition"] for r in rows))
    conditions.sort(key=lambda c: (c != base, c != other))
    differences = {}
    for metric in METRICS:
        pairs = _pairs(rows, base, other, metric)
        if pairs:
            differences[metric] = _difference(pairs, samples, seed)
    holm_values = holm([d["p_value"] for d in differences.values()])
    for difference, p_value in zip(differences.values(), holm_values, strict=True):
        difference["p_holm"] = p_value
    return {
        "conditions": {c: _condition([r for r in rows if r["condition"] == c], samples, seed) for c in conditions},
        "differences": differences,
        "slices": _slices(rows, base, other, samples, seed),
        "positions": _positions(rows, conditions),
    }


def _condition(rows: list[Mapping[str, Any]], samples: int, seed: int) -> dict[str, Any]:
    replies = [r for r in rows if not r["failed"]]
    metrics = {}
    for metric in METRICS:
        defined = [r for r in replies if _defined(r["metrics"][metric])]
        if defined:
            values = [r["metrics"][metric] for r in defined]
            groups, _, _ = resampled_units([r["group"] for r in defined])
            metrics[metric] = bootstrap_mean(values, groups=groups, samples=samples, seed=seed).to_dict()
    closed = [r for r in replies if r["metrics"]["accuracy"] is not None]
    words = [len(r["final_answer"].split()) for r in replies]
    seconds, _ = mean_defined([r["seconds"] for r in replies])
    return {
        "n": len(rows),
        "missing": sum(bool(r["failed"]) for r in rows),
        "not_finite": sum(v is not None and not _defined(v) for r in replies for v in r["metrics"].values()),
        "flags": dict(sorted(Counter(f for r in replies for f in r["flags"]).items())),
        "metrics": metrics,
        "refusal": refusal_scores([r["refused"] for r in replies], [r["should_refuse"] for r in replies]),
        "closed": classification_scores(
            [closed_label(r["final_answer"], CLOSED) for r in closed], [normalise(r["answers"][0]) for r in closed]
        )
        if closed
        else None,
        "quotes": sum(len(r["quotes"]) for r in replies),
        "answer_words": round(float(np.mean(words)), 2) if words else None,
        "seconds": seconds,
    }


def _pairs(
    rows: Sequence[Mapping[str, Any]], base: str, other: str, metric: str
) -> list[tuple[float, float, Mapping[str, Any]]]:
    """(base, other, row) for each record on which both have a defined value, in order of record id."""
    values: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["condition"] in (base, other) and not row["failed"] and _defined(row["metrics"][metric]):
            values.setdefault(row["record_id"], {})[row["condition"]] = row
    return [
        (both[base]["metrics"][metric], both[other]["metrics"][metric], both[base])
        for _, both in sorted(values.items())
        if len(both) == 2
    ]


def _defined(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _difference(pairs: list[tuple[float, float, Mapping[str, Any]]], samples: int, seed: int) -> dict[str, Any]:
    first, second = [p[0] for p in pairs], [p[1] for p in pairs]
    groups, unit, documents = resampled_units([p[2]["group"] for p in pairs])
    interval = paired_bootstrap(first, second, groups=groups, samples=samples, seed=seed)
    deviation = float(np.std(np.subtract(second, first), ddof=1)) if len(pairs) > 1 else 0.0
    return {
        "base": float(np.mean(first)),
        "other": float(np.mean(second)),
        "difference": interval.value,
        **{k: v for k, v in interval.to_dict().items() if k != "value"},
        "resampled": unit,
        "documents": documents,
        "verdict": interval.verdict,
        # What this many questions could have shown, so that "no clear difference" is not read as "equal".
        "detectable": detectable_difference(deviation, len(pairs)),
    }


def resampled_units(documents: Sequence[str]) -> tuple[Sequence[str] | None, str, int]:
    """What to resample as a unit: documents, or single questions (None) where there are too few documents."""
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
                difference = _difference(pairs, samples, seed)
                if difference["verdict"] != TOO_FEW:
                    entry["difference"] = difference
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
            part = [r for r in rows if r["oracle_position"] == position and r["condition"] == condition]
            values = [r["metrics"].get(HEADLINE) for r in part]
            mean, count = mean_defined([v for v in values if _defined(v)])
            if mean is not None:
                table.setdefault(str(position), {})[condition] = {"mean": mean, "n": count}
    return table
