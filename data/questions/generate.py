"""From chunks to checked questions: choose, ask, filter, find again, answer, verify, count.

A question is kept when it is well-formed, grounded, no copy and no duplicate, when the retriever finds its own chunk
again, and when its answer stands on words of that chunk. Everything else is listed with its reason. Two styles: `small`
for models of a few hundred million parameters (one call: a sentence in, a question out, the answer is the text's own),
`full` for capable endpoints (two calls: question; then quotes, reasoning and final answer, all verified).
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.nouns import Chunk, Hit, ItemCache, MemoryCache, Progress, Question, Quote, Search, digest, text_sha256
from data.questions import small
from data.questions.answers import Answer, full_answer
from data.questions.asking import Sampling, Tally, ask
from data.questions.drafts import draft, names_in
from data.questions.filters import Duplicates, Fault, common_words, copies, grounded, tidy, well_formed
from data.questions.prompts import OWN_TEMPLATES, Prompt, load_prompt
from data.questions.results import Dropped, QuestionSet, question_set
from data.questions.selection import Candidate, choose
from data.questions.wording import flat
from data.teachers import Messages, Reply, Teacher, TeacherFailure
from raft_errors import BadInput


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
    templates: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.style not in ("small", "full"):
            raise BadInput(f"questions: style {self.style!r}", expected="small or full")
        if self.questions_per_chunk < 1 or (self.max_questions is not None and self.max_questions < 1):
            raise BadInput("questions: fewer than one question asked for", expected="1 or more")


@dataclass(frozen=True)
class _Asked:
    """A question that passed the first filters."""

    candidate: Candidate
    text: str
    mended: bool = False
    rank: int | None = None


def generate_questions(
    chunks: Sequence[Chunk],
    teacher: Teacher,
    search: Search,
    *,
    options: QuestionOptions = QuestionOptions(),
    cache: ItemCache | None = None,
    progress: Progress | None = None,
) -> QuestionSet:
    """Asks the teacher for questions about the chunks and keeps those that survive every check.

    Args:
        chunks: of the whole corpus; those worth asking about are chosen.
        teacher: see `data.teachers.Teacher`.
        search: the retriever over the same chunks; called once, with all the questions.
        cache: replies are kept in it, so that a killed or repeated run pays for nothing twice.

    Returns:
        Questions in asking order with `kind`, `difficulty` (rank of the own chunk), one or more verbatim quotes, and
        `counts`: asked = kept + dropped by reason, `chunks`, `repaired` by what, `replies` {asked, cached, failed}.

    Raises:
        BadInput: no chunk holds a sentence to ask about, or a template is wrong.
        BudgetReached, TeacherUnavailable: what was answered is in the cache; run again to go on.
    """
    cache = cache if cache is not None else MemoryCache()
    candidates = choose(
        chunks,
        max_questions=options.max_questions,
        questions_per_chunk=options.questions_per_chunk,
        seed=options.seed,
        shaped=options.style == "small",
    )
    if not candidates:
        raise BadInput(
            f"none of {len(chunks)} chunks holds a whole sentence that a question can be asked about",
            expected="prose, in sentences that end with a full stop",
            do="add documents, or import questions of your own",
        )
    desk = _Desk(options, teacher, cache, progress)
    replies = desk.ask_questions(candidates)
    dropped: dict[int, Dropped] = {}
    asked: dict[int, _Asked] = {}
    desk.names = names_in(c.text for c in chunks)
    duplicates, common = Duplicates(), common_words(chunks)
    for at, (candidate, reply) in enumerate(zip(candidates, replies, strict=True)):
        text, fault, mended = desk.first_checks(candidate, reply, common)
        if fault is None and (earlier := duplicates.first(text)):
            fault = Fault("duplicate", f"of {earlier!r}")
        if fault:
            dropped[at] = _drop(candidate, text, fault)
        else:
            asked[at] = _Asked(candidate, text, mended=mended)
    for at, rank in _ranks(asked, chunks, search, options.round_trip_k).items():
        if rank is None and options.round_trip_k:
            fault = Fault("round_trip", f"the retriever does not find its chunk among the first {options.round_trip_k}")
            dropped[at] = _drop(asked[at].candidate, asked.pop(at).text, fault)
        else:
            asked[at] = dataclasses.replace(asked[at], rank=rank)
    kept: list[Question] = []
    repairs: Counter[str] = Counter()
    answers = desk.ask_answers(list(asked.values()))
    for (at, item), reply in zip(asked.items(), answers, strict=True):
        result = desk.check_answer(item, reply)
        if isinstance(result, Fault):
            dropped[at] = _drop(item.candidate, item.text, result)
        else:
            repairs.update(result.repairs)
            kept.append(desk.question(item, result))
    return question_set(
        kept,
        [dropped[at] for at in sorted(dropped)],
        chunks=len(chunks),
        kinds=dict(sorted(Counter(q.kind for q in kept).items())),
        repaired=dict(sorted(repairs.items())),
        replies=dataclasses.asdict(desk.tally),
    )


def _drop(candidate: Candidate, text: str, fault: Fault) -> Dropped:
    return Dropped(candidate.chunk.id, text[:300], fault.reason, fault.detail[:300])


def _ranks(asked: dict[int, _Asked], chunks: Sequence[Chunk], search: Search, depth: int) -> dict[int, int | None]:
    """The rank (1-based) at which each question finds its chunk or one with the same sentence; None if it does not."""
    if not asked or not depth:
        return dict.fromkeys(asked)
    found: list[list[Hit]] = search([item.text for item in asked.values()], depth)
    text_of = {c.id: c.text for c in chunks}
    ranks: dict[int, int | None] = {}
    for (at, item), hits in zip(asked.items(), found, strict=True):
        own, sentence = item.candidate.chunk.id, item.candidate.statement.text
        same = (h.rank for h in hits[:depth] if h.chunk_id == own or sentence in flat(text_of.get(h.chunk_id, "")))
        ranks[at] = min(same, default=None)
    return ranks


class _Desk:
    """The prompts of one style, put to one teacher through one cache."""

    def __init__(self, options: QuestionOptions, teacher: Teacher, cache: ItemCache, progress: Progress | None) -> None:
        self.options, self.teacher, self.cache, self.progress = options, teacher, cache, progress
        self.small = options.style == "small"
        self.tally = Tally()
        self.names: frozenset[str] = frozenset()
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

    def first_checks(
        self, candidate: Candidate, reply: Reply, common: frozenset[str]
    ) -> tuple[str, Fault | None, bool]:
        """The question as it will stand, what is wrong with it, and whether the rules wrote it."""
        if isinstance(reply, TeacherFailure):
            return "", Fault("teacher_failed", f"{reply.reason}: {reply.detail}".rstrip(": ")), False
        if len(reply) > 4000:
            return reply[:80], Fault("over_long", f"{len(reply)} characters"), False
        text = tidy(reply)
        if not self.small:
            return text, self._fault(text, candidate, common), False
        text = small.mend(text, candidate.statement)
        fault = self._fault(text, candidate, common)
        if fault and self.options.mend_questions:
            ours = draft(candidate.statement, self.names)
            if ours and self._fault(ours, candidate, common) is None:
                return ours, None, True
        return text, fault, False

    def _fault(self, text: str, candidate: Candidate, common: frozenset[str]) -> Fault | None:
        chunk = candidate.chunk
        title = " ".join((chunk.title, *chunk.heading_path))
        fault = well_formed(text) or grounded(text, chunk.text, title, common=common)
        if self.small:
            # a question turned around from a sentence shares long runs with it; its answer is left out by `fits`
            fault = fault or small.fits(text, candidate.statement, chunk.text)
            return fault or copies(text, chunk.text, max_run=20, max_share=0.95)
        return fault or copies(text, chunk.text)

    def ask_questions(self, candidates: list[Candidate]) -> list[Reply]:
        prompts = [self.asking.messages(**self._slots(c), kind=c.statement.kind, number=c.number) for c in candidates]
        tokens = self.options.question_tokens or (28 if self.small else 96)
        return self._ask(prompts, self.asking, tokens, "questions")

    def ask_answers(self, items: list[_Asked]) -> list[Reply]:
        """What the teacher answers; a small one is not asked, since the answer is cut from the text."""
        if self.answering is None:
            return [""] * len(items)
        prompts = [self.answering.messages(**self._slots(i.candidate), question=i.text) for i in items]
        return self._ask(prompts, self.answering, self.options.answer_tokens or 512, "answers")

    def check_answer(self, item: _Asked, reply: Reply) -> Answer | Fault:
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

    def question(self, item: _Asked, answer: Answer) -> Question:
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
            kind=item.candidate.statement.kind if item.candidate.statement.kind != "general" else "factoid",
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
    kinds = ("definition", "condition", "reason", "duty", "action")
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
