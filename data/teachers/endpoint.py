"""A teacher behind any OpenAI-compatible endpoint: concurrency, retries, time-outs, token and cost accounting.

Keys come from the environment at the moment of a request and are neither kept nor logged. Knows HTTP, nothing of what
is asked.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import openai
import tenacity

from data.teachers.account import Account
from data.teachers.address import address_of
from data.teachers.connection import Connection
from data.teachers.protocol import (
    Counted,
    Messages,
    Price,
    Reply,
    Shape,
    TeacherFailure,
    TeacherUnavailable,
    TeacherUnreachable,
)
from data.teachers.refusals import Rejected, Retry
from data.teachers.replies import Problem, read_completion, token_counts
from data.teachers.terms import INSTEAD, Terms
from raft_errors import BadInput, RaftError

log = logging.getLogger("raft.data")

TRIAL: Messages = [{"role": "user", "content": "Reply with one word: ready"}]
"""What is asked to learn whether an endpoint can be used at all."""


class OpenAITeacher:
    """Any endpoint that speaks OpenAI's chat completions: vLLM, Ollama, TGI, llama.cpp, Azure, a cloud.

    Args:
        model: name the endpoint knows.
        base_url: e.g. `http://127.0.0.1:8000/v1`, or as it is pasted from a portal, with the call's path and
            `?api-version=`; None for api.openai.com.
        api_version: see `address_of`.
        key_header: see `address_of`.
        key_variable: environment variable that holds the key. The key is read when a request is made and kept nowhere
            else. A missing variable is fine for endpoints with their own `base_url` (local servers need no key).
        concurrency: requests in flight at once.
        timeout_seconds: for one attempt, from connect to the last byte; a slow drip cannot stretch it.
        attempts: tries for one prompt, with exponential back-off and jitter; `Retry-After` is honoured.
        max_reply_bytes: a longer body is not read to its end.
        price: what tokens cost; see `budget`.
        budget: with `price`, no request is sent that could take the cost over it.
        max_wait_seconds: longest pause between two tries.
        requests_per_minute: requests are spread so that no more are sent; None = as fast as `concurrency` allows.
        structured: ask for JSON of a given shape (`response_format`); an endpoint that refuses it is asked without.

    Counts tokens and cost in `usage`. Retries: time-outs, lost connections, 408, 409, 425, 429, 5xx and cut JSON. A
    parameter that the endpoint refuses is left out from then on. Requests go out one at a time until the first was
    taken, so that a wrong key costs one request and not `concurrency` of them. Errors that no retry mends (401, 404,
    a 403 to whatever is asked) are a `BadInput`, an account without credit (402) a `BudgetReached`.
    """

    reports_each_reply = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_version: str | None = None,
        key_header: str | None = None,
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
        self._account = Account(price, budget)
        self.usage = self._account.usage
        self.takes_shape = structured
        address = address_of(base_url, model=model, api_version=api_version, key_header=key_header)
        self._line = Connection(address, model, key_variable, timeout_seconds, max_reply_bytes)
        self._concurrency, self._attempts = concurrency, attempts
        self._first_wait, self._max_wait = first_wait_seconds, max_wait_seconds
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_start = 0.0
        self._terms = Terms()
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

    def try_out(self, *, max_tokens: int, temperature: float, seed: int) -> None:
        """Asks for one word, with the settings of a run, to learn whether the endpoint can be used.

        Raises:
            BadInput: key, model, address or request refused.
            BudgetReached: the account has no credit.
            TeacherUnavailable: no answer after all attempts; TeacherUnreachable where nobody listens at the address.
        """
        settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}

        async def trial() -> None:
            async with self._line.open() as client:
                await self._trial(client, settings)

        # a thread of its own: the caller may already stand in an event loop
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, trial()).result()

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

        async with self._line.open() as client:
            for count, (position, messages) in enumerate(todo):
                arrived.put((position, await self._one(client, messages, settings)))
                if not self._terms.accepted:  # the prompt's fault, or that of all that is sent?
                    await self._trial(client, settings)
                if count or not self._terms.unproven(messages, settings):
                    break
            await asyncio.gather(*(worker(client) for _ in range(min(self._concurrency, len(prompts)))))
        if stopped:
            raise stopped[0]

    async def _trial(self, client: openai.AsyncOpenAI, settings: dict[str, Any]) -> None:
        reply = await self._one(client, TRIAL, settings, trial=True)
        if not isinstance(reply, TeacherFailure) or self._terms.accepted:
            return
        detail = f"{reply.reason}, {reply.detail}" if reply.detail else reply.reason
        if reply.transient:
            kind = TeacherUnreachable if reply.reason == "unreachable" else TeacherUnavailable
            raise kind(
                f"the teacher {self.name} at {self._line.where} gives no answer: {detail}",
                do="see that the endpoint is up and run again: what was answered so far is kept",
            )
        raise BadInput(
            f"the teacher {self.name} at {self._line.where} refuses whatever it is asked: {detail}",
            do="correct the model, the address or the settings that it names, and run again",
        )

    async def _one(
        self, client: openai.AsyncOpenAI, messages: Messages, settings: dict[str, Any], *, trial: bool = False
    ) -> Reply:
        """The reply to one prompt."""
        with self._account.reserved(messages, settings["max_tokens"]):
            reply = await self._reply(client, messages, settings, trial)
        if isinstance(reply, TeacherFailure):
            if not trial:
                self.usage.failures += 1
                log.warning("the teacher failed on one prompt: %s %s", reply.reason, reply.detail)
        elif not trial:
            self.usage.replies += 1
        return reply

    async def _reply(
        self, client: openai.AsyncOpenAI, messages: Messages, settings: dict[str, Any], trial: bool
    ) -> Reply:
        """The reply to one prompt, asked anew without what the endpoint minds for as long as that helps."""
        terms, without = self._terms, set[str]()
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=tenacity.retry_if_exception_type(Retry),
            reraise=True,
        )
        problems: list[Problem] = []
        while True:
            in_use = terms.in_use(messages, settings, without)
            request = terms.request(messages, settings, without)
            try:
                reply: Reply = await retrying.copy()(self._attempt, client, request, settings, trial)
            except Retry as error:
                return error.failure
            except Rejected as error:
                if error.problem is None:
                    return error.failure
                problems.append(error.problem)
                if not (parameter := terms.blamed(error.problem, in_use)):
                    if without:
                        terms.give_up(problems)
                    return error.failure
                without.add(parameter)
                continue
            self._tell(terms.learn(in_use, without), problems)
            if not _ended_in_thought(reply, in_use):
                return reply
            without.add("stop")

    def _tell(self, parameters: set[str], problems: Sequence[Problem]) -> None:
        words = "; ".join(dict.fromkeys(problem.words for problem in problems if problem.words))
        for name in sorted(parameters):
            instead = INSTEAD.get(name, "asking without it")
            log.warning(
                "the teacher %s takes no %s: %s from here on%s", self.name, name, instead, words and f" ({words})"
            )

    async def _attempt(
        self, client: openai.AsyncOpenAI, request: dict[str, Any], settings: Mapping[str, Any], trial: bool
    ) -> Reply:
        await self._turn()
        self.usage.requests += 1
        # a 403 to the first prompt is the key's fault only if the trial is refused, too
        payload = await self._line.post(client, request, accepted=self._terms.accepted or not trial)
        if isinstance(payload, TeacherFailure):
            return payload
        try:
            reply = read_completion(payload, settings["max_tokens"])
        except ValueError:
            raise Retry("broken", f"the reply is not a chat completion: {str(payload)[:120]}") from None
        self._account.count(*token_counts(payload.get("usage")))
        if isinstance(reply, Counted) and settings.get("stop"):
            reply = reply.reworded(until(reply.strip(), settings["stop"]))
        return reply

    async def _turn(self) -> None:
        """Waits until the rate allows another request."""
        if self._interval:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._interval
            await asyncio.sleep(start - now)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        backoff = min(self._max_wait, self._first_wait * 2 ** (state.attempt_number - 1))
        asked = error.wait_seconds if isinstance(error, Retry) and error.wait_seconds else 0.0
        return min(self._max_wait, max(asked, backoff * self._rng.uniform(0.5, 1.0)))


def until(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop texts, for endpoints that do not look for them themselves."""
    return text[: min([len(text), *(place for mark in stop if mark and (place := text.find(mark)) >= 0)])]


def _ended_in_thought(reply: Reply, in_use: set[str]) -> bool:
    """Whether a stop text ended the reply while the model still thought."""
    thought = isinstance(reply, TeacherFailure) and reply.reason == "empty" and "thinking" in reply.detail
    return thought and "stop" in in_use
