"""The tables of a report as plain rows, for the HTML page and the Markdown summary alike; and its warnings.

Numbers come from `data.evaluation.comparison`; nothing is computed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from data.distillation import distillation_words
from data.evaluation.comparison import HEADLINE
from data.evaluation.conditions import condition_words, setting_words
from data.evaluation.scoring import METRICS
from data.reports.charts import bar_chart, interval_chart
from data.statistics import TOO_FEW
from data.training_coverage import unseen_records

FLAGS = {
    "unmarked": "Without answer marker",
    "empty": "Empty answers",
    "cut_off": "Cut off at the length limit",
    "echo": "Repeats a whole passage",
}


def warning_lines(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before trusting a mean: what was left out, and a gain that may be form alone."""
    lines = []
    for name, part in summary["settings"].items():
        for condition, figures in part["conditions"].items():
            if figures["missing"]:
                lines.append(
                    f"{condition_words(condition)} with {setting_words(name)}: {figures['missing']} of {figures['n']} "
                    "answers were never generated; they are left out of every comparison."
                )
            if figures["not_finite"]:
                count = figures["not_finite"]
                lines.append(
                    f"{condition_words(condition)} with {setting_words(name)}: {count} "
                    f"score{' is not a finite number' if count == 1 else 's are not finite numbers'}, "
                    "left out of every mean."
                )
    return lines + _perhaps_form_alone(summary)


def training_lines(training: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the training: that it saw only some of its records, that a distillation followed it,
    and that base and adapter answered with the base's weights packed, as in training."""
    lines = []
    if clause := unseen_records(training):
        lines.append(f"The training was cut short: {clause}.")
    if clause := distillation_words(training):
        lines.append(f"After the training: {clause}.")
    if full := training.get("full_base"):
        lines.append(_on_packed_base(full))
    return lines


def _on_packed_base(full: Mapping[str, Any]) -> str:
    return (
        f"Base and adapter answered with the base's linear layers in {full['trained_in']}, as in training. On the "
        f"base's own weights, as in the merged model, a logit changes by up to {full['max_logit_difference']:.2g} and "
        f"{full['continuations_equal']} of {full['continuations']} greedy continuations stay."
    )


def citing_words(citing: Mapping[str, Any]) -> str:
    """What is promised of the answers' citations, what it costs, and what the test questions say; "" for nothing."""
    if not citing:
        return ""
    text = (
        f"Of the answers given at most {citing['level']:.0%} are to cite wrongly (ask.citation_error). On "
        f"{citing['questions']} validation questions about {citing['documents']} documents {citing['coverage']:.0%} "
        f"are answered and {citing['error']:.1%} of these cite wrongly, at most {citing['expected_error']:.1%} with "
        "another document; the others are withheld, which the tables below leave out of account."
    )
    measured = citing.get("measured")
    if not measured:
        return f"{text} The test questions were not asked in the same way."
    error = "none" if measured["error"] is None else f"{measured['error']:.1%} of these"
    return (
        f"{text} On {measured['questions']} test questions about {measured['documents']} documents "
        f"{measured['coverage']:.0%} are answered, {error} with a wrong citation."
    )


def change_words(verdict: str) -> str:
    """What happened to one metric; `better` is a word for an adapter, whose verdict rests on more than one."""
    return {"better": "higher", "worse": "lower"}.get(verdict, verdict)


def _perhaps_form_alone(summary: Mapping[str, Any]) -> list[str]:
    """Shorter replies raise token F1, right or wrong; the share of replies that hold the answer does not rise so."""
    part = summary["settings"].get(summary["headline_setting"], {})
    leading, contains = (part.get("differences", {}).get(m) for m in (HEADLINE, "contains"))
    if not leading or leading["verdict"] != "better" or contains["verdict"] == "better":
        return []
    base, other = (f"{part['conditions'][summary[who]]['answer_words']:.0f}" for who in ("base", "other"))
    change, low, high = (f"{100 * contains[k]:+.1f}" for k in ("difference", "low", "high"))
    return [
        f"{METRICS[HEADLINE]} counts every word too many against a reply, and answers went from {base} to {other} "
        f'words. By "{METRICS["contains"]}", which does not, no gain is certain: {change} points '
        f"({low} to {high})."
    ]


def setting_tables(part: Mapping[str, Any], base: str, other: str) -> dict[str, Any]:
    """Everything one section of the report shows."""
    conditions = part["conditions"]
    differences = {m: d for m, d in part["differences"].items() if d["verdict"] != TOO_FEW}
    table = []
    for metric, name in METRICS.items():
        values = [c["metrics"].get(metric, {}).get("value") for c in conditions.values()]
        if any(v is not None for v in values):
            table.append({"name": name, "values": values, "difference": differences.get(metric)})
    for key, name in (("precision", "Refusal precision"), ("recall", "Refusal recall")):
        values = [c["refusal"][key] for c in conditions.values()]
        if any(v is not None for v in values):
            table.append({"name": name, "values": values, "difference": None})
    for key, name in (("accuracy", "Closed answers, accuracy"), ("macro_f1", "Closed answers, macro-F1")):
        if any(c["closed"] for c in conditions.values()):
            values = [(c["closed"] or {}).get(key) for c in conditions.values()]
            table.append({"name": name, "values": values, "difference": None})
    flags = dict.fromkeys(f for c in conditions.values() for f in c["flags"])
    counts = [
        {"name": "Records", "values": [c["n"] for c in conditions.values()]},
        {"name": "Refusals due", "values": [c["refusal"]["due"] for c in conditions.values()]},
        {"name": "Refused", "values": [c["refusal"]["refused"] for c in conditions.values()]},
        {"name": "Quotes", "values": [c["quotes"] for c in conditions.values()]},
        {"name": "Words per answer", "values": [plain(c["answer_words"]) for c in conditions.values()]},
        {"name": "Seconds per answer", "values": [plain(c["seconds"]) for c in conditions.values()]},
        {"name": "Never generated", "values": [c["missing"] for c in conditions.values()]},
        *({"name": FLAGS[f], "values": [c["flags"].get(f, 0) for c in conditions.values()]} for f in flags),
    ]
    forest = [(METRICS[m], d["difference"] * 100, d["low"] * 100, d["high"] * 100) for m, d in differences.items()]
    places = {p: {condition_words(c): v["mean"] for c, v in by.items()} for p, by in part["positions"].items()}
    return {
        "conditions": [{"name": condition_words(c)} for c in conditions],
        "differences": differences,
        "table": table,
        "counts": [row for row in counts if any(v not in (0, "–") for v in row["values"])],
        "interval_chart": interval_chart(
            forest, title=f"{condition_words(other)} less {condition_words(base).lower()}", x_label="percentage points"
        ),
        "position_chart": bar_chart(
            places, title=f"{METRICS[HEADLINE]} by place of the oracle", x_label="place among the passages"
        ),
        "slices": [
            {
                "name": name,
                "rows": [
                    {"name": v, **entry, "refused": " / ".join(str(n) for n in entry["refused"].values())}
                    for v, entry in values.items()
                ],
            }
            for name, values in part["slices"].items()
        ],
    }


def general_table(general: Mapping[str, Any], base: str, other: str) -> dict[str, Any]:
    """The rows of the table on general skills: the loss in nats per token, the share of right replies in per cent."""
    rows = []
    if "loss" in general:
        rows.append(_general_row("Loss of a good answer, nats a token", general["loss"], 1, 3))
    if "correct" in general:
        rows.append(_general_row("Replies that hold the answer, %", general["correct"], 100, 1))
    return {"rows": rows, "verdict": general.get("verdict", ""), "instructions": general.get("instructions", 0)}


def _general_row(name: str, change: Mapping[str, Any], factor: float, digits: int) -> dict[str, Any]:
    def number(key: str, sign: str = "") -> str:
        return f"{factor * change[key]:{sign}.{digits}f}"

    interval = f"{number('low', '+')} to {number('high', '+')}"
    return {"name": name, "cells": [number("base"), number("other"), number("difference", "+"), interval, change["n"]]}


def plain(value: Any) -> str:
    """A figure or setting as text; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 10_000 else f"{value:,.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
