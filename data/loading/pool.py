"""A small pool of reusable worker processes with limits on time and memory.

A worker that dies or runs over time costs the file it worked on: it is started again for the next one. A file on which
a used worker died is tried once more in a fresh one, so that results do not depend on what the worker did before.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from data.loading.confinement import clean_environment
from data.loading.worker import GREETING, read_message, write_message

_START_SECONDS = 60
_CLOCK_FACTOR = 2  # a worker that shares its CPU with others gets half of it at least
_SLACK_SECONDS = 5
_RECYCLE_AFTER = 500
_WINDOW = 64


class Pool:
    """Answers requests in their order; `target` is the `module:function` that workers call with a JSON request.

    A request may take `max_seconds` of CPU time, and on the clock twice that and a little: one that waits for something
    that never comes uses no CPU. The start of a worker does not count.

    An answer is what the function returned, or `{"error": ...}` with `too-slow`, `crashed: ...`, `memory` or the
    exception's words.
    """

    def __init__(
        self,
        workers: int,
        *,
        max_seconds: float,
        max_memory_bytes: int,
        target: str = "data.loading.worker:handle",
    ) -> None:
        self._arguments = (target, max_memory_bytes, max_seconds)
        self._wall_seconds = _CLOCK_FACTOR * max_seconds + _SLACK_SECONDS
        self._folder = tempfile.TemporaryDirectory(prefix="raft-load-", ignore_cleanup_errors=True)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="raft-load")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            for process in self._alive:
                process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in list(self._alive):
            _reap(process)
        self._folder.cleanup()

    def map(self, requests: Sequence[Any]) -> Iterator[Any]:
        """Answers in the order of `requests`; only a window of them is in flight."""
        waiting: list[Future[Any]] = []
        rest = iter(requests)
        for request in rest:
            waiting.append(self._threads.submit(self._ask, request))
            if len(waiting) >= _WINDOW:
                break
        while waiting:
            yield waiting.pop(0).result()
            for request in rest:
                waiting.append(self._threads.submit(self._ask, request))
                break

    def _ask(self, request: Any) -> Any:
        for _ in range(2):
            used = getattr(self._local, "used", 0)
            process = getattr(self._local, "process", None)
            if process is None or process.poll() is not None or used >= _RECYCLE_AFTER:
                self._drop(process)
                process, used = self._start(), 0
            self._local.process, self._local.used = process, used + 1
            answer = self._greet(process) if used == 0 else None
            if answer is None:
                answer = self._exchange(process, request, self._wall_seconds)
            failed = isinstance(answer, dict) and str(answer.get("error", "")).startswith(("crashed", "memory"))
            if failed or process.poll() is not None:
                self._drop(process)
                self._local.process = None
            if not failed or used == 0:
                break
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        code = f"import data.loading.worker as w; w.main(*{self._arguments!r})"
        paths = [str(Path(path).absolute()) for path in sys.path if path]
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._folder.name,
                env=clean_environment(self._folder.name, paths),
            )
            self._alive.add(process)
        return process

    def _greet(self, process: subprocess.Popen[bytes]) -> Any:
        """Waits until a new worker has imported what it needs; why it did not, or None."""
        answer = self._exchange(process, GREETING, _START_SECONDS)
        if answer == {"error": "too-slow"}:
            return {"error": f"crashed: it did not start within {_START_SECONDS} s"}
        return None if answer == GREETING else answer

    def _exchange(self, process: subprocess.Popen[bytes], request: Any, seconds: float) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            write_message(process.stdin, request)
            answer = read_message(process.stdout)
        except (OSError, ValueError):
            answer = None
        finally:
            timer.cancel()
        if answer is not None:
            return answer
        code = process.wait()
        if late.is_set() or (hasattr(signal, "SIGPROF") and code == -signal.SIGPROF):
            return {"error": "too-slow"}
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return {"error": f"crashed: {name}"}

    def _drop(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is not None:
            process.kill()
            _reap(process)
            with self._lock:
                self._alive.discard(process)


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue
