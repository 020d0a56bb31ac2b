"""A project's Prefect server as its store knows it: where it was started, how to get in, the settings it has.

It asks for an auth string, which is made at its first start and kept in the store: whoever may read that file may do
what Prefect lets one do, which is to run commands. Other clients are given it as PREFECT_API_AUTH_STRING.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import stat
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from tasks.store.access import PRIVATE, folder_mode, make_folder
from tasks.store.store import Store, read_json

NOTE = "server.json"  # in the store: where its server was started last
AUTH = "server.auth"  # beside it, for its owner's eyes: the auth string that it asks for
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEALTH_SECONDS = 10.0  # a busy machine answers late, a dead port refuses at once


def settings(store: Store, host: str, port: int) -> dict[str, str]:
    """The environment of the server, where the user has not set it otherwise."""
    defaults = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_HOME": str(prefect_home(store)),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{host}:{port}",  # by default every page of the world's
    }
    # With the command line's host and port alone the pages would look for the API at the default port.
    place = {"PREFECT_SERVER_API_HOST": host, "PREFECT_SERVER_API_PORT": str(port)}
    return {**{name: os.environ.get(name, value) for name, value in defaults.items()}, **place}


def prefect_home(store: Store) -> Path:
    """Prefect's folder in the store, its owner's alone: it holds pickled results and the addresses that are notified.

    In a store that others write to each user has one, since SQLite would let nobody else write to the database.
    """
    store.prepare()
    shared = folder_mode(store.root) & 0o022
    return make_folder(store.root / (f"prefect-{os.getuid()}" if shared else "prefect"), PRIVATE)


def auth_string(store: Store, given: str | None = None) -> str:
    """The auth string of the store's server, made where there is none yet; `given` takes its place.

    It is read by its owner alone; one that others could read is replaced, because they may have read it.
    """
    path = store.root / AUTH
    kept = _private(path)
    if kept and given in (None, kept):
        return kept
    fresh = given or f"raft:{secrets.token_urlsafe(32)}"
    handle, temporary = tempfile.mkstemp(dir=store.root, prefix=f".{AUTH}.")  # with mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(fresh)
    Path(temporary).replace(path)
    return fresh


def _private(path: Path) -> str | None:
    """What stands in a file that only its owner, who is us, can read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
                return file.read().strip() or None
    return None


def log_in(store: Store, url: str) -> None:
    """Gives Prefect's client in this process the auth string, where the address is that of the store's own server."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        if url == read_json(store.root / NOTE)["url"] and (kept := _private(store.root / AUTH)):
            os.environ.setdefault("PREFECT_API_AUTH_STRING", kept)


def spare_loopback() -> None:
    """Keeps what is said on this machine from a proxy of the environment, to which it would show the auth string."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host.strip()]
        if "*" not in hosts:
            os.environ[name] = ",".join(dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"]))


def running(store: Store) -> str | None:
    """The address of the API of a server that answers: `PREFECT_API_URL`, else the one started for this store."""
    spare_loopback()
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
