"""The shape of `/v1/completions`."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Any

from jora_engine.files.tokenizer import Spelling
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
        spellings, best = [self.spell(score.token) for score in scores], []
        tokens = [_named(spelling) for spelling in spellings]
        for token, score in zip(tokens, scores, strict=True):
            # two tokens may have one text, e.g. a letter and its byte: the likelier counts
            likelier_last = [(_named(self.spell(other)), logprob) for other, logprob in reversed(score.best)]
            best.append({token: score.logprob, **dict(likelier_last)})
        return {
            "tokens": tokens,
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": best,
            "text_offset": _offsets([spelling.written or b"" for spelling in spellings], answer.completion.text),
        }


def _named(spelling: Spelling) -> str:
    """A token as OpenAI's completions name it: its text, or where that is no whole characters its bytes,
    `bytes:\\xe2\\x82`."""
    whole = spelling.written is None or spelling.text.encode() == spelling.written
    return spelling.text if whole else f"bytes:{repr(spelling.written)[2:-1]}"


def _offsets(parts: Sequence[bytes], text: str) -> list[int]:
    """Where in the text each token begins, in code points; of one within a character, where that begins."""
    read, offsets, place = codecs.getincrementaldecoder("utf-8")("replace"), [], 0
    if parts and parts[0].startswith(b" ") and not text.startswith(" "):
        place = -1  # SentencePiece's space before the first word is not written
    for part in parts:
        offsets.append(max(place, 0))
        place += len(read.decode(part))
    return offsets
