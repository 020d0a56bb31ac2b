"""The pipeline as a Prefect flow. Imported only when something has to run, because Prefect takes seconds to start.

Embedded by default: no server to start, no account, no telemetry, its files beside the store. With `PREFECT_API_URL`
set, or after `raft server`, that server is used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

from data.nouns import Progress
from data.urls import value_without_secrets
from raft_errors import RaftError
from tasks.locks import Holder
from tasks.stage import Reporter

if TYPE_CHECKING:
    from flows.pipeline import Run, Step
    from tasks.stage import Request
    from tasks.store import Manifest, Store

log = logging.getLogger("raft.flows")
T = TypeVar("T")

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",  # hides harmless tracebacks of the embedded database's start
    "PREFECT_LOGGING_EXTRA_LOGGERS": "raft",  # so that the libraries' lines reach Prefect's records
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLI_PROMPT": "false",
}


def settle_environment(store: Store) -> None:
    """Prefect's settings for a run, where the user has not set them otherwise. Call it before Prefect is imported."""
    from flows.server import running

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(store.root / "prefect"))
    if url := running(store):
        os.environ["PREFECT_API_URL"] = url


def _quiet_console() -> None:
    """Prefect's own lines and tracebacks go to its records; the terminal is the reporter's (all of it with --debug)."""
    if not log.isEnabledFor(logging.DEBUG):
        prefect = logging.getLogger("prefect")
        prefect.propagate = False
        prefect.addHandler(logging.NullHandler())


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

    from tasks.prefect_task import Boxed, stage_task

    _quiet_console()
    listener = Listener(run.reporter)

    def step(request: Request) -> Manifest:
        with training_slot() if scheduled and request.stage.name == "train" else contextlib.nullcontext():
            manifest = stage_task(request.stage, run.store, listener, force=force)(Boxed(request))
        if request.stage.name not in listener.built:
            run.reporter.finished(manifest, cached=True)
        return manifest

    scheduled = FlowRunContext.get() is not None
    if scheduled:
        return walk(step)
    made: list[T] = []

    @flow(name="raft", validate_parameters=False, log_prints=False)
    def raft(config: dict) -> None:
        made.append(walk(step))

    # The heartbeat thread costs every short flow a second at its end; only served runs need it.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        try:
            raft(value_without_secrets(run.config.model_dump(mode="json")))
        except Exception as error:
            if was_stopped(error):
                raise KeyboardInterrupt from error
            if not isinstance(error, RuntimeError) or "Failed to reach API" not in str(error):
                raise
            raise RaftError(
                f"Prefect's server cannot be reached ({os.environ.get('PREFECT_API_URL', 'embedded')})",
                do="unset PREFECT_API_URL to use the embedded one, or run with --no-prefect",
            ) from error
    return made[0]


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


def training_slot() -> AbstractContextManager[None]:
    """Prefect's limit of one training at a time on this machine; its holders and those who wait stand in the pages."""
    from prefect.concurrency.sync import concurrency

    return concurrency(training_limit(), occupy=1, lease_duration=60)


def training_limit() -> str:
    """The name of that limit."""
    return f"raft-training-{socket.gethostname()}"


class Listener:
    """Passes everything on to another reporter, and remembers what was built by this process."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner
        self.built: set[str] = set()

    def started(self, stage: str) -> None:
        self._inner.started(stage)

    def progress(self, stage: str) -> Progress:
        return self._inner.progress(stage)

    def waiting(self, stage: str, holder: Holder | None) -> None:
        self._inner.waiting(stage, holder)

    def damaged(self, stage: str, what: str) -> None:
        self._inner.damaged(stage, what)

    def finished(self, manifest: Manifest, cached: bool) -> None:
        self.built.add(manifest.stage)
        self._inner.finished(manifest, cached)

    def say(self, text: str) -> None:
        self._inner.say(text)
