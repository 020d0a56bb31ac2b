"""Numbered generations of a folder with an atomic CURRENT pointer: readers see the old one or the new one, never half.

A generation is written beside the others under a temporary name, renamed when it is complete, and only then named in
CURRENT. A crash leaves a temporary folder, which the next writer removes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raft_errors import BadInput

CURRENT = "CURRENT"
_PREFIX, _TEMPORARY = "gen-", ".new-"


def current_generation(root: Path) -> Path | None:
    """The folder that CURRENT names, or None if nothing has been published yet."""
    pointer = root / CURRENT
    if not pointer.is_file():
        return None
    name = pointer.read_text(encoding="utf-8").strip()
    folder = root / name
    if not name.startswith(_PREFIX) or Path(name).name != name or not folder.is_dir():
        raise BadInput(
            f"{pointer} names {name!r}, which is not a generation in {root}",
            expected="the name of a folder beside it",
            do="restore the folder, or build the store again",
        )
    return folder


def publish_generation(root: Path, write: Callable[[Path], None], *, keep: int = 2) -> Path:
    """Calls `write(empty folder)`, publishes the folder as the newest generation and returns it.

    Args:
        keep: generations left on disk, the new one included, so that readers of the last one can finish.

    One writer at a time; a second waits.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _sole_writer(root):
        for leftover in root.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = root / f"{_TEMPORARY}{os.getpid()}"
        temporary.mkdir()
        write(temporary)
        for path in sorted(temporary.rglob("*")):
            _sync(path)
        _sync(temporary)
        number = max((int(p.name[len(_PREFIX) :]) for p in root.glob(f"{_PREFIX}*")), default=0) + 1
        final = root / f"{_PREFIX}{number:06d}"
        temporary.rename(final)
        pointer = root / f".{CURRENT}.{os.getpid()}"
        pointer.write_text(final.name + "\n", encoding="utf-8")
        _sync(pointer)
        pointer.replace(root / CURRENT)
        _sync(root)
        for old in sorted(root.glob(f"{_PREFIX}*"))[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return final


@contextmanager
def _sole_writer(root: Path) -> Iterator[None]:
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file closes, also by a crash
        yield


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
