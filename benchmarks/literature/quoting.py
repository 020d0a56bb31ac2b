"""One adapter under several weights of the search in the choice of what is copied (`ask.quote_weight`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.statistics import paired_bootstrap
from literature.figures import figures_of, interval_of, resampled

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
COLUMNS = ("citation_precision", "precision_change", "f1", "f1_change")


def weight_figures(by_weight: Mapping[float, Sequence[Mapping[str, Any]]], seed: int) -> dict[str, dict[str, Any]]:
    """Weight -> metric -> value with its 95 % interval; changes are against the first weight, by paired questions.

    Args:
        by_weight: the scored answers of the same questions, in the same order.
    """
    reference = next(iter(by_weight.values()))
    figures = {}
    for weight, rows in by_weight.items():
        values = figures_of(rows, reference, seed)
        if "f1_over_rag" in values:
            values["f1_change"] = values.pop("f1_over_rag")
        pairs = [(before["metrics"]["citation_precision"], row) for before, row in zip(reference, rows, strict=True)]
        pairs = [(before, row) for before, row in pairs if None not in (before, row["metrics"]["citation_precision"])]
        if pairs:
            after = [row["metrics"]["citation_precision"] for _, row in pairs]
            groups = resampled([row for _, row in pairs])
            change = paired_bootstrap([before for before, _ in pairs], after, groups=groups, seed=seed)
            values["precision_change"] = interval_of(change)
        figures[f"{weight:g}"] = {name: values[name] for name in COLUMNS if name in values}
    return figures


def weight_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as Markdown; a dash where no answer quotes."""
    lines = [
        "| quote_weight | citation precision | against the first | F1 | against the first |",
        "|---|---|---|---|---|",
    ]
    for weight, values in figures.items():
        cells = [_in_words(values.get(name), signed=name.endswith("_change")) for name in COLUMNS]
        lines.append(f"| {' | '.join([weight, *cells])} |")
    return "\n".join(lines)


def _in_words(value: Mapping[str, Any] | None, signed: bool) -> str:
    if value is None:
        return "–"
    sign = "+" if signed else ""
    return f"{value['value']:{sign}.3f} [{value['low']:{sign}.3f}, {value['high']:{sign}.3f}]"
