"""How questions are asked and checked, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raft_errors import BadInput

KINDS = ("factoid", "how_to", "yes_no", "comparison", "unanswerable")
"""What a capable teacher can be asked for; a comparison rests on two chunks, an unanswerable question on none."""


@dataclass(frozen=True)
class QuestionOptions:
    """How questions are asked and checked.

    Attributes:
        style: `small` or `full`, see the module.
        max_questions: at most so many are asked (kept are fewer); None asks about every chunk that can be asked about.
        questions_per_chunk: at most, each about another sentence.
        round_trip_k: the question must find its own chunk among so many; 0 leaves the test out.
        question_tokens, answer_tokens: ceilings of a reply; None takes the style's own (28; 96 and 512).
        temperature: 0 is greedy.
        mend_questions: small style: a question that does not fit its sentence is replaced by the one the rules make of
            the sentence, where they are sure of it; counted as repaired, and marked in the question's metadata.
        max_answer_words: longest final answer.
        max_likeness: cosine at which two questions mean the same (only where an embedder is given).
        kinds: full style: what is asked for, drawn by seed for each question; `factoid` follows the sentence's shape.
        templates: a folder whose files replace the prompts of the same name.
        seed: of the choice of chunks and of the teacher's sampling.
    """

    style: Literal["small", "full"] = "full"
    max_questions: int | None = 400
    questions_per_chunk: int = 1
    round_trip_k: int = 5
    question_tokens: int | None = None
    answer_tokens: int | None = None
    temperature: float = 0.0
    mend_questions: bool = True
    max_answer_words: int = 60
    max_likeness: float = 0.95
    kinds: tuple[str, ...] = ("factoid",)
    templates: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.style not in ("small", "full"):
            raise BadInput(f"questions: style {self.style!r}", expected="small or full")
        if self.questions_per_chunk < 1 or (self.max_questions is not None and self.max_questions < 1):
            raise BadInput("questions: fewer than one question asked for", expected="1 or more")
        if unknown := sorted(set(self.kinds) - set(KINDS)) or (not self.kinds and ["none"]):
            raise BadInput(f"questions: kind {unknown[0]!r}", expected="one or more of " + ", ".join(KINDS))
        if self.style == "small" and set(self.kinds) != {"factoid"}:
            raise BadInput(
                "questions: other kinds than factoid need a capable teacher",
                expected="kinds [factoid] with style small, whose questions follow the shape of a sentence",
                do="set questions.teacher to openai, or leave questions.kinds out",
            )
