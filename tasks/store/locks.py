"""One builder per key: `flock` files that name their holder, and whose lock the kernel frees when the holder dies.

A lock file is never unlinked (unlinking would let two processes hold "the same" lock). It knows nothing of stages.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raft_errors import BadInput, RaftError
from tasks.store.access import file_mode, make_folder, owner
from tasks.store.hashing import read_regular

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
        shared: any number of processes may hold it shared at once; together they exclude an exclusive holder.
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
        """Takes the lock; by default it waits for ever.

        Args:
            timeout_seconds: 0 tries once; None waits without limit.
            on_wait: called once with the present holder (None if it cannot be read) before waiting begins.
        Returns:
            False if the time ran out.
        Raises:
            BadInput: this user may not write the lock's file.
            RaftError: something else lies in its place.
        """
        descriptor = self._open()
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        waiting = False
        try:
            while True:
                try:
                    fcntl.flock(descriptor, self._mode | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if deadline is not None and time.monotonic() >= deadline:
                        os.close(descriptor)
                        return False
                    if not waiting and on_wait is not None:
                        waiting = True
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

    def _open(self) -> int:
        """The file, with the rights of its folder, so that whoever may write there can take the lock."""
        try:
            mode = file_mode(make_folder(self.path.parent))
            # no waiting for the other end of a FIFO; no link, which could lead to someone else's file
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self.path, flags, mode)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise BadInput(
                    f"The lock {self.path} cannot be written ({error.strerror}): it belongs to {owner(self.path)}",
                    expected="a store or cache folder that you may write",
                    do="have its owner open it to your group (docs/pipeline.md, Who may read a store), or take another",
                ) from error
            if os.path.lexists(self.path) and not stat.S_ISREG(self.path.lstat().st_mode):
                raise _in_the_way(self.path) from error
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _in_the_way(self.path)
            if stat.S_IMODE(status.st_mode) != mode and status.st_uid == os.geteuid():
                os.fchmod(descriptor, mode)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def release(self) -> None:
        """Frees the lock; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> Holder | None:
        """The last process that took the lock, according to the lock file."""
        try:
            return Holder(**json.loads(read_regular(self.path)))
        except (OSError, ValueError, TypeError):
            return None


def _in_the_way(path: Path) -> RaftError:
    return RaftError(f"{path} is not a file", expected="a lock file in this place", do="remove it and try again")


@contextlib.contextmanager
def locked(lock: FileLock, on_wait: Callable[[Holder | None], None] | None = None) -> Iterator[FileLock]:
    """Holds `lock` for the block."""
    lock.acquire(on_wait=on_wait)
    try:
        yield lock
    finally:
        lock.release()
