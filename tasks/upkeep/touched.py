"""What one document has touched in a store: its chunks, questions, records, and the adapters that learned from them.

Found in the files of the stages, not in what a configuration says now, so that a document that left the corpus long ago
is found too. Nothing is changed here.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.text.source_names import names_of
from raft_errors import BadInput
from tasks.adapters.registry import adapters
from tasks.store.manifest import Manifest
from tasks.store.store import Store
from tasks.upkeep.gc import Thing, size

Entry = tuple[str, str]  # stage, key
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TouchedRecord:
    """A record with a chunk of the document. `role` is `oracle` or `distractor`."""

    id: str
    split: str
    role: str
    question: str


@dataclass(frozen=True)
class TouchedAdapter:
    """An adapter whose making the document went into.

    Attributes:
        version: `NAME:NUMBER`, or "" where it was never registered.
        trained_on: training and validation records with a chunk of the document, of this adapter or one that it was
            started from; 0 = the document is only in its index.
    """

    key: str
    version: str
    state: str
    trained_on: int
    tested_on: int


@dataclass(frozen=True)
class Touched:
    """Everything that holds something of the documents.

    Attributes:
        sources: the documents that the name fits.
        duplicates: documents whose text is the same, which therefore say the same.
        folders: the stage folders with something of them, and all that was built from these.
    """

    sources: tuple[str, ...]
    duplicates: tuple[str, ...]
    chunks: tuple[str, ...]
    questions: tuple[str, ...]
    records: tuple[TouchedRecord, ...]
    adapters: tuple[TouchedAdapter, ...]
    folders: tuple[Thing, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "sources": list(self.sources),
            "duplicates": list(self.duplicates),
            "chunks": list(self.chunks),
            "questions": list(self.questions),
            "records": [record.__dict__ for record in self.records],
            "adapters": [adapter.__dict__ for adapter in self.adapters],
            "folders": [thing.to_dict() for thing in self.folders],
        }


def touched(store: Store, source: str) -> Touched:
    """Looks through every result in the store.

    Args:
        source: a document as citations name it (`handbook/leave.md`), its last parts, or a pattern with `*`.
    Raises:
        BadInput: no result in the store has such a document.
    """
    manifests = store.manifests()
    by_stage: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        by_stage.setdefault(manifest.stage, []).append(manifest)
    sources: set[str] = set()
    duplicates: set[str] = set()
    roots: set[Entry] = set()
    for manifest in by_stage.get("ingest", []):
        names, same = _documents(manifest, source)
        sources |= names
        duplicates |= same
        if names:
            roots.add((manifest.stage, manifest.key))
    if not sources:
        if refused := _refused(by_stage.get("ingest", []), source):
            raise BadInput(f"Nothing was made of {refused}, so there is nothing to forget", do="remove the file itself")
        raise BadInput(
            f"No document in {store.root} is called {source!r}",
            expected="a source as `raft search` names it, its last parts, or a pattern such as 'minutes/*.docx'",
        )
    chunks = {
        row["id"]
        for manifest in by_stage.get("chunk", [])
        for row in rows(manifest.path("chunks.jsonl"))
        if row["source"] in sources
    }
    questions = {
        row["id"]
        for manifest in by_stage.get("questions", [])
        for row in rows(manifest.path("questions.jsonl"))
        if chunks.intersection(row["gold_chunk_ids"])
    }
    records: dict[str, dict[tuple[str, str], TouchedRecord]] = {
        m.key: dict(_records(m, chunks)) for m in by_stage.get("records", [])
    }
    parents = {(m.stage, m.key): [(v.stage, v.key) for v in m.lineage.values()] for m in manifests}
    folders = [m for m in manifests if roots & ancestry((m.stage, m.key), parents)]
    return Touched(
        sources=tuple(sorted(sources)),
        duplicates=tuple(sorted(duplicates - sources)),
        chunks=tuple(sorted(chunks)),
        questions=tuple(sorted(questions)),
        records=tuple(dict.fromkeys(r for rows_ in records.values() for r in rows_.values())),
        adapters=tuple(_adapters(store, [m for m in folders if m.stage == "export"], parents, records)),
        folders=tuple(
            Thing("result", m.stage, m.key, m.folder, size(m.folder), f"made from {', '.join(sorted(sources)[:2])}")
            for m in folders
        ),
    )


def ancestry(entry: Entry, parents: Mapping[Entry, list[Entry]]) -> set[Entry]:
    """An entry and everything it was built from."""
    ancestors: set[Entry] = set()
    queue = [entry]
    while queue:
        here = queue.pop()
        if here not in ancestors:
            ancestors.add(here)
            queue += parents.get(here, [])
    return ancestors


def fits(name: str, source: str) -> bool:
    """Whether a document's source is meant by a name: it, or the file it is a part of, is equal to it, ends in it at a
    slash, or matches its pattern."""
    return any(name == own or own.endswith("/" + name) or fnmatch.fnmatchcase(own, name) for own in names_of(source))


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file; none where it is missing."""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _documents(manifest: Manifest, name: str) -> tuple[set[str], set[str]]:
    """The sources that fit, and those that were left out as duplicates of one that fits (or the other way round)."""
    sources = {row["source"] for row in rows(manifest.path("documents.jsonl")) if fits(name, row["source"])}
    same: set[str] = set()
    report = manifest.path("report.json")
    for pair in json.loads(report.read_text(encoding="utf-8")).get("duplicates", []) if report.exists() else []:
        copy, original = pair["source"], pair["same_as"]
        if original in sources:
            same.add(copy)
        elif fits(name, copy):
            sources.add(original)  # its text is in the chunks under the other name
            same.add(copy)
    return sources, same


def _refused(ingests: Sequence[Manifest], name: str) -> str:
    """A source that fits and was never read, with the reason; else ""."""
    for manifest in ingests:
        for row in rows(manifest.path("quarantine.jsonl")):
            if fits(name, row["source"]):
                return f"{row['source']} ({row['reason']}: {row['detail']})"
    return ""


def _records(manifest: Manifest, chunks: set[str]) -> Iterator[tuple[tuple[str, str], TouchedRecord]]:
    for split in SPLITS:
        for row in rows(manifest.path(f"{split}.jsonl")):
            about = row["metadata"]
            oracle = chunks.intersection(about["oracle_ids"])
            if oracle or chunks.intersection(about["distractor_ids"]):
                role = "oracle" if oracle else "distractor"
                question = about.get("question") or row["instruction"].rsplit("Question: ", 1)[-1]
                record = TouchedRecord(about["record_id"], split, role, question)
                yield (record.id, split), record


def _adapters(
    store: Store,
    exports: list[Manifest],
    parents: Mapping[Entry, list[Entry]],
    records: Mapping[str, Mapping[tuple[str, str], TouchedRecord]],
) -> Iterator[TouchedAdapter]:
    versions = {
        v.stages["export"].key: (f"{registry.name}:{v.number}", v.state)
        for registry in adapters(store)
        for v in registry.read().versions
    }
    for manifest in exports:
        behind = ancestry((manifest.stage, manifest.key), parents)
        seen = [r for stage, key in sorted(behind) if stage == "records" for r in records.get(key, {}).values()]
        learned = {r.id for r in seen if r.split != "test"}
        tested = {r.id for r in seen if r.split == "test"}
        version, state = versions.get(manifest.key, ("", "not registered"))
        yield TouchedAdapter(manifest.key, version, state, len(learned), len(tested))
