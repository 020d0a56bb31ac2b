"""What scored answers come to: of one arm for its row, and of base against adapter as the script prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data.nouns import Record
from data.statistics import Interval, bootstrap_mean, paired_bootstrap
from literature.measures import MAJORITY_OVER

LEAST_GROUPS = 10  # documents or articles from which on these are resampled, and not single questions
METRICS = (
    *("f1", "contains", "exact_match", "accuracy", "ast_match", "gold_call", "hallucinated", "rouge_l"),
    *("citation_precision", "citation_recall", "verbatim"),
)
OWN = ("ast_match", "gold_call", "hallucinated", "rouge_l")  # that only a set's own rules measure


def value_of(row: Mapping[str, Any], metric: str) -> float | None:
    """What a scored answer has of a metric, by the rules of its set where these say (`literature/measures.py`)."""
    own = row.get("measures", {})
    value = own.get(metric) if metric in own or metric in OWN else row["metrics"].get(metric)
    return None if value is None else float(value)


def figures_of(
    rows: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, dict[str, Any]]:
    """Metric -> value with its 95 % interval, and F1 less that of the `reference` rows of the same questions."""
    figures = {}
    for metric in METRICS:
        valued = [(value, row) for row in rows if (value := value_of(row, metric)) is not None]
        if valued:
            groups = resampled([row for _, row in valued])
            figures[metric] = interval_of(bootstrap_mean([value for value, _ in valued], groups=groups, seed=seed))
    pairs = [
        (theirs, own)
        for theirs, own in zip(reference, rows, strict=True)
        if theirs["metrics"].get("f1") is not None and own["metrics"].get("f1") is not None
    ]
    if pairs:
        before, after = ([row["metrics"]["f1"] for row in side] for side in zip(*pairs, strict=True))
        interval = paired_bootstrap(before, after, groups=resampled([own for _, own in pairs]), seed=seed)
        figures["f1_over_rag"] = interval_of(interval)
    for metric in MAJORITY_OVER:
        if metric in figures:
            figures[f"{metric}_over_majority"] = over_majority(rows, metric, seed)
    return figures


def refusal_figures(
    without: Sequence[Mapping[str, Any]], intact: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, dict[str, Any]]:
    """Recall: of the questions whose oracle was taken away, those refused; precision: of the refused, those."""
    figures = {}
    if without:
        values = [float(row["refused"]) for row in without]
        figures["refusal_recall"] = interval_of(bootstrap_mean(values, groups=resampled(without), seed=seed))
    refused = [(1.0, row) for row in without if row["refused"]] + [(0.0, row) for row in intact if row["refused"]]
    if refused:
        values, rows = [value for value, _ in refused], [row for _, row in refused]
        figures["refusal_precision"] = interval_of(bootstrap_mean(values, groups=resampled(rows), seed=seed))
    return figures


def resampled(rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The documents or articles that are resampled whole; None where they are too few, and single questions are."""
    groups = [row["group"] for row in rows]
    return groups if len(set(groups)) >= LEAST_GROUPS else None


def interval_of(interval: Interval) -> dict[str, Any]:
    """An interval as it stands in rows."""
    return {
        "value": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "n": interval.n,
    }


def search_figures(shown: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Shares of the questions whose first passage is an oracle, and that are shown one; of those that have any."""
    positions = [record.metadata["oracle_positions"] for record in shown if record.metadata["oracle_ids"]]
    count = max(1, len(positions))
    return {
        "recall@1": {"value": round(sum(1 in places for places in positions) / count, 4), "n": len(positions)},
        "oracle_shown": {"value": round(sum(map(bool, positions)) / count, 4), "n": len(positions)},
    }


PRINTED = (
    *("recall@1", "oracle_shown", "citation_precision", "coverage", "citation_error"),
    *("refusal_recall", "refusal_precision"),
)


def plain_keys(figures: Mapping[str, Mapping[str, Any]], withheld: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of RAFT that every set prints under one name, as numbers; None where they have no meaning."""
    values = {name: figure["value"] for name, figure in figures.items() if name in PRINTED}
    return {name: withheld.get(name, values.get(name)) for name in PRINTED}


def over_majorities(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`adapter_over_majority` as the script prints it; empty where no class of answers is a majority's."""
    for metric in MAJORITY_OVER:
        if change := figures.get(f"{metric}_over_majority"):
            interval = {"difference": change["value"], "ci95": [change["low"], change["high"]]}
            return {"adapter_over_majority": {**interval, "majority": change["majority"], "always": change["always"]}}
    return {}


def headline(summary: Mapping[str, Any], shown: Sequence[Record], training: Mapping[str, Any]) -> dict[str, Any]:
    """The headline and what explains it; shares 0 to 1."""
    part = summary["settings"]["retrieved"]
    kinds, changes = part["conditions"], part["differences"]
    change_of_f1 = changes["f1"]
    out: dict[str, Any] = {
        "base": round(change_of_f1["base"], 4),
        "adapter": round(change_of_f1["other"], 4),
        "difference": round(change_of_f1["difference"], 4),
        "ci95": [round(change_of_f1["low"], 4), round(change_of_f1["high"], 4)],
        "questions": change_of_f1["n"],
        "resampled": f"{change_of_f1['documents']} {change_of_f1['resampled']}",
        "oracle_retrieved": round(sum(r.metadata["oracle_present"] for r in shown) / len(shown), 4),
        "first_loss": training["first_loss"],
        "final_loss": training["final_loss"],
        "steps": training["steps"],
    }
    for metric, change in changes.items():
        if metric != "f1":
            interval = [round(change["low"], 4), round(change["high"], 4)]
            out[metric] = {
                "base": round(change["base"], 4),
                "adapter": round(change["other"], 4),
                "difference": round(change["difference"], 4),
                "ci95": interval,
            }
    for metric in ("citation_precision", "citation_recall", "verbatim", "grounded"):
        value = kinds["adapter"]["metrics"].get(metric)
        out[f"adapter_{metric}"] = value and {k: round(value[k], 4) for k in ("value", "low", "high", "n")}
    for rival, change in summary["against"].items():
        interval = [round(change["low"], 4), round(change["high"], 4)]
        f1 = {"rival": round(change["base"], 4), "adapter_less_rival": round(change["difference"], 4)}
        out.setdefault("rivals", {})[rival] = {**f1, "ci95": interval, "adapter_is": change["verdict"]}
    for who, kind in kinds.items():
        out[f"{who}_counts"] = {**kind["flags"], "missing": kind["missing"], "refusal": kind["refusal"]}
        if kind["closed"]:
            out[f"{who}_closed"] = kind["closed"]
    return out


def over_majority(rows: Sequence[Mapping[str, Any]], metric: str, seed: int) -> dict[str, Any]:
    """A metric less what always giving the commonest answer (label, domain) comes to, `majority`, with its interval."""
    valued = [(value, row) for row in rows if (value := value_of(row, metric)) is not None]
    classes = [row.get("gold") or row["answers"][0] for _, row in valued]
    commonest = Counter(classes).most_common(1)[0][0]
    always = [float(one == commonest) for one in classes]
    groups = resampled([row for _, row in valued])
    change = paired_bootstrap(always, [value for value, _ in valued], groups=groups, seed=seed)
    return {**interval_of(change), "majority": round(sum(always) / len(always), 4), "always": commonest}


def changes_of(rows: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Each metric that only the set's own rules measure: base, adapter, difference and its interval."""
    changes = {}
    measures = dict.fromkeys(metric for row in rows for metric in row.get("measures", ()))
    for metric in measures:
        pairs = [(value_of(theirs, metric), value_of(own, metric), own) for theirs, own in zip(reference, rows)]
        known = [(before, after, own) for before, after, own in pairs if before is not None and after is not None]
        if known:
            before, after = [pair[0] for pair in known], [pair[1] for pair in known]
            interval = paired_bootstrap(before, after, groups=resampled([pair[2] for pair in known]), seed=seed)
            changes[metric] = {
                "base": round(sum(before) / len(before), 4),
                "adapter": round(sum(after) / len(after), 4),
                "difference": round(interval.value, 4),
                "ci95": [round(interval.low, 4), round(interval.high, 4)],
            }
    return changes


def looked_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the quotes that stand in any passage shown, and in an oracle, whatever number was written with them."""
    quotes = [(row, quote["stands_in"]) for row in rows for quote in row["quotes"]]
    oracle = sum(place is not None and row["passages"][place - 1]["oracle"] for row, place in quotes)
    count = max(1, len(quotes))
    return {"verbatim": round(sum(p is not None for _, p in quotes) / count, 4), "oracle": round(oracle / count, 4)}
