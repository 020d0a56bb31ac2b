"""Files inside zip, tar, gzip, bzip2 and xz archives, read in memory and bounded; only when asked for.

Nothing is unpacked to disk, members that are links, devices or point outside are refused, and an archive inside an
archive is refused by the caller.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from data.loading.options import LoadOptions, Refused

_MAX_MEMBERS = 20_000
_STREAMS: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
_DAMAGED = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError,
            NotImplementedError, RuntimeError)  # fmt: skip


def read_members(raw: bytes, kind: str, name: str, options: LoadOptions) -> Iterator[tuple[str, bytes | Refused]]:
    """(name inside, bytes) of each file of an archive, sorted by name; a member that is refused gives its refusal.

    A compressed single file (`page.html.gz`) gives one member, named without the last suffix.

    Raises:
        Refused: `too-large` when more than `max_unpacked_bytes` come out, `unreadable`, or `archive` for other kinds.
    """
    left = options.max_unpacked_bytes
    try:
        for member, opened in _open_members(raw, kind, name):
            if isinstance(opened, Refused):
                yield member, opened
                continue
            with opened as stream:
                content = stream.read(min(left, options.max_file_bytes) + 1)
            left -= len(content)
            if left < 0:
                limit = options.max_unpacked_bytes
                raise Refused("too-large", f"it unpacks to more than {limit} bytes; raise max_unpacked_bytes")
            if len(content) > options.max_file_bytes:
                yield member, Refused("too-large", f"over the limit of {options.max_file_bytes}; raise max_file_bytes")
            else:
                yield member, content
    except _DAMAGED as error:
        raise Refused("unreadable", f"the archive is damaged ({error}); get it again") from error


def _open_members(raw: bytes, kind: str, name: str) -> Iterator[tuple[str, IO[bytes] | Refused]]:
    if kind == "zip":
        yield from _zip(raw)
    elif kind == "tar":
        yield from _tar(io.BytesIO(raw))
    elif kind in _STREAMS:
        stream = _STREAMS[kind](io.BytesIO(raw), "rb")
        head = stream.read(512)
        stream.seek(0)
        if head[257:262] == b"ustar":
            yield from _tar(stream)
        else:
            inner = PurePosixPath(name)
            yield inner.stem if inner.suffix.lower() in (".gz", ".bz2", ".xz") else inner.name, stream
    else:
        raise Refused("archive", f"{kind} archives cannot be opened here; unpack it into the folder")


def _zip(raw: bytes) -> Iterator[tuple[str, IO[bytes] | Refused]]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = sorted(
            (entry for entry in archive.infolist() if not entry.is_dir()), key=lambda entry: entry.filename
        )
        _check_number(len(members))
        for entry in members:
            if _hidden(entry.filename):
                continue
            if refusal := _refuse_name(entry.filename):
                yield entry.filename, refusal
            elif stat.S_ISLNK(entry.external_attr >> 16):
                yield entry.filename, Refused("unreadable", "it is a link inside an archive; leave it out")
            elif entry.flag_bits & 1:
                yield entry.filename, Refused("encrypted", "it needs a password; pack it without one")
            else:
                yield entry.filename, archive.open(entry)


def _tar(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | Refused]]:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        members: list[tarfile.TarInfo] = []
        for entry in archive:
            _check_number(len(members))
            if not entry.isdir() and not _hidden(entry.name):
                members.append(entry)
        for entry in sorted(members, key=lambda entry: entry.name):
            opened = archive.extractfile(entry) if entry.isreg() else None
            if refusal := _refuse_name(entry.name):
                yield entry.name, refusal
            elif opened is None:
                yield entry.name, Refused("unreadable", "it is a link or device inside an archive; leave it out")
            else:
                yield entry.name, opened


def _check_number(count: int) -> None:
    if count > _MAX_MEMBERS:
        raise Refused("too-large", f"the archive holds more than {_MAX_MEMBERS} files; unpack it into the folder")


def _hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)


def _refuse_name(name: str) -> Refused | None:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return Refused("unreadable", "its name points outside the archive; do not trust this archive")
    return None
