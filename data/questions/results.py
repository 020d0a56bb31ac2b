"""What a round of questions leaves: the questions kept, and every other one with the reason it was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data.nouns import Chunk, Noun, Question
from data.teachers.protocol import Messages, Reply, TeacherFailure


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
class Exchange:
    """What a teacher was asked for (`question` or `answer`), in which words, and its reply."""

    what: str
    messages: Messages
    reply: Reply

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file; a reply that could not be had is `failure`."""
        row: dict[str, Any] = {"what": self.what, "messages": self.messages}
        if isinstance(self.reply, TeacherFailure):
            return {**row, "failure": {"reason": self.reply.reason, "detail": self.reply.detail}}
        return {**row, "reply": str(self.reply)}


@dataclass(frozen=True)
class Trace:
    """One question from prompt to verdict: what was said about it, and what came of it."""

    chunk: Chunk
    exchanges: tuple[Exchange, ...]
    verdict: Question | Dropped

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        verdict = self.verdict
        if isinstance(verdict, Question):
            outcome = {"kept": True, "question": verdict.question, "answer": verdict.answer}
        else:
            outcome = {"kept": False, "question": verdict.question, "reason": verdict.reason, "detail": verdict.detail}
        return {
            "source": self.chunk.source,
            "chunk_id": self.chunk.id,
            **outcome,
            "exchanges": [exchange.to_dict() for exchange in self.exchanges],
        }


@dataclass(frozen=True)
class QuestionSet:
    """Questions kept and dropped; `counts["asked"] == len(questions) + len(dropped)`.

    Attributes:
        counts: `asked`, `kept`, `dropped` (by reason, most frequent first), and what the producer adds.
        traces: of questions that a teacher was asked for, in asking order.
    """

    questions: list[Question]
    dropped: list[Dropped]
    counts: dict[str, Any] = field(default_factory=dict)
    traces: tuple[Trace, ...] = field(default=(), compare=False)


def question_set(questions: Sequence[Question], dropped: Sequence[Dropped], **extra: Any) -> QuestionSet:
    """A `QuestionSet` with its counts filled in."""
    reasons = Counter(d.reason for d in dropped)
    counts: dict[str, Any] = {
        "asked": len(questions) + len(dropped),
        "kept": len(questions),
        "dropped": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    }
    return QuestionSet(list(questions), list(dropped), {**counts, **extra})
