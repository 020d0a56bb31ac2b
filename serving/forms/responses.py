"""The shape of `/v1/responses`: one message of one text. Nothing is kept on the server, so a later request cannot name
an earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serving.forms.answer import Answer, Form, data
from serving.schema import ResponsesRequest

PLACE = {"output_index": 0, "content_index": 0}


class ResponsesForm(Form[ResponsesRequest]):
    prefix, operation = "resp_", "chat"
    last = ""

    _number = -1

    def whole(self, answer: Answer) -> dict[str, Any]:
        full = answer.completion.finish_reason == "length"
        usage = {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {"cached_tokens": answer.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": answer.new_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.prompt_tokens + answer.new_tokens,
        }
        return {
            **self._response("incomplete" if full else "completed", [self._message(answer)]),
            "incomplete_details": {"reason": "max_output_tokens"} if full else None,
            "usage": usage,
        }

    def begin(self) -> Iterator[str]:
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._response("in_progress", []))
        yield self._event("response.output_item.added", output_index=0, item=self._message(None))
        yield self._event("response.content_part.added", item_id=self._item, part=self._part("", []), **PLACE)

    def piece(self, text: str) -> Iterator[str]:
        yield self._event("response.output_text.delta", item_id=self._item, delta=text, logprobs=[], **PLACE)

    def end(self, answer: Answer, rest: str) -> Iterator[str]:
        if rest:
            yield from self.piece(rest)
        message, text = self._message(answer), answer.content.text
        (part,) = message["content"]
        item = {"item_id": self._item, **PLACE}
        for number, annotation in enumerate(part["annotations"]):
            kind = "response.output_text.annotation.added"
            yield self._event(kind, annotation_index=number, annotation=annotation, **item)
        yield self._event("response.output_text.done", text=text, logprobs=[], **item)
        yield self._event("response.content_part.done", part=part, **item)
        yield self._event("response.output_item.done", output_index=0, item=message)
        response = self.whole(answer)
        yield self._event(f"response.{response['status']}", response=response)

    def failure(self, body: dict[str, Any]) -> str:
        """OpenAI's event of that name; with `error` beside it, by which its client raises."""
        error = body["error"]
        return self._event("error", code=error["code"], message=error["message"], param=error["param"], **body)

    @property
    def _item(self) -> str:
        return f"msg_{self.head.id.removeprefix(self.prefix)}"

    def _event(self, kind: str, **values: Any) -> str:
        self._number += 1
        event = {"type": kind, "sequence_number": self._number, **values}
        return data(event, kind)

    def _part(self, text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}

    def _message(self, answer: Answer | None) -> dict[str, Any]:
        """The one item of the output; without an answer as it begins."""
        status, content = "in_progress", []
        if answer:
            status = "incomplete" if answer.completion.finish_reason == "length" else "completed"
            # here the fields of a citation stand beside its type, in chats one level lower
            flat = [{**one, **one["url_citation"]} for one in answer.content.annotations]
            for one in flat:
                del one["url_citation"]
            content = [self._part(answer.content.text, flat)]
        return {"type": "message", "id": self._item, "role": "assistant", "status": status, "content": content}

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        asked, head = self.asked, self.head
        return {
            "id": head.id,
            "object": "response",
            "created_at": head.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.new_tokens,
            "metadata": {},
            "model": head.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None,
        }
