"""An answer before it has a shape, and what every shape can do with it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jora_engine.files.tokenizer import Spelling
from jora_engine.generation.requests import Completion, TokenScore
from serving.content.citations import Content
from serving.schema import TextRequest

Asked = TypeVar("Asked", bound=TextRequest)


@dataclass(frozen=True)
class Head:
    """What all pieces of one answer begin with.

    Attributes:
        model: the id of what answers (`faq@3`); created: seconds since 1970.
    """

    id: str
    created: int
    model: str
    fingerprint: str


@dataclass(frozen=True)
class Answer:
    """How a request ended.

    Attributes:
        prompt_tokens, cached_tokens: of the prompt, and of these what came from the prefix cache.
    """

    content: Content
    completion: Completion
    prompt_tokens: int
    cached_tokens: int

    @property
    def new_tokens(self) -> int:
        return self.completion.new_tokens


class Form(ABC, Generic[Asked]):
    """One API's shape of an answer: `whole`, or the events `begin`, `piece` as often as there is text, and `end`.

    Args:
        spell: how a token reads.

    Attributes:
        prefix: of the ids of answers.
        last: what ends a stream; "" where its last event does.
        operation: what OpenTelemetry calls such a request.
    """

    prefix, operation = "cmpl-", "text_completion"
    last = "data: [DONE]\n\n"

    def __init__(self, asked: Asked, head: Head, spell: Callable[[int], Spelling]) -> None:
        self.asked, self.head, self.spell = asked, head, spell

    @abstractmethod
    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer at once."""

    @abstractmethod
    def begin(self) -> Iterator[str]:
        """What a stream opens with."""

    def shown(self, events: Sequence[dict[str, Any]]) -> Iterator[str]:
        """What a page shows beside the text; nothing where the API has no place for it."""
        return iter(())

    @abstractmethod
    def piece(self, text: str) -> Iterator[str]:
        """More of the text."""

    @abstractmethod
    def end(self, answer: Answer, rest: str) -> Iterator[str]:
        """The text that was not sent yet, the citations, how it ended, the usage."""

    def failure(self, body: dict[str, Any]) -> str:
        """The event of an error in mid stream."""
        return data(body)


def data(values: dict[str, Any], event: str = "") -> str:
    """A server-sent event of one line of JSON.

    Only \\n, \\r and both end a line of a stream; many a client (httpx's `iter_lines`, `str.splitlines`) breaks it at
    Unicode's line ends too, so those of a text are escaped.
    """
    line = json.dumps(values, ensure_ascii=False)
    for end in "\x85\u2028\u2029":
        line = line.replace(end, f"\\u{ord(end):04x}")
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {line}\n\n"


def usage(answer: Answer) -> dict[str, Any]:
    """The usage as chats and completions have it."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.new_tokens,
        "total_tokens": answer.prompt_tokens + answer.new_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
    }


def scored(scores: tuple[TokenScore, ...], spell: Callable[[int], Spelling]) -> list[dict[str, Any]]:
    """Log probabilities as chats have them: `bytes` are those that the tokens write, which together are the text's."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text, written = spell(token)
        return {"token": text, "logprob": logprob, "bytes": None if written is None else list(written)}

    return [{**entry(s.token, s.logprob), "top_logprobs": [entry(*pair) for pair in s.best]} for s in scores]
