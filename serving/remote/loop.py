"""The other server in the place of the engine: what `serving.engine_loop.EngineLoop` does here is done there.

A request goes out as one streamed completion of its rendered prompt and comes back as the same values. Its event loop
runs in a thread of its own, so that a slow answer there stops no stream here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jora_engine.files.tokenizer import Spelling, Tokenizer
from jora_engine.generation.adapter_layout import PreparedAdapter
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.requests import Completion, Job, Request
from raft_errors import BadInput, RaftError
from serving.domain import NotReady
from serving.errors import ApiError, busy, not_ready
from serving.remote.connection import NO_COMPLETION, SAMPLE_SECONDS, UNREADABLE, Remote, RemoteFault
from serving.remote.fleet import Fleet, Guest, Patience, name_there

log = logging.getLogger("raft.serving")

PROBE_TOKENS = 32
RETRY = {"Retry-After": "5"}

Some = TypeVar("Some")


@dataclass(frozen=True)
class RemoteCompletion(Completion):
    """A completion whose tokens are known by their number alone."""

    counted: int = 0

    @property
    def new_tokens(self) -> int:
        return self.counted


class RemoteAdapters(AdapterMemory):
    """The adapters as they lie here, read and checked whole before the other server hears of them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._known: dict[str, tuple[Path, str]] = {}

    def get(self, name: str) -> PreparedAdapter:
        folder = self._folders.get(name)
        adapter = super().get(name)
        if folder is not None:
            self._known[name] = folder, adapter.digest
        return adapter

    def known(self, name: str) -> tuple[Path, str] | None:
        """The folder and the digest that a name meant when it was read last."""
        return self._known.get(name)

    def named(self, digest: str) -> tuple[str, Path]:
        """The name that a digest was read under, and its folder; of several one that is registered."""
        known = list(self._known.items())  # other threads read adapters meanwhile
        names = [name for name, (_, own) in known if own == digest]
        name = next(filter(self.registered, names), names[-1])
        return name, self._known[name][0]


class RemoteLoop:
    """Requests to the other server, and the adapters on it.

    Args:
        rows: requests that are there at once; others wait here.
        seen: a folder of ours as the other server sees it.
    """

    def __init__(
        self,
        remote: Remote,
        adapters: RemoteAdapters,
        tokenizer: Tokenizer,
        *,
        rows: int = 8,
        seen: Callable[[Path], str] = str,
        patience: Patience | None = None,
    ) -> None:
        self.remote, self.adapters, self._tokenizer, self._seen = remote, adapters, tokenizer, seen
        ids = [number % tokenizer.vocab_size for number in range(PROBE_TOKENS)]
        text = "The quick brown fox jumps over the lazy dog."
        if not remote.dialect.ids:
            ids = tokenizer.encode(text)
        self.fleet = Fleet(remote, ids if remote.dialect.ids else text, len(ids), patience)
        self._rows = rows
        self._room = asyncio.Semaphore(rows)
        self._jobs: dict[Job, asyncio.Task[None]] = {}
        self._running = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="raft-remote", daemon=True)

    def start(self) -> None:
        """Begins; a second call does nothing."""
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """Cancels what is under way and ends the thread."""
        if self._thread.is_alive():
            self._wait(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def greet(self) -> int | None:
        """Asks the server for its base.

        Returns:
            Tokens of prompt and answer together that it takes; None where it does not say.

        Raises:
            RaftError: it does not answer, or has none.
        """
        try:
            self._wait(self.remote.base())
            return self._wait(self.remote.longest())
        except RemoteFault as fault:
            raise RaftError(
                f"The server that generates, {self.remote.where}, cannot be used: {fault}",
                expected="a server with OpenAI's API that lists the base model",
                do="start it, or correct serve.url, serve.model and the variable of serve.key_variable",
            ) from fault

    def submit(
        self, request: Request, on_text: Callable[[str], None] | None, on_done: Callable[[Job], None] | None
    ) -> Job:
        """A request under way; the callbacks are called in this loop's thread.

        Raises:
            ApiError: it asks for what another server cannot be told.
        """
        if request.allowed is not None:
            message = "copy_quotes: not supported where another server generates"
            raise ApiError(400, message, code="unsupported", param="copy_quotes")
        if request.logprobs is not None:
            message = "logprobs: not supported where another server generates"
            raise ApiError(400, message, code="unsupported", param="logprobs")
        adapter = request.adapter
        prepared = self.adapters.get(adapter) if isinstance(adapter, str) else adapter
        body = self._body(request)
        job = Job(request, prepared, on_text, on_done)
        self._loop.call_soon_threadsafe(self._begin, job, body)
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job as `abort`; the other server sees its connection closed."""
        job.cancelled = True
        self._loop.call_soon_threadsafe(self._cancel, job)

    def probe(self, name: str) -> None:
        """Sees that an adapter comes into use on the other server; waits for nothing.

        Raises:
            NotReady: it has not come yet, or that has failed; it is tried again by itself.
        """
        adapter = self.adapters.get(name)

        async def look() -> None:
            self.fleet.require(self._guest(adapter, name))

        self._wait(look())

    def bring(self, names: list[str]) -> None:
        """Loads adapters and waits until each is ready or has failed once, and not for ever; for a server that serves
        nobody yet. What has failed is tried again by itself, while the server serves."""
        adapters = {}
        for name in names:
            with contextlib.suppress(BadInput):
                adapters[name] = self.adapters.get(name)

        async def settled() -> None:
            guests = [self._guest(adapter, name) for name, adapter in adapters.items()]
            patience = self.fleet.patience
            waits = [asyncio.ensure_future(guest.settled.wait()) for guest in guests]
            if waits:
                _, late = await asyncio.wait(waits, timeout=patience.load + patience.listed + SAMPLE_SECONDS)
                for wait in late:
                    wait.cancel()

        self._wait(settled())

    def unload(self, name: str) -> None:
        """Forgets an adapter; it leaves the other server with its last request."""
        self.adapters.remove(name)
        if known := self.adapters.known(name):
            self._loop.call_soon_threadsafe(self.fleet.leave, name_there(name, *known))

    def forget_prompts(self) -> None:
        """The other server's prefix cache is its own: it is told nothing, and the log says so."""
        log.warning("%s may remember prompts of documents that are gone; empty its prefix cache", self.remote.where)

    def pending(self) -> int:
        """Requests that wait here for their turn."""
        return len(self._jobs) - self._running

    def running(self) -> int:
        """Requests that are there."""
        return self._running

    def spell(self, token: int) -> Spelling:
        """How a token reads."""
        return self._tokenizer.spelling(token)

    def alive(self, seconds: float) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def figures(self) -> dict[str, Any]:
        """For people and metrics."""
        ready = sum(one["state"] == "ready" for one in self.fleet.standing().values())
        return {
            "running": self.running(),
            "waiting": self.pending(),
            "columns": 0,
            "slots": {"slots": self._rows, "held": ready, "used": 0},
            "adapters": self.adapters.figures(),
            "prefixes": {},
            "remote": self.fleet.standing(),
        }

    # ---- in the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Some]) -> Some:
        """The result of a coroutine in the loop, for another thread."""
        self.start()
        future: concurrent.futures.Future[Some] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    async def _close(self) -> None:
        await asyncio.sleep(0)  # as in `_cancel`
        tasks = list(self._jobs.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.fleet.close()
        await self.remote.close()

    def _guest(self, adapter: PreparedAdapter, name: str = "") -> Guest:
        """An adapter there, by its name here or by what it holds."""
        known = self.adapters.known(name)
        key, folder = (name, known[0]) if known else self.adapters.named(adapter.digest)
        guest = self.fleet.guest(name_there(key, folder, adapter.digest), self._seen(folder), adapter)
        if not self.adapters.registered(key):
            guest.unwanted = True  # it was unloaded since it was asked for, and goes again with this request
        return guest

    def _begin(self, job: Job, body: dict[str, Any]) -> None:
        guest = None
        if job.adapter is not None:
            guest = self._guest(job.adapter)
            guest.uses += 1
        self._jobs[job] = self._loop.create_task(self._answer(job, guest, body))

    def _cancel(self, job: Job) -> None:
        if task := self._jobs.get(job):
            self._loop.call_soon(task.cancel)  # one cancelled before its first step never begins, and so has no end

    async def _answer(self, job: Job, guest: Guest | None, body: dict[str, Any]) -> None:
        reply = _Reply(job, self._tokenizer)
        end: Completion | Exception
        try:
            async with self._room:
                self._running += 1
                try:
                    job.times.admitted = time.time_ns()
                    end = await self._completed(reply, guest, body)
                finally:
                    self._running -= 1
        except asyncio.CancelledError:
            end = reply.completion("abort")
        except NotReady as error:
            log.warning("a request cannot be answered: %s", error)
            end = not_ready(guest.name if guest else "")
        except RemoteFault as fault:
            end = self._told(fault)
        except Exception as error:
            log.exception("a request to the generation server failed")
            end = error
        finally:
            self._jobs.pop(job, None)
            if guest:
                self.fleet.release(guest)
        job.times.ended = time.time_ns()
        if isinstance(end, Completion):
            if job.on_text and end.finish_reason != "abort":
                job.on_text(end.text)
            job.completion = end
        else:
            job.error = end
        if job.on_done:
            job.on_done(job)

    async def _completed(self, reply: _Reply, guest: Guest | None, body: dict[str, Any]) -> Completion:
        """The completion; once more from the start where the other server has lost the adapter and nothing was said."""
        base = await self.remote.base()
        for last in (False, True):
            model = base
            if guest:
                await self.fleet.ready(guest)
                model = self.fleet.model(base, guest)
            try:
                return await reply.read(self.remote.stream({**body, "model": model}))
            except RemoteFault as fault:
                if last or guest is None or reply.text or fault.status not in (400, 404):
                    raise
                if self.remote.dialect.listed and any(card["id"] == guest.name for card in await self.remote.cards()):
                    raise  # it is there: the request itself is at fault
                self.fleet.lost(guest)
        raise AssertionError("unreachable")

    def _body(self, request: Request) -> dict[str, Any]:
        """A request as the other server takes it, without `model`."""
        known = self.remote.dialect.fields
        body: dict[str, Any] = {"prompt": self._prompt(request), "max_tokens": request.max_new_tokens}
        if request.temperature or self.remote.dialect.zero:
            body["temperature"] = request.temperature
        if request.top_p < 1:
            body["top_p"] = request.top_p
        if request.stop:
            body["stop"] = list(request.stop)
        more: dict[str, Any] = {
            "top_k": request.top_k or None,
            "seed": request.seed % 2**31 if request.temperature else None,
            "ignore_eos": request.ignore_eos or None,
            # what ends a turn in the chat template is not in every model's list of ends
            "stop_token_ids": None if request.ignore_eos else list(self._tokenizer.eos_ids),
            "stream_options": {"include_usage": True},
        }
        unknown = [name for name in ("top_k", "ignore_eos") if more[name] and name not in known]
        if unknown:
            message = f"{unknown[0]}: the generation server does not know it"
            raise ApiError(400, message, code="unsupported", param=unknown[0])
        return body | {name: value for name, value in more.items() if value is not None and name in known}

    def _prompt(self, request: Request) -> list[int] | str:
        """The prompt's ids; for a server that takes texts alone the text that gives these very ids.

        Raises:
            ApiError: there is none: somebody wrote a control token as text, which would count there.
        """
        if self.remote.dialect.ids:
            return list(request.prompt)
        ids = list(request.prompt)
        bare = ids[1:] if self._tokenizer.encode("")[:1] == ids[:1] else ids  # what begins a text is put there again
        text = self._tokenizer.decode(bare, skip_special_tokens=False)
        if self._tokenizer.encode(text) != ids:
            message = "The prompt holds words that the generation server would take for control tokens"
            raise ApiError(400, message, code="invalid_value", param="messages")
        return text

    def _told(self, fault: RemoteFault) -> ApiError:
        """A fault as a client hears of it; the log has the server's own words."""
        log.warning("%s: %s", self.remote.where, fault)
        if fault.status == 429:
            return busy(2)
        if fault.status is not None and fault.status < 500:
            return ApiError(502, "The generation server refused the request", code="server_error")
        return ApiError(503, "The generation server does not answer", code="not_ready", headers=RETRY)


class _Reply:
    """A completion as it comes in: its text up to the first stop string, and how it ends."""

    def __init__(self, job: Job, tokenizer: Tokenizer) -> None:
        self.text = ""
        self._job, self._tokenizer = job, tokenizer
        self._counted: int | None = None
        self._half = ""  # of a character, whose other half is to come

    async def read(self, chunks: Any) -> Completion:
        """Takes the chunks of a stream.

        Raises:
            RemoteFault: it ends without saying how.
        """
        finish, stop = "", self._job.request.stop
        try:
            async for chunk in chunks:
                self._job.times.ready = self._job.times.ready or time.time_ns()
                finish = self._add(chunk) or finish
                places = [self.text.index(one) for one in stop if one in self.text]
                if places:
                    self.text = self.text[: min(places)]
                    return self.completion("stop")
                if self._job.on_text and self.text:
                    self._job.on_text(self._settled())
        finally:
            await chunks.aclose()
        if not finish:
            raise RemoteFault("the answer ends without an end")
        return self.completion("length" if finish == "length" else "stop")

    def _add(self, chunk: Any) -> str:
        """Adds a chunk's text; gives how the answer ends, where the chunk says so.

        Raises:
            RemoteFault: it has another shape than it should have, which the client does not check.
        """
        try:
            self._count(chunk.usage)
            choices = [(self._half + (choice.text or ""), choice.finish_reason) for choice in (chunk.choices or [])[:1]]
        except UNREADABLE as error:
            raise RemoteFault(NO_COMPLETION, type(error).__name__) from error
        if not choices:
            return ""
        text, finish = choices[0]
        # servers whose strings are UTF-16 cut a character in two; what never becomes whole is none
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        whole = text.removesuffix(self._half) if self._half else text
        self.text += whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return finish or ""

    def completion(self, reason: str) -> Completion:
        """What there is, as ended for that reason."""
        count = self._counted
        if count is None:
            count = len(self._tokenizer.encode(self.text, add_special_tokens=False))
        return RemoteCompletion(self.text, (), reason, None, counted=count)

    def _settled(self) -> str:
        """The text without an end that may be the beginning of a stop string."""
        stop = self._job.request.stop
        held = max((n for one in stop for n in range(1, len(one)) if self.text.endswith(one[:n])), default=0)
        return self.text[: len(self.text) - held]

    def _count(self, usage: Any) -> None:
        if usage is None:
            return
        self._counted = int(usage.completion_tokens) if usage.completion_tokens is not None else self._counted
        details = getattr(usage, "prompt_tokens_details", None)
        self._job.cached_tokens = (details.cached_tokens if details else None) or self._job.cached_tokens
