"""The comparison in a few lines of Markdown, for places that show text: a terminal, a Prefect artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.evaluation.comparison import HEADLINE
from data.evaluation.conditions import condition_words, setting_words
from data.evaluation.promotion import verdict_in_markdown
from data.evaluation.scoring import METRICS
from data.reports.page import percent
from data.reports.tables import (
    change_words,
    citing_words,
    general_table,
    setting_tables,
    training_lines,
    warning_lines,
)
from data.statistics import TOO_FEW
from data.text.counts import counted


def summary_markdown(
    summary: Mapping[str, Any],
    *,
    title: str,
    decision: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    advice: Sequence[Mapping[str, Any]] = (),
    general: Mapping[str, Any] | None = None,
    citing: Mapping[str, Any] | None = None,
) -> str:
    """The comparison as Markdown: the verdict, the headline, then a table per setting."""
    base, other = condition_words(summary["base"]), condition_words(summary["other"])
    lines = [f"## {_cell(title)}", ""]
    if decision:
        lines += [_cell(verdict_in_markdown(decision)), ""]
    headline = summary.get("headline")
    if headline:
        change, questions = change_words(headline["verdict"]), counted(headline["n"], "question")
        lines += [
            f"{METRICS[HEADLINE]} of {other.lower()} against {base.lower()} with "
            f"{setting_words(summary['headline_setting'])}: **{change}**. {percent(headline['base'])} → "
            f"{percent(headline['other'])}, difference {_points(headline)} points on {questions}.",
        ]
    else:
        lines.append("No question was answered by both.")
    lines += [
        "",
        *(f"- {line}" for line in [*warning_lines(summary), *training_lines(training or {})]),
    ]
    if citing:
        lines += ["", _cell(citing_words(citing))]
    if summary["against"]:
        lines += ["", f"### {other} against others", "", _row(["", METRICS[HEADLINE], "Difference (95 %)", "Verdict"])]
        lines.append("|" + "---|" * 4)
    for name, change in summary["against"].items():
        lines.append(_row([condition_words(name), percent(change["base"]), _points(change), change["verdict"]]))
    if general:
        skills = general_table(general, base, other)
        lines += ["", f"### General skills, {skills['instructions']} instructions: {skills['verdict']}", ""]
        lines += [_row(["", base, other, "Difference", "95 %", "n"]), "|" + "---|" * 6]
        lines += [_row([row["name"], *map(str, row["cells"])]) for row in skills["rows"]]
    if advice:
        lines += ["", "### What to do next", ""]
        lines += [f"{n}. **{a['do']}** ({a['about']}): {a['why']}" for n, a in enumerate(advice, 1)]
    for name, part in summary["settings"].items():
        conditions = part["conditions"]
        heads = ["Metric", *(condition_words(c) for c in conditions), "Difference (95 %)", "n"]
        lines += ["", f"### With {_cell(setting_words(name))}", "", _row(heads), "|" + "---|" * len(heads)]
        for row in setting_tables(part, summary["base"], summary["other"])["table"]:
            difference = row["difference"]
            values = [percent(v) for v in row["values"]]
            tail = [_points(difference), str(difference["n"])] if difference else ["–", "–"]
            lines.append(_row([row["name"], *values, *tail]))
    return "\n".join(lines) + "\n"


def _points(difference: Mapping[str, Any]) -> str:
    value, low, high = (f"{100 * difference[k]:+.1f}" for k in ("difference", "low", "high"))
    return value if difference["verdict"] == TOO_FEW else f"{value} ({low} to {high})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(c) for c in cells) + " |"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
