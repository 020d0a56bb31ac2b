"""The tie to Prefect's server during a run: what is asked of it takes a bounded time, and once it is lost nothing is.

The store is the truth and the server only its display. So a server that dies, answers with errors or not at all costs a
run no work: it goes on without, and says so once.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

log = logging.getLogger("raft.tasks")

# A server that is only slow (SQLite under load) is waited for; one that is gone costs the run less than a minute.
PATIENCE_SECONDS = 20.0
RETRIES = 1
GONE_SECONDS = 2.0
HEALTH_SECONDS = 5.0
_REFUSALS = (401, 403)  # it was started anew and knows us no longer

_lost: list[str] = []


def lost() -> bool:
    """Whether the server of this process's run was lost."""
    return bool(_lost)


@contextlib.contextmanager
def bounded() -> Iterator[Callable[[], None]]:
    """Bounds what the flow that is running asks of its server, during the block; a call ends even that patience.

    The flow's end is told to the server after its body, so the block is around the flow and the first call in its body.
    """
    _lost.clear()
    with contextlib.ExitStack() as stack:

        def tighten() -> None:
            seconds, retries = (GONE_SECONDS, 0) if _lost else (PATIENCE_SECONDS, RETRIES)
            limits: dict[Any, Any] = {PREFECT_API_REQUEST_TIMEOUT: seconds, PREFECT_CLIENT_MAX_RETRIES: retries}
            stack.enter_context(temporary_settings(limits))
            client = getattr(getattr(FlowRunContext.get(), "client", None), "_client", None)
            if client is not None:  # made before, with Prefect's own patience of minutes
                client.timeout = httpx.Timeout(seconds)

        yield tighten


def lose(error: BaseException, say: Callable[[str], None] = log.warning) -> None:
    """Remembers that the server is lost, and says so the first time."""
    if not _lost:
        _lost.append(f"{type(error).__name__}: {error}".strip().splitlines()[0])
        say(f"Prefect's server was lost ({_lost[0]}): its history of this run ends here, the run goes on without it")


def means_loss(error: BaseException) -> bool:
    """Whether an error from a call to the server tells that it is gone, and not that it dislikes this one call."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if isinstance(one, httpx.TransportError) or "Failed to reach API" in str(one):
            return True
        if isinstance(one, httpx.HTTPStatusError):
            status = one.response.status_code
            return status in _REFUSALS or (status >= 500 and not healthy(str(one.request.url)))
        one = one.__cause__ or one.__context__
    return False


def healthy(url: str) -> bool:
    """Whether the server of an address below its API says that it is well."""
    head, api, _ = url.partition("/api/")
    try:
        with urllib.request.urlopen(f"{head}{api or '/api/'}health", timeout=HEALTH_SECONDS) as reply:
            return reply.status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


def still_there() -> bool:
    """Whether the server of the flow that is running answers; asked where nothing else would notice."""
    client = getattr(FlowRunContext.get(), "client", None)
    return lost() or client is None or healthy(str(client.api_url).rstrip("/") + "/")


@contextlib.contextmanager
def only_told(say: Callable[[str], None] = log.warning) -> Iterator[None]:
    """Around what is only told to the server: its failure is said and stops nothing."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a server that is away must not cost hours of training
        if means_loss(error):
            lose(error, say)
        else:
            log.warning("Prefect's pages were not told: %s", error)


def leave(code: int) -> None:
    """Ends the process at once where the server was lost: Prefect's own end waits minutes for it to take the rest."""
    if not lost():
        return
    with contextlib.suppress(Exception):  # an embedded server that hangs is a child of ours
        from prefect.server.api.server import SubprocessASGIServer

        embedded = SubprocessASGIServer()
        if embedded.server_process:
            embedded.server_process.kill()  # `stop` would first wait 5 s for what does not answer
        embedded.stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
