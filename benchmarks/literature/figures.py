"""What scored answers come to: of one arm for its row, and of base against adapter as the script prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data.nouns import Record
from data.statistics import Interval, bootstrap_mean, paired_bootstrap

LEAST_GROUPS = 10  # documents or articles from which on these are resampled, and not single questions
METRICS = ("f1", "contains", "exact_match", "accuracy", "citation_precision", "citation_recall", "verbatim")


def figures_of(
    rows: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, dict[str, Any]]:
    """Metric -> value with its 95 % interval, and F1 less that of the `reference` rows of the same questions."""
    figures = {}
    for metric in METRICS:
        valued = [row for row in rows if row["metrics"].get(metric) is not None]
        if valued:
            values = [row["metrics"][metric] for row in valued]
            figures[metric] = interval_of(bootstrap_mean(values, groups=resampled(valued), seed=seed))
    pairs = [
        (theirs, own)
        for theirs, own in zip(reference, rows, strict=True)
        if theirs["metrics"].get("f1") is not None and own["metrics"].get("f1") is not None
    ]
    if pairs:
        before, after = ([row["metrics"]["f1"] for row in side] for side in zip(*pairs, strict=True))
        interval = paired_bootstrap(before, after, groups=resampled([own for _, own in pairs]), seed=seed)
        figures["f1_over_rag"] = interval_of(interval)
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


def search_figures(shown: Sequence[Record]) -> dict[str, float]:
    """Shares of the questions whose first passage is an oracle, and that are shown one."""
    positions = [record.metadata["oracle_positions"] for record in shown]
    return {
        "recall@1": round(sum(1 in places for places in positions) / len(positions), 4),
        "oracle_shown": round(sum(bool(places) for places in positions) / len(positions), 4),
    }


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


def over_majority(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Accuracy on closed answers less that of always giving the commonest one, with its interval of 95 %."""
    closed = [row for row in rows if row["metrics"].get("accuracy") is not None]
    commonest = Counter(row["answers"][0] for row in closed).most_common(1)[0][0]
    always = [float(commonest in row["answers"]) for row in closed]
    own = [row["metrics"]["accuracy"] for row in closed]
    change = paired_bootstrap(always, own, groups=[row["group"] for row in closed], seed=seed)
    return {"difference": round(change.value, 4), "ci95": [round(change.low, 4), round(change.high, 4)]}


def looked_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the quotes that stand in any passage shown, and in an oracle, whatever number was written with them."""
    quotes = [(row, quote["stands_in"]) for row in rows for quote in row["quotes"]]
    oracle = sum(place is not None and row["passages"][place - 1]["oracle"] for row, place in quotes)
    count = max(1, len(quotes))
    return {"verbatim": round(sum(p is not None for _, p in quotes) / count, 4), "oracle": round(oracle / count, 4)}
