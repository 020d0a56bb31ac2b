"""What disks do to us: they fill up (which one, and how to go on), or lose what was written when the power fails."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from raft_errors import RaftError
from tasks.store.places import cache_folder, temporary_folder

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
SPARE_BYTES = 64 * 2**20  # never publish into the last 64 MiB of a disk


def no_space(root: Path, free: int | None = None, needed: int | None = None) -> RaftError:
    """The error for a full disk of the store."""
    amount = f": {free / 2**20:.0f} MiB free, {needed / 2**20:.0f} MiB needed" if free is not None and needed else ""
    return RaftError(
        f"No space left on the disk of {root}{amount}; nothing was published and finished stages are intact",
        do="free space or set `store` to another disk, then run again: the run continues after the last finished stage",
    )


def _device(place: Path) -> int | None:
    with contextlib.suppress(OSError):
        return place.stat().st_dev
    return None


def no_space_during_build(error: OSError, root: Path) -> RaftError:
    """The error for a disk that filled up while a stage worked: that of the file it names, else the fullest one."""
    places = {"": root}
    with contextlib.suppress(RaftError):
        places["TMPDIR"] = temporary_folder()
    with contextlib.suppress(RaftError):
        places["RAFT_CACHE"] = cache_folder()
    on_its_disk = root.stat().st_dev
    places = {v: place for v, place in places.items() if not v or _device(place) not in (None, on_its_disk)}
    if isinstance(error.filename, (str, bytes)):
        path = Path(os.fsdecode(error.filename))
        variable = next((v for v, place in places.items() if path.is_relative_to(place)), "")
    else:
        variable = min(places, key=lambda v: shutil.disk_usage(places[v]).free)
    if not variable:
        return no_space(root)
    whose = {"TMPDIR": "the temporary files lie", "RAFT_CACHE": "the cache lies"}[variable]
    return RaftError(
        f"No space left on the disk of {places[variable]}, where {whose}; nothing was published and finished stages "
        "are intact",
        do=f"free space or set {variable} to a folder on another disk, then run again",
    )


def write_synced(path: Path, body: bytes) -> None:
    """Writes a file that survives a loss of power."""
    with path.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Makes a whole folder durable."""
    for base, _, names in os.walk(folder):
        for name in names:
            sync_folder(Path(base) / name)
        sync_folder(Path(base))


def sync_folder(path: Path) -> None:
    """Makes a folder's entries, or a file's bytes, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
