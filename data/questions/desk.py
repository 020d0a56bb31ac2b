"""The prompts of one style, put to one teacher through one cache; what comes back is checked or mended.

`small` shows a sentence and takes the answer from it; `full` shows the passage and verifies what the teacher quotes. A
comparison must be quoted from both its chunks; an unanswerable question must be refused over its own chunk and what the
retriever finds. Knows no retriever and no other question.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from data.loading.languages import main_language
from data.nouns import Chunk, ItemCache, Progress, Question, Quote, digest
from data.questions.answers import ANSWER_SHAPE, Answer, full_answer, is_refusal
from data.questions.asking import Sampling, Tally, ask, reply_key
from data.questions.drafts import draft, names_in
from data.questions.filters import Fault, common_words, copies, grounded, tidy, well_formed
from data.questions.options import QuestionOptions
from data.questions.prompts import Prompt, load_prompts
from data.questions.results import Exchange
from data.questions.selection import Candidate
from data.questions.small import final_answer, fits, mend
from data.questions.wording import flat
from data.teachers.languages import ask_in
from data.teachers.protocol import Counted, Messages, Reply, Shape, Teacher, TeacherFailure

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A question that passed the first filters.

    `rank` is that of its own chunk among the retriever's hits (None where it is not found); `beside` the other hits, in
    which an unanswerable question must find no answer either.
    """

    candidate: Candidate
    text: str
    mended: bool = False
    rank: int | None = None
    beside: tuple[Chunk, ...] = ()

    @property
    def shown(self) -> tuple[Chunk, ...]:
        """What the teacher answers from."""
        own = self.candidate.chunks
        return (*own, *self.beside) if self.candidate.kind == "unanswerable" else own


class Desk:
    """The prompts of one style, put to one teacher through one cache."""

    def __init__(
        self,
        options: QuestionOptions,
        chunks: Sequence[Chunk],
        teacher: Teacher,
        cache: ItemCache,
        progress: Progress | None,
        *,
        traced: bool = False,
    ) -> None:
        self.options, self.teacher, self.cache, self.progress = options, teacher, cache, progress
        self.small = options.style == "small"
        self.tally = Tally()
        self.language = main_language([c.text for c in chunks])
        self._chunks, self._common = chunks, common_words(chunks, language=self.language)
        self._exchanges: dict[tuple[str, int], list[Exchange]] | None = {} if traced else None
        prompts = load_prompts(options)
        self.asking, self.answering, self.reasoning = prompts.asking, prompts.answering, prompts.reasoning
        self.examples, self.version = prompts.examples, prompts.version
        # a small style's prompts are asked in the plain form, and so is a teacher that knows no other
        self.shape = ANSWER_SHAPE if self.answering and getattr(teacher, "takes_shape", False) else None

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        return names_in(c.text for c in self._chunks)

    def first_checks(self, candidate: Candidate, reply: Reply) -> tuple[str, Fault | None, bool]:
        """The question as it will stand, what is wrong with it, and whether the rules wrote it."""
        if isinstance(reply, TeacherFailure):
            return "", _failed(reply), False
        if len(reply) > 4000:
            return reply[:80], Fault("over_long", f"{len(reply)} characters"), False
        text = tidy(reply)
        if not self.small:
            fault = self._fault(text, candidate)
            return text, self._or_cut(fault, reply, self.question_sampling), False
        text = mend(text, candidate.statement)
        fault = self._fault(text, candidate)
        if fault and self.options.mend_questions:
            ours = draft(candidate.statement, self._names)
            if ours and self._fault(ours, candidate) is None:
                return ours, None, True
        return text, fault, False

    def _fault(self, text: str, candidate: Candidate) -> Fault | None:
        source = "\n".join(c.text for c in candidate.chunks)
        title = " ".join(part for c in candidate.chunks for part in (c.title, *c.heading_path))
        # what is not answered must still be about the passage, in its words
        share = 0.5 if candidate.kind == "unanswerable" else 0.75
        fault = well_formed(text, self.language) or grounded(
            text, source, title, common=self._common, min_share=share, language=self.language
        )
        if self.small:
            # a question turned around from a sentence shares long runs with it; its answer is left out by `fits`
            fault = fault or fits(text, candidate.statement, source)
            return fault or copies(text, source, max_run=20, max_share=0.95)
        return fault or copies(text, source)

    @property
    def question_sampling(self) -> Sampling:
        """How a question is asked for."""
        own = self.options.question_tokens or (28 if self.small else 96)
        return self._sampling(own, "questions.question_tokens")

    @property
    def answer_sampling(self) -> Sampling:
        """How an answer is asked for."""
        return self._sampling(self.options.answer_tokens or 512, "questions.answer_tokens", self.shape, whole=True)

    def question_prompt(self, candidate: Candidate) -> tuple[Prompt, Messages]:
        """The template for a candidate's kind, and the chat that it makes."""
        prompt = self.asking[candidate.kind if candidate.kind in self.asking else ""]
        slots = self._slots(candidate)
        messages = prompt.messages(**slots, kind=self.kind(candidate), number=candidate.number)
        return prompt, self._in_language(messages, "Write the question")

    def _in_language(self, messages: Messages, what: str) -> Messages:
        """The chat, and in which language its reply is to be; users' own prompts say so themselves."""
        own = self.options.templates is not None
        return messages if own else ask_in(messages, self.language, what)

    def question_key(self, candidate: Candidate) -> str:
        """Under which the reply to a candidate's question prompt is kept."""
        prompt, messages = self.question_prompt(candidate)
        return reply_key(messages, version=prompt.version, teacher=self.teacher.name, sampling=self.question_sampling)

    def ask_questions(self, candidates: list[Candidate]) -> list[Reply]:
        """The teacher's reply for each candidate, in order."""
        replies: dict[int, Reply] = {}
        chats = [self.question_prompt(candidate) for candidate in candidates]
        for prompt in self.asking.values():
            own = [at for at, (template, _) in enumerate(chats) if template is prompt]
            prompts = [chats[at][1] for at in own]
            replies.update(zip(own, self._ask(prompts, prompt, self.question_sampling, "questions"), strict=True))
        in_order = [replies[at] for at in range(len(candidates))]
        for candidate, (_, messages), reply in zip(candidates, chats, in_order, strict=True):
            self._note(candidate, Exchange("question", messages, reply))
        return in_order

    def kind(self, candidate: Candidate) -> str:
        """What is asked for: the kind that was drawn, else what the sentence's shape suggests."""
        return candidate.statement.kind if candidate.kind == "factoid" else candidate.kind

    def ask_answers(self, items: list[Asked]) -> list[Reply]:
        """What the teacher answers; a small one is not asked, since the answer is cut from the text."""
        if self.answering is None:
            return [""] * len(items)
        prompts = [
            self._in_language(
                self.answering.messages(
                    text=_joined(item.shown),
                    title=item.candidate.chunk.title,
                    question=item.text,
                    structured=self.shape is not None,
                ),
                "Copy quotes as they are; write reasoning and answer",
            )
            for item in items
        ]
        replies = self._ask(prompts, self.answering, self.answer_sampling, "answers")
        for item, messages, reply in zip(items, prompts, replies, strict=True):
            self._note(item.candidate, Exchange("answer", messages, reply))
        return replies

    def check_answer(self, item: Asked, reply: Reply) -> Answer | Fault:
        chunk, most = item.candidate.chunk, self.options.max_answer_words
        if isinstance(reply, TeacherFailure):
            return _failed(reply)
        if len(reply) > 20_000:
            return Fault("over_long", f"an answer of {len(reply)} characters")
        if item.candidate.kind == "unanswerable":
            answered = Fault("answerable", "the teacher finds an answer in what is retrieved")
            return Answer("", ()) if is_refusal(reply) else answered
        if not self.small:
            answer = full_answer(item.text, reply, _joined(item.shown), max_words=most, language=self.language)
            checked = answer if isinstance(answer, Fault) else _from_all(answer, item.candidate.chunks)
            return self._or_cut(checked, reply, self.answer_sampling)
        statement = item.candidate.statement
        sentence = self.reasoning.messages(title=chunk.title, asks=_asks(item.text))
        final = final_answer(item.text, statement)
        repairs = ("question",) if item.mended else ()
        return Answer(final, (statement.span.of(chunk.text),), flat(sentence[-1]["content"]), repairs)

    def question(self, item: Asked, answer: Answer) -> Question:
        gold = item.candidate.chunks
        holder = {text: next(c.id for c in gold if text in c.text) for text in answer.quotes}
        return Question(
            id=digest(item.text, *(c.id for c in gold)),
            question=item.text,
            answer=answer.final,
            gold_chunk_ids=tuple(c.id for c in gold),
            document_ids=tuple(dict.fromkeys(c.document_id for c in gold)),
            quotes=tuple(Quote(holder[text], text) for text in answer.quotes),
            reasoning=answer.reasoning,
            answers=(answer.final,) if answer.final else (),
            kind=kind if (kind := self.kind(item.candidate)) != "general" else "factoid",
            origin=f"teacher:{self.teacher.name}",
            prompt_version=self.version,
            difficulty=item.rank,
            metadata={"repairs": list(answer.repairs)} if answer.repairs else {},
        )

    def _slots(self, candidate: Candidate) -> dict[str, Any]:
        if self.small:
            statement = candidate.statement
            examples = self.examples[statement.kind]
            return {"statement": statement.text, "answer": statement.answer, "examples": examples}
        slots = {"text": candidate.chunk.text, "title": candidate.chunk.title}
        if candidate.partner:
            slots |= {"other_text": candidate.partner.text, "other_title": candidate.partner.title}
        return slots

    def exchanges(self, candidate: Candidate) -> tuple[Exchange, ...]:
        """What was said about a candidate, where the desk keeps that (`traced`)."""
        return tuple((self._exchanges or {}).get((candidate.chunk.id, candidate.number), ()))

    def _note(self, candidate: Candidate, exchange: Exchange) -> None:
        if self._exchanges is not None:
            self._exchanges.setdefault((candidate.chunk.id, candidate.number), []).append(exchange)

    def _sampling(self, tokens: int, setting: str, shape: Shape | None = None, whole: bool = False) -> Sampling:
        stop = ("\n",) if self.small else ()
        return Sampling(tokens, self.options.temperature, self.options.seed, stop, shape, setting, whole)

    def _ask(self, prompts: list[Messages], prompt: Prompt, sampling: Sampling, what: str) -> list[Reply]:
        return ask(
            prompts,
            self.teacher,
            version=prompt.version,
            sampling=sampling,
            cache=self.cache,
            progress=self.progress,
            what=f"asking for {what}",
            tally=self.tally,
        )

    def _or_cut(self, result: T, reply: str, sampling: Sampling) -> T | Fault:
        """The result; where it is a fault and the ceiling cut the reply, that is what is wrong with it."""
        if isinstance(result, Fault) and isinstance(reply, Counted) and reply.cut:
            ceiling = f"cut off at {sampling.max_tokens} tokens ({sampling.raised_by})"
            return Fault("cut_off", f"{ceiling}: {result.reason}")
        return result


def _failed(failure: TeacherFailure) -> Fault:
    """A reply that could not be had; what people can do something about has a reason of its own."""
    if failure.reason in ("content_filter", "cut_off", "not_asked"):
        return Fault(failure.reason, failure.detail)
    return Fault("teacher_failed", f"{failure.reason}: {failure.detail}".rstrip(": "))


def _joined(chunks: Sequence[Chunk]) -> str:
    """The texts one after the other; the first bare, since the prompt names its title."""
    return "\n\n".join([chunks[0].text, *(f"{c.title}\n{c.text}" for c in chunks[1:])])


def _from_all(answer: Answer, chunks: Sequence[Chunk]) -> Answer | Fault:
    """The answer if each of its quotes stands within one of the chunks and each chunk is quoted."""
    holders = [[c.id for c in chunks if text in c.text] for text in answer.quotes]
    if not all(holders):
        return Fault("one_sided", "a quote runs from one chunk into the other")
    if len({id_ for ids in holders for id_ in ids}) < len(chunks):
        return Fault("one_sided", "the answer is not quoted from both chunks")
    return answer


def _asks(question: str) -> str:
    """The question word that decides the sentence of reasoning."""
    first = question.split()[0].lower().strip("\"'(")
    return first if first in {"when", "why", "where", "how", "who", "which"} else "what"
