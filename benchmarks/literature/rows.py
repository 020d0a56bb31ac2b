"""Rows of results: a JSON file for each set, arm, protocol and seed, and the table that is drawn from them.

They lie in two folders, `development` and `test`. A development row is written anew by every run; a test row is written
once, with the commit that made it, and a second evaluation of the same protocol and seed is refused.
"""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from literature.arms import ARMS
from literature.protocols import PROTOCOLS, Protocol
from literature.sweeps import missing_points, sweep_tables

SEEDS = (0, 1, 2)
BETTER: dict[str, Any] = {"rerank": True, "adapt": "embedder,reranker"}
"""The better retriever, with which every arm that reads passages is to be compared as well."""
COLUMNS = {
    "f1": "F1",
    "f1_over_rag": "less base + RAG",
    "contains": "answer contained",
    "accuracy": "accuracy",
    "accuracy_over_majority": "less the majority",
    "ast_match": "AST match",
    "ast_match_over_majority": "less the majority",
    "gold_call": "the very call",
    "hallucinated": "call of no API",
    "rouge_l": "ROUGE-L",
    "citation_precision": "citation precision",
    "verbatim": "verbatim",
    "refusal_recall": "refusal recall",
    "refusal_precision": "refusal precision",
    "recall@1": "first passage right",
    "oracle_shown": "oracle shown",
    "coverage": "answers given at 10 % wrong",
    "citation_error": "of these cite wrongly",
}


@dataclass(frozen=True)
class Place:
    """The folder of all rows."""

    folder: Path

    def file(self, part: str, name: str, arm: str, protocol: Protocol) -> Path:
        """Where a row lies."""
        return self.folder / part / f"{name}-{arm}-{protocol.digest_for(name, arm)}-seed{protocol.seed}.json"

    def write(self, row: Mapping[str, Any], name: str, arm: str, protocol: Protocol) -> Path:
        """Writes a row of the part that it names; of the test part never over another."""
        path = self.file(row["part"], name, arm, protocol)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(row, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        with path.open("x" if row["part"] == "test" else "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        return path

    def read(self, part: str) -> Iterator[dict[str, Any]]:
        """The rows of a part, by the names of their files."""
        for path in sorted((self.folder / part).glob("*.json")):
            yield json.loads(path.read_text(encoding="utf-8"))


def refuse_second(place: Place, name: str, arms: Sequence[str], protocol: Protocol) -> None:
    """Ends the program where the test part was asked before with one of these arms, this protocol and this seed."""
    earlier = [arm for arm in arms if place.file("test", name, arm, protocol).exists()]
    if not earlier:
        return
    row = json.loads(place.file("test", name, earlier[0], protocol).read_text(encoding="utf-8"))
    rest = [arm for arm in arms if arm not in earlier]
    more = f"; not asked yet: {' '.join(f'--arm {arm}' for arm in rest)}" if rest else ""
    raise SystemExit(
        f"--final {name}, seed {protocol.seed}: {', '.join(earlier)} was evaluated on the test part at commit "
        f"{row['commit'][:12]} on {row['date']}. The test part is asked once for a protocol and seed: choose on "
        f"--part development{more}"
    )


def commit_of(folder: Path) -> tuple[str, bool]:
    """The commit of a checkout, and whether tracked files differ from it; ("", True) where there is none."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "", True


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def table(rows: Sequence[Mapping[str, Any]], names: Sequence[str], part: str) -> str:
    """The rows as Markdown: the interval of a single seed; of several the mean, standard deviation and range. The
    protocols as they stand come first, then what was varied, then sweeps of one field; and what is missing."""
    lines = [f"## {part}", ""]
    missing = []
    for name in names:
        protocol = PROTOCOLS[name]
        own = [row for row in rows if row["set"] == name]
        lines += [f"### {name}", ""]
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for row in own:
            groups[row["arm"], row["digest"]].append(row)
        columns = [key for key in COLUMNS if any(key in row["figures"] for row in own)]
        standing = {(arm, protocol.digest_for(name, arm)) for arm in ARMS}
        if own:
            lines += [f"| arm | seeds | questions | {' | '.join(COLUMNS[key] for key in columns)} |"]
            lines += ["|---" * (3 + len(columns)) + "|"]
        for key in sorted(groups, key=lambda key: (key not in standing, list(ARMS).index(key[0]), key[1])):
            label = ARMS[key[0]].label + ("" if key in standing else f" ({_differences(groups[key][0], protocol)})")
            lines.append(_line(label, groups[key], columns))
        protocols = {row["digest"] for row in own if row["arm"] == "raft"}
        if part == "test" and len(protocols) > 1:
            lines += ["", f"The test part was asked with {len(protocols)} protocols of RAFT: the best is not unbiased."]
        lines += ["", *sweep_tables(own, {key: COLUMNS[key] for key in columns}, _cell)]
        better = replace(protocol, **BETTER)
        for arm in ARMS:
            for planned, words in ((protocol, ""), (better, ", better retriever")):
                seeds = {row["seed"] for row in groups.get((arm, planned.digest_for(name, arm)), ())}
                absent = [seed for seed in SEEDS if seed not in seeds]
                if absent and (ARMS[arm].passages or not words):
                    missing.append(f"{name}: {ARMS[arm].label}{words}, seed {', '.join(map(str, absent))}")
        missing += missing_points(own, name)
    return "\n".join([*lines, "Missing: " + ("; ".join(missing) or "nothing") + ".", ""])


def _line(label: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    seeds = ", ".join(str(row["seed"]) for row in sorted(rows, key=lambda row: row["seed"]))
    questions = " / ".join(str(row["questions"]) for row in sorted(rows, key=lambda row: row["seed"]))
    cells = [_cell([row["figures"][key] for row in rows if key in row["figures"]]) for key in columns]
    return f"| {label} | {seeds} | {questions} | {' | '.join(cells)} |"


def _cell(figures: Sequence[Mapping[str, Any]]) -> str:
    if not figures:
        return "–"
    values = [figure["value"] for figure in figures]
    if len(values) > 1:
        return f"{mean(values):.3f} ± {stdev(values):.3f} ({min(values):.3f} to {max(values):.3f})"
    if "low" not in figures[0]:
        return f"{values[0]:.3f}"
    return f"{values[0]:.3f} [{figures[0]['low']:.3f}, {figures[0]['high']:.3f}]"


def _differences(row: Mapping[str, Any], protocol: Protocol) -> str:
    """What a row's protocol has other than the set's."""
    standing = vars(protocol)
    changes = [f"{k}={v}" for k, v in row["protocol"].items() if k in standing and k != "seed" and standing[k] != v]
    return ", ".join(changes) or "an earlier protocol"
