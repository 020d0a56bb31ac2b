"""Answers of the base or of an adapter to many records, kept one by one in the item cache.

A key covers everything that decides an answer (weights, precision, prompt, length), so that a killed evaluation goes on
where it stopped and all adapters of a base share its answers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.nouns import ItemCache, Progress, Record
from data.prompting.contract import PromptTemplate, to_messages
from data.prompting.copying import QuoteCopier, TokenBytes
from data.records.figures import passage_texts
from retrieval.preference import preference

if TYPE_CHECKING:
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.generation.generator import Completion, Constraint


@dataclass(frozen=True)
class Answer:
    """The text, and why it ends (`stop` or `length`)."""

    text: str
    finish_reason: str


@dataclass(frozen=True)
class Answerer:
    """A base model, with an adapter or without.

    Attributes:
        digest: of the weights; with an adapter, of both.
        dtype: `bfloat16` or `float32`.
        copying: if set, quotes in this template's marks can only be copied from the passages.
        chat: what the base's chat template is given (`Tokenizer.load`).
        precision: how the base is held (`jora_engine.config.recipe.PRECISIONS`).
        quote_weight: how much the search counts in the choice of what is copied (`ask.quote_weight`).
        reranked: whether the scores of the passages are a cross-encoder's.
    """

    base: Path
    adapter: Path | None
    digest: str
    dtype: str
    max_new_tokens: int
    batch_size: int
    copying: PromptTemplate | None = None
    chat: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "bfloat16"
    quote_weight: float = 0.0
    reranked: bool = False

    def copier(self, vocabulary: TokenBytes, record: Record) -> QuoteCopier:
        """What keeps the quotes in the answer to a record word for word."""
        assert self.copying is not None
        texts = [text for _, text in passage_texts(record)]
        return QuoteCopier(vocabulary, self.copying, texts, self.preference(record))

    def preference(self, record: Record) -> list[float]:
        """How far the search prefers each of the record's passages (`retrieval.preference`); empty where that does not
        count, or where some passage did not come from it."""
        rows = record.metadata["passages"] if self.copying and self.quote_weight else []
        if not all(row.get("mined_by") == "retrieved" and row["rank"] for row in rows):
            return []
        ranks, scores = [row["rank"] for row in rows], [row["score"] for row in rows]
        return preference(ranks, scores, weight=self.quote_weight, reranked=self.reranked)


@dataclass
class Clock:
    """Seconds spent generating, compilation included, and the number of answers generated."""

    seconds: float = 0.0
    answers: int = 0

    @property
    def mean(self) -> float | None:
        return round(self.seconds / self.answers, 3) if self.answers else None


def answer(
    who: Answerer,
    records: Sequence[Record],
    cache: ItemCache,
    progress: Progress,
    what: str,
    stop: Sequence[str] = (),
    clock: Clock | None = None,
) -> list[Answer]:
    """One greedy answer per record, in order. The model is loaded only if an answer is missing.

    Each answer is kept as soon as it is complete; `clock` counts the time that the missing ones took.
    """
    from jora_engine.files.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(who.base, **who.chat)
    prompts = [tokenizer.apply_chat_template(to_messages(r), add_generation_prompt=True) for r in records]
    settings = ["answer-1", who.digest, who.dtype, who.max_new_tokens, list(stop)]
    if who.copying:
        settings += ["copied-1", who.copying.version]
    if who.precision != "bfloat16":
        settings += ["held", who.precision]
    preferences = [who.preference(record) for record in records]
    keys = [
        hashlib.sha256(json.dumps([*settings, prompt, *([own] if own else [])]).encode()).hexdigest()
        for prompt, own in zip(prompts, preferences, strict=True)
    ]
    by_key = dict(zip(keys, zip(prompts, records, strict=True), strict=True))
    answers = {key: Answer(*json.loads(raw)) for key, raw in cache.get_many(list(by_key)).items()}
    todo = [key for key in by_key if key not in answers]
    progress(len(answers), len(by_key), what)
    if todo:
        from jora_engine.generation.generator import Generator

        def keep(number: int, completion: Completion) -> None:
            key = todo[number]
            cache.put_many({key: json.dumps([completion.text, completion.finish_reason]).encode()})
            answers[key] = Answer(completion.text, completion.finish_reason)
            progress(len(answers), len(by_key), what)

        generator = Generator(
            who.base,
            adapter=who.adapter,
            dtype=who.dtype,
            max_rows=who.batch_size,
            chat=who.chat,
            precision=who.precision,
        )
        constraint = None
        if who.copying:
            constraint = copy_constraint(tokenizer, who, [by_key[key][1] for key in todo])
        begin = time.monotonic()
        generator.generate(
            [by_key[key][0] for key in todo],
            max_new_tokens=who.max_new_tokens,
            stop=tuple(stop),
            constrain=constraint,
            on_done=keep,
        )
        if clock is not None:
            clock.seconds, clock.answers = clock.seconds + time.monotonic() - begin, clock.answers + len(todo)
    return [answers[key] for key in keys]


def copy_constraint(tokenizer: Tokenizer, who: Answerer, records: Sequence[Record]) -> Constraint:
    """What restricts the quotes in each record's answer to the words of its passages, the preferred ones above all."""
    vocabulary = TokenBytes(tokenizer.token_bytes())
    copiers = [who.copier(vocabulary, record) for record in records]
    return lambda number, ids: copiers[number].allowed(ids)
