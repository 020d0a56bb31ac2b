"""Several bases under one recipe, as a page and as a table for other programs. Nothing is computed here but layout."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from data.reports.charts import bar_chart, interval_chart
from data.reports.page import render_page
from data.statistics import TOO_FEW
from data.text.counts import counted

COLUMNS = (
    "domain",
    "base",
    "state",
    "reason",
    "metric",
    "zero_shot",
    "tuned",
    "difference",
    "low",
    "high",
    "level",
    "n",
    "verdict",
    "flag",
    "gate",
    "forecast",
    "reads",
    "came_true",
    "train_seconds",
    "train_tokens",
    "weights_bytes",
    "step_bytes",
)
"""Of the table for other programs; figures are shares of 1, seconds and bytes."""
MOST_BARS, LETTERS = 5, 54  # bases whose names stand below a chart, and the letters that it has room for in all
FORECASTS = {"gain": "a gain", "little": "little", None: "–"}
FLAGS = {"worse": "worse than before", "lower": "lower, may be chance"}


def bases_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each base and domain."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def bases_page(
    rows: Sequence[Mapping[str, Any]], leaders: Mapping[str, Mapping[str, Any]], forecast: Mapping[str, int]
) -> str:
    """The page (HTML).

    Args:
        rows: a base on a domain each, as `flows.bases.Outcome.to_dict` has them.
        leaders: domain -> the tuned base that scores highest, `others`: its difference to each other one.
        forecast: what `data.evaluation.lift.hit_rate` returned.
    """
    names = list(dict.fromkeys(row["domain"] for row in rows))
    domains = []
    for name in names:
        part = [row for row in rows if row["domain"] == name]
        done = [row for row in part if row["tuned"] is not None]
        leader = leaders.get(name)
        metrics = list(dict.fromkeys(row["metric"] for row in done))
        domains.append(
            {
                "name": name,
                "metric": ", ".join(metrics),
                "rows": [_shown(row, leader) for row in part],
                "done": [_shown(row, leader) for row in done],
                "others": [(other, figures) for other, figures in (leader or {}).get("others", {}).items()],
                "leader": leader,
                "lifts": _lifts(done),
                "scores": _scores(done, metrics),
            }
        )
    return render_page(
        "bases.html.jinja",
        title="Bases compared",
        domains=domains,
        several=len(names) > 1,
        means=means(rows) if len(names) > 1 else [],
        forecast=forecast,
        failed=[row for row in rows if row["state"] == "failed"],
        waiting=counted(waiting, "cell") if (waiting := sum(row["state"] == "waiting" for row in rows)) else "",
    )


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each base over the domains that every base has finished, the one that scores highest when tuned first.

    Returns:
        `base`, mean `zero_shot`, `tuned` and `difference`, `domains` (`over` in words), and in how many the tuned one
        is `better` and `worse` by its interval.
    """
    done = [row for row in rows if row["tuned"] is not None]
    bases = list(dict.fromkeys(row["base"] for row in rows))
    finished = {base: {row["domain"] for row in done if row["base"] == base} for base in bases}
    there = [base for base in bases if finished[base]]
    common = set.intersection(*(finished[base] for base in there)) if there else set()
    table = []
    for base in there if common else []:
        part = [row for row in done if row["base"] == base and row["domain"] in common]
        average = {name: sum(row[name] for row in part) / len(part) for name in ("zero_shot", "tuned", "difference")}
        verdicts = [row["verdict"] for row in part]
        counts = {verdict: verdicts.count(verdict) for verdict in ("better", "worse")}
        over = counted(len(part), "domain")
        table.append({"base": base, "domains": len(part), "over": over, **average, **counts})
    return sorted(table, key=lambda row: -row["tuned"])


def _shown(row: Mapping[str, Any], leader: Mapping[str, Any] | None) -> dict[str, Any]:
    """A row in words."""
    return {
        **row,
        "first": leader is not None and row["base"] == leader["base"],
        "too_few": row["verdict"] == TOO_FEW,
        "flag": FLAGS.get(row["flag"], ""),
        "forecast": FORECASTS[row["forecast"]],
        "outcome": {True: "came true", False: "did not", None: "–"}[row["came_true"]],
        "outcome_class": {True: "good", False: "bad", None: ""}[row["came_true"]],
        "seconds": seconds_words(row["train_seconds"]),
        "tokens": "–" if row["train_tokens"] is None else f"{row['train_tokens']:,}",
        "weights": memory(row["weights_bytes"]),
        "step": memory(row["step_bytes"]),
    }


def _lifts(done: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        (_short(row["base"], 24), 100 * row["difference"], 100 * row["low"], 100 * row["high"])
        for row in done
        if row["verdict"] != TOO_FEW
    ]
    return interval_chart(rows, title="Tuned less zero-shot", x_label="percentage points")


def _scores(done: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Markup:
    room = LETTERS // max(1, len(done))
    groups = {_short(row["base"], room): {"zero-shot": row["zero_shot"], "tuned": row["tuned"]} for row in done}
    if len(done) > MOST_BARS or len(groups) < len(done):  # names too many, or too much alike, to stand below it
        return Markup("")
    return bar_chart(groups, title=", ".join(metrics) or "Score", x_label="base")


def _short(base: str, letters: int) -> str:
    """What a chart has room for: the end of a name, which tells models of one maker apart."""
    name = base.rpartition("/")[2]
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


def memory(size: int | None) -> str:
    """Bytes for people; a dash where they are not known."""
    if size is None:
        return "–"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def seconds_words(seconds: float | None) -> str:
    """Seconds for people; a dash where they are not known."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _cell(value: Any) -> Any:
    """A value as other programs read it: a float with as many digits as matter, nothing for what is not known."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return round(value, 6) if isinstance(value, float) else value
