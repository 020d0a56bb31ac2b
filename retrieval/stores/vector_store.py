"""What the pipeline asks of any vector store, and the small filter language that all of them understand.

FAISS in a folder is built in (`faiss_store`); LanceDB and Qdrant are optional (`lance_store`, `qdrant_store`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from data.nouns import Chunk, Hit
from raft_errors import BadInput

Where = Mapping[str, Any]
"""Field -> the value it must have, or a list of values it may have. All fields must match."""

FIELDS = ("document_id", "source", "title", "page")
"""Chunk fields that every store keeps beside a vector."""

_CHUNKS_A_CALL = 10_000


class VectorStore(Protocol):
    """Vectors under chunk ids, with enough of the chunk to filter by.

    A store serves one embedder: vectors of two models are never mixed. `search` sees changes at once, other readers
    after `save` at the latest.
    """

    @property
    def embedder_digest(self) -> str:
        """Of the model that made the vectors."""
        ...

    @property
    def chunk_ids(self) -> list[str]:
        """All ids, sorted."""
        ...

    def add(self, chunks: Sequence[Chunk], vectors: np.ndarray) -> None:
        """Adds float32 [n, dim] unit vectors; an id that is there already is replaced."""
        ...

    def delete(self, chunk_ids: Sequence[str]) -> int:
        """Removes chunks and returns how many there were; ids that are not there are passed over."""
        ...

    def delete_documents(self, document_ids: Sequence[str]) -> int:
        """Removes all chunks of the documents and returns how many there were."""
        ...

    def search(self, vectors: np.ndarray, k: int, *, where: Where | None = None) -> list[list[Hit]]:
        """At most k hits for each query, best first, equal scores by chunk id."""
        ...

    def stats(self) -> dict[str, Any]:
        """At least `chunks`, `documents`, `dim`, `kind` and `embedder`. JSON values."""
        ...

    def save(self) -> None:
        """Makes all changes durable and visible to other readers, at once."""
        ...


def best_first(query: np.ndarray, chunk_ids: Sequence[str], vectors: np.ndarray, k: int) -> list[Hit]:
    """Ranks the hits of a store, vectors float32 [hits, dim], by exact inner product and then by id.

    Each store rounds scores in its own way; computed here, the same vectors get the same score from every store.
    """
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    order = sorted(range(len(chunk_ids)), key=lambda i: (-scores[i], chunk_ids[i]))[:k]
    return [Hit(chunk_ids[i], round(float(scores[i]), 6), rank) for rank, i in enumerate(order, 1)]


def check_addition(chunks: Sequence[Chunk], vectors: np.ndarray, dim: int) -> np.ndarray:
    """The vectors as float32. Raises BadInput where shape, ids or numbers are wrong."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.shape != (len(chunks), dim):
        expected = f"[{len(chunks)}, {dim}]"
        raise BadInput(f"Vectors have shape {list(vectors.shape)}", expected=expected, do="embed the same chunks")
    if not np.isfinite(vectors).all():
        raise BadInput("Vectors to add are not finite", expected="finite numbers", do="embed again")
    if len({chunk.id for chunk in chunks}) != len(chunks):
        raise BadInput("A chunk id occurs twice", expected="distinct chunk ids", do="chunk the corpus again")
    return vectors


def check_queries(vectors: np.ndarray, k: int, dim: int) -> np.ndarray:
    """The query vectors as float32 [n, dim]. Raises BadInput where shape, numbers or k are wrong."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim or not np.isfinite(vectors).all():
        raise BadInput(f"Query vectors of shape {list(vectors.shape)}", expected=f"finite [n, {dim}]", do="embed again")
    if k < 1:
        raise BadInput(f"k is {k}", expected="at least 1", do="ask for one hit or more")
    return vectors


def not_there(name: str, others: Sequence[str]) -> BadInput:
    """The error for a missing collection or table; it names those that exist."""
    there = f"one of {', '.join(sorted(others))}" if others else "a store with vectors in it"
    return BadInput(f"There is no {name}", expected=there, do="correct the name, or fill the store first")


def bring_up_to_date(store: VectorStore, chunks: Sequence[Chunk], vectors: np.ndarray) -> tuple[int, int]:
    """Makes the store hold exactly the chunks, and returns how many were added and how many deleted.

    Ids depend on a chunk's text, so a chunk that is there already under its id is left alone.

    Args:
        vectors: float32 [chunks, dim] in their order; may be memory-mapped.
    """
    present = set(store.chunk_ids)
    surplus = sorted(present - {chunk.id for chunk in chunks})
    new = [place for place, chunk in enumerate(chunks) if chunk.id not in present]
    for begin in range(0, len(new), _CHUNKS_A_CALL):
        some = new[begin : begin + _CHUNKS_A_CALL]
        store.add([chunks[place] for place in some], vectors[some])
    if surplus:
        store.delete(surplus)
    store.save()
    return len(new), len(surplus)


def check_embedder(filled_by: str, digest: str, store: str) -> None:
    """Raises BadInput unless the store was filled by the wanted embedder."""
    if filled_by != digest:
        raise BadInput(
            f"{store} holds vectors of embedder {filled_by[:12] or 'unknown'}, not of {digest[:12]}",
            expected="one embedding model for a store",
            do="use another store for this embedder, or load the embedder that filled this one",
        )


def payload(chunk: Chunk) -> dict[str, Any]:
    """What a store keeps of a chunk."""
    return {"id": chunk.id, **{field: getattr(chunk, field) for field in FIELDS}}


def matches(row: Mapping[str, Any], where: Where) -> bool:
    """Whether a payload satisfies the filter."""
    return all(row[f] in v if isinstance(v, (list, tuple, set, frozenset)) else row[f] == v for f, v in where.items())


def check_where(where: Where | None, fields: Sequence[str] = FIELDS) -> None:
    """Raises BadInput for a field that is not one of `fields`."""
    for field in where or {}:
        if field not in fields:
            raise BadInput(f"Filter on unknown field {field!r}", expected=f"one of {', '.join(fields)}", do="rename it")
