"""One builder per key: `flock` files whose lock the kernel frees when the holder dies, and that say who holds them.

A lock file is never unlinked (unlinking would let two processes hold "the same" lock). It knows nothing of stages.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: process id, host name, local time since when."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


class FileLock:
    """A lock on one file. Not re-entrant; threads of one process exclude each other too.

    Args:
        shared: any number of shared holders go together, and exclude an exclusive one.
    """

    def __init__(self, path: Path, shared: bool = False) -> None:
        self.path = Path(path)
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(
        self, timeout_seconds: float | None = None, on_wait: Callable[[Holder | None], None] | None = None
    ) -> bool:
        """Takes the lock; waits for ever by default.

        Args:
            timeout_seconds: 0 tries once; None waits without limit.
            on_wait: called once with the present holder (None if it cannot be read) before waiting begins.
        Returns:
            False if the time ran out.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        told = False
        try:
            while True:
                try:
                    fcntl.flock(descriptor, self._mode | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if deadline is not None and time.monotonic() >= deadline:
                        os.close(descriptor)
                        return False
                    if not told and on_wait is not None:
                        told = True
                        on_wait(self.holder())
                    time.sleep(POLL_SECONDS)
            who = Holder(os.getpid(), socket.gethostname(), datetime.datetime.now().isoformat(timespec="seconds"))
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(who.__dict__).encode(), 0)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Frees the lock; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> Holder | None:
        """The last process that took the lock, as the lock file tells it."""
        try:
            return Holder(**json.loads(self.path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def is_free(self) -> bool:
        """Whether nobody holds the lock at this moment."""
        if self.held:
            return False
        if not self.path.exists():
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


@contextlib.contextmanager
def locked(lock: FileLock, on_wait: Callable[[Holder | None], None] | None = None) -> Iterator[FileLock]:
    """Holds `lock` for the block."""
    lock.acquire(on_wait=on_wait)
    try:
        yield lock
    finally:
        lock.release()
