"""What generation is asked and what it answers, as values, and the state of a request under way."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.generation.adapter_layout import PreparedAdapter
from jora_engine.generation.sampling import TOP_LOGPROBS
from raft_errors import BadInput

Choices = Collection[int] | Mapping[int, float] | None
"""The ids that may come next, or None for any; in a mapping each with what is added to its logit, finite, before
temperature and everything else that a request asks for."""


class TokenScore(NamedTuple):
    """Natural log probability of a token, and of the most likely ones in its place as (id, log probability)."""

    token: int
    logprob: float
    best: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Completion:
    """What a prompt was answered with.

    Attributes:
        text: without special tokens, cut before a stop string.
        token_ids: the generated ids without the final stop token; up to the token that completes a stop string.
        finish_reason: `stop` (a stop token or stop string), `length`, or `abort` (cancelled).
        scores: of each of `token_ids`, where they were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    scores: tuple[TokenScore, ...] | None = None

    @property
    def new_tokens(self) -> int:
        """How many were generated."""
        return len(self.token_ids)


@dataclass(frozen=True)
class Request:
    """One prompt and how to continue it.

    Attributes:
        prompt: token ids, as `tokenizer.apply_chat_template(..., add_generation_prompt=True)` gives.
        temperature: 0 takes the most likely token (lowest id of equals); above 0 draws.
        top_p: draws from the smallest set of tokens that holds this probability.
        top_k: draws from the that many most likely tokens, 0 for all.
        seed: with the prompt and `repeat` decides every draw.
        repeat: how often the same prompt was asked before under this seed.
        stop: strings that end the completion.
        logprobs: alternatives wanted at every token, 0 for the token's own alone, None for nothing.
        ignore_eos: whether the tokenizer's end tokens are ordinary ones.
        adapter: name of a registered adapter, or one that was prepared under a name which may mean another by now; None
            for the base.
        tenant: whose prompt it is: cached prefixes are never shared between tenants.
        allowed: called with the ids made so far; what may come next. A few tokens are made freely, and taken back from
            the first that may not stand there, or was chosen without what is added to its logit.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    repeat: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    adapter: str | PreparedAdapter | None = None
    tenant: str = ""
    allowed: Callable[[Sequence[int]], Choices] | None = None

    @functools.cached_property
    def key(self) -> np.ndarray:
        """Two 32-bit words that stand for (seed, prompt, how often it came before)."""
        data = np.asarray([self.seed, self.repeat, *self.prompt], np.int64).tobytes()
        return np.frombuffer(hashlib.blake2b(data, digest_size=8).digest(), np.uint32)


def check_request(request: Request, config: ModelConfig, name: str = "the prompt") -> None:
    """Raises `BadInput` if a prompt or value cannot work."""
    numbers = (request.temperature, request.top_p)
    if not all(map(math.isfinite, numbers)) or request.temperature < 0 or not 0 < request.top_p <= 1:
        raise BadInput(
            f"temperature {request.temperature} with top_p {request.top_p}",
            expected="temperature 0 or more, top_p above 0 and at most 1",
            do="correct the values",
        )
    if request.top_k < 0 or request.max_new_tokens < 0 or not 0 <= (request.logprobs or 0) <= TOP_LOGPROBS:
        raise BadInput(
            f"top_k {request.top_k}, max_new_tokens {request.max_new_tokens}, logprobs {request.logprobs}",
            expected=f"top_k and max_new_tokens of 0 or more, logprobs from 0 to {TOP_LOGPROBS}",
            do="correct the values",
        )
    if not -(2**63) <= request.seed < 2**63:
        raise BadInput(f"seed {request.seed}", expected="a whole number of 64 bits", do="correct the value")
    prompt = request.prompt
    if not prompt or min(prompt) < 0 or max(prompt) >= config.vocab_size:
        raise BadInput(
            f"{name} {'holds an id outside the vocabulary' if prompt else 'is empty'}",
            expected=f"token ids from 0 to {config.vocab_size - 1}",
            do="encode prompts with the model's own tokenizer",
        )
    if len(prompt) + request.max_new_tokens > config.longest_sequence:
        raise BadInput(
            f"{name} has {len(prompt)} tokens; with {request.max_new_tokens} new ones it is too long",
            expected=f"at most {config.longest_sequence} in all",
            do="shorten the prompt or lower max_new_tokens",
        )


@dataclass
class Times:
    """When a request came into the queue, got a row, had its prompt run, and ended: nanoseconds since the epoch, 0 for
    not yet."""

    submitted: int = field(default_factory=time.time_ns)
    admitted: int = 0
    ready: int = 0
    ended: int = 0


@dataclass(eq=False)
class Job:
    """A request under way. Others read it; the engine alone writes to it.

    Attributes:
        made: ids generated so far.
        cached_tokens: tokens of the prompt that came from the prefix cache.
        completion: how it ended; None while it runs.
        error: what ended it instead.
        kept: whether chunks of its prompt may go into the prefix cache.
    """

    request: Request
    adapter: PreparedAdapter | None = None
    on_text: Callable[[str], None] | None = None
    on_done: Callable[[Job], None] | None = None
    made: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    cached_tokens: int = 0
    completion: Completion | None = None
    error: Exception | None = None
    cancelled: bool = False
    kept: bool = True
    times: Times = field(default_factory=Times)
    number: int = 0  # in the order in which rows were given
    slot: int = 0
    prefilled: int = 0
    parent: str = ""  # key of the last chunk prefilled, for the prefix cache

    @property
    def ended(self) -> bool:
        return self.completion is not None or self.error is not None

    @property
    def waits_for(self) -> int:
        """Tokens of the prompt that are to be prefilled: all but the last, which the decode loop takes."""
        return len(self.request.prompt) - 1

    @property
    def ready(self) -> bool:
        """Whether the whole prompt is prefilled."""
        return self.prefilled >= self.waits_for

    def permitted(self, tokens: list[int]) -> list[int]:
        """The decoded tokens before the first that may not stand where it does; the next round bars it there.

        What was chosen freely and is permitted is what would have been chosen among the permitted, unless something is
        added to their logits: that the next round does, too. The first token was chosen with both.
        """
        if self.request.allowed is None:
            return tokens
        made = list(self.made)
        for count, token in enumerate(tokens):
            if token < 0:
                break
            allowed = self.request.allowed(made)
            if allowed and (token not in allowed or (count and isinstance(allowed, Mapping))):
                return tokens[:count]
            made.append(token)
        return tokens

    def settled(self, tokenizer: Tokenizer) -> str:
        """The text without an end that may still change: half a character, or the beginning of a stop string."""
        text = tokenizer.decode(self.made, skip_special_tokens=True).rstrip("\ufffd")
        held = max((n for s in self.request.stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        return text[: len(text) - held]

    def take(self, tokens: list[int], scores: list[TokenScore], tokenizer: Tokenizer) -> Completion | None:
        """Adds decoded tokens; the completion when they end it."""
        before, stop = len(self.made), self.request.stop
        ends = () if self.request.ignore_eos else tokenizer.eos_ids
        ended = False
        for token in tokens:
            if token < 0 or ended:
                break
            ended = token in ends
            if not ended:
                self.made.append(token)
        self.scores += scores[: len(self.made) - before]
        text = tokenizer.decode(self.made, skip_special_tokens=True)
        if any(s in text for s in stop):
            for count in range(before + 1, len(self.made) + 1):
                # half a character at the end is none yet, and so not the U+FFFD that somebody may stop at
                part = tokenizer.decode(self.made[:count], skip_special_tokens=True).rstrip("\ufffd")
                places = [part.index(s) for s in stop if s in part]
                if places:
                    return self.completed(part[: min(places)], count, "stop")
        if ended:
            return self.completed(text, len(self.made), "stop")
        if len(self.made) >= self.request.max_new_tokens:
            return self.completed(text, len(self.made), "length")
        return None

    def completed(self, text: str, count: int, reason: str) -> Completion:
        """The completion of the first `count` tokens."""
        scores = None if self.request.logprobs is None else tuple(self.scores[:count])
        return Completion(text, tuple(self.made[:count]), reason, scores)
