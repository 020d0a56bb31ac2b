"""What a round of questions leaves: the questions kept, and every other one with the reason it was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data.nouns import Noun, Question


@dataclass(frozen=True)
class Dropped(Noun):
    """One question that was asked or imported and not kept.

    Attributes:
        chunk_id: chunk asked about, or "" for an imported row without one.
        question: as far as it got; may be empty.
        reason: short code that the counts use. detail: one line for people.
        row: identifies an imported row (its id or number), else "".
    """

    chunk_id: str
    question: str
    reason: str
    detail: str = ""
    row: str = ""


@dataclass(frozen=True)
class QuestionSet:
    """Questions kept and dropped; `counts["asked"] == len(questions) + len(dropped)`.

    Attributes:
        counts: `asked`, `kept`, `dropped` (by reason, most frequent first), and what the producer adds.
    """

    questions: list[Question]
    dropped: list[Dropped]
    counts: dict[str, Any] = field(default_factory=dict)


def question_set(questions: Sequence[Question], dropped: Sequence[Dropped], **extra: Any) -> QuestionSet:
    """A `QuestionSet` with its counts filled in."""
    reasons = Counter(d.reason for d in dropped)
    counts: dict[str, Any] = {
        "asked": len(questions) + len(dropped),
        "kept": len(questions),
        "dropped": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    }
    return QuestionSet(list(questions), list(dropped), {**counts, **extra})
