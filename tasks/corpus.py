"""The corpus as an input with a content digest: every file that `ingest` will read, hashed before anything is loaded.

Files are hashed through the store's memory of hashes, so an unchanged corpus costs a look at each file's time stamps. A
file that has vanished since the last ingest stays part of the input, until it is pruned, as long as the store holds its
documents as today's rules read them.
"""

from __future__ import annotations

import importlib.util
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.loading.sources import PYDOC, expand
from tasks.hashing import FileHashes, digest_of, read_sha256
from tasks.store import Manifest


@dataclass(frozen=True)
class Corpus:
    """What a run reads.

    Attributes:
        sources: as given.
        files: sha256 of every file by its source name, the kept ones included.
        kept: names of files that have vanished and whose documents are taken from the ingest `held`.
        lost: names of files that have vanished and whose documents the store does not hold as today's rules read them.
    """

    sources: tuple[str, ...]
    files: Mapping[str, str]
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    held: Manifest | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """sha256 over the names and bytes of everything in it, and over what is kept."""
        kept = set(self.kept)
        return digest_of({f"kept {name}" if name in kept else name: sha for name, sha in self.files.items()})


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
    return Corpus(tuple(sources), found)


def vanished(recorded: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    """The recorded files that are gone; one whose bytes are there under a new name has moved and is not gone."""
    there = set(present.values())
    return {name: sha for name, sha in recorded.items() if name not in present and sha not in there}


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
