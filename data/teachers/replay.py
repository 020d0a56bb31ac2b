"""A teacher that answers from a table: for tests, and for runs that must cost nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.nouns import text_sha256
from data.teachers.protocol import Messages, Reply, TeacherFailure
from raft_errors import BadInput


class ReplayTeacher:
    """Answers from a table, for tests and for runs that must cost nothing.

    Args:
        replies: by `prompt_key(messages)`, or by any text that the last message contains (longest match wins).
        default: reply where nothing matches; None makes it a failure.

    `calls` holds the messages of every prompt answered, in order.
    """

    def __init__(
        self,
        replies: Mapping[str, str] | None = None,
        *,
        name: str = "replay",
        batch_size: int = 8,
        default: str | Callable[[Messages], str] | None = None,
    ) -> None:
        self.name, self.batch_size = name, batch_size
        self.calls: list[Messages] = []
        self._replies = dict(replies or {})
        self._default = default

    @classmethod
    def from_jsonl(cls, path: Path, **settings: Any) -> ReplayTeacher:
        """Reads lines of {"prompt": key or text, "reply": text}."""
        table: dict[str, str] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                table[row["prompt"]] = row["reply"]
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(
                    f"{path}, line {number}: not a recorded reply", expected='{"prompt": text, "reply": text}'
                ) from error
        return cls(table, **settings)

    def complete(
        self, prompts: Sequence[Messages], *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()
    ) -> list[Reply]:
        """Replies in the order of the prompts."""
        return [self._reply(messages) for messages in prompts]

    def _reply(self, messages: Messages) -> Reply:
        self.calls.append(messages)
        if (key := prompt_key(messages)) in self._replies:
            return self._replies[key]
        last = messages[-1]["content"]
        matches = sorted((k for k in self._replies if k in last), key=lambda k: (-len(k), k))
        if matches:
            return self._replies[matches[0]]
        if self._default is None:
            return TeacherFailure("no_replay", "no recorded reply fits the prompt")
        return self._default(messages) if callable(self._default) else self._default


def prompt_key(messages: Messages) -> str:
    """Hex sha256 that names a prompt in a replay table."""
    return text_sha256(json.dumps(messages, ensure_ascii=False, sort_keys=True))
