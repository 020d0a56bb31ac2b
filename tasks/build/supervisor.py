"""Runs a heavy step as a supervised child process: its events are heard, its death is told apart, its signals are ours.

The child has its own process group and dies with us (it asks the kernel for that). On any interruption, when it falls
silent or when its time is up it gets SIGTERM, time to save its state, and only then SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raft_errors import BadInput, RaftError

log = logging.getLogger("raft.tasks")

GRACE_SECONDS = 25.0  # a served Prefect run is killed 30 s after it was cancelled
WATCH_SECONDS = 0.2
INTERRUPTED = 75
SECRETS = (  # no child talks to Prefect or reads the share
    *("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY"),
    *("RAFT_SHARE_KEY", "RAFT_SHARE_KEY_FILE"),
)


class Transient(RaftError):
    """A failure that trying again may mend (a trainer that was stopped or died with a checkpoint)."""


def run_child(
    module: str,
    arguments: Sequence[str],
    *,
    log_file: Path,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    environment: Mapping[str, str] | None = None,
    silent_seconds: float | None = None,
    limit_seconds: float | None = None,
) -> None:
    """Runs `python -P -m module arguments` to its end; call it in the thread that will wait for it.

    Args:
        log_file: takes the child's standard error.
        on_event: hears each JSON object that the child prints as a line of standard output.
        silent_seconds: a child that says nothing for so long hangs, and is stopped; None = it may be silent.
        limit_seconds: the longest it may run; None = no limit.
    Raises:
        BadInput, RaftError: what the child reported in its `error` event, or that its time was up.
        Transient: it stopped at a checkpoint, was killed or hung; running it again goes on from there.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in SECRETS}
    environment = {**inherited, **(environment or {}), "RAFT_SUPERVISOR": str(os.getpid())}
    command = [sys.executable, "-P", "-m", module, *arguments]
    problem: dict[str, Any] = {}
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as errors:
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            process_group=0,  # Ctrl-C reaches it only through us
        )
        watch = _Watch(child, silent_seconds, limit_seconds)
        try:
            assert child.stdout is not None
            for line in child.stdout:
                watch.heard()
                event = _event(line)
                if event.get("event") == "error":
                    problem = event
                elif event:
                    on_event(event)
            code = child.wait()
        except BaseException:
            try:
                _stop(child)
            except BaseException:  # noqa: BLE001 - a further signal, before they were ignored
                _stop(child)
            raise
        finally:
            watch.end()
    if code == 0:
        return
    if watch.stopped_for:
        kind = Transient if watch.stopped_for == "silence" else RaftError
        raise kind(
            f"{module} was stopped: {watch.said()}",
            do="run again: it goes on from its last checkpoint; or allow it more time",
        )
    if code == INTERRUPTED:
        raise Transient(f"{module} was stopped and saved its state", do="run again: it goes on from there")
    if problem:
        kind = BadInput if code == 2 else RaftError
        raise kind(problem.get("what", ""), expected=problem.get("expected", ""), do=problem.get("do", ""))
    if code < 0:
        raise Transient(
            f"{module} was killed by {signal.Signals(-code).name}{_tail(log_file)}",
            do="run again: it goes on from its last checkpoint; if memory ran out, lower the batch or sequence length",
        )
    raise RaftError(f"{module} ended with code {code}{_tail(log_file)}", do=f"see {log_file}")


class _Watch:
    """Stops a child that is silent for too long or runs for too long; a thread that ends with it."""

    def __init__(self, child: subprocess.Popen[str], silent_seconds: float | None, limit_seconds: float | None) -> None:
        self._child, self._silent, self._limit = child, silent_seconds, limit_seconds
        self._began = self._last = time.monotonic()
        self._over = threading.Event()
        self.stopped_for = ""
        if silent_seconds or limit_seconds:
            threading.Thread(target=self._run, daemon=True).start()

    def heard(self) -> None:
        self._last = time.monotonic()

    def end(self) -> None:
        self._over.set()

    def said(self) -> str:
        if self.stopped_for == "silence":
            return f"nothing was heard of it for {self._silent:g} s"
        return f"it ran for {self._limit:g} s, its limit"

    def _run(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            now = time.monotonic()
            if self._silent and now - self._last > self._silent:
                self.stopped_for = "silence"
            elif self._limit and now - self._began > self._limit:
                self.stopped_for = "limit"
            if self.stopped_for:
                log.warning("%s", self.said())
                for number in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._child.pid, number)
                    if self._over.wait(GRACE_SECONDS):
                        return
                return


def _event(line: str) -> dict[str, Any]:
    """The JSON object of a line; anything else that a library prints is passed to the log."""
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    log.debug("%s", line.rstrip())
    return {}


def _stop(child: subprocess.Popen[str]) -> None:
    """SIGTERM, time to save, SIGKILL. Further signals to us do not shorten the time; only SIGKILL does."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    in_main_thread = _set_handlers(dict.fromkeys(previous, signal.SIG_IGN))
    try:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        child.communicate(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    finally:
        if in_main_thread:
            _set_handlers(previous)


def _set_handlers(handlers: Mapping[signal.Signals, Any]) -> bool:
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    except ValueError:  # only the main thread may
        return False
    return True


def _tail(log_file: Path, lines: int = 5) -> str:
    with contextlib.suppress(OSError):
        last = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:]
        if last:
            return ":\n  " + "\n  ".join(last)
    return ""
