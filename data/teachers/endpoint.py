"""A teacher behind any OpenAI-compatible endpoint: concurrency, retries, time-outs, token and cost accounting.

Keys come from the environment at the moment of a request and are neither kept nor logged. Knows HTTP, nothing of what
is asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import openai
import tenacity

from data.teachers.protocol import BudgetReached, Counted, Messages, Price, Reply, Shape, TeacherFailure, Usage
from data.teachers.refusals import SHAPE_REFUSALS, Rejected, Retry, refuses_shape, retry_after, token_counts
from data.text.urls import without_secrets
from raft_errors import BadInput, RaftError

log = logging.getLogger("raft.data")


class OpenAITeacher:
    """Any endpoint that speaks OpenAI's chat completions: vLLM, Ollama, TGI, llama.cpp, a cloud.

    Args:
        model: name the endpoint knows.
        base_url: e.g. `http://127.0.0.1:8000/v1`; None for api.openai.com.
        key_variable: environment variable that holds the key. The key is read when a request is made and kept nowhere
            else. A missing variable is fine for endpoints with their own `base_url` (local servers need no key).
        concurrency: requests in flight at once.
        timeout_seconds: for one attempt, from connect to the last byte; a slow drip cannot stretch it.
        attempts: tries for one prompt, with exponential back-off and jitter; `Retry-After` is honoured.
        max_reply_bytes: a longer body is not read to its end.
        price, budget: with both, no request is sent that could take the cost over `budget`.
        max_wait_seconds: longest pause between two tries.
        requests_per_minute: requests are spread so that no more are sent; None = as fast as `concurrency` allows.
        structured: ask for JSON of a given shape (`response_format`); an endpoint that refuses it is asked without.

    Counts tokens and cost in `usage`. Retries: time-outs, lost connections, 408, 409, 425, 429, 5xx and cut JSON.
    Errors that no retry mends (401, 403, 404) are a `BadInput`.
    """

    reports_each_reply = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout_seconds: float = 120.0,
        attempts: int = 6,
        max_reply_bytes: int = 1_000_000,
        price: Price | None = None,
        budget: float | None = None,
        first_wait_seconds: float = 1.0,
        max_wait_seconds: float = 60.0,
        requests_per_minute: float | None = None,
        structured: bool = True,
    ) -> None:
        if budget is not None and price is None:
            raise BadInput("a teacher budget without a price", expected="the price of a million tokens", do="give both")
        self.name = model
        self.batch_size = max(32, 4 * concurrency)
        self.usage = Usage(cost=0.0 if price else None)
        self._base_url, self._key_variable = base_url, key_variable
        self._concurrency, self._timeout, self._attempts = concurrency, timeout_seconds, attempts
        self._max_bytes, self._price, self._budget = max_reply_bytes, price, budget
        self._first_wait, self._max_wait = first_wait_seconds, max_wait_seconds
        self._reserved = 0.0
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_start = 0.0
        self.takes_shape = structured
        self._shape_refused = False
        self._rng = random.Random()  # jitter only: it never decides a result

    def complete(
        self,
        prompts: Sequence[Messages],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
        shape: Shape | None = None,
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        """Replies in the order of the prompts; `on_reply` is called in this thread as each one comes.

        Raises:
            BudgetReached: after the requests in flight have come back and been reported.
            BadInput: key, model or address refused.
        """
        settings: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        settings["stop"] = list(stop) or None
        if shape and self.takes_shape:
            described = {"name": shape.name, "schema": dict(shape.schema), "strict": True}
            settings["response_format"] = {"type": "json_schema", "json_schema": described}
        arrived: queue.SimpleQueue[tuple[int, Reply] | None] = queue.SimpleQueue()
        failed: list[BaseException] = []
        loop = asyncio.new_event_loop()
        work = loop.create_task(self._all(prompts, settings, arrived))

        def run() -> None:
            try:
                loop.run_until_complete(work)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised again in the caller's thread
                failed.append(error)
            finally:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()
                arrived.put(None)

        # a thread of its own: the caller may already stand in an event loop
        thread = threading.Thread(target=run, name="raft-teacher", daemon=True)
        thread.start()
        replies: list[Reply] = [TeacherFailure("not_asked", transient=True)] * len(prompts)
        try:
            while (item := arrived.get()) is not None:
                replies[item[0]] = item[1]
                if on_reply:
                    on_reply(*item)
        except BaseException:
            if not loop.is_closed():
                loop.call_soon_threadsafe(work.cancel)
            raise
        thread.join()
        if failed:
            raise failed[0]
        return replies

    async def _all(self, prompts: Sequence[Messages], settings: dict[str, Any], arrived: Any) -> None:
        stopped: list[RaftError] = []
        todo = iter(enumerate(prompts))

        async def worker(client: openai.AsyncOpenAI) -> None:
            for position, messages in todo:  # the iterator is shared: each worker takes the next prompt
                if stopped:
                    return
                try:
                    arrived.put((position, await self._one(client, messages, settings)))
                except RaftError as error:
                    stopped.append(error)

        async with self._client() as client:
            await asyncio.gather(*(worker(client) for _ in range(min(self._concurrency, len(prompts)))))
        if stopped:
            raise stopped[0]

    def _client(self) -> openai.AsyncOpenAI:
        key = os.environ.get(self._key_variable, "")
        if not key and self._base_url is None:
            raise BadInput(
                f"no key in the environment variable {self._key_variable}",
                expected="the key of the teacher's endpoint",
                do=f"export {self._key_variable}=..., or set base_url to a server that needs no key",
            )
        return openai.AsyncOpenAI(
            api_key=key or "none", base_url=self._base_url, timeout=self._timeout, max_retries=0, organization=""
        )

    async def _one(self, client: openai.AsyncOpenAI, messages: Messages, settings: dict[str, Any]) -> Reply:
        ceiling = self._reserve(messages, settings["max_tokens"])
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=tenacity.retry_if_exception_type(Retry),
            reraise=True,
        )
        if self._shape_refused:
            settings = {**settings, "response_format": None}
        try:
            reply: Reply = await retrying(self._attempt, client, messages, settings)
            if refuses_shape(reply, settings):
                plain = {**settings, "response_format": None}
                reply = await retrying.copy()(self._attempt, client, messages, plain)
                if not self._shape_refused and isinstance(reply, str):
                    self._shape_refused = True
                    log.warning("the teacher %s takes no response_format: asking without", self.name)
        except (Retry, Rejected) as error:
            reply = error.failure
        finally:
            self._reserved -= ceiling
        if isinstance(reply, TeacherFailure):
            self.usage.failures += 1
            log.warning("the teacher failed on one prompt: %s %s", reply.reason, reply.detail)
        else:
            self.usage.replies += 1
        return reply

    def _reserve(self, messages: Messages, max_tokens: int) -> float:
        """Sets aside what the request can cost at most (a token is at least about two bytes of English)."""
        if self._price is None or self._budget is None:
            return 0.0
        prompt_tokens = sum(len(m["content"].encode()) // 2 + 8 for m in messages)
        ceiling = (prompt_tokens * self._price.prompt + max_tokens * self._price.completion) / 1e6
        spent = self.usage.cost or 0.0
        if spent + self._reserved + ceiling > self._budget:
            raise BudgetReached(
                f"the teacher's budget of {self._budget:g} is used up: {spent:.4f} spent",
                do="raise the budget and run again: finished replies are kept and not paid again",
            )
        self._reserved += ceiling
        return ceiling

    async def _attempt(self, client: openai.AsyncOpenAI, messages: Messages, settings: dict[str, Any]) -> Reply:
        await self._turn()
        self.usage.requests += 1
        try:
            async with asyncio.timeout(self._timeout):
                body, media = await self._post(client, messages, settings)
        except (TimeoutError, openai.APITimeoutError):
            raise Retry("timeout", f"no whole reply within {self._timeout:g} s") from None
        except openai.APIStatusError as error:
            if error.status_code in SHAPE_REFUSALS and settings.get("response_format"):
                return TeacherFailure("rejected", f"HTTP {error.status_code}")
            raise self._status(error) from None
        except openai.APIConnectionError as error:
            raise Retry("connection", type(error.__cause__ or error).__name__) from None
        except Exception as error:
            # the HTTP library's own error for a body that stops half way; it is known by name, not by module, since
            # the openai client can sit on more than one
            if type(error).__name__ in {"RemoteProtocolError", "ReadError", "DecodingError", "IncompleteRead"}:
                raise Retry("connection", type(error).__name__) from None
            raise
        if body is None:
            return TeacherFailure("too_long", f"the reply is longer than {self._max_bytes} bytes")
        if "html" in media or body.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
            return TeacherFailure("html", "the endpoint answered with a web page")
        return self._read(body)

    async def _turn(self) -> None:
        """Waits until the rate allows another request."""
        if self._interval:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._interval
            await asyncio.sleep(start - now)

    async def _post(
        self, client: openai.AsyncOpenAI, messages: Messages, settings: dict[str, Any]
    ) -> tuple[bytes | None, str]:
        """The raw body (None when over-long) and its media type."""
        request = client.chat.completions.with_streaming_response.create(
            model=self.name,
            messages=messages,  # type: ignore[arg-type]
            **{k: v for k, v in settings.items() if v is not None},
        )
        async with request as response:
            body = bytearray()
            async for piece in response.iter_bytes():
                body += piece
                if len(body) > self._max_bytes:
                    return None, ""
            return bytes(body), response.headers.get("content-type", "").lower()

    def _read(self, body: bytes) -> Reply:
        try:
            payload = json.loads(body)
            choice = payload["choices"][0]
            text = choice["message"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise Retry("broken", "the reply is not a chat completion in JSON") from None
        prompt, completion = token_counts(payload.get("usage"))
        self._count(prompt, completion)
        if not isinstance(text, str) or not text.strip():
            return TeacherFailure("empty", f"finish_reason {choice.get('finish_reason')!r}")
        return Counted.of(text, prompt, completion)

    def _count(self, prompt: int, completion: int) -> None:
        self.usage.prompt_tokens += prompt
        self.usage.completion_tokens += completion
        if self._price is not None:
            cost = (prompt * self._price.prompt + completion * self._price.completion) / 1e6
            self.usage.cost = (self.usage.cost or 0.0) + cost

    def _status(self, error: openai.APIStatusError) -> Exception:
        code = error.status_code
        if code in (401, 403, 404):
            where = without_secrets(self._base_url or "the default OpenAI address")
            wrong = f"the model {self.name!r} or the path" if code == 404 else f"the key in {self._key_variable}"
            return BadInput(
                f"the teacher at {where} answered {code}: it does not accept {wrong}", do="correct it and run again"
            )
        if code == 429 and getattr(error, "code", None) == "insufficient_quota":
            return BudgetReached("the teacher's account has no quota left", do="top it up and run again")
        if code in (408, 409, 425, 429) or code >= 500:
            wait = retry_after(error.response.headers)
            return Retry("rate_limit" if code == 429 else "server_error", f"HTTP {code}", wait)
        return Rejected(TeacherFailure("rejected", f"HTTP {code}"))

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        backoff = min(self._max_wait, self._first_wait * 2 ** (state.attempt_number - 1))
        asked = error.wait_seconds if isinstance(error, Retry) and error.wait_seconds else 0.0
        return min(self._max_wait, max(asked, backoff * self._rng.uniform(0.5, 1.0)))
