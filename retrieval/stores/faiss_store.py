"""The built-in vector store: saved vectors and payloads in generations, with a FAISS index built from them.

Vectors and payloads are the truth and are kept in id order, so that a store which grew, changed and shrank has the same
bytes as one built afresh from what is left. The index is a cache of them, rebuilt when they change.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.nouns import Chunk, Hit, write_jsonl
from raft_errors import BadInput
from retrieval.index.faiss_index import Index, build_index, open_index
from retrieval.index.files import file_sha256
from retrieval.stores.generations import current_generation, publish_generation
from retrieval.stores.vector_store import Where, check_addition, check_queries, check_where, matches, payload

VECTORS, PAYLOAD, MANIFEST = "vectors.npy", "payload.jsonl", "store.json"


class FaissStore:
    """A `VectorStore` in a folder.

    Args:
        root: the folder; the first `save` creates it.
        embedder: `EmbedderInfo.to_dict()` of the model whose vectors the store holds.
        kind: as in `build_index`.
        target_recall: as in `build_index`.
        mmap: leave saved vectors on disk.

    Raises:
        BadInput: the folder holds vectors of another embedder, or is damaged.
    """

    def __init__(
        self,
        root: Path,
        *,
        embedder: Mapping[str, Any],
        kind: str = "auto",
        target_recall: float = 0.97,
        mmap: bool = False,
    ) -> None:
        self._root, self._embedder = Path(root), dict(embedder)
        self._kind, self._target_recall = kind, target_recall
        self._rows: dict[str, dict[str, Any]] = {}
        self._vectors = np.empty((0, int(embedder["dim"])), dtype=np.float32)
        self._index: Index | None = None
        generation = current_generation(self._root)
        if generation is not None and _checked_count(generation):
            self._index = open_index(generation, expect_embedder=self.embedder_digest, mmap=mmap)
            lines = (generation / PAYLOAD).read_text(encoding="utf-8").rstrip("\n").split("\n")
            self._rows = {row["id"]: row for row in map(json.loads, lines)}
            self._vectors = np.load(generation / VECTORS, mmap_mode="r" if mmap else None, allow_pickle=False)

    @property
    def embedder_digest(self) -> str:
        """Of the model that made the vectors."""
        return str(self._embedder["digest"])

    @property
    def chunk_ids(self) -> list[str]:
        """All ids, sorted."""
        return list(self._rows)

    def add(self, chunks: Sequence[Chunk], vectors: np.ndarray) -> None:
        """Adds float32 [n, dim] unit vectors; an id that is there already is replaced."""
        vectors = check_addition(chunks, vectors, self._vectors.shape[1])
        new = {chunk.id: payload(chunk) for chunk in chunks}
        others = [i for i, chunk_id in enumerate(self._rows) if chunk_id not in new]
        rows = {**{k: v for k, v in self._rows.items() if k not in new}, **new}
        self._replace(rows, np.concatenate([self._vectors[others], vectors]))

    def delete(self, chunk_ids: Sequence[str]) -> int:
        """Removes chunks and returns how many there were; ids that are not there are passed over."""
        targets = set(chunk_ids) & set(self._rows)
        if targets:
            others = [i for i, chunk_id in enumerate(self._rows) if chunk_id not in targets]
            self._replace({k: v for k, v in self._rows.items() if k not in targets}, self._vectors[others])
        return len(targets)

    def delete_documents(self, document_ids: Sequence[str]) -> int:
        """Removes all chunks of the documents and returns how many there were."""
        documents = set(document_ids)
        return self.delete([k for k, row in self._rows.items() if row["document_id"] in documents])

    def search(self, vectors: np.ndarray, k: int, *, where: Where | None = None) -> list[list[Hit]]:
        """At most k hits for each query, best first, equal scores by chunk id."""
        check_where(where)
        vectors = check_queries(vectors, k, self._vectors.shape[1])
        if not self._rows:
            return [[] for _ in vectors]
        if self._index is None:
            with tempfile.TemporaryDirectory() as place:
                self._build(Path(place))
                self._index = open_index(Path(place), expect_embedder=None)
        allowed = None if where is None else [k for k, row in self._rows.items() if matches(row, where)]
        return self._index.search(vectors, k, allowed=allowed)

    def stats(self) -> dict[str, Any]:
        """`chunks`, `documents`, `dim`, `kind`, `embedder`, `generation`."""
        generation = current_generation(self._root)
        return {
            "chunks": len(self._rows),
            "documents": len({row["document_id"] for row in self._rows.values()}),
            "dim": int(self._vectors.shape[1]),
            "kind": self._index.manifest["kind"] if self._index else self._kind,
            "embedder": self.embedder_digest,
            "generation": generation.name if generation else None,
        }

    def save(self) -> None:
        """Publishes what the store holds as a new generation."""
        generation = publish_generation(self._root, self._write)
        if self._rows:
            self._index = open_index(generation, expect_embedder=self.embedder_digest)

    def _write(self, folder: Path) -> None:
        np.save(folder / VECTORS, self._vectors, allow_pickle=False)
        write_jsonl(folder / PAYLOAD, self._rows.values())
        sums = {name: file_sha256(folder / name) for name in (VECTORS, PAYLOAD)}
        (folder / MANIFEST).write_text(json.dumps({"chunks": len(self._rows), "sha256": sums}, indent=1) + "\n")
        if self._rows:
            self._build(folder)

    def _build(self, folder: Path) -> None:
        build_index(
            self._vectors,
            list(self._rows),
            folder,
            embedder=self._embedder,
            kind=self._kind,  # type: ignore[arg-type]
            target_recall=self._target_recall,
        )

    def _replace(self, rows: dict[str, dict[str, Any]], vectors: np.ndarray) -> None:
        """Replaces the contents, in id order."""
        ids = list(rows)
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self._rows = {ids[i]: rows[ids[i]] for i in order}
        self._vectors = np.ascontiguousarray(vectors[order])
        self._index = None


def _checked_count(generation: Path) -> int:
    """How many chunks the generation holds, after checking its files against their sums."""
    try:
        manifest = json.loads((generation / MANIFEST).read_text(encoding="utf-8"))
        whole = all(file_sha256(generation / name) == digest for name, digest in manifest["sha256"].items())
        count = int(manifest["chunks"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole, count = False, 0
    if not whole:
        raise BadInput(
            f"{generation} is damaged: a file is missing, truncated or altered",
            expected=f"the files listed in {MANIFEST}, with their sha256",
            do="build the store again from its documents",
        )
    return count
