"""Rows that differ in one field of the protocol alone, as a table: the share P of records with their oracle and the
number of distractors, as in the RAFT paper's figures.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SWEEPS: dict[str, tuple[float, ...]] = {"p_oracle": (0, 0.2, 0.4, 0.6, 0.8, 1), "distractors": (0, 1, 2, 3)}
RECORDS = 600  # questions that the adapters of a sweep are trained on
SWEPT_SETS = ("squad",)
LABELS = {"p_oracle": "records that show their oracle", "distractors": "distractors in training"}
UNSET = {"p_oracle": "as often as retrieved", "distractors": "as many as there is room for"}
Cell = Callable[[Sequence[Mapping[str, Any]]], str]


def sweep_tables(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], cell: Cell) -> list[str]:
    """A Markdown table for each field with two values or more among RAFT's rows that agree in everything else.

    Args:
        rows: of one set and part. columns: figure -> its heading. cell: figures of several seeds in words.
    """
    lines: list[str] = []
    for field, values_of in _swept(rows).items():
        for fixed, by_value in values_of.items():
            own = [row for some in by_value.values() for row in some]
            shown = [key for key in columns if any(key in row["figures"] for row in own)]
            train = json.loads(fixed)["train"]
            lines += [f"{LABELS[field].capitalize()}, {train} training questions:", ""]
            lines += [f"| {field} | seeds | {' | '.join(columns[key] for key in shown)} |"]
            lines += ["|---" * (2 + len(shown)) + "|"]
            for value in sorted(by_value, key=lambda value: (value is None, value)):
                some = by_value[value]
                seeds = ", ".join(str(row["seed"]) for row in sorted(some, key=lambda row: row["seed"]))
                cells = [cell([row["figures"][key] for row in some if key in row["figures"]]) for key in shown]
                label = UNSET[field] if value is None else f"{value:g}"
                lines.append(f"| {label} | {seeds} | {' | '.join(cells)} |")
            lines.append("")
    return lines


def missing_points(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The points of the paper's figures that no row of a set has yet, a line for each field."""
    if name not in SWEPT_SETS:
        return []
    own = [row["protocol"] for row in rows if row["arm"] == "raft" and row["protocol"]["train"] == RECORDS]
    lines = []
    for field, points in SWEEPS.items():
        values = {protocol.get(field) for protocol in own}
        if absent := [f"{point:g}" for point in points if point not in values]:
            lines.append(f"{name}: {field} {', '.join(absent)} with train={RECORDS}")
    return lines


def _swept(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[Any, list[Mapping[str, Any]]]]]:
    """Field -> the other fields, as JSON -> value -> rows; only where a field has several values."""
    tables: dict[str, dict[str, dict[Any, list[Mapping[str, Any]]]]] = {}
    for field in SWEEPS:
        groups: dict[str, dict[Any, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row["arm"] == "raft":
                rest = {k: v for k, v in row["protocol"].items() if k not in (field, "seed", "refusal")}
                groups[json.dumps(rest, sort_keys=True)][row["protocol"].get(field)].append(row)
        tables[field] = {fixed: by_value for fixed, by_value in groups.items() if len(by_value) > 1}
    return {field: groups for field, groups in tables.items() if groups}
