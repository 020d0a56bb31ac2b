"""sha256 of files, remembered by what the kernel says about them (inode, size, mtime, ctime).

So a whole store, corpus or model folder is verified by content in milliseconds if nothing was touched; after any write,
even one that restores the time stamps, the file is read again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.nouns import ItemCache

_SETTLED_NANOSECONDS = 2_000_000_000  # a file changed this recently may change again within one tick of its clock


class FileHashes:
    """Hashes files, looking into `cache` first. Without a cache every call reads the file."""

    def __init__(self, cache: ItemCache | None = None) -> None:
        self.cache = cache

    def sha256(self, path: Path) -> str:
        """Hex sha256 of the file's bytes.

        Raises:
            OSError: the file cannot be read.
        """
        return self.sha256_many([path])[Path(path)]

    def sha256_many(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Hex sha256 of each file's bytes; one look-up in the cache for all."""
        stats = {Path(path): Path(path).stat() for path in paths}
        idents = {path: _ident(stat) for path, stat in stats.items()}
        cached = self.cache.get_many(sorted(set(idents.values()))) if self.cache is not None else {}
        result: dict[Path, str] = {}
        fresh: dict[str, bytes] = {}
        for path, ident in idents.items():
            if ident in cached:
                result[path] = cached[ident].decode()
                continue
            result[path] = read_sha256(path)
            at_rest = time.time_ns() - stats[path].st_ctime_ns > _SETTLED_NANOSECONDS
            if at_rest and _ident(path.stat()) == ident:
                fresh[ident] = result[path].encode()
        if fresh and self.cache is not None:
            self.cache.put_many(fresh)
        return result


def read_sha256(path: Path) -> str:
    """Hex sha256 of the file's bytes, read now.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a regular file for reading, and nothing else: a FIFO would wait for ever, a device may never end.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if what := irregular(os.fstat(descriptor)):
            raise OSError(errno.EINVAL, f"it is {what}", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; see `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def irregular(status: os.stat_result) -> str:
    """What lies in the place of a regular file, in words; "" for a regular file."""
    kind = stat.S_IFMT(status.st_mode)
    return "" if kind == stat.S_IFREG else _KINDS.get(kind, "no regular file")


_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def digest_of(files: Mapping[str, str]) -> str:
    """One sha256 over `{relative path: sha256}`: the content of a folder, not its place or time."""
    body = "".join(f"{path}\0{sha256}\n" for path, sha256 in sorted(files.items()))
    return hashlib.sha256(body.encode("utf-8", "surrogateescape")).hexdigest()


def stamp(path: Path) -> str:
    """A text that changes with every write to a file, whatever the writer does to its time stamps.

    Raises:
        OSError: there is no such file.
    """
    return _ident(path.stat())


def _ident(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
