"""What the user named, expanded to single items in a stable order: files, folders, globs and remote URLs.

Only names and file types are looked at here; no file is opened. A link that leads out of what was named is an item that
is refused: whoever may put a link into a folder shall not choose which of our files become documents.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.loading.formats.hf_datasets import folder_entries, is_dataset_folder
from data.loading.options import LoadOptions
from data.loading.redaction import redact_name
from data.text.urls import text_without_secrets, without_secrets
from raft_errors import BadInput

PYDOC = "pydoc:topics"
LEADS_OUT = (
    "it is a link that leads out of the corpus folder, and was not followed; put the file itself there, "
    "or set follow_links: true"
)
_SIDECARS = {"thumbs.db", "desktop.ini", "__macosx", "__pycache__", "node_modules"}
_TELL_VERSIONS = ("size", "mtime", "ETag", "etag", "Content-MD5", "md5Hash", "Digest", "Last-Modified", "LastModified",
                  "last_modified", "updated", "generation")  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One file to load.

    Attributes:
        source: its name in the corpus (see `Document.source`).
        path: where it lies, or the path in `remote`.
        remote: an fsspec file system, None for local files.
        refused: why it must not be read, or "".
        origin: the URL through which a remote one is read, which may hold secrets.
    """

    source: str
    path: str
    remote: Any = None
    refused: str = ""
    origin: str = field(default="", repr=False)


def expand(sources: Sequence[str], options: LoadOptions = LoadOptions()) -> list[Item]:  # noqa: B008  a frozen value
    """All files that `sources` name, each once, sorted by source name; `pydoc:topics` is left to the caller.

    Names carry no password and no query of a URL, and nothing that `options.redact` takes out; those that become equal
    by that stay apart by a hash of what was taken away.

    Raises:
        BadInput: a path, glob or URL that names nothing.
    """
    inside = None if options.follow_links else [real for source in sources if (real := _root(source))]
    items: list[Item] = []
    for source in sources:
        if source == PYDOC:
            continue
        found = list(_remote(source, inside) if "://" in source else _local(source, inside))
        if not found:
            raise BadInput(
                f"{without_secrets(source)}: no files there",
                expected="at least one document",
                do="put documents in, or name another",
            )
        items += found
    named = (
        replace(item, source=redact_name(item.source, options.redact, options.redact_patterns))
        for item in _distinct(items)
    )
    return sorted(named, key=lambda item: item.source)


def remote_identity(item: Item) -> str:
    """What the file system of a remote item tells of its version, as a hash: another one where its bytes may differ.

    Raises:
        OSError: it is gone or cannot be reached.
    """
    info = item.remote.info(item.path)
    told = [str(item.remote.ukey(item.path)), *(f"{name}={info[name]}" for name in _TELL_VERSIONS if info.get(name))]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def _root(source: str) -> str | None:
    """The real place of a local source, below which links may point."""
    if source == PYDOC:
        return None
    if "://" in source:
        scheme, _, rest = source.partition("://")
        return os.path.realpath(_glob_base(Path(rest)) if glob.has_magic(rest) else rest) if scheme in _LOCAL else None
    path = Path(source).expanduser()
    return os.path.realpath(path if os.path.lexists(path) or not glob.has_magic(str(path)) else _glob_base(path))


_LOCAL = ("file", "local")  # fsspec's names for this machine's own disk


def _leads_out(path: str | Path, inside: Sequence[str] | None) -> bool:
    real = os.path.realpath(path)
    return inside is not None and not any(real == one or real.startswith(one.rstrip(os.sep) + os.sep) for one in inside)


def _local(source: str, inside: Sequence[str] | None) -> Iterator[Item]:
    path = Path(source).expanduser()
    if path.is_dir():
        yield from _walk(path, inside)
    elif os.path.lexists(path):
        yield Item(_name(path.name), str(path))
    elif glob.has_magic(str(path)):
        base = _glob_base(path)
        for found in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207  absolute patterns
            if _leads_out(found, inside):
                yield _refused(base, Path(found))
            elif not Path(found).is_dir():
                yield Item(_name(Path(found).relative_to(base).as_posix()), found)
    else:
        raise BadInput(
            f"{source}: no such file or folder",
            expected=f"a file, a folder, a glob, a URL or {PYDOC!r}",
            do="check the path" + ("" if path.is_absolute() else "; relative paths start at the current folder"),
        )


def _glob_base(path: Path) -> Path:
    parts = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _walk(root: Path, inside: Sequence[str] | None) -> Iterator[Item]:
    """Files below `root`, hidden ones left out. Links are followed last and never to what was already seen."""
    seen: set[str] = set()
    links: list[Path] = []
    pending = [root]
    while pending or links:
        folder = pending.pop() if pending else links.pop(0)
        if _leads_out(folder, inside):
            yield _refused(root, folder)
            continue
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        if not Path(real).is_dir():
            yield _item(root, folder)
            continue
        if is_dataset_folder(Path(real)):
            item = Item(_name(folder.relative_to(root).as_posix() if folder != root else root.name), str(folder))
            yield replace(item, refused=LEADS_OUT) if _holds_link_out(Path(real), inside) else item
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


def _holds_link_out(folder: Path, inside: Sequence[str] | None) -> bool:
    """Whether a file of a saved data set is a link that leads out, or lies behind one: its readers would follow it."""
    if any(_leads_out(path, inside) for path in folder_entries(folder)):
        return True
    for base, folders, files in os.walk(folder):
        for path in (Path(base, name) for name in (*folders, *files)):
            if path.is_symlink() and _leads_out(path, inside):
                return True
    return False


def _refused(root: Path, path: Path) -> Item:
    return replace(_item(root, path), refused=LEADS_OUT)


def _item(root: Path, path: Path) -> Item:
    return Item(_name(path.relative_to(root).as_posix()), str(path))


def _name(path: str) -> str:
    """File names that are not UTF-8 keep their bytes as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _remote(source: str, inside: Sequence[str] | None) -> Iterator[Item]:
    import fsspec

    shown = without_secrets(source)
    try:
        remote, path = fsspec.core.url_to_fs(source)
        remote.invalidate_cache()  # what an earlier look has listed may have changed
        if _is_remote_glob(path):
            paths = [found for found in remote.glob(path) if remote.isfile(found)]
        elif remote.isdir(path):
            paths = remote.find(path)
        else:
            paths = [path] if remote.exists(path) else []
    except (ImportError, OSError, ValueError) as error:
        raise BadInput(
            f"{shown}: cannot be opened ({text_without_secrets(str(error))})",
            expected="a URL that an installed fsspec file system can read",
            do="check the URL and install the file system it names (for example s3fs, gcsfs, aiohttp)",
        ) from None  # the cause may quote the URL with its secrets
    protocols = (remote.protocol,) if isinstance(remote.protocol, str) else remote.protocol
    local = any(name in _LOCAL for name in protocols)
    if len(paths) == 1 and paths[0] == path:
        yield Item(shown, path, remote, origin=source)
        return
    prefix = shown.split("://")[0] + "://"
    for found in sorted(paths):
        if any(part.startswith(".") for part in found.split("/")):
            continue
        name = _shown_below(shown, path, found) if "::" not in source else prefix + found.lstrip("/")
        refused = LEADS_OUT if local and _leads_out(found, inside) else ""
        yield Item(name, found, remote, refused, origin=source)


def _is_remote_glob(path: str) -> bool:
    """A question mark begins the query of a URL where an equals sign follows; else it stands for any character."""
    before, mark, query = path.partition("?")
    return glob.has_magic(before) or (bool(mark) and "=" not in query)


def _shown_below(shown: str, path: str, found: str) -> str:
    """The name of a file that was found below a URL's path: without what the URL is shown without."""
    if "://" in found:
        return without_secrets(found)
    rest = found.removeprefix(path)
    if path and rest != found:
        return shown.rstrip("/") + "/" + rest.lstrip("/")
    return shown.split("://")[0] + "://" + found.lstrip("/")


def _distinct(items: Sequence[Item]) -> list[Item]:
    """Drops the second naming of one file, and tells different files of one name apart."""
    once: dict[tuple[str, int], Item] = {}
    for item in items:
        if item.refused:
            key = (item.path, -1)
        else:
            key = (item.path, id(item.remote)) if item.remote is not None else (os.path.realpath(item.path), 0)
        once.setdefault(key, item)
    by_source: dict[str, list[Item]] = {}
    for item in once.values():
        by_source.setdefault(item.source, []).append(item)
    return [named for same in by_source.values() for named in _tell_apart(same)]


def _tell_apart(items: list[Item]) -> list[Item]:
    """By their folders; files of remote systems by a hash of their whole URL, which may hold secrets itself."""
    if len(items) == 1:
        return items
    if all(item.remote is None for item in items):
        paths = [Path(item.path).absolute().parts for item in items]
        for depth in range(len(Path(items[0].source).parts) + 1, max(map(len, paths)) + 1):
            names = [_name("/".join(parts[-depth:]).lstrip("/")) for parts in paths]
            if len(set(names)) == len(names):
                return [replace(item, source=name) for item, name in zip(items, names, strict=True)]
    return [replace(item, source=_marked(item)) for item in items]


def _marked(item: Item) -> str:
    """`name~hash.suffix`: the hash is that of the whole URL and of the path behind it."""
    mark = hashlib.sha256(f"{item.origin}\0{item.path}".encode("utf-8", "surrogateescape")).hexdigest()[:8]
    head, dot, suffix = item.source.rpartition(".")
    return f"{item.source}~{mark}" if not dot or "/" in suffix else f"{head}~{mark}.{suffix}"
