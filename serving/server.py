"""Runs the application under uvicorn: programs compiled before requests are taken, and an orderly end.

On SIGTERM or SIGINT the server says at once that it is not ready and refuses new requests, so that a balancer sends
them elsewhere; it lets those under way end, at the latest at their deadline, and goes. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence

import uvicorn

from raft_errors import BadInput
from serving.app import create_app
from serving.guard import LOOPBACK, known_names
from serving.state import Server
from serving.tenants import Key
from serving.watch import Watch

log = logging.getLogger("raft.serving")

DRAIN_POLL_SECONDS = 0.05
LEAVE_SECONDS = 10  # that connections have once the requests under way have ended


def is_loopback(host: str) -> bool:
    return host in LOOPBACK


def require_keys(host: str, keys: Sequence[Key | str]) -> None:
    """Raises `BadInput` where others could reach the server and no key is asked for."""
    if not is_loopback(host) and not keys:
        raise BadInput(
            f"the server would be open to everybody on {host}",
            expected="an API key for every address beyond loopback",
            do="put keys into a file, one a line, and give it with --keys; or leave --host out",
        )


def run_server(
    server: Server,
    host: str,
    port: int,
    *,
    keys: Sequence[Key | str],
    hosts: list[str],
    warm: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Serves until a signal.

    Args:
        hosts: names by which it may be called beside loopback and `host`.
        warm: compiles the programs; called before requests are taken.
        say: told the address once it is ready.
    """
    require_keys(host, keys)
    names = known_names([*LOOPBACK, *([] if host in ("0.0.0.0", "::") else [host]), *hosts])
    app = create_app(server, names, keys)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            other = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
            raise BadInput(f"{host}:{port} cannot be used ({error.strerror})", do=f"give another {other}") from error
        warm()
        server.loop.start()
        watch = Watch(server.gateway)
        watch.start()
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"

        def begin() -> None:
            server.ready = True
            say(address)

        try:
            asyncio.run(_run(app, server, listening, begin))
        finally:
            watch.stop()
            server.loop.stop()
            server.searches.shutdown(wait=False, cancel_futures=True)


async def _run(app: object, server: Server, listening: socket.socket, begin: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    own = _Uvicorn(config, begin)
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    serving = asyncio.ensure_future(own.serve(sockets=[listening]))
    waiting = asyncio.ensure_future(end.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    server.ready = False
    log.info("draining")
    await _drained(server, serving, end)
    config.timeout_graceful_shutdown = LEAVE_SECONDS  # for what is not counted, and for who does not read
    own.should_exit = True
    own.force_exit = end.is_set()
    await serving
    waiting.cancel()


async def _drained(server: Server, serving: asyncio.Future[None], again: asyncio.Event) -> None:
    """Waits for the requests under way; uvicorn alone would close the door to those that are to be told of it."""
    again.clear()
    last = time.monotonic() + server.limits.deadline_seconds
    while server.counts.under_way and time.monotonic() < last and not again.is_set() and not serving.done():
        await asyncio.sleep(DRAIN_POLL_SECONDS)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handlers, which would end streams before we say so.

    `begin` is called once it listens: whoever is told the address then can connect.
    """

    def __init__(self, config: uvicorn.Config, begin: Callable[[], None]) -> None:
        super().__init__(config)
        self._begin = begin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._begin()

    @contextlib.contextmanager
    def capture_signals(self):
        yield
