"""The worker process: reads requests on stdin, loads one file each, answers on stdout, dies with its parent.

It limits its own address space and its CPU time per request, so that a hostile file can only end this process; the
pool ends one that waits and uses none.
Messages are a length (8 bytes, big-endian) and that much JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

from data.loading.options import LoadOptions
from data.loading.parse import load_file  # here, so that its import counts against no file

GREETING = {"greeting": "ready"}
"""The first request of a worker, which it sends back when it is ready for work."""
_PR_SET_PDEATHSIG = 1


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answers one request with the documents and quarantine rows of its file, as JSON values."""
    path = Path(os.fsdecode(bytes.fromhex(request["path"])))
    documents, quarantined, sha = load_file(path, request["source"], LoadOptions(**_tuples(request["options"])))
    return {
        "documents": [document.to_dict() for document in documents],
        "quarantined": [entry.to_dict() for entry in quarantined],
        "sha256": sha,
    }


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def read_message(stream: IO[bytes]) -> Any:
    """The next message, or None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    body = stream.read(int.from_bytes(head, "big"))
    return json.loads(body) if len(body) == int.from_bytes(head, "big") else None


def write_message(stream: IO[bytes], value: Any) -> None:
    body = json.dumps(value).encode("ascii")
    stream.write(len(body).to_bytes(8, "big") + body)
    stream.flush()


def main(target: str, max_memory_bytes: int, max_seconds: float) -> None:
    """Serves requests until stdin ends; `target` is `module:function`."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what parsers print must not mix with answers
    logging.disable(logging.CRITICAL)
    _protect(max_memory_bytes)
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    if read_message(requests) == GREETING:
        write_message(answers, GREETING)
    while (request := read_message(requests)) is not None:
        _limit_cpu(max_seconds)
        try:
            answer = function(request)
        except MemoryError:
            answer = {"error": "memory"}
        except RecursionError:
            answer = {"error": "RecursionError: nested too deep"}
        except Exception as error:  # noqa: BLE001  whatever a parser raises costs one file
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        _limit_cpu(0)
        try:
            write_message(answers, answer)
        except MemoryError:
            write_message(answers, {"error": "memory"})


def _protect(max_memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pool
    with contextlib.suppress(ImportError):
        import resource

        for limit, most in ((resource.RLIMIT_AS, max_memory_bytes), (resource.RLIMIT_CORE, 0)):
            with contextlib.suppress(OSError, ValueError):  # macOS limits no address space; files and time stay limited
                resource.setrlimit(limit, (most, most))
    with contextlib.suppress(ImportError, OSError, AttributeError):  # Linux only
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_cpu(seconds: float) -> None:
    """SIGPROF's default action ends the process, even inside a C parser; 0 switches it off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
