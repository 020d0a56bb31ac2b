"""Drafts one record: passages in their hashed order, the prompt, the label, and the metadata that explains them.

Drops distractors until the record fits its token budget, and never touches an oracle. Which questions lose their
oracle, and how many, is decided by `data.records.compose`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from data.nouns import Chunk, Question, Record, digest
from data.prompting.contract import (
    CitedQuote,
    PromptTemplate,
    as_written,
    parse_answer,
    passage_spans,
    render,
    render_output,
)
from data.records.candidates import Candidates, ShownPassage, is_unanswerable
from data.records.split_sides import Splits
from raft_errors import BadInput

POLICIES = ("answer", "refuse", "mix")
ORDERS = ("hashed", "retrieved")


@dataclass(frozen=True)
class RecordOptions:
    """Attributes:
    distractors: passages beside the oracle(s).
    min_distractors: if set, a hash draws the number for each question between this and `distractors`.
    p_oracle: share of the answerable questions whose oracle is shown, 0 to 1.
    absent: what a record without oracle teaches: `answer` (the bare answer), `refuse`, or a `mix` of both.
    refuse_share: under `mix`, the share of them that refuse.
    max_tokens: ceiling for instruction + input + output + overhead.
    overhead_tokens: what the chat template adds.
    seen_test: share of the passages of training documents whose questions go to the test instead (metadata
        `documents` is then `seen`), to tell memory from reading.
    order: `hashed`, the oracle is equally likely in every place; or `retrieved`, best hit first as production shows
        them, random passages last, and an oracle that the retriever missed in a hashed place.
    arrangements: training records per question, each with its passages in another order; from one order to the next
        every passage, the oracle too, moves to another place.
    """

    distractors: int = 3
    min_distractors: int | None = None
    p_oracle: float = 0.8
    absent: str = "refuse"
    refuse_share: float = 0.5
    max_tokens: int = 1024
    overhead_tokens: int = 16
    seen_test: float = 0.0
    order: str = "hashed"
    arrangements: int = 1

    def __post_init__(self) -> None:
        if self.absent not in POLICIES:
            raise BadInput(f"records: absent is {self.absent!r}", expected=f"one of {', '.join(POLICIES)}")
        if self.order not in ORDERS:
            raise BadInput(f"records: order is {self.order!r}", expected=f"one of {', '.join(ORDERS)}")
        for name, top in (("p_oracle", 1.0), ("refuse_share", 1.0), ("seen_test", 0.5)):
            if not 0 <= getattr(self, name) <= top:
                raise BadInput(f"records: {name} is {getattr(self, name)}", expected=f"0 to {top:g}")
        if self.min_distractors is not None and not 0 <= self.min_distractors <= self.distractors:
            raise BadInput(
                f"records: min_distractors is {self.min_distractors}", expected=f"0 to distractors ({self.distractors})"
            )
        if self.arrangements < 1:
            raise BadInput(f"records: arrangements is {self.arrangements}", expected="1 or more")
        if self.distractors < 0 or self.max_tokens < 1 or self.overhead_tokens < 0:
            raise BadInput("records: distractors, max_tokens and overhead_tokens cannot be negative")


class Composer:
    """Drafts single records under one set of options."""

    def __init__(
        self,
        candidates: Candidates,
        options: RecordOptions,
        count_tokens: Callable[[str], int],
        seed: int,
        splits: Splits,
        template: PromptTemplate,
        may_refuse: bool,
    ) -> None:
        self.candidates, self.options, self.count_tokens, self.seed = candidates, options, count_tokens, str(seed)
        self.splits, self.template, self.may_refuse = splits, template, may_refuse

    def draft(
        self, question: Question, split: str, *, present: bool, refuse: bool = False, turn: int = 0
    ) -> tuple[Record | None, int]:
        """The record, or None; and the tokens of the last attempt (with the fewest passages, if None).

        `turn` n moves every passage n places on from where turn 0 has it; those at the end wrap round to the front.
        """
        unanswerable = is_unanswerable(question)
        present = present and not unanswerable
        chunks = self.candidates.chunks
        oracles = [ShownPassage(chunks[c], "oracle") for c in question.gold_chunk_ids] if present else []
        # A record without oracle shows one more distractor: the number of passages must give nothing away.
        total = self._distractors(question) + max(1, len(question.gold_chunk_ids))
        others = self.candidates.find(question, split, total - len(oracles))
        while True:
            record = self._render(question, split, [*oracles, *others], present, refuse or unanswerable, turn)
            tokens = int(record.metadata["tokens"])
            if tokens <= self.options.max_tokens and (oracles or others):
                return record, tokens
            if len(others) <= (0 if oracles else 1):
                return None, tokens
            others = others[:-1]  # the least useful one; never an oracle

    def _distractors(self, question: Question) -> int:
        """How many distractors the question has, the same with its oracle and without."""
        most, least = self.options.distractors, self.options.min_distractors
        if least is None:
            return most
        return least + int(digest("passages", self.seed, question.id), 16) % (most - least + 1)

    def _render(
        self, question: Question, split: str, passages: list[ShownPassage], present: bool, refuse: bool, turn: int
    ) -> Record:
        passages = sorted(passages, key=lambda s: digest("order", self.seed, question.id, s.chunk.id))
        if self.options.order == "retrieved":
            passages = as_retrieved(passages, question.difficulty)
        cut = -turn % max(1, len(passages))
        passages = passages[cut:] + passages[:cut]
        instruction, text = render(
            question.question.strip(), [s.chunk for s in passages], template=self.template, may_refuse=self.may_refuse
        )
        number = {s.chunk.id: i for i, s in enumerate(passages, 1)}
        with_quotes = present and not refuse and self.template.citation != "unquoted"
        quotes = question.quotes if with_quotes else ()
        citations = [CitedQuote(number[q.chunk_id], q.text.strip()) for q in quotes]
        final = self.template.refusal if refuse else question.answer.strip()
        # A record that does not show its oracle must not reason from it either.
        reasoning = self._plain(question.reasoning) if present and not refuse else ""
        output = render_output(final, citations, reasoning=reasoning, template=self.template)
        output_tokens = self.count_tokens(output)
        unanswerable = is_unanswerable(question)
        metadata = {
            "record_id": digest(instruction, text, output),
            "question_id": question.id,
            "question": question.question.strip(),
            "arrangement": turn,
            "split": split,
            "documents": self._novelty(question),
            "template": self.template.id,
            "template_version": self.template.version,
            "passages": passage_rows(passages, text),
            "oracle_ids": [] if unanswerable else list(question.gold_chunk_ids),
            "distractor_ids": [s.chunk.id for s in passages if s.role == "distractor"],
            "oracle_present": present,
            "oracle_positions": [number[c] for c in question.gold_chunk_ids] if present else [],
            "label": "refuse" if refuse else "answer",
            "answers": [] if unanswerable else list(question.answers or (question.answer.strip(),)),
            "quotes": [
                {"passage": c.passage, "chunk_id": q.chunk_id, "text": c.text}
                for q, c in zip(quotes, citations, strict=True)
            ],
            "document_ids": list(question.document_ids),
            "document_type": _document_type(self.candidates.chunks, question),
            "kind": question.kind,
            "origin": question.origin,
            "difficulty": question.difficulty or 0,  # 0: the retriever does not find it
            "tokens": self.count_tokens(f"{instruction}\n{text}") + output_tokens + self.options.overhead_tokens,
            "output_tokens": output_tokens,
        }
        return Record(instruction, text, output, metadata)

    def _novelty(self, question: Question) -> str:
        """What training sees of what the question is about: `seen`, `unseen` (document), `unseen passage`."""
        if question_side(question, self.splits) == "train":
            return "seen"
        return "unseen passage" if self.splits.of_chunk else "unseen"

    def _plain(self, reasoning: str) -> str:
        for mark in (self.template.begin_quote, self.template.end_quote, self.template.answer_marker):
            reasoning = reasoning.replace(mark, "")
        return reasoning.strip()


def as_retrieved(passages: Sequence[ShownPassage], gold_rank: int | None) -> list[ShownPassage]:
    """Passages by their rank in the retriever's search; those that it missed keep their place, random ones go last.

    `gold_rank` is the best rank among the oracles (`Question.difficulty`): the first of them gets it.
    """
    oracles = [s for s in passages if s.role == "oracle"]
    rank = {s.chunk.id: s.rank for s in passages if s.rank} | {s.chunk.id: gold_rank for s in oracles[:1] if gold_rank}
    random = [s for s in passages if s.mined_by == "random"]
    rest = [s for s in passages if s.mined_by != "random"]
    by_rank = iter(sorted((s for s in rest if s.chunk.id in rank), key=lambda s: rank[s.chunk.id] or 0))
    return [next(by_rank) if s.chunk.id in rank else s for s in rest] + random


def question_side(question: Question, splits: Splits) -> str:
    """The split of what the question is about; `train` where it is about nothing."""
    if question.gold_chunk_ids and question.document_ids:
        return splits.side(question.gold_chunk_ids[0], question.document_ids[0])
    return splits.of[question.document_ids[0]] if question.document_ids else "train"


def passage_rows(passages: Sequence[ShownPassage], text: str) -> list[dict[str, Any]]:
    """What each passage is and where its text stands in the record's input ([start, end) characters)."""
    spans = passage_spans(text, [s.chunk for s in passages])
    return [
        {
            "chunk_id": s.chunk.id,
            "document_id": s.chunk.document_id,
            "role": s.role,
            "mined_by": s.mined_by,
            "rank": s.rank,
            "score": s.score,
            "title": s.chunk.title,
            "source": s.chunk.source,
            "page": s.chunk.page or 0,
            "start": start,
            "end": end,
        }
        for s, (start, end) in zip(passages, spans, strict=True)
    ]


def _document_type(chunks: Mapping[str, Chunk], question: Question) -> str:
    if not question.gold_chunk_ids:
        return "none"
    source = chunks[question.gold_chunk_ids[0]].source.split("#")[0]
    scheme, colon, _ = source.partition(":")
    return PurePosixPath(source).suffix.lstrip(".").lower() or (scheme if colon else "other")


def reads_back(record: Record, question: Question, template: PromptTemplate) -> bool:
    """Whether the label, read back like an answer, says what it is meant to say."""
    reply = parse_answer(record.output, template=template)
    refuse = record.metadata["label"] == "refuse"
    quotes = [CitedQuote(q["passage"], q["text"]) for q in record.metadata["quotes"]]
    visible = as_written(quotes, template)
    final = template.refusal if refuse else question.answer
    return (reply.final_answer, reply.quotes, reply.refused) == (final.strip(), visible, refuse)
