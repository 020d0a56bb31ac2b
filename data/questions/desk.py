"""The prompts of one style, put to one teacher through one cache; what comes back is checked or mended.

`small` shows a sentence and takes the answer from it; `full` shows the passage and verifies what the teacher quotes.
Knows no retriever and no other question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.nouns import Chunk, ItemCache, Progress, Question, Quote, digest, text_sha256
from data.questions import small
from data.questions.answers import Answer, full_answer
from data.questions.asking import Sampling, Tally, ask
from data.questions.drafts import draft, names_in
from data.questions.filters import Fault, common_words, copies, grounded, tidy, well_formed
from data.questions.options import QuestionOptions
from data.questions.prompts import OWN_TEMPLATES, Prompt, load_prompt
from data.questions.selection import Candidate
from data.questions.wording import flat
from data.teachers import Messages, Reply, Teacher, TeacherFailure
from raft_errors import BadInput


@dataclass(frozen=True)
class Asked:
    """A question that passed the first filters."""

    candidate: Candidate
    text: str
    mended: bool = False
    rank: int | None = None


class Desk:
    """The prompts of one style, put to one teacher through one cache."""

    def __init__(
        self,
        options: QuestionOptions,
        chunks: Sequence[Chunk],
        teacher: Teacher,
        cache: ItemCache,
        progress: Progress | None,
    ) -> None:
        self.options, self.teacher, self.cache, self.progress = options, teacher, cache, progress
        self.small = options.style == "small"
        self.tally = Tally()
        self._names, self._common = names_in(c.text for c in chunks), common_words(chunks)
        folder = options.templates
        slots = ("statement", "answer") if self.small else ("text",)
        self.asking = load_prompt(f"{options.style}/question", slots=slots, folder=folder)
        self.answering: Prompt | None = None
        self.reasoning = load_prompt("reasoning", slots=(), folder=folder)
        self.examples: dict[str, Any] = {}
        if self.small:
            self.examples, second = _examples(folder)
        else:
            self.answering = load_prompt("full/answer", slots=("text", "question"), folder=folder)
            second = self.answering.version
        self.version = text_sha256(self.asking.version + second + self.reasoning.version)[:12]

    def first_checks(self, candidate: Candidate, reply: Reply) -> tuple[str, Fault | None, bool]:
        """The question as it will stand, what is wrong with it, and whether the rules wrote it."""
        if isinstance(reply, TeacherFailure):
            return "", Fault("teacher_failed", f"{reply.reason}: {reply.detail}".rstrip(": ")), False
        if len(reply) > 4000:
            return reply[:80], Fault("over_long", f"{len(reply)} characters"), False
        text = tidy(reply)
        if not self.small:
            return text, self._fault(text, candidate), False
        text = small.mend(text, candidate.statement)
        fault = self._fault(text, candidate)
        if fault and self.options.mend_questions:
            ours = draft(candidate.statement, self._names)
            if ours and self._fault(ours, candidate) is None:
                return ours, None, True
        return text, fault, False

    def _fault(self, text: str, candidate: Candidate) -> Fault | None:
        chunk = candidate.chunk
        title = " ".join((chunk.title, *chunk.heading_path))
        fault = well_formed(text) or grounded(text, chunk.text, title, common=self._common)
        if self.small:
            # a question turned around from a sentence shares long runs with it; its answer is left out by `fits`
            fault = fault or small.fits(text, candidate.statement, chunk.text)
            return fault or copies(text, chunk.text, max_run=20, max_share=0.95)
        return fault or copies(text, chunk.text)

    def ask_questions(self, candidates: list[Candidate]) -> list[Reply]:
        prompts = [self.asking.messages(**self._slots(c), kind=self.kind(c), number=c.number) for c in candidates]
        tokens = self.options.question_tokens or (28 if self.small else 96)
        return self._ask(prompts, self.asking, tokens, "questions")

    def kind(self, candidate: Candidate) -> str:
        """What is asked for: drawn from the options by chunk and seed, else what the sentence's shape suggests."""
        drawn = "factoid"
        if not self.small:
            number = int(digest(str(self.options.seed), candidate.chunk.sha256, str(candidate.number)), 16)
            drawn = self.options.kinds[number % len(self.options.kinds)]
        return candidate.statement.kind if drawn == "factoid" else drawn

    def ask_answers(self, items: list[Asked]) -> list[Reply]:
        """What the teacher answers; a small one is not asked, since the answer is cut from the text."""
        if self.answering is None:
            return [""] * len(items)
        prompts = [self.answering.messages(**self._slots(i.candidate), question=i.text) for i in items]
        return self._ask(prompts, self.answering, self.options.answer_tokens or 512, "answers")

    def check_answer(self, item: Asked, reply: Reply) -> Answer | Fault:
        chunk, most = item.candidate.chunk, self.options.max_answer_words
        if isinstance(reply, TeacherFailure):
            return Fault("teacher_failed", f"{reply.reason}: {reply.detail}".rstrip(": "))
        if len(reply) > 20_000:
            return Fault("over_long", f"an answer of {len(reply)} characters")
        if not self.small:
            return full_answer(item.text, reply, chunk.text, max_words=most)
        statement = item.candidate.statement
        said = self.reasoning.messages(title=chunk.title, asks=_asks(item.text))
        final = small.final_answer(item.text, statement)
        repairs = ("question",) if item.mended else ()
        return Answer(final, (statement.span.of(chunk.text),), flat(said[-1]["content"]), repairs)

    def question(self, item: Asked, answer: Answer) -> Question:
        chunk = item.candidate.chunk
        return Question(
            id=digest(item.text, chunk.id),
            question=item.text,
            answer=answer.final,
            gold_chunk_ids=(chunk.id,),
            document_ids=(chunk.document_id,),
            quotes=tuple(Quote(chunk.id, text) for text in answer.quotes),
            reasoning=answer.reasoning,
            answers=(answer.final,),
            kind=kind if (kind := self.kind(item.candidate)) != "general" else "factoid",
            origin=f"teacher:{self.teacher.name}",
            prompt_version=self.version,
            difficulty=item.rank,
            metadata={"repairs": list(answer.repairs)} if answer.repairs else {},
        )

    def _slots(self, candidate: Candidate) -> dict[str, Any]:
        if self.small:
            said = candidate.statement
            return {"statement": said.text, "answer": said.answer, "examples": self.examples[said.kind]}
        return {"text": candidate.chunk.text, "title": candidate.chunk.title}

    def _ask(self, prompts: list[Messages], prompt: Prompt, max_tokens: int, what: str) -> list[Reply]:
        return ask(
            prompts,
            self.teacher,
            version=prompt.version,
            sampling=Sampling(max_tokens, self.options.temperature, self.options.seed, ("\n",) if self.small else ()),
            cache=self.cache,
            progress=self.progress,
            what=f"asking for {what}",
            tally=self.tally,
        )


def _asks(question: str) -> str:
    """The question word that decides the sentence of reasoning."""
    first = question.split()[0].lower().strip("\"'(")
    return first if first in {"when", "why", "where", "how", "who", "which"} else "what"


def _examples(folder: Path | None) -> tuple[dict[str, list[list[str]]], str]:
    path = OWN_TEMPLATES / "small" / "examples.json"
    if folder is not None and (folder / "small" / "examples.json").is_file():
        path = folder / "small" / "examples.json"
    source = path.read_text(encoding="utf-8")
    kinds = ("definition", "condition", "reason", "duty", "action", "passive", "consequence")
    try:
        examples = json.loads(source)
        ok = all(len(examples[k]) == 3 and all(len(e) == 3 for e in examples[k]) for k in kinds)
    except (ValueError, KeyError, TypeError):
        ok = False
    if not ok:
        raise BadInput(
            f"{path} does not hold the examples of the small style",
            expected="for each of " + ", ".join(kinds) + " three lists [statement, question, answer]",
        )
    return examples, text_sha256(source)[:12]
