"""The shape of `/v1/completions`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from serving.forms.answer import Answer, Form, data, usage
from serving.schema import CompletionRequest


class CompletionForm(Form[CompletionRequest]):
    def whole(self, answer: Answer) -> dict[str, Any]:
        return {**self._chunk(answer.content.text, answer), "usage": usage(answer)}

    def begin(self) -> Iterator[str]:
        yield from ()

    def piece(self, text: str) -> Iterator[str]:
        yield self._event(self._chunk(text))

    def end(self, answer: Answer, rest: str) -> Iterator[str]:
        yield self._event(self._chunk(rest, answer))
        if self.asked.with_usage:
            yield data({**self._head(), "choices": [], "usage": usage(answer)})

    def _event(self, chunk: dict[str, Any]) -> str:
        return data({**chunk, **({"usage": None} if self.asked.with_usage else {})})

    def _head(self) -> dict[str, Any]:
        head = self.head
        return {
            "id": head.id,
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
        }

    def _chunk(self, text: str, answer: Answer | None = None) -> dict[str, Any]:
        """A piece of text; the last one, with the answer, says how it ended and what it cites."""
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": None, "logprobs": None}
        if answer:
            choice |= {"finish_reason": answer.completion.finish_reason, "logprobs": self._logprobs(answer)}
            choice |= {"annotations": list(answer.content.annotations)}
        return {**self._head(), "choices": [choice]}

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        scores = answer.completion.scores
        if scores is None:
            return None
        tokens, best = [self.spell(score.token) for score in scores], []
        for token, score in zip(tokens, scores, strict=True):
            # two tokens may have one text, e.g. parts of characters: the likelier counts
            likelier_last = [(self.spell(other), logprob) for other, logprob in reversed(score.best)]
            best.append({token: score.logprob, **dict(likelier_last)})
        return {
            "tokens": tokens,
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": best,
            "text_offset": [0, *itertools.accumulate(map(len, tokens))][: len(tokens)],
        }
