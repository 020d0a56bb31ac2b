"""The routes of the OpenAI API over a gateway and an engine: JSON and server-sent events, and what happens when a
client goes away, a request takes too long, or the server drains."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from jora_engine.files.tokenizer import Tokenizer
from jora_engine.generation.requests import Completion, Job, TokenScore
from raft_errors import BadInput
from serving.errors import ApiError, busy, no_model, not_serving
from serving.gateway import Gateway, Plan
from serving.guard import Guard
from serving.metrics import exposition
from serving.schema import ChatRequest, read_chat
from serving.state import Server

log = logging.getLogger("raft.serving")

STUCK_SECONDS = 120.0  # a step that takes longer means that the server is not healthy
KEEP_ALIVE_SECONDS = 15.0
POLL_SECONDS = 0.25  # between two looks whether a client is still there


class Reply:
    """A request in the engine as the event loop sees it: the newest text, and its end."""

    def __init__(self, server: Server, plan: Plan) -> None:
        self.plan, self.text = plan, ""
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
            self.job = server.loop.submit(plan.request, on_text, on_done)

    @property
    def completion(self) -> Completion | None:
        """How it ended; an answer that was known already is a refusal in the contract's words."""
        if self.job is None:
            assert self.plan.asked is not None
            return Completion(
                f"{self.plan.asked.template.answer_marker} {self.plan.asked.template.refusal}", (), "stop"
            )
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

    def leave(self) -> None:
        """Frees the row, if it is still held."""
        if self.job and not self.job.ended:
            self._server.loop.cancel(self.job)


def create_app(server: Server, hosts: list[str], keys: list[str]) -> FastAPI:
    """The application; `hosts` and `keys` as in `Guard`."""
    app = FastAPI(title="raft", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.server = server
    gateway, limits = server.gateway, server.limits

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> JSONResponse:
        told = ApiError(error.status_code, "No such route" if error.status_code == 404 else str(error.detail))
        return JSONResponse(told.body(), told.status, headers=dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(ApiError(400, "The request cannot be read", code="invalid_value").body(), 400)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(ApiError(500, "The server failed on this request", code="server_error").body(), 500)

    @app.get("/health")
    async def health() -> JSONResponse:
        alive = server.loop.alive(STUCK_SECONDS)
        return JSONResponse({"status": "ok" if alive else "stuck"}, 200 if alive else 503)

    @app.get("/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": server.ready}, 200 if server.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(server), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(gateway, name) for name in gateway.names()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if not gateway.known(name):
            raise no_model(name)
        return _card(gateway, name)

    @app.get("/v1/passages/{domain}/{chunk_id:path}")
    async def passage(domain: str, chunk_id: str) -> dict[str, Any]:
        shown = gateway.passage(domain, chunk_id)
        if shown is None:
            raise ApiError(404, "No such passage", code="not_found")
        return shown

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request) -> JSONResponse | StreamingResponse:
        began, counts = time.monotonic(), server.counts
        counts.received += 1
        request_id = f"chatcmpl-{uuid.uuid4().hex}"
        try:
            asked, reply = await _begin(server, request)
        except BaseException as error:
            counts.refused += 1
            _log_end(request_id, "", "refused", began, getattr(error, "code", None))
            raise
        deadline = began + limits.deadline_seconds
        headers = {"x-request-id": request_id}
        if reply.plan.ignored:
            headers["x-raft-ignored"] = ", ".join(reply.plan.ignored)
        if asked.stream:
            headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return _Stream(server, reply, asked, request_id, began, deadline, headers)
        try:
            completion = await _whole(reply, request, deadline)
        except BaseException as error:
            reply.leave()
            counts.aborted += 1
            _log_end(request_id, reply.plan.model, "aborted", began, getattr(error, "code", None))
            raise
        _count(server, reply, completion, request_id, began)
        return JSONResponse(_answer(server, reply, completion, request_id), headers=headers)

    app.add_middleware(Guard, hosts=hosts, keys=keys, max_bytes=limits.max_bytes)
    return app


def _card(gateway: Gateway, name: str) -> dict[str, Any]:
    parent = {} if name == "base" else {"parent": "base"}
    common = {"object": "model", "created": gateway.created, "owned_by": "raft", "root": gateway.fingerprint(name)}
    return {"id": name, **common, **parent, "max_model_len": gateway.longest}


async def _begin(server: Server, request: Request) -> tuple[ChatRequest, Reply]:
    """The request read, searched for, and handed to the engine."""
    if not server.ready:
        raise not_serving()
    try:
        values = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The body is not valid JSON", code="invalid_json") from error
    asked = read_chat(values)
    if server.loop.engine.pending() >= server.limits.queue:
        raise busy(2)
    tenant = request.headers.get("authorization", "")
    loop = asyncio.get_running_loop()
    try:
        plan = await loop.run_in_executor(server.searches, server.gateway.plan, asked, tenant)
        return asked, Reply(server, plan)
    except BadInput as error:
        raise ApiError(400, "The request cannot be answered as it is", code="invalid_value") from error


async def _whole(reply: Reply, request: Request, deadline: float) -> Completion:
    """The completion, while the client waits for it.

    Raises:
        ApiError: the deadline has passed, or the client has gone (nobody reads that one).
    """
    while (completion := reply.completion) is None:
        if time.monotonic() > deadline:
            raise ApiError(504, "The answer took longer than this server allows", code="timeout")
        if not await reply.change(POLL_SECONDS) and await request.is_disconnected():
            raise ApiError(499, "The client has gone", code="aborted")
    if completion.finish_reason == "abort":
        raise not_serving()
    return completion


def _count(server: Server, reply: Reply, completion: Completion, request_id: str, began: float) -> None:
    counts = server.counts
    counts.answered += 1
    counts.prompt_tokens += reply.plan.prompt_tokens
    counts.completion_tokens += len(completion.token_ids)
    _log_end(request_id, reply.plan.model, completion.finish_reason, began, None)


def _log_end(request_id: str, model: str, end: str, began: float, code: str | None) -> None:
    """One line for every end; never a prompt, an answer or a key."""
    log.info("%s %s %s %.2f s %s", request_id, model or "-", end, time.monotonic() - began, code or "")


def _usage(reply: Reply, completion: Completion) -> dict[str, Any]:
    prompt, new = reply.plan.prompt_tokens, len(completion.token_ids)
    cached = reply.job.cached_tokens if reply.job else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _head(server: Server, reply: Reply, request_id: str, kind: str) -> dict[str, Any]:
    return {
        "id": request_id,
        "object": kind,
        "created": reply.plan.created,
        "model": reply.plan.model,
        "system_fingerprint": server.gateway.fingerprint(reply.plan.model),
    }


def _answer(server: Server, reply: Reply, completion: Completion, request_id: str) -> dict[str, Any]:
    content, annotations = reply.plan.content(completion.text)
    message = {"role": "assistant", "content": content, "refusal": None, "annotations": annotations}
    choice = {
        "index": 0,
        "finish_reason": completion.finish_reason,
        "logprobs": _logprobs(server.loop.engine.model.tokenizer, completion.scores),
        "message": message,
    }
    head = _head(server, reply, request_id, "chat.completion")
    return {**head, "choices": [choice], "usage": _usage(reply, completion)}


def _logprobs(tokenizer: Tokenizer, scores: tuple[TokenScore, ...] | None) -> dict[str, Any] | None:
    if scores is None:
        return None

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.decode([token], skip_special_tokens=False)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [{**entry(s.token, s.logprob), "top_logprobs": [entry(*pair) for pair in s.best]} for s in scores]
    return {"content": content, "refusal": None}


class _Stream(StreamingResponse):
    """A streamed answer, which gives its row back however it ends: also where the client has gone before the first
    event, when what makes the events is never begun and so has no end of its own."""

    def __init__(
        self,
        server: Server,
        reply: Reply,
        asked: ChatRequest,
        request_id: str,
        began: float,
        deadline: float,
        headers: dict[str, str],
    ) -> None:
        self._server, self._reply, self._id, self._began = server, reply, request_id, began
        self._completion: Completion | None = None
        events = _events(server, reply, asked, request_id, deadline, self._ended)
        super().__init__(events, media_type="text/event-stream", headers=headers)

    def _ended(self, completion: Completion) -> None:
        self._completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reply.leave()
            if self._completion:
                _count(self._server, self._reply, self._completion, self._id, self._began)
            else:
                self._server.counts.aborted += 1
                _log_end(self._id, self._reply.plan.model, "aborted", self._began, None)


async def _events(
    server: Server,
    reply: Reply,
    asked: ChatRequest,
    request_id: str,
    deadline: float,
    ended: Callable[[Completion], None],
) -> AsyncIterator[str]:
    """The answer as server-sent events; `ended` is told when all but the last mark was sent."""
    head = _head(server, reply, request_id, "chat.completion.chunk")
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)

    def chunk(delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return _event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    sent = ""
    try:
        yield chunk({"role": "assistant", "content": ""})
        while (completion := reply.completion) is None:
            if time.monotonic() > deadline:
                raise ApiError(504, "The answer took longer than this server allows", code="timeout")
            if not await reply.change(min(KEEP_ALIVE_SECONDS, deadline - time.monotonic())):
                yield ": wait\n\n"
                continue
            settled = reply.plan.settled(reply.text)
            if len(settled) > len(sent) and settled.startswith(sent):
                yield chunk({"content": settled[len(sent) :]})
                sent = settled
        if completion.finish_reason == "abort":
            raise not_serving()
        content, annotations = reply.plan.content(completion.text)
        logprobs = _logprobs(server.loop.engine.model.tokenizer, completion.scores)
        if content[len(sent) :] or logprobs:
            yield chunk({"content": content[len(sent) :]}, logprobs=logprobs)
        yield chunk({"annotations": annotations})
        yield chunk({}, completion.finish_reason)
        if with_usage:
            yield _event({**head, "choices": [], "usage": _usage(reply, completion)})
        ended(completion)
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"
