"""What every request passes before and after its own work: whether there is room, its body, the thread for searches,
and the line in the log when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from serving.errors import ApiError, busy, not_serving, too_late, too_slow
from serving.state import Server

log = logging.getLogger("raft.serving")

Some = TypeVar("Some")

GONE = 499
"""The status of a request whose client has gone, as nginx has it."""


async def admitted(server: Server, request: Request) -> Any:
    """The JSON of a request's body, if the server has room for it.

    Raises:
        ApiError: the server drains, its queue is full, or the body is no JSON.
    """
    if not server.ready:
        raise not_serving()
    values = await json_of(request, server.limits.body_seconds)
    if server.waiting() >= server.limits.queue:
        raise busy(2)
    return values


async def up_to_date(server: Server, model: str) -> None:
    """Sees that a model's name means what is promoted by now: no answer is of a version that was not promoted when the
    request came. A version that cannot be used leaves the name as it is.

    Raises:
        ApiError: it takes longer than a request may.
    """
    if server.gateway.behind(model):
        with waiting(server):
            work = asyncio.to_thread(server.gateway.follow, model)
            try:
                await asyncio.wait_for(work, server.limits.deadline_seconds)
            except TimeoutError as error:
                raise too_slow() from error


async def json_of(request: Request, seconds: float) -> Any:
    """The JSON of a request's body, whose strings are all text.

    Raises:
        ApiError: it is none, holds half a surrogate pair (which no tokenizer, log or file takes), is not there after so
            many seconds, or the client goes away while it sends it.
    """
    try:
        body = await asyncio.wait_for(request.body(), seconds)
    except TimeoutError as error:
        raise too_late() from error
    except ClientDisconnect as error:
        raise gone() from error
    try:
        values = json.loads(body)
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = "The body holds half a surrogate pair, which is no character"
        raise ApiError(400, message, code="invalid_value") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The body is not valid JSON", code="invalid_json") from error
    return values


async def searched(server: Server, work: Callable[[], Some]) -> Some:
    """The result of work on the thread for searches."""
    with waiting(server):
        return await asyncio.get_running_loop().run_in_executor(server.searches, work)


@contextlib.contextmanager
def waiting(server: Server) -> Iterator[None]:
    """Whoever waits for something else than a row takes a place of the queue too."""
    server.searching += 1
    try:
        yield
    finally:
        server.searching -= 1


def gone() -> ApiError:
    """The error of a request whose client has gone; nobody reads it."""
    return ApiError(GONE, "The client has gone", code="aborted")


def counted(server: Server, error: BaseException) -> str:
    """Counts a request that has ended before its answer began, and says how it ended."""
    if isinstance(error, ApiError) and error.status == GONE:
        server.counts.aborted += 1
        return "aborted"
    server.counts.refused += 1
    return "refused"


def log_end(request_id: str, model: str, end: str, began: float, code: str | None) -> None:
    """One line for every end; never a prompt, an answer or a key."""
    why = f" {code}" if code else ""
    log.info("%s %s %s %.2f s%s", request_id, model or "-", end, time.monotonic() - began, why)
