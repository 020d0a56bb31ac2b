"""The HTML pages of results, served beside Prefect's own, so that a link in there is one that a browser follows.

They hold passages of the documents, so they ask for the server's auth string, as the API does: the browser asks for a
name and a password, which are the two halves of it. A page is a result's own and may contain what a document says, so
it runs no script and has no access to what Prefect's pages keep in the browser.
"""

from __future__ import annotations

import base64
import hmac
import re
from typing import Any

from flows.prefect.guard import Application, Scope
from tasks.store.hashing import read_regular
from tasks.store.store import Store

_PAGE = re.compile(r"/raft/([A-Za-z0-9_-]+)/([0-9A-Za-z_-]+)/([A-Za-z0-9_-]+\.html)")
_ALONE = b"sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def with_pages(application: Application, store: Store, auth: str) -> Application:
    """The application (ASGI) with the pages of the store at `/raft/STAGE/KEY/NAME.html`.

    Args:
        auth: `name:password`, without which nobody reads them.
    """
    wanted = b"basic " + base64.b64encode(auth.encode())

    async def serving(scope: Scope, receive: Any, send: Any) -> None:
        path = _PAGE.fullmatch(scope.get("path", "")) if scope["type"] == "http" else None
        if path is None or scope["method"] not in ("GET", "HEAD"):
            await application(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name.lower() == b"authorization"), b"")
        kind, _, secret = given.partition(b" ")
        if not hmac.compare_digest(kind.lower() + b" " + secret.strip(), wanted):
            ask = [(b"www-authenticate", b'Basic realm="raft", charset="UTF-8"')]
            await _answer(scope, send, 401, b"The auth string of raft server is needed.\n", b"text/plain", ask)
            return
        body = page(store, *path.groups())
        if body is None:
            words = b"This page is not in the store any more; a newer run has pages of its own.\n"
            await _answer(scope, send, 404, words, b"text/plain", [])
        else:
            alone = [(b"content-security-policy", _ALONE), (b"cache-control", b"private, no-store")]
            await _answer(scope, send, 200, body, b"text/html", alone)

    return serving


def page(store: Store, stage: str, key: str, name: str) -> bytes | None:
    """A page that a result's manifest names, as it is on the disk; None where there is none."""
    manifest = store.read(stage, key)
    if manifest is None or name not in {entry.path for entry in manifest.files}:
        return None
    try:
        return read_regular(manifest.path(name))
    except (OSError, ValueError):
        return None


async def _answer(
    scope: Scope, send: Any, status: int, body: bytes, kind: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    described = [
        (b"content-type", kind + b"; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*described, *headers]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
