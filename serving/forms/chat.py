"""The shape of `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from serving.forms.answer import Answer, Form, data, scored, usage
from serving.schema import ChatRequest


class ChatForm(Form[ChatRequest]):
    prefix, operation = "chatcmpl-", "chat"

    def whole(self, answer: Answer) -> dict[str, Any]:
        content = answer.content
        message = {
            "role": "assistant",
            "content": content.text,
            "refusal": None,
            "annotations": list(content.annotations),
        }
        choice = {
            "index": 0,
            "finish_reason": answer.completion.finish_reason,
            "logprobs": self._logprobs(answer),
            "message": message,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(answer)}

    def begin(self) -> Iterator[str]:
        yield self._chunk({"role": "assistant", "content": ""})

    def shown(self, events: Sequence[dict[str, Any]]) -> Iterator[str]:
        for event in events:
            yield self._chunk({}, event=event)

    def piece(self, text: str) -> Iterator[str]:
        yield self._chunk({"content": text})

    def end(self, answer: Answer, rest: str) -> Iterator[str]:
        logprobs, content = self._logprobs(answer), answer.content
        if rest or logprobs:
            yield self._chunk({"content": rest}, logprobs=logprobs)
        yield from self.shown(content.events)
        yield self._chunk({"annotations": list(content.annotations) if content.annotated else []})
        yield self._chunk({}, answer.completion.finish_reason)
        if self.asked.with_usage:
            yield data({**self._head("chat.completion.chunk"), "choices": [], "usage": usage(answer)})

    def _head(self, kind: str) -> dict[str, Any]:
        head = self.head
        return {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
        }

    def _chunk(
        self,
        delta: dict[str, Any],
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
        event: dict[str, Any] | None = None,
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        unused = {"usage": None} if self.asked.with_usage else {}
        shown = {"event": event} if event else {}
        return data({**self._head("chat.completion.chunk"), "choices": [choice], **unused, **shown})

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        scores = answer.completion.scores
        return None if scores is None else {"content": scored(scores, self.spell), "refusal": None}
