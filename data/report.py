"""Writes the evaluation report: one HTML file that a manager can read on a phone and a statistician can check.

Self-contained (inline style and SVG, no script, no outside request), escaped throughout, and without a time stamp, so
that the same evaluation gives the same bytes. Scores come from `data.scoring`; nothing is computed here but layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from data.charts import bar_chart, interval_chart, line_chart
from data.scoring import HEADLINE, LEAST_GROUPS, METRICS, score_row, summarise

__all__ = ["score_row", "summarise", "write_report"]

SETTINGS = {
    "records": "the passages of the test records",
    "retrieved": "the passages that the retriever finds",
    "closed_book": "no passages",
    "oracle_only": "the oracle passages alone",
}
EXAMPLES = 3


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
) -> None:
    """Writes the report to `path` (UTF-8 HTML).

    Args:
        summary: what `summarise` returned for the rows.
        retrieval: figures of the retriever; keys like `recall@5` are also drawn.
        training: figures of the training; lists of [step, value] pairs (`loss`, `validation_loss`) are drawn.
        config: nested values are flattened to `section.field`.
        lineage: stage -> digest, or rows with `stage` and `digest`.
    """
    base, other = summary["base"], summary["other"]
    headline = summary.get("headline")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates" / "report"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "points": lambda v: f"{100 * v:+.1f}",
        "points_plain": lambda v: f"{100 * v:.1f}",
        "probability": lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}",
        "colour": _colour,
    }
    html = environment.get_template("report.html.jinja").render(
        title=title,
        headline=headline,
        base_name=_label(base),
        other_name=_label(other),
        setting_words=SETTINGS.get(summary["headline_setting"], summary["headline_setting"]),
        metric_name=METRICS[HEADLINE],
        verdict=headline and headline["verdict"],
        verdict_class=headline and _colour(headline),
        level=f"{100 * headline['level']:g} %" if headline else "95 %",
        warnings=_warnings(summary),
        settings=[
            (_setting_title(n), _setting(p, base, other))
            for n, p in sorted(summary["settings"].items(), key=lambda item: item[0] != summary["headline_setting"])
        ],
        least_groups=LEAST_GROUPS,
        samples=f"{summary['samples']:,}",
        seed=summary["seed"],
        retrieval=_flatten(retrieval or {}),
        retrieval_chart=_recall_chart(retrieval or {}),
        training=[(k, v) for k, v in _flatten(_without_curves(training or {}))],
        training_chart=line_chart(_curves(training or {}), title="Loss", x_label="step"),
        example_groups=_examples(rows, summary),
        config=_flatten(config or {}),
        lineage=_lineage(lineage or {}),
    )
    path.write_text(html + "\n", encoding="utf-8", newline="\n")


def _label(condition: str) -> str:
    return {"base": "Base model", "adapter": "Adapter"}.get(condition, condition)


def _setting_title(name: str) -> str:
    words = SETTINGS.get(name, name.replace("_", " "))
    return f"Answers with {words}"


def _percent(value: Any) -> str:
    return f"{100 * value:.1f}" if isinstance(value, (int, float)) else "–"


def _colour(difference: Mapping[str, Any]) -> str:
    return "good" if difference["low"] > 0 else "bad" if difference["high"] < 0 else ""


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, part in summary["settings"].items():
        for condition, figures in part["conditions"].items():
            if figures["missing"]:
                lines.append(
                    f"{_label(condition)}, {name}: {figures['missing']} of {figures['n']} answers were never "
                    "generated; they are left out of every comparison."
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
    forest = [(METRICS[m], d["value"] * 100, d["low"] * 100, d["high"] * 100) for m, d in differences.items()]
    places = {p: {_label(c): v["mean"] for c, v in by.items()} for p, by in part["positions"].items()}
    return {
        "conditions": [{"name": _label(c)} for c in conditions],
        "differences": differences,
        "table": table,
        "counts": [row for row in counts if any(v not in (0, "–") for v in row["values"])],
        "interval_chart": interval_chart(
            forest, title=f"{_label(other)} less {_label(base).lower()}", x_label="percentage points"
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


def _examples(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[tuple[str, str, list]]:
    """The records on which the other condition gained and lost most in the headline setting."""
    base, other = summary["base"], summary["other"]
    both: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["setting"] == summary["headline_setting"] and not row["failed"]:
            both.setdefault(row["record_id"], {})[row["condition"]] = row
    changes = []
    for record, pair in sorted(both.items()):
        if base in pair and other in pair and pair[base]["metrics"][HEADLINE] is not None:
            changes.append((pair[other]["metrics"][HEADLINE] - pair[base]["metrics"][HEADLINE], record))
    best = [r for c, r in sorted(changes, key=lambda x: (-x[0], x[1])) if c > 0][:EXAMPLES]
    worst = [r for c, r in sorted(changes) if c < 0][:EXAMPLES]
    shown = {*best, *worst}
    failed = [r for c, r in sorted(changes) if r not in shown and both[r][other]["metrics"][HEADLINE] == 0][:EXAMPLES]
    name = _label(other).lower()
    return [
        (
            f"Where the {name} gained most",
            "Quotes are highlighted in passages and replies.",
            _cards(best, both, base, other),
        ),
        (f"Where the {name} lost most", "Read these before trusting the average.", _cards(worst, both, base, other)),
        (
            f"Where the {name} was wrong",
            "No word in common with an accepted answer.",
            _cards(failed, both, base, other),
        ),
    ]


def _cards(records: Iterable[str], both: Mapping[str, Any], base: str, other: str) -> list[dict[str, Any]]:
    cards = []
    for record in records:
        pair = both[record]
        change = pair[other]["metrics"][HEADLINE] - pair[base]["metrics"][HEADLINE]
        quoted = [q["text"] for c in (base, other) for q in pair[c]["quotes"] if q["verbatim"]]
        cards.append(
            {
                "question": pair[other]["question"],
                "answers": "; ".join(pair[other]["answers"]),
                "change": f"F1 {100 * change:+.0f}",
                "replies": [
                    {
                        "name": _label(c),
                        "text": _highlight(pair[c]["prediction"] or "(empty)", [q["text"] for q in pair[c]["quotes"]]),
                        "tags": [f"F1 {100 * pair[c]['metrics'][HEADLINE]:.0f}", *pair[c]["flags"]]
                        + [_quote_tag(q) for q in pair[c]["quotes"]],
                    }
                    for c in (base, other)
                ],
                "passages": [{**p, "text": _highlight(p["text"], quoted)} for p in pair[other]["passages"]],
            }
        )
    return cards


def _quote_tag(quote: Mapping[str, Any]) -> str:
    if not quote["verbatim"]:
        return "quote not verbatim"
    return "quotes the oracle" if quote["oracle"] else "quotes a distractor"


def _highlight(text: str, quotes: Sequence[str]) -> Markup:
    """The escaped text with each quote that stands in it marked; overlapping marks are merged."""
    marked = [False] * len(text)
    for quote in quotes:
        start = text.find(quote) if quote else -1
        if start >= 0:
            marked[start : start + len(quote)] = [True] * len(quote)
    out, run = [], 0
    for i in range(1, len(text) + 1):
        if i == len(text) or marked[i] != marked[run]:
            piece = escape(text[run:i])
            out.append(Markup("<mark>{}</mark>").format(piece) if marked[run] else piece)
            run = i
    return Markup("").join(out)


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
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
