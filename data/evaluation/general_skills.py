"""General skills outside any domain: forty short instructions, to see what an adapter has forgotten.

The instructions and their answers were written for this project. A reply is judged by whether it holds an accepted
answer, and the model by the loss (nats a token) that it gives to the written answer; both are compared by pairs. Who
computes replies and losses is the caller's business.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.evaluation.answer_metrics import contains_answer
from data.statistics import TOO_FEW, paired_bootstrap

LEAST_FOR_VERDICT = 10
INSTRUCTIONS = Path(__file__).parent / "templates" / "general" / "instructions.jsonl"


@dataclass(frozen=True)
class Instruction:
    """`answer` is a good reply; `accepted` are phrases of which a right reply holds one (none: not judged)."""

    id: str
    kind: str
    instruction: str
    answer: str
    accepted: tuple[str, ...]

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.instruction}]


def instructions(count: int | None = None) -> list[Instruction]:
    """The first `count` instructions, all by default, kinds in turn so that any first few are a fair sample."""
    lines = INSTRUCTIONS.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    every = [Instruction(**{**row, "accepted": tuple(row["accepted"])}) for row in rows]
    seen: Counter[str] = Counter()
    turn = {}
    for item in every:
        turn[item.id] = seen[item.kind]
        seen[item.kind] += 1
    return sorted(every, key=lambda i: (turn[i.id], i.id))[:count]


def compare_general_skills(
    asked: Sequence[Instruction],
    replies: Mapping[str, Sequence[str]],
    losses: Mapping[str, Sequence[float]],
    *,
    base: str = "base",
    other: str = "adapter",
    samples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """How general skills change from `base` to `other`: paired differences, other - base, JSON values only.

    Args:
        replies: condition -> one reply an instruction.
        losses: condition -> mean loss in nats a token of the written answer, one an instruction.

    `verdict` reads the loss: `forgets` where its interval lies above zero, `improves` where below, else `unchanged`;
    `too few to say` below ten instructions.
    Losses that are not finite are counted (`not_finite`) and leave the comparison.
    """
    kept = [i for i in range(len(asked)) if all(math.isfinite(losses[c][i]) for c in (base, other))]
    out: dict[str, Any] = {"instructions": len(asked), "not_finite": len(asked) - len(kept)}
    if kept:
        first, second = [[losses[c][i] for i in kept] for c in (base, other)]
        change = paired_bootstrap(first, second, samples=samples, seed=seed)
        verdict = "forgets" if change.low > 0 else "improves" if change.high < 0 else "unchanged"
        if len(kept) < LEAST_FOR_VERDICT:
            verdict = TOO_FEW
        out["loss"] = {
            "base": sum(first) / len(first),
            "other": sum(second) / len(second),
            "difference": change.value,
            "low": change.low,
            "high": change.high,
            "n": change.n,
        }
        out["verdict"] = verdict
    judged = [i for i, item in enumerate(asked) if item.accepted]
    if judged:
        marks = {c: [contains_answer(replies[c][i], asked[i].accepted) for i in judged] for c in (base, other)}
        change = paired_bootstrap(marks[base], marks[other], samples=samples, seed=seed)
        out["correct"] = {
            "base": sum(marks[base]) / len(judged),
            "other": sum(marks[other]) / len(judged),
            "difference": change.value,
            "low": change.low,
            "high": change.high,
            "n": change.n,
        }
    return out
