"""Plain instructions that an adapter rehearses while it learns a domain, with the answers of its own base.

A model that sees one form of prompt alone learns to answer everything in that form. A few instructions of every kind,
with what the base itself says to them, hold it where it was: rehearsal with the model's own answers, as in SSR (arXiv
2403.01244) and SDFT (arXiv 2402.13669). None of them is among those by which `data.evaluation.general_skills` judges.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

INSTRUCTIONS = Path(__file__).parent / "templates" / "rehearsal.txt"
T = TypeVar("T")


def instructions() -> list[str]:
    """All of them; they were written for this project."""
    return INSTRUCTIONS.read_text(encoding="utf-8").strip().split("\n")


def rehearsal_count(records: int, share: float) -> int:
    """How many rehearsals beside so many records make up that share of all, 0 <= share < 1."""
    return round(records * share / (1 - share))


def draw(items: Sequence[T], count: int, seed: int) -> list[T]:
    """`count` of the items in a random order, each as often as any other, give or take one; none of none."""
    order = random.Random(seed).sample(items, len(items))
    return [order[number % len(order)] for number in range(count)] if order else []
