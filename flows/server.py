"""Prefect's server for a project: `raft server` starts it with its pages on the loopback interface and no telemetry,
`running` finds it again, so that later runs report to it without being told.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli import emit
from flows.config import load_config
from flows.verbs import ConfigOption, JsonOption, SetOption
from raft_errors import BadInput
from tasks.access import PRIVATE, folder_mode, make_folder
from tasks.store import Store, read_json, write_json

NOTE = "server.json"  # in the store: where its server was started last
HEALTH_SECONDS = 10.0  # a busy machine answers late, a dead port refuses at once


def server(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the pages and the API")] = 4200,
    host: Annotated[
        str, typer.Option(help="Address to listen on; it has no log-in, so keep it on loopback")
    ] = "127.0.0.1",
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Start Prefect's server and pages for this project. Runs and schedules find it by themselves. Ends with Ctrl-C."""
    loaded = load_config(config, set_ or [])
    store = Store(Path(loaded.store), mode=loaded.store_mode)
    store.prepare()
    os.umask(0o777 & ~folder_mode(store.root))
    if _taken(host, port):
        raise BadInput(f"Port {port} of {host} is in use", do="stop what uses it, or choose another with --port")
    url = f"http://{host}:{port}/api"
    write_json(store.root / NOTE, {"url": url})
    if json:
        emit({"ok": True, "url": url, "pages": url.removesuffix("/api")})
    else:
        Console(highlight=False).print(f"Pages: {url.removesuffix('/api')}   (Ctrl-C stops the server)")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    os.execvpe(sys.executable, command, {**os.environ, **settings(store, host, port)})


def settings(store: Store, host: str, port: int) -> dict[str, str]:
    """The environment of the server, where the user has not set it otherwise."""
    wanted = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_HOME": str(prefect_home(store)),
    }
    # With the command line's host and port alone the pages would look for the API at the default port.
    place = {"PREFECT_SERVER_API_HOST": host, "PREFECT_SERVER_API_PORT": str(port)}
    return {**{name: os.environ.get(name, value) for name, value in wanted.items()}, **place}


def prefect_home(store: Store) -> Path:
    """Prefect's folder in the store, its owner's alone: it holds pickled results and the addresses that are notified.

    In a store that others write to each user has one, since SQLite would let nobody else write to the database.
    """
    store.prepare()
    shared = folder_mode(store.root) & 0o022
    return make_folder(store.root / (f"prefect-{os.getuid()}" if shared else "prefect"), PRIVATE)


def running(store: Store) -> str | None:
    """The address of the API of a server that answers: `PREFECT_API_URL`, else the one started for this store."""
    if given := os.environ.get("PREFECT_API_URL"):
        return given
    with contextlib.suppress(OSError, ValueError, KeyError):
        url = str(read_json(store.root / NOTE)["url"])
        if answers(url):
            return url
    return None


def answers(url: str) -> bool:
    """Whether a Prefect API answers at the address."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=HEALTH_SECONDS) as reply:
            return reply.status == 200
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError):
        return False


def _taken(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
