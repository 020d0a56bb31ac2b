"""Prefect's surroundings for a run: its settings, its embedded server, its silence on the terminal.

Imports Prefect only inside functions: `settle` has to come first, and Prefect takes seconds to start.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.prefect import embedded
from flows.prefect.server import log_in, prefect_home, running
from raft_names import keep_working_folder_out

if TYPE_CHECKING:
    from tasks.store.store import Store

log = logging.getLogger("raft.flows")

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",  # hides harmless tracebacks of the embedded database's start
    "PREFECT_LOGGING_EXTRA_LOGGERS": "raft",  # so that the libraries' lines reach Prefect's records
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # a line for each event that a lost server did not take
    "PREFECT_CLI_PROMPT": "false",
}


def settle(store: Store) -> None:
    """Prefect's settings for a run, where the user has not set them otherwise. Call it before Prefect is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    keep_working_folder_out()
    home = os.environ.get("PREFECT_HOME")
    os.environ["PREFECT_HOME"] = str(Path(home).expanduser().absolute() if home else prefect_home(store))
    own = "PREFECT_API_URL" not in os.environ
    if url := running(store):
        if own:  # what may stand there is for another server
            os.environ.pop("PREFECT_API_AUTH_STRING", None)
        os.environ["PREFECT_API_URL"] = url
        log_in(store, url)


def closed_to_others() -> dict[Any, Any]:
    """Settings with which the embedded server, where there will be one, answers this process alone.

    It listens on a loopback port, and its database may hold a schedule and the secrets of notifications.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_SERVER_API_AUTH_STRING,
        PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
    )

    if PREFECT_API_URL.value() is not None:
        return {}
    secret = _own_secret()
    return {
        PREFECT_API_AUTH_STRING: secret,
        PREFECT_SERVER_API_AUTH_STRING: secret,
        PREFECT_SERVER_CORS_ALLOWED_ORIGINS: "http://127.0.0.1",
    }


@functools.cache
def _own_secret() -> str:
    """One for the life of this process, as its embedded server is one."""
    return f"raft:{secrets.token_urlsafe(32)}"


def start_embedded() -> None:
    """Starts the embedded server, where no other one is named, in Prefect's home.

    Prefect would start it in the working folder, which its database tool (alembic) then searches for modules.
    """
    import prefect
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, get_current_settings

    class Embedded(SubprocessASGIServer):
        """Prefect finds it under the name of its own class, which keeps one instance for all."""

        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            place = ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error", "--lifespan", "on"]
            # without a folder of its own uvicorn would search the one it is started in
            folder = str(Path(prefect.__file__).parents[1])
            served = ["--app-dir", folder, "--factory", "prefect.server.api.server:create_app", *place]
            settings = get_current_settings().to_environment_variables(exclude_unset=True)
            ours = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
            environment = {**os.environ, **ours, **settings, embedded.OWNER: str(os.getpid())}
            return subprocess.Popen([sys.executable, "-P", "-m", embedded.__name__, *served], env=environment)

    if PREFECT_API_URL.value() is None:
        home = Path(os.environ["PREFECT_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(home):
            Embedded().start()


def quiet_console() -> None:
    """Prefect's own lines and tracebacks go to its records; the terminal is the reporter's (all of it with --debug)."""
    if not log.isEnabledFor(logging.DEBUG):
        prefect = logging.getLogger("prefect")
        prefect.propagate = False
        prefect.addHandler(logging.NullHandler())
        logging.getLogger("prefect._internal").setLevel(logging.CRITICAL)
        logging.raiseExceptions = False  # the same for each line of the log
