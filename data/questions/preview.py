"""A few questions asked for real before a whole run is paid for, and what the run will need.

The same few each time, drawn by seed from all that would be asked: their replies are cached, so the run does not pay
for them again, and neither does a second look.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data.nouns import Chunk, ItemCache, Search
from data.questions.asking import kept_replies
from data.questions.desk import Desk
from data.questions.estimate import Call, Estimate, Sampled, estimate
from data.questions.generate import Embed, asked_and_checked, candidates_for
from data.questions.options import QuestionOptions
from data.questions.results import Exchange, Trace
from data.teachers.protocol import Counted, Messages, Price, Reply, Teacher
from data.teachers.replay import prompt_key


@dataclass(frozen=True)
class Preview:
    """What was asked, and what is left.

    Attributes:
        traces: the questions asked now, with prompts, replies and verdicts.
        planned: questions that the whole run asks for. answered: those of them whose reply is kept already.
        estimate: what the rest needs; None where nothing is left, or nothing was answered to tell it from.
    """

    traces: tuple[Trace, ...]
    planned: int
    answered: int
    estimate: Estimate | None


def preview_questions(
    chunks: Sequence[Chunk],
    teacher: Teacher,
    search: Search,
    *,
    count: int,
    options: QuestionOptions,
    cache: ItemCache,
    embed: Embed | None = None,
    price: Price | None = None,
    at_once: int = 1,
    per_minute: float | None = None,
) -> Preview:
    """Asks for `count` questions and estimates the whole run; the other arguments are those of `generate_questions`
    and `estimate`.

    Raises:
        BadInput, BudgetReached, CeilingReached, TeacherUnavailable: as the run would.
    """
    candidates = candidates_for(chunks, search, options, cache)
    few = sorted(random.Random(options.seed).sample(range(len(candidates)), min(count, len(candidates))))
    timed = Timed(teacher)
    desk = Desk(options, chunks, timed, cache, None, traced=True)
    traces = asked_and_checked([candidates[at] for at in few], desk, chunks, search, embed).traces
    keys = [desk.question_key(candidate) for candidate in candidates]
    kept = kept_replies(keys, cache)
    left = [_bytes(desk.question_prompt(c)[1]) for c, key in zip(candidates, keys, strict=True) if key not in kept]
    sample = [sampled for trace in traces if (sampled := _sampled(trace, timed))]
    outlook = None
    if left and sample:
        two = desk.answering is not None
        outlook = estimate(sample, left, answers=two, price=price, at_once=at_once, per_minute=per_minute)
    return Preview(traces, len(candidates), len(candidates) - len(left), outlook)


class Timed:
    """A teacher whose replies are timed: one after the other where it is an endpoint, together where it is not."""

    def __init__(self, teacher: Teacher) -> None:
        self.name = teacher.name
        self.reports_each_reply = bool(getattr(teacher, "reports_each_reply", False))
        self.takes_shape = bool(getattr(teacher, "takes_shape", False))
        self.seconds: dict[str, float] = {}
        self._teacher = teacher

    def complete(
        self,
        prompts: Sequence[Messages],
        *,
        on_reply: Callable[[int, Reply], None] | None = None,
        **settings: Any,
    ) -> list[Reply]:
        """What the teacher says."""
        if not self.reports_each_reply:
            return self._some(prompts, settings)
        replies: list[Reply] = []
        for position, prompt in enumerate(prompts):
            replies += self._some([prompt], settings)
            if on_reply:
                on_reply(position, replies[-1])
        return replies

    def _some(self, prompts: Sequence[Messages], settings: dict[str, Any]) -> list[Reply]:
        began = time.monotonic()
        replies = self._teacher.complete(prompts, **settings)
        for prompt in prompts:
            self.seconds[prompt_key(prompt)] = (time.monotonic() - began) / len(prompts)
        return list(replies)


def _sampled(trace: Trace, timed: Timed) -> Sampled | None:
    """What a question cost; None where its first reply could not be had."""
    calls = [_call(exchange, timed) for exchange in trace.exchanges if isinstance(exchange.reply, str)]
    return Sampled(calls[0], calls[1] if len(calls) > 1 else None) if calls else None


def _call(exchange: Exchange, timed: Timed) -> Call:
    reply = exchange.reply
    tokens = (reply.prompt_tokens, reply.completion_tokens) if isinstance(reply, Counted) else (0, 0)
    return Call(_bytes(exchange.messages), *tokens, timed.seconds.get(prompt_key(exchange.messages)))


def _bytes(messages: Messages) -> int:
    return sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
