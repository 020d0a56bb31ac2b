"""The way to a server that generates: its models, adapters in and out, one completion at a time, all over HTTP.

The key is read from the environment when the connection is opened, and neither kept nor shown. What goes wrong is a
`RemoteFault`; who asks again, and when, is decided elsewhere.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import openai

from data.teachers.replies import one_line, problem_of
from data.text.urls import without_secrets
from serving.remote.dialects import BEYOND, Dialect

QUICK_SECONDS = 10.0  # for a list of models
SAMPLE_SECONDS = 120.0  # for a probe, which may wait behind requests
SAMPLE_TOKENS = 8


class RemoteFault(Exception):
    """What the server did wrong.

    Attributes:
        reason: in words, without an address, a path or a key: for everybody.
        words: what the server itself said, for the log; the key is taken out.
        status: of HTTP; None where there was no answer.
    """

    def __init__(self, reason: str, words: str = "", status: int | None = None) -> None:
        super().__init__(f"{reason} ({words})" if words else reason)
        self.reason, self.words, self.status = reason, words, status

    @property
    def timed_out(self) -> bool:
        return self.status is None and self.reason.startswith(_LATE)


_LATE = "no answer within"


@dataclass(frozen=True)
class Sample:
    """What a model says to a probe, with the log probability of each token where the server gives it."""

    text: str
    logprobs: tuple[float, ...]
    prompt_tokens: int | None

    def distance(self, other: Sample) -> float:
        """Largest difference of a log probability; without bound for other words."""
        if self.text != other.text or len(self.logprobs) != len(other.logprobs):
            return math.inf
        return max((abs(a - b) for a, b in zip(self.logprobs, other.logprobs, strict=True)), default=0.0)


class Remote:
    """One server. Its calls belong to one event loop.

    Args:
        url: a web address, with or without `/v1`, that holds no secret: `tasks.serve` checks it.
        base: the base's name there; None = the first that it lists without a parent.
        key_variable: environment variable that holds the key; unset for none.
    """

    def __init__(self, url: str, dialect: Dialect, *, base: str | None = None, key_variable: str = "") -> None:
        parts = urlsplit(url)
        path = parts.path.rstrip("/").removesuffix("/v1")
        self._root = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        self.dialect, self._base, self._variable = dialect, base, key_variable
        self._client: openai.AsyncOpenAI | None = None

    @property
    def where(self) -> str:
        """The address as people may see it."""
        return without_secrets(f"{self._root}/v1")

    @property
    def _key(self) -> str:
        return os.environ.get(self._variable, "").strip() if self._variable else ""

    def _open(self) -> openai.AsyncOpenAI:
        if self._client is None:
            base_url = f"{self._root}/v1"
            self._client = openai.AsyncOpenAI(api_key=self._key or "none", base_url=base_url, max_retries=0)
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def cards(self) -> list[dict[str, Any]]:
        """What the server lists."""
        try:
            text = await self._open().get("/models", cast_to=str, options={"timeout": QUICK_SECONDS})
            rows = json.loads(text)["data"]
            return [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise RemoteFault("its list of models cannot be read") from error
        except openai.APIError as error:
            raise self._fault(error, QUICK_SECONDS) from None

    async def base(self) -> str:
        """The base's name there; of LoRAX, which lists nothing, "" means the base."""
        if self._base is None and self.dialect.by_folder:
            return ""
        if self._base is None:
            cards = await self.cards()
            names = [card["id"] for card in cards if not card.get("parent")]
            if not names:
                raise RemoteFault("it lists no base model")
            self._base = names[0]
        return self._base

    async def longest(self) -> int | None:
        """Tokens of prompt and answer together that the base there takes; None where that is not said."""
        if not self.dialect.listed:
            return None
        base = await self.base()
        lengths = [card.get("max_model_len") for card in await self.cards() if card["id"] == base]
        return next((length for length in lengths if isinstance(length, int) and length > 0), None)

    async def load(self, name: str, folder: Path | str, seconds: float) -> None:
        """Has the server take an adapter in."""
        await self._post(self.dialect.load, {"lora_name": name, "lora_path": str(folder)}, seconds)

    async def unload(self, name: str, seconds: float) -> None:
        """Has the server throw an adapter out; one that it does not know is out already."""
        try:
            await self._post(self.dialect.unload, {"lora_name": name}, seconds)
        except RemoteFault as fault:
            if fault.status != 404:
                raise

    async def sample(self, model: str, prompt: Sequence[int] | str) -> Sample:
        """A few greedy tokens."""
        body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": SAMPLE_TOKENS}
        if self.dialect.zero:
            body["temperature"] = 0
        if self.dialect.scores:
            body["logprobs"] = 1
        try:
            return _sample(await self._open().completions.create(**body, timeout=SAMPLE_SECONDS))
        except openai.APIError as error:
            raise self._fault(error, SAMPLE_SECONDS) from None
        except UNREADABLE as error:
            raise RemoteFault(NO_COMPLETION, one_line(str(error), self._key)) from None

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Any]:
        """The chunks of a completion as they come; closing the iterator ends it there too.

        Args:
            body: OpenAI's fields, and those of `BEYOND`.
        """
        plain = {name: value for name, value in body.items() if name not in BEYOND}
        extra = {name: value for name, value in body.items() if name in BEYOND}
        try:
            async with await self._open().completions.create(**plain, extra_body=extra, stream=True) as chunks:
                async for chunk in chunks:
                    yield chunk
        except openai.APIError as error:
            raise self._fault(error, None) from None
        except UNREADABLE as error:  # an event that is no JSON
            raise RemoteFault(NO_COMPLETION, one_line(str(error), self._key)) from None
        except Exception as error:
            if type(error).__name__ not in _BROKEN_OFF:
                raise
            raise RemoteFault("the connection broke off", one_line(str(error), self._key)) from None

    async def _post(self, route: str, body: Mapping[str, Any], seconds: float) -> None:
        try:
            await self._open().post(f"{self._root}{route}", body=body, cast_to=str, options={"timeout": seconds})
        except openai.APIError as error:
            raise self._fault(error, seconds) from None

    def _fault(self, error: openai.APIError, seconds: float | None) -> RemoteFault:
        if isinstance(error, openai.APIStatusError):
            problem = problem_of(error.status_code, error.response.content if _was_read(error) else b"", self._key)
            return RemoteFault(f"HTTP {problem.status}", problem.words, problem.status)
        if isinstance(error, openai.APITimeoutError):
            return RemoteFault(f"{_LATE} {seconds:g} s" if seconds else "no answer in time")
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            return RemoteFault("it cannot be reached", one_line(f"{type(cause).__name__}: {cause}", self._key))
        return RemoteFault("it failed in mid answer", one_line(str(error), self._key))


def _sample(whole: Any) -> Sample:
    """A completion as it came, whose shape the client does not check."""
    if not whole.choices:
        raise RemoteFault("it answers a probe with nothing")
    choice, usage = whole.choices[0], whole.usage
    scores = (choice.logprobs.token_logprobs if choice.logprobs else None) or ()
    numbers = tuple(float(score) for score in scores if score is not None)
    return Sample("" + (choice.text or ""), numbers, usage.prompt_tokens if usage else None)


NO_COMPLETION = "its answer is no completion"
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What reading an answer raises that has another shape than it should have."""

# errors of the HTTP library under the client, known by name since it can sit on more than one
_BROKEN_OFF = frozenset({"RemoteProtocolError", "ReadError", "DecodingError", "IncompleteRead"})


def _was_read(error: openai.APIStatusError) -> bool:
    try:
        return bool(error.response.content)
    except Exception:  # noqa: BLE001  a stream's body that nobody has read
        return False
