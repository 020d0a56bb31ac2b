"""What a teacher is: prompts in, texts out, in order; and what stands in the place of a reply that could not be had.

One prompt that fails costs the others nothing. Teachers know nothing of chunks, questions or caches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raft_errors import RaftError

Messages = list[dict[str, str]]
"""[{"role": "system" | "user" | "assistant", "content": text}, ...]"""


@dataclass(frozen=True)
class TeacherFailure:
    """What stands in the place of a reply that could not be had.

    Attributes:
        reason: `timeout`, `unreachable` (nobody listens there), `connection` (lost on the way), `rate_limit`,
            `server_error`, `rejected`, `content_filter` (the endpoint will not speak about this prompt), `broken`,
            `html`, `too_long`, `empty`, `cut_off` (the ceiling of tokens was reached before anything was said),
            `no_replay`, `not_asked`.
        detail: one line for people, with the server's own words and without secrets.
        transient: True where the same request may work later (the endpoint, not the item, was at fault).
    """

    reason: str
    detail: str = ""
    transient: bool = False


Reply = str | TeacherFailure


class Counted(str):
    """A reply whose tokens the endpoint counted; `cut` where the ceiling of tokens ended it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False

    @classmethod
    def of(cls, text: str, prompt_tokens: int, completion_tokens: int, cut: bool = False) -> Counted:
        reply = cls(text)
        reply.prompt_tokens, reply.completion_tokens, reply.cut = prompt_tokens, completion_tokens, cut
        return reply

    def reworded(self, text: str) -> Counted:
        """Another text with the same account."""
        return Counted.of(text, self.prompt_tokens, self.completion_tokens, self.cut)


@dataclass(frozen=True)
class Shape:
    """The JSON object that a reply is to be: a name and a JSON schema."""

    name: str
    schema: Mapping[str, Any]


class Teacher(Protocol):
    """Anything that completes chats.

    `name` identifies the model in cache keys and in `Question.origin`. Optional attributes: `batch_size: int`
    (prompts a call, default 32) and `reports_each_reply: bool` (then `complete` takes `on_reply(position, reply)` and
    calls it in the calling thread as replies come, so that each can be saved at once), and `takes_shape: bool` (then
    `complete` takes `shape` and asks the model for such an object; the reply may still be any text). `seed` and equal
    batches give equal replies where the model can.
    """

    @property
    def name(self) -> str: ...

    def complete(
        self, prompts: Sequence[Messages], *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()
    ) -> Sequence[Reply]: ...


class BudgetReached(RaftError):
    """The next request could cost more than the ceiling allows. Finished replies were saved; a new run goes on."""


class TeacherUnavailable(RaftError):
    """The endpoint could not be used for any prompt of a batch; a new run goes on with what is left."""


class TeacherUnreachable(TeacherUnavailable):
    """Nobody listens at the endpoint's address, so no prompt will fare better."""


class CeilingReached(RaftError):
    """The ceiling of tokens ended every reply of a batch before anything was said."""


@dataclass(frozen=True)
class Price:
    """Cost per million tokens, in any one currency."""

    prompt: float
    completion: float


@dataclass
class Usage:
    """What a teacher has used so far: requests sent, replies had, tokens, cost (None without a price)."""

    requests: int = 0
    replies: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
