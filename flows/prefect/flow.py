"""The pipeline as a Prefect flow. Imported only when something has to run, because Prefect takes seconds to start.

Embedded by default: no server to start, no account, no telemetry, its files beside the store. With `PREFECT_API_URL`
set, or after `raft server`, that server is used.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data.text.urls import value_without_secrets
from flows.prefect.server import log_in, prefect_home, running
from raft_names import keep_working_folder_out
from tasks.build.events import Event, Finished, voice_of

if TYPE_CHECKING:
    from flows.pipeline import Run, Step
    from tasks.build.stage import Request
    from tasks.store.manifest import Manifest
    from tasks.store.store import Store

log = logging.getLogger("raft.flows")
T = TypeVar("T")

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


def settle_environment(store: Store) -> None:
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
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value() is None:
        home = Path(os.environ["PREFECT_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(home):
            SubprocessASGIServer().start()


def _quiet_console() -> None:
    """Prefect's own lines and tracebacks go to its records; the terminal is the reporter's (all of it with --debug)."""
    if not log.isEnabledFor(logging.DEBUG):
        prefect = logging.getLogger("prefect")
        prefect.propagate = False
        prefect.addHandler(logging.NullHandler())
        logging.getLogger("prefect._internal").setLevel(logging.CRITICAL)
        logging.raiseExceptions = False  # the same for each line of the log


def run_flow(run: Run, walk: Callable[[Step], T], *, force: bool = False) -> T:
    """Runs what `walk` asks for as tasks of the flow that is running (a scheduled one), else of one of their own.

    Raises:
        RaftError: what a stage raised, or that Prefect's server cannot be reached.
        KeyboardInterrupt: the run was told to stop, also where Prefect then failed to report that to its server.
    """
    settle_environment(run.store)
    from prefect import flow
    from prefect.context import FlowRunContext
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.prefect.errors import what_it_means
    from tasks.build import stage
    from tasks.prefect import link as prefect_link
    from tasks.prefect.task import Boxed, stage_task

    _quiet_console()
    say = voice_of(run.reporter)
    built: set[str] = set()  # by this process

    def listener(event: Event) -> None:
        if isinstance(event, Finished):
            built.add(event.manifest.stage)
        run.reporter(event)

    def step(request: Request) -> Manifest:
        if prefect_link.lost():
            return stage.run(request, run.store, run.reporter, force=force)
        alone = scheduled and request.stage.name == "train"
        with training_slot(say) if alone else contextlib.nullcontext():
            manifest = stage_task(request.stage, run.store, listener, force=force)(Boxed(request))
        if request.stage.name not in built:
            run.reporter(Finished(manifest, cached=True))
        return manifest

    scheduled = FlowRunContext.get() is not None
    if scheduled:
        return walk(step)
    results: list[T] = []
    failures: list[BaseException] = []
    at_signal = signal.getsignal(signal.SIGTERM)

    @flow(name="raft", validate_parameters=False, log_prints=False)
    def raft(config: dict) -> None:
        tighten()
        _quiet_console()  # again: Prefect sets its loggers up when a flow begins
        _handle(signal.SIGTERM, at_signal)  # ours, which ends the work once however often it is called; not Prefect's
        try:
            results.append(walk(step))
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            if not prefect_link.still_there():
                prefect_link.lose(ConnectionError("it does not answer"), say)
            if prefect_link.lost():
                tighten()

    # The heartbeat thread costs every short flow a second at its end; only served runs need it.
    with (
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, **closed_to_others()}),
        prefect_link.bounded() as tighten,
    ):
        try:
            start_embedded()
            raft(value_without_secrets(run.config.model_dump(mode="json")))
        except Exception as error:
            if was_stopped(error):
                raise KeyboardInterrupt from error
            if not results and not failures:  # it never began
                raise what_it_means(error, os.environ.get("PREFECT_API_URL")) or error from error
            if failures and error is failures[0]:
                raise
            prefect_link.lose(error, say)  # the work had ended, and telling so failed
            if failures:
                raise failures[0] from error
    return results[0]


def _handle(number: signal.Signals, handler: Any) -> None:
    if callable(handler):
        with contextlib.suppress(ValueError):  # only the main thread may
            signal.signal(number, handler)


def was_stopped(error: BaseException) -> bool:
    """Whether a signal to stop stands at the root of the error.

    Prefect reports to its server that it was stopped; where the server is gone, that failure hides the signal.
    """
    from prefect.exceptions import TerminationSignal

    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        if (one := queue.pop()) is None or id(one) in seen:
            continue
        if isinstance(one, (KeyboardInterrupt, TerminationSignal)):
            return True
        seen.add(id(one))
        queue += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return False


@contextlib.contextmanager
def training_slot(say: Callable[[str], None]) -> Iterator[None]:
    """Prefect's limit of one training at a time on this machine; its holders and those who wait stand in the pages.

    A server that is lost keeps nobody from training, and hides nothing of what training raised.
    """
    from prefect.concurrency.sync import concurrency

    from tasks.prefect.link import only_told

    slot = concurrency(training_limit(), occupy=1, lease_duration=60)
    held = False
    with only_told(say):
        slot.__enter__()
        held = True
    try:
        yield
    finally:
        if held:
            with only_told(say):
                slot.__exit__(None, None, None)


def training_limit() -> str:
    """The name of that limit."""
    return f"raft-training-{socket.gethostname()}"
