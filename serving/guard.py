"""What is looked at before a request is read: who it says it is for, where it comes from, its key, its size, its kind.

Loopback is no protection by itself: a page in a browser reaches it by DNS rebinding, so `Host` and `Origin` are checked
there too. Nothing here reads a body; how long it may be is counted while others read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from raft_errors import BadInput
from serving.errors import ApiError
from serving.tenants import ANYBODY, Key, Keys, Tenant

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/health", "/ready")  # probes: they have no key, come by an address and not by a name, and are told nothing
KEYLESS = re.compile(r"/(?:pages/static/[\w.-]+)?")
"""What a browser loads before it can be given a key: the page and what belongs to it, the same for everybody."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def host_of(value: str) -> str:
    """The name in a `Host` header, without its port; "" where it is no address."""
    try:
        return (urlsplit(f"//{value}").hostname or "").rstrip(".")
    except ValueError:  # brackets that do not close
        return ""


def known_names(names: Iterable[str]) -> list[str]:
    """Names by which a server may be called, as `host_of` gives them.

    Raises:
        BadInput: one is no name, so that nobody could ever call the server by it.
    """
    known = []
    for given in names:
        bare = f"[{given}]" if given.count(":") > 1 and "[" not in given else given  # IPv6
        if not (name := host_of(bare)) or set(given) & set("/@ *") or not given.isascii():
            raise BadInput(
                f"{given!r} is no name of a host",
                expected="a name or an address alone, such as rag.example.com",
                do="correct --name or --host",
            )
        known.append(name)
    return list(dict.fromkeys(known))


def site_of(value: str) -> str:
    """Host and port in an `Origin` header; "" where it is no address."""
    try:
        return urlsplit(value).netloc.lower()
    except ValueError:
        return ""


class Guard:
    """ASGI middleware.

    Args:
        hosts: names by which the server may be called, as `known_names` gives them.
        keys: accepted keys; none means that no key is asked for. Whose a request is stands in its state as `tenant`.
        max_bytes: of a body.
    """

    def __init__(self, app: Any, hosts: Collection[str], keys: Sequence[Key | str], max_bytes: int) -> None:
        self._app, self._hosts, self._max_bytes = app, frozenset(hosts), max_bytes
        self._keys = Keys(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            tenant = self._check(scope, headers)
        except ApiError as error:
            await _answer(send, error)
            return
        own = {**scope, "state": {**scope.get("state", {}), "tenant": tenant}}
        await self._app(own, self._counted(receive), send)

    def _check(self, scope: Scope, headers: dict[str, str]) -> Tenant:
        if scope["method"] == "GET" and scope["path"] in OPEN:
            return ANYBODY
        if host_of(headers.get("host", "")) not in self._hosts:
            raise ApiError(400, "This server is not known under that host name", code="invalid_host")
        origin = headers.get("origin")
        # a page on another port of this machine is another site too
        if origin is not None and site_of(origin) != headers["host"].lower():
            raise ApiError(403, "Requests from pages of other sites are refused", code="invalid_origin")
        # a browser says whose page a request comes from, also where it sends no Origin
        writes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if writes and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise ApiError(403, "Requests from pages of other sites are refused", code="invalid_origin")
        if scope["method"] == "GET" and KEYLESS.fullmatch(scope["path"]):
            return ANYBODY
        if (tenant := self._keys.tenant(headers.get("authorization", ""))) is None:
            raise ApiError(401, "Incorrect API key provided", code="invalid_api_key")
        if scope["method"] in ("POST", "PUT", "PATCH"):
            if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
                raise ApiError(415, "The body must be sent as application/json", code="invalid_content_type")
            length = headers.get("content-length", "0")
            if not re.fullmatch("[0-9]{1,15}", length) or int(length) > self._max_bytes:
                raise self._too_long()
        return tenant

    def _too_long(self) -> ApiError:
        return ApiError(413, f"The body is longer than {self._max_bytes} bytes", code="request_too_large")

    def _counted(self, receive: Receive) -> Receive:
        total = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal total
            message = await receive()
            total += len(message.get("body") or b"")
            if total > self._max_bytes:
                raise self._too_long()
            return message

        return counted


async def _answer(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
