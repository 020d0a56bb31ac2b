"""General skills outside any domain: forty short instructions, to see what an adapter has forgotten.

The instructions and their answers were written for this project. A reply counts as right if it holds an accepted
answer; the model is also measured by its loss on the written answer, in nats per token. Both are compared in pairs. The
caller computes replies and losses.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.evaluation.metrics import contains_answer
from data.statistics import TOO_FEW, paired_bootstrap

LEAST_FOR_VERDICT = 10
INSTRUCTIONS = Path(__file__).parent / "templates" / "general" / "instructions.jsonl"


@dataclass(frozen=True)
class Instruction:
    """`answer` is a good reply; a right reply holds one of the phrases in `accepted` (none: not graded)."""

    id: str
    kind: str
    instruction: str
    answer: str
    accepted: tuple[str, ...]

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.instruction}]


def instructions(count: int | None = None) -> list[Instruction]:
    """The first `count` instructions, all by default; kinds take turns, so that any first few are a fair sample."""
    lines = INSTRUCTIONS.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    every = [Instruction(**{**row, "accepted": tuple(row["accepted"])}) for row in rows]
    counts: Counter[str] = Counter()
    turn = {}
    for item in every:
        turn[item.id] = counts[item.kind]
        counts[item.kind] += 1
    return sorted(every, key=lambda i: (turn[i.id], i.id))[:count]


def compare_general_skills(
    items: Sequence[Instruction],
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
        replies: condition -> one reply per instruction.
        losses: condition -> mean loss on the written answer in nats per token, one per instruction.

    `verdict` rests on the loss: `forgets` where its interval lies above zero, `improves` where it lies below, else
    `unchanged`; `too few to say` below ten instructions. Losses that are not finite are counted (`not_finite`) and left
    out of the comparison.
    """
    finite = [i for i in range(len(items)) if all(math.isfinite(losses[c][i]) for c in (base, other))]
    out: dict[str, Any] = {"instructions": len(items), "not_finite": len(items) - len(finite)}
    if finite:
        first, second = [[losses[c][i] for i in finite] for c in (base, other)]
        change = paired_bootstrap(first, second, samples=samples, seed=seed)
        verdict = "forgets" if change.low > 0 else "improves" if change.high < 0 else "unchanged"
        if len(finite) < LEAST_FOR_VERDICT:
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
    gradable = [i for i, one in enumerate(items) if one.accepted]
    if gradable:
        marks = {c: [contains_answer(replies[c][i], items[i].accepted) for i in gradable] for c in (base, other)}
        change = paired_bootstrap(marks[base], marks[other], samples=samples, seed=seed)
        out["correct"] = {
            "base": sum(marks[base]) / len(gradable),
            "other": sum(marks[other]) / len(gradable),
            "difference": change.value,
            "low": change.low,
            "high": change.high,
            "n": change.n,
        }
    return out
