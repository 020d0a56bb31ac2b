"""`/raft/ask`: a question of `raft ask`, from the user whose server it is.

It shows what clients are never shown (the raw text, where documents lie), so it takes the server's nonce alone and no
other key.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from raft_errors import BadInput, RaftError
from serving.admission import admitted, counted, log_end, searched, up_to_date
from serving.asking import Asking, Event, replies
from serving.errors import ApiError, failed
from serving.schema import read
from serving.state import Server

log = logging.getLogger("raft.serving")


async def own_question(server: Server, request: Request) -> StreamingResponse:
    """The events of `replies`, a line of JSON each."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), server.nonce.encode()):
        raise ApiError(401, "Incorrect API key provided", code="invalid_api_key")
    began, request_id = time.monotonic(), f"ask-{uuid.uuid4().hex}"
    server.counts.received += 1
    try:
        asking = read(Asking, await admitted(server, request))
        await up_to_date(server, asking.domain)
        try:
            found = await searched(server, functools.partial(server.gateway.ask, asking))
        except BadInput as error:
            raise ApiError(400, error.what, code="invalid_value") from error
    except BaseException as error:
        log_end(request_id, "", counted(server, error), began, getattr(error, "code", None))
        raise
    left = server.limits.deadline_seconds - (time.monotonic() - began)
    events = replies(asking, *found, server.loop, tenant=request.state.tenant.id, seconds=max(left, 0.001))
    return _Lines(server, events, request_id, began)


class _Lines(StreamingResponse):
    """The events, counted once however they end: also where the client has gone before the first."""

    def __init__(self, server: Server, events: Iterator[Event], request_id: str, began: float) -> None:
        self._server, self._id, self._began, self._end = server, request_id, began, "aborted"
        super().__init__(_lines(events, self._ended), media_type="application/x-ndjson")

    def _ended(self) -> None:
        self._end = "stop"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._end == "stop":
                self._server.counts.answered += 1
            else:
                self._server.counts.aborted += 1
            log_end(self._id, "", self._end, self._began, None)


async def _lines(events: Iterator[Event], ended: Callable[[], None]) -> AsyncIterator[str]:
    """The events as lines of JSON; `ended` is told when all but the last mark was sent."""
    try:
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            yield json.dumps(event) + "\n"
        ended()
        yield json.dumps({"end": True}) + "\n"
    except (ApiError, RaftError) as error:
        told = error if isinstance(error, ApiError) else ApiError(500, "The model failed on this question")
        yield json.dumps(told.body()) + "\n"
    except Exception:
        log.exception("an answer failed in mid stream")
        yield json.dumps(failed().body()) + "\n"
    finally:
        with contextlib.suppress(ValueError):  # it is inside its next event, on another thread, and ends by itself
            events.close()  # type: ignore[attr-defined]
