"""Files of JSON Lines that are only added to: each line is one write that is on the disk when the call returns.

What a crash cut short is a line without an end; the next one begins on a line of its own, and readers skip the torn
one.
"""

from __future__ import annotations

import os
from pathlib import Path

from tasks.store.access import make_file, make_folder
from tasks.store.hashing import open_regular


def append_line(path: Path, line: bytes) -> None:
    """Adds a line durably, to a file that is made with its folder where it is missing.

    Args:
        line: without its end.

    Raises:
        OSError: it is no regular file, or cannot be written.
    """
    make_folder(path.parent)
    make_file(path)
    open_regular(path).close()
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        torn = size > 0 and _last_byte(path, size) != b"\n"
        file.write((b"\n" if torn else b"") + line + b"\n")
        os.fsync(file.fileno())


def _last_byte(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1)
