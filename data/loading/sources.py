"""What the user named, expanded to single items in a stable order: files, folders, globs and remote URLs.

Only names and file types are looked at here; no file is opened.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from data.loading.hf_datasets import is_dataset_folder
from raft_errors import BadInput

PYDOC = "pydoc:topics"
_SIDECARS = {"thumbs.db", "desktop.ini", "__macosx", "__pycache__", "node_modules"}


@dataclass(frozen=True)
class Item:
    """One file to load.

    Attributes:
        source: its name in the corpus (see `Document.source`).
        path: where it lies, or the path in `remote`.
        remote: an fsspec file system, None for local files.
    """

    source: str
    path: str
    remote: Any = None


def expand(sources: Sequence[str]) -> list[Item]:
    """All files that `sources` name, each once, sorted by source name; `pydoc:topics` is left to the caller.

    Raises:
        BadInput: a path, glob or URL that names nothing.
    """
    items: list[Item] = []
    for source in sources:
        if source == PYDOC:
            continue
        found = list(_remote(source) if "://" in source else _local(source))
        if not found:
            raise BadInput(
                f"{source}: no files there", expected="at least one document", do="put documents in, or name another"
            )
        items += found
    return sorted(_distinct(items), key=lambda item: item.source)


def _local(source: str) -> Iterator[Item]:
    path = Path(source).expanduser()
    if path.is_dir():
        yield from _walk(path)
    elif os.path.lexists(path):
        yield Item(_name(path.name), str(path))
    elif glob.has_magic(str(path)):
        base = _glob_base(path)
        for found in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207  absolute patterns
            if not Path(found).is_dir():
                yield Item(_name(Path(found).relative_to(base).as_posix()), found)
    else:
        raise BadInput(
            f"{source}: no such file or folder",
            expected=f"a file, a folder, a glob, a URL or {PYDOC!r}",
            do="check the path; relative paths start at the current folder",
        )


def _glob_base(path: Path) -> Path:
    parts = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _walk(root: Path) -> Iterator[Item]:
    """Files below `root`, hidden ones left out. Links are followed last and never to what was already seen."""
    seen: set[str] = set()
    links: list[Path] = []
    pending = [root]
    while pending or links:
        folder = pending.pop() if pending else links.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        if not Path(real).is_dir():
            yield _item(root, folder)
            continue
        if is_dataset_folder(Path(real)):
            yield Item(_name(folder.relative_to(root).as_posix() if folder != root else root.name), str(folder))
            continue
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # a folder without rights: named, so that it is counted
            yield _item(root, folder)
            continue
        for entry in entries:
            if entry.name.startswith((".", "~$")) or entry.name.lower() in _SIDECARS:
                continue
            path = Path(entry.path)
            if entry.is_symlink():
                links.append(path)
            elif entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif (real_file := os.path.realpath(path)) not in seen:
                seen.add(real_file)
                yield _item(root, path)


def _item(root: Path, path: Path) -> Item:
    return Item(_name(path.relative_to(root).as_posix()), str(path))


def _name(path: str) -> str:
    """File names that are not UTF-8 keep their bytes as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _remote(source: str) -> Iterator[Item]:
    import fsspec

    try:
        remote, path = fsspec.core.url_to_fs(source)
        if glob.has_magic(path):
            paths = [found for found in remote.glob(path) if remote.isfile(found)]
        elif remote.isdir(path):
            paths = remote.find(path)
        else:
            paths = [path] if remote.exists(path) else []
    except (ImportError, OSError, ValueError) as error:
        raise BadInput(
            f"{_without_password(source)}: cannot be opened ({error})",
            expected="a URL that an installed fsspec file system can read",
            do="check the URL and install the file system it names (for example s3fs, gcsfs, aiohttp)",
        ) from error
    prefix = _without_password(source).split("://")[0] + "://"
    if len(paths) == 1 and paths[0] == path:
        yield Item(_without_password(source), path, remote)
        return
    for found in sorted(paths):
        if not any(part.startswith(".") for part in found.split("/")):
            yield Item(prefix + found.lstrip("/"), found, remote)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else url


def _distinct(items: Sequence[Item]) -> list[Item]:
    """Drops the second naming of one file, and tells different files of one name apart by their folders."""
    once: dict[tuple[str, int], Item] = {}
    for item in items:
        key = (item.path, id(item.remote)) if item.remote is not None else (os.path.realpath(item.path), 0)
        once.setdefault(key, item)
    by_source: dict[str, list[Item]] = {}
    for item in once.values():
        by_source.setdefault(item.source, []).append(item)
    return [named for same in by_source.values() for named in _tell_apart(same)]


def _tell_apart(items: list[Item]) -> list[Item]:
    if len(items) == 1:
        return items
    paths = [Path(item.path).absolute().parts for item in items]
    longest = max(map(len, paths))
    for depth in range(len(Path(items[0].source).parts) + 1, longest + 1):
        names = [_name("/".join(parts[-depth:]).lstrip("/")) for parts in paths]
        if len(set(names)) == len(names):
            return [replace(item, source=name) for item, name in zip(items, names, strict=True)]
    return items
