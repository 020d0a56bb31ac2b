"""Plain instructions that an adapter rehearses while it learns a domain, with the answers of its own base.

A model that sees one form of prompt alone learns to answer everything in that form. A few instructions of every kind,
with what the base itself says to them, hold it where it was: rehearsal with the model's own answers, as in SSR (arXiv
2403.01244) and SDFT (arXiv 2402.13669). None of them is among those by which `data.evaluation.general_skills` judges.
"""

from __future__ import annotations

import random
from pathlib import Path

DRAWS = 3
"""Different replies to an instruction, beyond which they are rehearsed again."""
INSTRUCTIONS = Path(__file__).parent / "templates" / "rehearsal.txt"


def instructions() -> list[str]:
    """All of them; they were written for this project."""
    return INSTRUCTIONS.read_text(encoding="utf-8").strip().split("\n")


def rehearsal_count(records: int, share: float) -> int:
    """How many rehearsals beside so many records make up that share of all, 0 <= share < 1."""
    return round(records * share / (1 - share))


def drawn(count: int, seed: int) -> list[tuple[int, str]]:
    """So many rehearsals, (number of the draw, instruction): all instructions in a random order, then again."""
    order = instructions()
    random.Random(seed).shuffle(order)
    return [(number // len(order) % DRAWS, order[number % len(order)]) for number in range(count)]
