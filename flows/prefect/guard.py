"""What every request to a server of ours must be, before anything behind it sees it: meant for us by its Host, not from
a foreign page by its Origin, and JSON where it changes something.

Loopback is no protection: a page in the user's browser reaches loopback too, under a name of its own that it points
there (so the Host is checked on every request), or from another local port, which browsers call `same-site` and give
cookies. Who may do what is the application's business (an auth string, a token).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[None]]], Awaitable[None]]

READING = frozenset({"GET", "HEAD", "OPTIONS"})


def guarded(application: Application, *, loopback: bool, names: Iterable[str] = ()) -> Application:
    """The application (ASGI) behind the checks, for http and websockets.

    Args:
        loopback: it listens on the loopback interface only, so no other address can be meant.
        names: host names, beside `localhost`, under which it is reached.
    """
    known = frozenset({"localhost", *(name.lower() for name in names)})

    async def checked(scope: Scope, receive: Any, send: Any) -> None:
        refusal = _refusal(scope, known, loopback) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await application(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})
        else:
            status, why = refusal
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": (why + "\n").encode()})

    return checked


def _refusal(scope: Scope, names: frozenset[str], loopback: bool) -> tuple[int, str] | None:
    """The status and the reason with which a request is turned away."""
    hosts = _values(scope, b"host")
    if len(hosts) != 1 or not _is_ours(hosts[0], names, loopback):
        return 400, "This server is not known by that name (Host)"
    origins = _values(scope, b"origin")
    if any(origin.partition("://")[2].lower() != hosts[0].lower() for origin in origins):
        return 403, "A page of another origin may not use this server (Origin)"
    # An address that a person follows from elsewhere is a page of its own that only they see.
    method = scope.get("method", "GET")
    followed = scope["type"] == "http" and method == "GET" and _values(scope, b"sec-fetch-dest") == ["document"]
    if not followed and any(site not in ("same-origin", "none") for site in _values(scope, b"sec-fetch-site")):
        return 403, "A page of another origin may not use this server (Sec-Fetch-Site)"
    if method not in READING and _has_body(scope):
        kinds = [kind.partition(";")[0].strip().lower() for kind in _values(scope, b"content-type")]
        if kinds != ["application/json"]:
            return 415, "The body must be declared as application/json (Content-Type)"
    return None


def _is_ours(host: str, names: frozenset[str], loopback: bool) -> bool:
    """Whether a Host names this server. An address is never a rebound name; a name must be one that we know."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return name.lower() in names
    return address.is_loopback if loopback else True


def _has_body(scope: Scope) -> bool:
    lengths = _values(scope, b"content-length")
    return bool(_values(scope, b"transfer-encoding")) or any(length.strip() != "0" for length in lengths)


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]
