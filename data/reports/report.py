"""Writes the evaluation report: one HTML file that a manager can read on a phone and a statistician can check.

Self-contained (inline style and SVG, no script, no outside request), escaped throughout, and without a time stamp, so
that the same evaluation gives the same bytes. Scores come from `data.evaluation`; nothing is computed here but layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data.evaluation.comparison import HEADLINE, LEAST_GROUPS, summarise
from data.evaluation.conditions import condition_words, measure_words, setting_words
from data.evaluation.scoring import METRICS, score_row
from data.reports.charts import bar_chart, line_chart
from data.reports.examples import example_groups
from data.reports.markdown import summary_markdown
from data.reports.page import colour, render_page
from data.reports.tables import (
    change_words,
    citing_words,
    general_table,
    plain,
    setting_tables,
    training_lines,
    warning_lines,
)

__all__ = ["score_row", "summarise", "summary_markdown", "write_report"]


def write_report(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    decision: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]],
    retrieval: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    advice: Sequence[Mapping[str, Any]] = (),
    general: Mapping[str, Any] | None = None,
    judge: Mapping[str, Any] | None = None,
    citing: Mapping[str, Any] | None = None,
) -> None:
    """Writes the report to `path` (UTF-8 HTML).

    Args:
        summary: what `summarise` returned for the rows.
        decision: what `data.evaluation.promotion.decide_evaluation` returned, as a dict: the verdict of the page.
        retrieval: figures of the retriever; keys like `recall@5` are also drawn.
        training: figures of the training; lists of [step, value] pairs (`loss`, `validation_loss`) are drawn.
        config: nested values are flattened to `section.field`.
        lineage: stage -> digest, or rows with `stage` and `digest`.
        advice: what `data.evaluation.advice.advise` returned, as dicts, most pressing first.
        general: what `data.evaluation.general_skills.compare_general_skills` returned.
        citing: what was calibrated for the adapter's citations, and `measured` on the test questions.
        judge: what `data.evaluation.teacher_judge.judge_rows` says about the judge, where there was one.
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
        decision=decision,
        decision_class=decision and {"promote": "good"}.get(decision["verdict"], "bad"),
        verdict=headline and headline["verdict"],
        change=headline and change_words(headline["verdict"]),
        verdict_class=headline and colour(headline),
        level=f"{100 * headline['level']:g} %" if headline else "95 %",
        warnings=[*warning_lines(summary), *training_lines(training or {})],
        against=[(condition_words(name), difference) for name, difference in summary["against"].items()],
        advice=list(advice),
        judge=judge,
        citing=citing_words(citing or {}),
        general=general_table(general or {}, condition_words(base), condition_words(other)),
        settings=[
            (f"Answers with {setting_words(n)}", setting_tables(p, base, other))
            for n, p in sorted(summary["settings"].items(), key=lambda item: item[0] != summary["headline_setting"])
        ],
        distractor_chart=_distractor_chart(summary),
        least_groups=LEAST_GROUPS,
        samples=f"{summary['samples']:,}",
        seed=summary["seed"],
        retrieval=[(measure_words(name), value) for name, value in _flatten(retrieval or {})],
        retrieval_chart=_recall_chart(retrieval or {}),
        training=[(k.replace("_", " "), v) for k, v in _flatten(_without_curves(training or {}))],
        training_chart=line_chart(_curves(training or {}), title="Loss", x_label="step"),
        example_groups=example_groups(rows, summary),
        config=_flatten(config or {}),
        lineage=_lineage(lineage or {}),
    )
    path.write_text(html, encoding="utf-8", newline="\n")


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
    by_depth: dict[int, dict[str, float]] = {}
    for key, value in retrieval.items():
        name, at, depth = str(key).partition("@")
        if at and depth.isdigit() and isinstance(value, (int, float)):
            words = {"recall": "oracles found (recall)", "any_hit": "questions with an oracle (any-hit)"}.get(
                name, name
            )
            by_depth.setdefault(int(depth), {})[words] = float(value)
    groups = {f"@{depth}": by_depth[depth] for depth in sorted(by_depth)}
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
            out.append((f"{prefix}{key}", plain(item)))
    return out
