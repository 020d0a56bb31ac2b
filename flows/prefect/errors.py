"""What an error of Prefect's client says about its server: gone, another version, no Prefect at all, closed to us."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import urllib.request
from collections.abc import Iterator

from flows.prefect.server import HEALTH_SECONDS, answers
from raft_errors import BadInput, RaftError

_VERSION = re.compile(r"\d+\.\d+[\w.+-]*\Z")
_FIT = "a server of the same version"


def server_version(url: str) -> str | None:
    """The version that the Prefect server at the address tells; None where it tells none."""
    headers = {}
    if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        request = urllib.request.Request(f"{url.rstrip('/')}/admin/version", headers=headers)
        with urllib.request.urlopen(request, timeout=HEALTH_SECONDS) as reply:
            version = json.loads(reply.read(1000))
        if isinstance(version, str) and _VERSION.match(version):
            return version
    return None


@contextlib.contextmanager
def explained(url: str | None) -> Iterator[None]:
    """Turns what Prefect's client raises during the block into an error that says what to do."""
    try:
        yield
    except RaftError:
        raise
    except Exception as error:
        if (why := what_it_means(error, url)) is None:
            raise
        raise why from error


def what_it_means(error: BaseException, url: str | None) -> RaftError | None:
    """The error in our words; None where it is not about the server."""
    import httpx
    import pydantic
    from prefect import __version__ as ours

    where = url or "embedded"
    status = 0
    of_the_server = False
    for one in _chain(error):
        if isinstance(one, httpx.HTTPStatusError):
            status = status or one.response.status_code
        unreachable = isinstance(one, RuntimeError) and ("Failed to reach API" in str(one) or "ephemeral" in str(one))
        strange = isinstance(one, pydantic.ValidationError | json.JSONDecodeError) and not isinstance(error, RaftError)
        of_the_server |= unreachable or strange or isinstance(one, httpx.HTTPError) or "incompatible ver" in str(one)
    if not of_the_server:
        return None
    first = f"it answered {status}" if status else (str(error).strip().splitlines() or [type(error).__name__])[0]
    theirs = server_version(url) if url else None
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        older = _numbers(theirs) < _numbers(ours)
        return BadInput(
            f"Prefect's server at {where} is version {theirs} and this is version {ours}, which do not fit ({first})",
            expected=_FIT,
            do=f"upgrade Prefect to {ours} where the server runs" if older else f"upgrade Prefect here to {theirs}",
        )
    if status in (401, 403):
        return BadInput(
            f"Prefect's server at {where} does not let us in ({first})",
            expected="its auth string in PREFECT_API_AUTH_STRING (an API key in PREFECT_API_KEY for Prefect Cloud)",
            do="set it; that of raft server stands in server.auth in its store",
        )
    if url and theirs is None and status != 500 and answers(url):
        return BadInput(
            f"What answers at {where} is no Prefect server, or one that fails ({first})",
            expected="the address of a Prefect API, e.g. http://127.0.0.1:4200/api",
            do="correct PREFECT_API_URL, or unset it to use the embedded server",
        )
    if status:
        return RaftError(
            f"Prefect's server at {where} refused a request ({first})",
            do="look at the server's log; or run with --no-prefect",
        )
    if not url:
        return RaftError(
            f"Prefect's embedded server cannot be reached ({first})",
            do="run with --no-prefect, or give it longer (PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS)",
        )
    return RaftError(
        f"Prefect's server cannot be reached ({where})",
        do="unset PREFECT_API_URL to use the embedded one, or run with --no-prefect",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]
