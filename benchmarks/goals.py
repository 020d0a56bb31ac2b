"""What a benchmark has to print and to reach: paths into the JSON object that is its last line with --json.

A script declares literals, which are read without importing it:

    NEEDS = "data sentence-transformers/all-MiniLM-L6-v2"   # shared data sets, models, importable modules
    KEYS = "sets/*/leaks missed"                # what must be there; `*` stands for every key or row
    GOALS = {"sets/*/leaks": ("<=", 0)}         # what every value on the path must be

Goals hold in the quick mode as well as in the full one, so those of speed are wide lower bounds or left out.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RELATIONS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}
Goals = Mapping[str, tuple[str, float]]


@dataclass(frozen=True)
class Declaration:
    """What a script says of itself; `keys` is empty where it says nothing."""

    needs: tuple[str, ...]
    keys: tuple[str, ...]
    goals: Goals


def declaration(path: Path) -> Declaration:
    """Reads NEEDS, KEYS and GOALS of a script; ValueError where one of them is not a literal."""
    values: dict[str, Any] = {"NEEDS": "", "KEYS": "", "GOALS": {}}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            names, value = [node.target.id], node.value
        elif isinstance(node, ast.Assign):
            names, value = [target.id for target in node.targets if isinstance(target, ast.Name)], node.value
        else:
            continue
        values |= {name: ast.literal_eval(value) for name in names if name in values}
    return Declaration(tuple(values["NEEDS"].split()), tuple(values["KEYS"].split()), values["GOALS"])


def at(figures: Any, path: str) -> list[Any]:
    """Every value on a path; none where one of its keys is missing."""
    places = [figures]
    for step in path.split("/"):
        if step == "*":
            places = [each for p in places for each in (p.values() if isinstance(p, Mapping) else p)]
        elif any(not isinstance(p, Mapping) or step not in p for p in places):
            return []
        else:
            places = [p[step] for p in places]
    return places


def missing(figures: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Paths on which nothing stands."""
    return [path for path in keys if not at(figures, path)]


def missed(figures: Mapping[str, Any], goals: Goals) -> list[str]:
    """One line for each goal that a value misses, or that has no value."""
    lines = []
    for path, (relation, bound) in goals.items():
        values = at(figures, path)
        wrong = [value for value in values if value is None or not RELATIONS[relation](value, bound)]
        if wrong or not values:
            lines.append(f"{path} is {', '.join(map(str, wrong)) or 'missing'}, the goal is {relation} {bound}")
    return lines


def finish(figures: Mapping[str, Any], goals: Goals, as_json: bool) -> int:
    """Prints what was missed and, `as_json`, the figures as the last line; returns the exit code."""
    short = missed(figures, goals)
    print(f"goals missed: {'; '.join(short) or 'none'}", flush=True)
    if as_json:
        print(json.dumps(figures, ensure_ascii=False))
    return 1 if short else 0
