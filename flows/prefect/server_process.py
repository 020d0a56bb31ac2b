"""The process behind `raft server`: Prefect's application behind our guard, served by uvicorn.

`prefect server start` would serve it to every page and under every name. Started with `-P`, so that the folder in which
somebody calls `raft` is data and never code; it reads the auth string from the store, so no command line shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from flows.prefect.guard import Application, Scope, guarded
from flows.prefect.pages import with_pages
from flows.prefect.server import LOOPBACK, auth_string
from tasks.store.store import Store


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--name", action="append", default=[])
    arguments = parser.parse_args()
    os.chdir(os.environ["PREFECT_HOME"])  # Prefect's database tool searches the folder it is started in for modules
    store = Store(arguments.store)
    # before Prefect is imported, which reads its settings then
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = auth_string(store)
    configured = "PREFECT_SERVER_UI_API_URL" in os.environ or "PREFECT_UI_API_URL" in os.environ

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    prefect = get_current_settings().server
    loopback = arguments.host in LOOPBACK
    names = [*arguments.name, *([] if loopback else [arguments.host, socket.gethostname(), socket.getfqdn()])]
    application: Application = create_app(final=True)
    pages = with_pages(application if configured else at_home(application), store, auth_string(store))
    uvicorn.run(
        guarded(pages, loopback=loopback, names=names),
        host=arguments.host,
        port=arguments.port,
        timeout_keep_alive=prefect.api.keepalive_timeout,
        ws_ping_interval=prefect.api.websocket_ping_interval,
        ws_ping_timeout=prefect.api.websocket_ping_timeout,
        log_level=prefect.logging_level.lower(),
    )


def at_home(application: Application) -> Application:
    """Tells the pages to call the API under the name by which they were called (`localhost`, a tunnel's port).

    Prefect tells them one address, and under any other name every call of theirs would be a foreign page's.
    """

    async def rewriting(scope: Scope, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/ui-settings"):
            await application(scope, receive, send)
            return
        host = next(value.decode("latin-1") for key, value in scope["headers"] if key.lower() == b"host")
        start: dict[str, Any] = {}
        body = b""

        async def rewrite(message: Any) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            if start["status"] == 200:
                words = json.loads(body)
                api = words["api_url"].partition("://")[2].partition("/")[2]
                body = json.dumps({**words, "api_url": f"{scope['scheme']}://{host}/{api}"}).encode()
                kept = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
                start["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": body})

        plain = [(k, v) for k, v in scope["headers"] if k.lower() != b"accept-encoding"]
        await application({**scope, "headers": plain}, receive, rewrite)

    return rewriting


if __name__ == "__main__":
    main()
