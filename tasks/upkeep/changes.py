"""What reading a corpus again would change, file by file, found without reading any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from data.loading.keeping import file_of
from data.nouns import Chunk, Document, read_jsonl
from tasks.ingest import IngestConfig, corpus_id, corpus_of
from tasks.inputs.corpus import vanished
from tasks.store.store import Store
from tasks.upkeep.touched import ancestry

State = Literal["new", "changed", "moved", "vanished", "unchanged"]


@dataclass(frozen=True)
class FileChanges:
    """Files against the last ingest of the same corpus.

    Attributes:
        states: names of files by state; `moved` is the same bytes under a new name.
        kept: vanished files whose documents an ingest would keep.
        chunks: how many chunks each file has now; none where it was never chunked.
    """

    states: Mapping[State, tuple[str, ...]]
    kept: tuple[str, ...]
    chunks: Counter[str]


def file_changes(sources: Sequence[str], config: IngestConfig, store: Store) -> FileChanges:
    """Compares the files behind `sources` with those that the store's manifest of sources remembers.

    Raises:
        BadInput: a source that names nothing.
    """
    corpus = corpus_of(sources, config, store)
    recorded = store.sources.read(corpus_id(sources, config))
    before = recorded.files
    kept = set(corpus.kept)
    present = {name: sha for name, sha in corpus.files.items() if name not in kept}
    gone = vanished(before, present)
    moved_from = {sha for name, sha in before.items() if name not in present and name not in gone}
    states: dict[State, list[str]] = {"new": [], "changed": [], "moved": [], "vanished": sorted(gone), "unchanged": []}
    for name, sha in sorted(present.items()):
        if name in before:
            states["unchanged" if before[name] == sha else "changed"].append(name)
        else:
            states["moved" if sha in moved_from else "new"].append(name)
    chunks = _chunks(store, recorded.ingest, before.keys())
    return FileChanges({state: tuple(names) for state, names in states.items()}, corpus.kept, chunks)


def _chunks(store: Store, ingest: str, files: Collection[str]) -> Counter[str]:
    """How many chunks each file has in the newest chunking of an ingest; none where it was never chunked."""
    counts: Counter[str] = Counter()
    held = store.read("ingest", ingest) if ingest else None
    parents = {(m.stage, m.key): [(v.stage, v.key) for v in m.lineage.values()] for m in store.manifests()}
    chunkings = (m for m in store.manifests("chunk") if ("ingest", ingest) in ancestry((m.stage, m.key), parents))
    manifest = next(chunkings, None)
    if held is None or manifest is None:
        return counts
    owner = {d.id: file_of(d.source, files) for d in read_jsonl(held.path("documents.jsonl"), Document)}
    counts.update(owner.get(c.document_id, "") for c in read_jsonl(manifest.path("chunks.jsonl"), Chunk))
    return counts
