"""Writes the evaluation report: one HTML file that a manager can read on a phone and a statistician can check.

Self-contained (inline style and SVG, no script, no outside request), escaped throughout, and without a time stamp, so
that the same evaluation gives the same bytes. Scores come from `data.scoring`; nothing is computed here but layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data.charts import bar_chart, interval_chart, line_chart
from data.comparison import HEADLINE, LEAST_GROUPS, summarise
from data.conditions import condition_words, setting_words
from data.report_examples import example_groups
from data.report_page import colour, percent, render_page
from data.scoring import METRICS, score_row

__all__ = ["score_row", "summarise", "summary_markdown", "write_report"]


def write_report(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    retrieval: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    advice: Sequence[Mapping[str, Any]] = (),
    general: Mapping[str, Any] | None = None,
    judge: Mapping[str, Any] | None = None,
) -> None:
    """Writes the report to `path` (UTF-8 HTML).

    Args:
        summary: what `summarise` returned for the rows.
        retrieval: figures of the retriever; keys like `recall@5` are also drawn.
        training: figures of the training; lists of [step, value] pairs (`loss`, `validation_loss`) are drawn.
        config: nested values are flattened to `section.field`.
        lineage: stage -> digest, or rows with `stage` and `digest`.
        advice: what `data.adviser.advise` found, as dicts, most pressing first.
        general: what `data.general.compare_general` returned.
        judge: what `data.judge.judge_rows` says about the judge, where there was one.
    """
    base, other = summary["base"], summary["other"]
    headline = summary.get("headline")
    html = render_page(
        "report.html.jinja",
        title=title,
        headline=headline,
        base_name=condition_words(base),
        other_name=condition_words(other),
        setting_words=setting_words(summary["headline_setting"]),
        metric_name=METRICS[HEADLINE],
        verdict=headline and headline["verdict"],
        verdict_class=headline and colour(headline),
        level=f"{100 * headline['level']:g} %" if headline else "95 %",
        warnings=_warnings(summary),
        against=[(condition_words(name), difference) for name, difference in summary["against"].items()],
        advice=list(advice),
        judge=judge,
        general=_general(general or {}, condition_words(base), condition_words(other)),
        settings=[
            (f"Answers with {setting_words(n)}", _setting(p, base, other))
            for n, p in sorted(summary["settings"].items(), key=lambda item: item[0] != summary["headline_setting"])
        ],
        distractor_chart=_distractor_chart(summary),
        least_groups=LEAST_GROUPS,
        samples=f"{summary['samples']:,}",
        seed=summary["seed"],
        retrieval=_flatten(retrieval or {}),
        retrieval_chart=_recall_chart(retrieval or {}),
        training=[(k, v) for k, v in _flatten(_without_curves(training or {}))],
        training_chart=line_chart(_curves(training or {}), title="Loss", x_label="step"),
        example_groups=example_groups(rows, summary),
        config=_flatten(config or {}),
        lineage=_lineage(lineage or {}),
    )
    path.write_text(html, encoding="utf-8", newline="\n")


def summary_markdown(
    summary: Mapping[str, Any],
    *,
    title: str,
    advice: Sequence[Mapping[str, Any]] = (),
    general: Mapping[str, Any] | None = None,
) -> str:
    """The comparison in a few lines of Markdown, for places that show text: headline, then a table a setting."""
    base, other = condition_words(summary["base"]), condition_words(summary["other"])
    lines = [f"## {_cell(title)}", ""]
    headline = summary.get("headline")
    if headline:
        lines += [
            f"{other} against {base.lower()} with {setting_words(summary['headline_setting'])}: "
            f"**{headline['verdict']}**. {METRICS[HEADLINE]} {percent(headline['base'])} → "
            f"{percent(headline['other'])}, difference {_points(headline)} points on {headline['n']} questions.",
        ]
    else:
        lines.append("No question was answered by both.")
    lines += ["", *(f"- {line}" for line in _warnings(summary))]
    if summary["against"]:
        lines += ["", f"### {other} against others", "", _row(["", METRICS[HEADLINE], "Difference (95 %)", "Verdict"])]
        lines.append("|" + "---|" * 4)
    for name, change in summary["against"].items():
        lines.append(_row([condition_words(name), percent(change["base"]), _points(change), change["verdict"]]))
    if general:
        found = _general(general, base, other)
        lines += ["", f"### General skills, {found['instructions']} instructions: {found['verdict']}", ""]
        lines += [_row(["", base, other, "Difference", "95 %", "n"]), "|" + "---|" * 6]
        lines += [_row([row["name"], *map(str, row["cells"])]) for row in found["rows"]]
    if advice:
        lines += ["", "### What to do next", ""]
        lines += [f"{n}. **{a['do']}** ({a['about']}): {a['why']}" for n, a in enumerate(advice, 1)]
    for name, part in summary["settings"].items():
        conditions = part["conditions"]
        heads = ["Metric", *(condition_words(c) for c in conditions), "Difference (95 %)", "n"]
        lines += ["", f"### With {_cell(setting_words(name))}", "", _row(heads), "|" + "---|" * len(heads)]
        for row in _setting(part, summary["base"], summary["other"])["table"]:
            difference = row["difference"]
            values = [percent(v) for v in row["values"]]
            tail = [_points(difference), str(difference["n"])] if difference else ["–", "–"]
            lines.append(_row([row["name"], *values, *tail]))
    return "\n".join(lines) + "\n"


def _general(general: Mapping[str, Any], base: str, other: str) -> dict[str, Any]:
    """The rows of the table on general skills; the loss is in nats a token, the share of right replies in per cent."""
    rows = []
    if "loss" in general:
        rows.append(_general_row("Loss of a good answer, nats a token", general["loss"], 1, 3))
    if "correct" in general:
        rows.append(_general_row("Replies that hold the answer, %", general["correct"], 100, 1))
    return {"rows": rows, "verdict": general.get("verdict", ""), "instructions": general.get("instructions", 0)}


def _general_row(name: str, change: Mapping[str, Any], factor: float, digits: int) -> dict[str, Any]:
    def shown(key: str, sign: str = "") -> str:
        return f"{factor * change[key]:{sign}.{digits}f}"

    interval = f"{shown('low', '+')} to {shown('high', '+')}"
    return {"name": name, "cells": [shown("base"), shown("other"), shown("difference", "+"), interval, change["n"]]}


def _points(difference: Mapping[str, Any]) -> str:
    value, low, high = (f"{100 * difference[k]:+.1f}" for k in ("difference", "low", "high"))
    return f"{value} ({low} to {high})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(c) for c in cells) + " |"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _warnings(summary: Mapping[str, Any]) -> list[str]:
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
    return lines


def _setting(part: Mapping[str, Any], base: str, other: str) -> dict[str, Any]:
    """Everything one section of the report shows."""
    conditions, differences = part["conditions"], part["differences"]
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
        {"name": "Words an answer", "values": [_plain(c["answer_words"]) for c in conditions.values()]},
        {"name": "Seconds an answer", "values": [_plain(c["seconds"]) for c in conditions.values()]},
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


FLAGS = {
    "unmarked": "Without answer marker",
    "empty": "Empty answers",
    "cut_off": "Cut off at the length limit",
    "echo": "Repeats a whole passage",
}


def _distractor_chart(summary: Mapping[str, Any]) -> Markup:
    """Headline metric against the number of distractors beside the oracle, where two or more were tried."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for setting, part in summary["settings"].items():
        if setting == "oracle_only" or setting.startswith("oracle_with_"):
            count = 0 if setting == "oracle_only" else int(setting.removeprefix("oracle_with_"))
            for condition, figures in part["conditions"].items():
                if HEADLINE in figures["metrics"]:
                    lines.setdefault(condition_words(condition), []).append(
                        (count, figures["metrics"][HEADLINE]["value"])
                    )
    if max((len(points) for points in lines.values()), default=0) < 2:
        return Markup("")
    return line_chart(lines, title=f"{METRICS[HEADLINE]} by number of distractors", x_label="distractors", top=1.0)


def _recall_chart(retrieval: Mapping[str, Any]) -> Markup:
    found: dict[int, dict[str, float]] = {}
    for key, value in retrieval.items():
        name, at, depth = str(key).partition("@")
        if at and depth.isdigit() and isinstance(value, (int, float)):
            found.setdefault(int(depth), {})[name] = float(value)
    groups = {f"@{depth}": found[depth] for depth in sorted(found)}
    return bar_chart(groups, title="Retriever", x_label="passages retrieved") if groups else Markup("")


def _curves(training: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    return {k.replace("_", " "): [(float(x), float(y)) for x, y in v] for k, v in training.items() if _is_curve(v)}


def _without_curves(training: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in training.items() if not _is_curve(v)}


def _is_curve(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(
            isinstance(p, (list, tuple)) and len(p) == 2 and all(isinstance(x, (int, float)) for x in p) for p in value
        )
    )


def _lineage(lineage: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    if isinstance(lineage, Mapping):
        return _flatten(lineage)
    return [(str(row.get("stage", "")), str(row.get("digest") or row.get("key") or "")) for row in lineage]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted name, text) pairs."""
    out: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            out += _flatten(item, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", _plain(item)))
    return out


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 10_000 else f"{value:,.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
