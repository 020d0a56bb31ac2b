"""From a request to its answer: read, searched for, handed to the engine, awaited and sent in the shape of its API; and
what happens when a client goes away, a request takes too long, or the server drains."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from jora_engine.generation.requests import Completion, Job
from raft_errors import BadInput
from serving.admission import admitted, counted, gone, log_end, searched, up_to_date
from serving.content.plan import Plan
from serving.errors import ApiError, failed, not_serving, too_slow
from serving.forms.answer import Answer, Form, Head
from serving.schema import TextRequest, read
from serving.state import Server
from serving.telemetry import Trace

log = logging.getLogger("raft.serving")

KEEP_ALIVE_SECONDS = 15.0
POLL_SECONDS = 0.25  # between two looks whether a client is still there
LATE_SECONDS = 5.0  # that the last words of a stream may take


class Reply:
    """A request in the engine as the event loop sees it: the newest text, and its end."""

    def __init__(self, server: Server, plan: Plan, trace: Trace, *, streamed: bool = True) -> None:
        self.plan, self.text, self.trace = plan, "", trace
        self.job: Job | None = None
        self._server = server
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
                loop.call_soon_threadsafe(self._changed.set)

        def on_text(text: str) -> None:
            self.text = text  # the newest alone is kept, so a slow reader costs nothing
            wake()

        def on_done(job: Job) -> None:
            wake()

        if plan.request is not None:
            # the engine hurries with the first token of one who reads along, which costs the others a decode call
            self.job = server.loop.submit(plan.request, on_text if streamed else None, on_done)

    @property
    def completion(self) -> Completion | None:
        """How it ended; an answer that was known already is a refusal in the contract's words."""
        if self.job is None:
            assert self.plan.asked is not None
            return Completion(
                f"{self.plan.asked.template.answer_marker} {self.plan.asked.template.refusal}", (), "stop"
            )
        if isinstance(self.job.error, ApiError):
            raise self.job.error
        if self.job.error:
            raise ApiError(500, "The model failed on this request", code="server_error")
        return self.job.completion

    async def change(self, seconds: float) -> bool:
        """Waits for more text or the end; False after so many seconds without."""
        try:
            await asyncio.wait_for(self._changed.wait(), max(seconds, 0.001))
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    def answer(self, completion: Completion) -> Answer:
        """The answer that a completion is."""
        cached = self.job.cached_tokens if self.job else 0
        with self.trace.part("verify"):
            content = self.plan.content(completion.text)
        return Answer(content, completion, self.plan.prompt_tokens, cached)

    def leave(self) -> None:
        """Frees the row, if it is still held."""
        if self.job and not self.job.ended:
            self._server.loop.cancel(self.job)

    def traced(self, end: str) -> None:
        """Ends the request's spans, with how it ended."""
        shown = len(self.plan.asked.citations) if self.plan.asked else 0
        self.trace.end({"gen_ai.response.model": self.plan.model, "raft.passages": shown, "raft.end": end}, self.job)


async def answered(
    server: Server, request: Request, kind: type[TextRequest], form: type[Form[Any]]
) -> JSONResponse | StreamingResponse:
    """The response to a request of a kind, in the form of its API."""
    began, counts = time.monotonic(), server.counts
    counts.received += 1
    request_id = f"{form.prefix}{uuid.uuid4().hex}"
    trace = Trace(server.tracer, form.operation)
    try:
        asked, reply = await _begin(server, request, kind, trace)
    except BaseException as error:
        end = counted(server, error)
        trace.end({"raft.end": end, "error.type": str(getattr(error, "code", None) or type(error).__name__)})
        log_end(request_id, "", end, began, getattr(error, "code", None))
        raise
    plan = reply.plan
    head = Head(request_id, plan.created, plan.model, server.gateway.fingerprint(plan.model))
    shape = form(asked, head, server.loop.spell)
    deadline = began + server.limits.deadline_seconds
    headers = {"x-request-id": request_id}
    if plan.asked:
        shown = len(plan.asked.citations)
        headers["x-raft-passages"] = f"{shown} of {shown + plan.passages_left_out}"
    if plan.routes:
        headers["x-raft-routes"] = ", ".join(f"{r.name} {r.score:.3f} of {r.threshold:.3f}" for r in plan.routes)
    if plan.ignored:
        headers["x-raft-ignored"] = ", ".join(plan.ignored)
    if asked.stream:
        headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return _Stream(server, reply, shape, began, deadline, headers)
    try:
        completion = await _whole(reply, request, deadline)
        whole = shape.whole(reply.answer(completion))
    except BaseException as error:
        reply.leave()
        reply.traced("aborted")
        counts.aborted += 1
        log_end(request_id, plan.model, "aborted", began, getattr(error, "code", None))
        raise
    _count(server, reply, completion, request_id, began)
    return JSONResponse(whole, headers=headers)


async def _begin(server: Server, request: Request, kind: type[TextRequest], trace: Trace) -> tuple[TextRequest, Reply]:
    """The request read, searched for, and handed to the engine."""
    asked = read(kind, await admitted(server, request))
    await up_to_date(server, asked.name)
    try:
        work = functools.partial(server.gateway.plan, asked, request.state.tenant, _address(request), trace=trace)
        return asked, Reply(server, await searched(server, work), trace, streamed=asked.stream)
    except BadInput as error:
        raise ApiError(400, "The request cannot be answered as it is", code="invalid_value") from error


def _address(request: Request) -> str:
    """This server as the client calls it; a proxy that speaks TLS before it says so."""
    secure = request.headers.get("x-forwarded-proto") == "https"
    return f"{'https' if secure else request.url.scheme}://{request.headers['host']}"


async def _whole(reply: Reply, request: Request, deadline: float) -> Completion:
    """The completion, while the client waits for it.

    Raises:
        ApiError: the deadline has passed, or the client has gone.
    """
    while (completion := reply.completion) is None:
        if time.monotonic() > deadline:
            raise too_slow()
        if not await reply.change(POLL_SECONDS) and await request.is_disconnected():
            raise gone()
    if completion.finish_reason == "abort":
        raise not_serving()
    return completion


def _count(server: Server, reply: Reply, completion: Completion, request_id: str, began: float) -> None:
    counts = server.counts
    reply.traced(completion.finish_reason)
    counts.answered += 1
    counts.prompt_tokens += reply.plan.prompt_tokens
    counts.completion_tokens += completion.new_tokens
    log_end(request_id, reply.plan.model, completion.finish_reason, began, None)


class _Stream(StreamingResponse):
    """A streamed answer, which gives its row back however it ends: also where the client has gone before the first
    event, when what makes the events is never begun and so has no end of its own."""

    def __init__(
        self,
        server: Server,
        reply: Reply,
        shape: Form[Any],
        began: float,
        deadline: float,
        headers: dict[str, str],
    ) -> None:
        self._server, self._reply, self._id, self._began = server, reply, shape.head.id, began
        self._deadline = deadline
        self._completion: Completion | None = None
        events = _events(reply, shape, deadline, self._ended)
        super().__init__(events, media_type="text/event-stream", headers=headers)

    def _ended(self, completion: Completion) -> None:
        self._completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # the events end at the deadline by themselves, but not while they are sent to somebody who does not read
            async with asyncio.timeout(max(self._deadline - time.monotonic(), 0) + LATE_SECONDS):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.warning("%s is not read by its client", self._id)
        finally:
            self._reply.leave()
            if self._completion:
                _count(self._server, self._reply, self._completion, self._id, self._began)
            else:
                self._reply.traced("aborted")
                self._server.counts.aborted += 1
                log_end(self._id, self._reply.plan.model, "aborted", self._began, None)


async def _events(
    reply: Reply, shape: Form[Any], deadline: float, ended: Callable[[Completion], None]
) -> AsyncIterator[str]:
    """The answer as server-sent events; `ended` is told when all but the last mark was sent."""
    sent = ""
    try:
        for event in (*shape.begin(), *shape.shown(reply.plan.shown)):
            yield event
        while (completion := reply.completion) is None:
            if time.monotonic() > deadline:
                raise too_slow()
            if not await reply.change(min(KEEP_ALIVE_SECONDS, deadline - time.monotonic())):
                yield ": wait\n\n"
                continue
            settled = reply.plan.settled(reply.text)
            if len(settled) > len(sent) and settled.startswith(sent):
                for event in shape.piece(settled[len(sent) :]):
                    yield event
                sent = settled
        if completion.finish_reason == "abort":
            raise not_serving()
        answer = reply.answer(completion)
        for event in shape.end(answer, answer.content.text[len(sent) :]):
            yield event
        ended(completion)
        if shape.last:
            yield shape.last
    except ApiError as error:
        yield shape.failure(error.body())
    except Exception:
        log.exception("an answer failed in mid stream")
        yield shape.failure(failed().body())
