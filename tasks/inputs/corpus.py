"""The corpus as an input with a content digest: every file that `ingest` will read, hashed before it is loaded.

The store remembers hashes, so an unchanged corpus costs a look at each file's time stamps. A file that has vanished
since the last ingest remains part of the input until it is pruned, as long as the store holds its documents as today's
rules would read them.
"""

from __future__ import annotations

import importlib.util
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.loading.formats.hf_datasets import folder_files, is_dataset_folder
from data.loading.options import LoadOptions
from data.loading.sources import PYDOC, Item, expand, remote_identity
from data.text.shown import few
from data.text.urls import text_without_secrets
from raft_errors import RaftError
from tasks.build.unchanged import Changed
from tasks.store.hashing import FileHashes, digest_of, read_sha256, stamp
from tasks.store.manifest import Manifest


@dataclass(frozen=True)
class Corpus:
    """What a run reads.

    Attributes:
        sources: as the configuration gives them.
        files: source name -> sha256 of every file, including those that are kept.
        kept: names of vanished files whose documents are taken from the ingest `held`.
        lost: names of vanished files whose documents the store does not hold as today's rules would read them.
        stamps: what the kernel said about each local file (inode, size, times) before it was hashed.
    """

    sources: tuple[str, ...]
    files: Mapping[str, str]
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    held: Manifest | None = field(default=None, compare=False)
    stamps: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def digest(self) -> str:
        """sha256 over the names and bytes of all files, with a mark on those that are kept."""
        kept = set(self.kept)
        return digest_of({f"kept {name}" if name in kept else name: sha for name, sha in self.files.items()})

    def require_as_hashed(self, digests: Mapping[str, str], options: LoadOptions) -> None:
        """See `require_as_hashed`."""
        require_as_hashed(self, digests, options)

    def require_held_as_hashed(self) -> None:
        """Refuses kept documents that differ from what the ingest `held` says.

        Raises:
            Changed: its file was altered while it was read.
        """
        if self.held is None:
            return
        path = self.held.path("documents.jsonl")
        if read_sha256(path) != next(entry.sha256 for entry in self.held.files if entry.path == path.name):
            raise Changed.while_read(f"{path}, whose documents are kept,")


def snapshot(sources: Sequence[str], hashes: FileHashes, options: LoadOptions = LoadOptions()) -> Corpus:  # noqa: B008
    """Hashes every file behind the sources; a remote file is identified by what its file system says.

    Raises:
        BadInput: a source does not exist.
    """
    everything = expand(sources, options)
    items = [item for item in everything if not item.refused]
    digests = {item.source: "a link that leads out" for item in everything if item.refused}
    local = {item.source: Path(item.path) for item in items if item.remote is None}
    stamps = {name: stamp_of(path) for name, path in local.items()}
    folders = {name: list(folder_files(path).values()) for name, path in local.items() if is_dataset_folder(path)}
    regular = {name: path for name, path in local.items() if name not in folders and _is_readable_file(path)}
    sums = hashes.sha256_many([*regular.values(), *(path for paths in folders.values() for path in paths)])
    digests |= {name: sums[path] for name, path in regular.items()}
    for name, paths in folders.items():
        digests[name] = digest_of({path.relative_to(local[name]).as_posix(): sums[path] for path in paths})
    digests |= {name: "not a readable file" for name in local if name not in digests}
    digests |= {item.source: _identity(item) for item in items if item.remote is not None}
    if PYDOC in sources:
        digests[PYDOC] = _pydoc_sha256()
    return Corpus(tuple(sources), digests, stamps=stamps)


def require_as_hashed(corpus: Corpus, digests: Mapping[str, str], options: LoadOptions) -> None:
    """Refuses files that changed between the snapshot and the load: the key would stand for other bytes.

    Args:
        digests: `data.loading.Corpus.digests` of the load.

    Raises:
        Changed: it names the files that were saved, added or deleted in between.
    """
    before = {name: sha for name, sha in corpus.files.items() if name not in corpus.kept and name != PYDOC}
    now = {item.source: item for item in expand(corpus.sources, options)}
    odd = {name for name, sha in digests.items() if sha and sha != before.get(name)}
    odd |= (before.keys() ^ digests.keys()) | (before.keys() ^ now.keys())
    for name, item in now.items():
        if item.remote is not None:
            odd |= {name} if not item.refused and _identity(item) != before.get(name) else set()
        elif not item.refused and not digests.get(name):  # no byte was read: too large, no rights, a parser that died
            odd |= {name} if stamp_of(Path(item.path)) != corpus.stamps.get(name) else set()
    if PYDOC in corpus.sources and _pydoc_sha256() != corpus.files[PYDOC]:
        odd.add(PYDOC)
    if odd:
        raise Changed.while_read(f"{few(sorted(odd))} of the corpus")


def stamp_of(path: Path) -> str:
    """What the kernel says about a file, or about all files of a saved data set; "" if there is none."""
    try:
        paths = folder_files(path).values() if is_dataset_folder(path) else [path]
        return digest_of({str(one): stamp(one) for one in paths})
    except OSError:
        return ""


def _identity(item: Item) -> str:
    try:
        return remote_identity(item)
    except (OSError, ValueError) as error:
        raise RaftError(
            f"{item.source} was listed but cannot be looked at ({text_without_secrets(str(error))})",
            do="check the connection and your rights, then run again",
        ) from None  # the cause may quote the URL with its secrets


def vanished(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The files of `before` that are gone; one whose bytes have a new name has moved and is not gone."""
    contents = set(now.values())
    return {name: sha for name, sha in before.items() if name not in now and sha not in contents}


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
