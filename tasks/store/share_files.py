"""What a manifest from a share may ask for, and how its files are read: no name, number or size in it is trusted."""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tasks.store.manifest import MANIFEST, Damage, Manifest

MANIFEST_BYTES = 64 * 2**20  # a real one has some kilobytes
MOST_FILES = 100_000
_BLOCK_BYTES = 2**20


def check_files(manifest: Manifest) -> None:
    """Raises Damage for files that no stage writes, or that cannot lie side by side on every disk."""
    if len(manifest.files) > MOST_FILES:
        raise Damage(f"it names {len(manifest.files)} files")
    names: set[str] = {_folded(MANIFEST)}
    folders: set[str] = set()
    for entry in manifest.files:
        path = _inside(entry.path)
        if entry.size < 0:
            raise Damage(f"{entry.path!r} has {entry.size} bytes")
        if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            raise Damage(f"{entry.path!r} has the sha256 {entry.sha256[:80]!r}")
        if (name := _folded(entry.path)) in names:
            raise Damage(f"it names {entry.path!r} twice, or in two spellings")
        names.add(name)
        folders.update(_folded(parent.as_posix()) for parent in path.parents)
    if clash := names & folders:
        raise Damage(f"it names {min(clash)!r} as a file and as a folder")


def place_of(folder: Path, name: str) -> Path:
    """Where a checked file goes."""
    return folder / _inside(name)


def copy(source: BinaryIO, path: Path, size: int, reading: Callable[[], AbstractContextManager[None]]) -> None:
    """Copies `source`, which must hold `size` bytes; reads one more at most.

    Args:
        reading: a context to read the source in, which tells its failures from those of our own disk.
    Raises:
        Damage: it holds more or less.
    """
    remaining = size
    with path.open("xb") as file:
        while remaining >= 0:
            with reading():
                block = source.read(min(_BLOCK_BYTES, remaining + 1))
            if not block:
                break
            file.write(block)
            remaining -= len(block)
    if remaining != 0:
        raise Damage(f"{path.name} has {'more' if remaining < 0 else 'less'} than the {size} bytes of {MANIFEST}")


def room_for(manifest: Manifest, folder: Path, spare: int) -> bool:
    """Whether the disk has room for the files of the manifest."""
    return sum(entry.size for entry in manifest.files) + spare <= shutil.disk_usage(folder).free


def _inside(name: str) -> PurePosixPath:
    """The file's place in its folder. Raises Damage for a name that leads out of it, or is not one."""
    path = PurePosixPath(name)
    odd = any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
    long = any(len(part.encode("utf-8", "replace")) > 255 for part in path.parts)
    leads_out = path.is_absolute() or ".." in path.parts
    if leads_out or not path.parts or path.as_posix() != name or "\\" in name or odd or long:
        raise Damage(f"it names a file {name!r}")
    return path


def _folded(name: str) -> str:
    """The name as seen by a disk that ignores case and Unicode spelling."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
