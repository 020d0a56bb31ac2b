"""Reads the body of an answer in whichever form the endpoint gives it: the reply, its tokens, or the fault it reports.

Content comes as a text or as parts, thinking in the text, in parts or in a field of its own, and errors also behind a
status of 200. Sends nothing and decides nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.teachers.protocol import Counted, Reply, TeacherFailure
from data.teachers.thinking import without_thinking
from data.text.urls import text_without_secrets

_WORDS = 300  # characters of a server's words that are shown
_CUT = frozenset({"length", "max_tokens", "model_length", "max_output_tokens", "max_completion_tokens"})
_FILTERED = frozenset(
    {"content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii", "refusal"}
)
_THOUGHT = re.compile(r"think|thought|reason|redacted", re.IGNORECASE)
_STATUS_OF = (  # of errors that come without a status of their own
    (r"rate.?limit|too.?many|throttl", 429),
    (r"authentication|unauthorized|invalid.api.key", 401),
    (r"permission|forbidden", 403),
    (r"not.?found", 404),
    (r"invalid.?request|bad.?request|unsupported|validation|content.?filter|context.?length", 400),
)


@dataclass(frozen=True)
class Problem:
    """What an endpoint says is wrong: its status, its own words, its codes (lower case), the parameter it names."""

    status: int
    words: str
    codes: str = ""
    parameter: str = ""

    def __str__(self) -> str:
        return f"HTTP {self.status}: {self.words}" if self.words else f"HTTP {self.status}"


def problem_of(status: int, body: bytes, key: str = "") -> Problem:
    """The problem in the body of a refused request.

    Args:
        key: never shown, should the server repeat it.
    """
    text = body.decode("utf-8", "replace")
    try:
        fields = _fields(json.loads(text))
    except (ValueError, RecursionError):
        return Problem(status, one_line(text, key))
    return _problem(status, fields, key)


def problem_inside(payload: Any, key: str = "") -> Problem | None:
    """The error that an answer with the status 200 reports, None where it reports none."""
    if not isinstance(payload, Mapping):
        return None
    choice = next(iter(_listed(payload.get("choices"))), None)
    inner = (choice.get("error") if isinstance(choice, Mapping) else None) or payload.get("error")
    if not inner and (choice is not None or not (payload.get("errors") or payload.get("detail"))):
        return None
    fields = _fields({"error": inner} if inner else payload)
    code = str(fields.get("code") or fields.get("status") or fields.get("status_code"))
    status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else _status(fields)
    return _problem(status, fields, key)


def read_completion(payload: Any, max_tokens: int) -> Reply:
    """The reply of a chat completion, or the failure that it is: empty, cut off before anything was said, filtered.

    Raises:
        ValueError: it is no chat completion.
    """
    try:
        choice = payload["choices"][0]
        message = choice.get("message") or {}
        content = message.get("content")
        if content is None and isinstance(choice.get("text"), str):
            content = choice["text"]
        finish = str(choice.get("finish_reason") or "").lower()
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("not a chat completion") from error
    if "message" not in choice and "text" not in choice:
        raise ValueError("not a chat completion")
    prompt, completion = token_counts(payload.get("usage"))
    refusal = message.get("refusal")
    if finish in _FILTERED or (isinstance(refusal, str) and refusal.strip()):
        words = one_line(str(refusal or "")) or f"finish_reason {finish!r}"
        return TeacherFailure("content_filter", words)
    whole = text_of(content)
    text = without_thinking(whole)
    full = finish in _CUT
    if text.strip():
        return Counted.of(text, prompt, completion, full)
    beside = any(message.get(name) for name in ("reasoning_content", "reasoning", "thinking"))
    thought = beside or bool(whole.strip() or _listed(content))
    if full or (completion >= max_tokens > 0):
        spent = f"all {max_tokens} tokens went into thinking" if thought else f"nothing within {max_tokens} tokens"
        return TeacherFailure("cut_off", f"{spent} (finish_reason {finish!r})")
    only = "nothing but thinking" if thought else "no text"
    return TeacherFailure("empty", f"{only} (finish_reason {finish!r})")


def text_of(content: Any) -> str:
    """The text of a message's content: a text, or parts joined, of which those that hold thinking are left out."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        if _THOUGHT.search(str(content.get("type", ""))) or content.get("thought") is True:
            return ""
        return text_of(next((content[n] for n in ("text", "value", "content", "parts") if content.get(n)), None))
    return "".join(text_of(part) for part in _listed(content))


def token_counts(usage: Any) -> tuple[int, int]:
    """(prompt, completion) as the endpoint counted them; zeros where it did not."""
    if not isinstance(usage, Mapping):
        return 0, 0
    try:
        return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (TypeError, ValueError):
        return 0, 0


def one_line(words: str, key: str = "") -> str:
    """Foreign words as one line of bounded length, without the key and without what is secret in URLs."""
    if re.match(r"\s*<(?:!doctype|html)", words, re.IGNORECASE):  # a page: its title says what it is
        title = re.search(r"<title[^>]*>(.*?)</title>", words, re.DOTALL | re.IGNORECASE)
        words = title.group(1) if title else re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", words, flags=re.DOTALL)
    if len(key) >= 4:
        words = words.replace(key, "[the key]")
    words = " ".join(text_without_secrets(words).split())
    return words if len(words) <= _WORDS else words[:_WORDS] + "…"


def _problem(status: int, fields: Mapping[str, Any], key: str) -> Problem:
    codes = [fields.get("code"), fields.get("type"), fields.get("status"), fields.get("error_type")]
    inner = fields.get("innererror") or fields.get("inner_error") or {}
    codes += [inner.get("code")] if isinstance(inner, Mapping) else []
    words = one_line(_words(fields), key)
    return Problem(status, words, " ".join(str(c) for c in codes if c).lower(), str(fields.get("param") or ""))


def _fields(payload: Any) -> dict[str, Any]:
    """The fields of the innermost error: what stands beside it counts where it has not said it itself."""
    if isinstance(payload, list):
        payload = payload[0] if len(payload) == 1 and isinstance(payload[0], Mapping) else {"detail": payload}
    if not isinstance(payload, Mapping):
        return {"message": payload}
    for name in ("error", "errors"):
        inner = payload.get(name)
        inner = inner[0] if isinstance(inner, list) and inner else inner
        if isinstance(inner, Mapping):
            return {**{k: v for k, v in payload.items() if k != name}, **_fields(inner)}
        if isinstance(inner, str) and inner.strip():
            return {"message": inner, **{k: v for k, v in payload.items() if k != name and (k != "message" or v)}}
    return dict(payload)


def _words(fields: Mapping[str, Any]) -> str:
    """What the error says, with what the provider behind a router says, and FastAPI's lists of places and messages."""
    parts = [_spoken(fields.get(name)) for name in ("message", "detail", "msg", "title", "reason")]
    metadata = fields.get("metadata")
    if isinstance(metadata, Mapping):
        parts += [_spoken(metadata.get("raw")), _spoken(metadata.get("reasons"))]
    return ": ".join(dict.fromkeys(part for part in parts if part))


def _spoken(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, Mapping):
        place = value.get("loc")
        where = ".".join(str(p) for p in place if p != "body") if isinstance(place, list | tuple) else ""
        words = next((_spoken(value[n]) for n in ("message", "msg", "detail") if value.get(n)), "")
        return ": ".join(filter(None, (where, words)))
    return "; ".join(filter(None, map(_spoken, _listed(value))))


def _status(fields: Mapping[str, Any]) -> int:
    text = " ".join(str(fields.get(name) or "") for name in ("code", "type", "status", "error_type"))
    for source in (text, _words(fields)):
        for pattern, status in _STATUS_OF:
            if re.search(pattern, source, re.IGNORECASE):
                return status
    return 500


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
