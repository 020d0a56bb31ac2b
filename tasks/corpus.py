"""The corpus as an input with a content digest: every file that `ingest` will read, hashed before anything is loaded.

Files are hashed through the store's memory of hashes, so an unchanged corpus costs a look at each file's time stamps.
"""

from __future__ import annotations

import importlib.util
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.loading.sources import PYDOC, expand
from tasks.hashing import FileHashes, digest_of, read_sha256


@dataclass(frozen=True)
class Corpus:
    """The sources as given, and the sha256 over the names and bytes of everything in them."""

    sources: tuple[str, ...]
    digest: str
    files: int


def snapshot(sources: Sequence[str], hashes: FileHashes) -> Corpus:
    """Hashes every file behind the sources; a remote file counts by what its file system says identifies it.

    Raises:
        BadInput: a source that names nothing.
    """
    items = expand(sources)
    local = {item.source: Path(item.path) for item in items if item.remote is None}
    regular = {name: path for name, path in local.items() if _is_readable_file(path)}
    known = hashes.sha256_many(regular.values())
    found = {name: known[path] for name, path in regular.items()}
    found |= {name: "not a readable file" for name in local if name not in regular}
    found |= {item.source: str(item.remote.ukey(item.path)) for item in items if item.remote is not None}
    if PYDOC in sources:
        found[PYDOC] = _pydoc_sha256()
    return Corpus(tuple(sources), digest_of(found), len(found))


def _is_readable_file(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb"):
            return True
    except OSError:
        return False


def _pydoc_sha256() -> str:
    spec = importlib.util.find_spec("pydoc_data.topics")
    assert spec is not None
    assert spec.origin is not None
    return read_sha256(Path(spec.origin))
