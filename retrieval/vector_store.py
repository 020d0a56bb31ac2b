"""What the pipeline asks of any vector store, and the small filter language that all of them understand."""

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


class VectorStore(Protocol):
    """Vectors under chunk ids, with enough of the chunk to filter by.

    A store serves one embedder: vectors of two models are never mixed. Changes are seen by `search` at once and by
    other readers after `save`.
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


def payload(chunk: Chunk) -> dict[str, Any]:
    """What a store keeps of a chunk."""
    return {"id": chunk.id, **{field: getattr(chunk, field) for field in FIELDS}}


def matches(row: Mapping[str, Any], where: Where) -> bool:
    """Whether a payload satisfies the filter."""
    return all(row[f] in v if isinstance(v, (list, tuple, set, frozenset)) else row[f] == v for f, v in where.items())


def check_where(where: Where | None) -> None:
    """Raises BadInput for a field that stores do not keep."""
    for field in where or {}:
        if field not in FIELDS:
            raise BadInput(f"Filter on unknown field {field!r}", expected=f"one of {', '.join(FIELDS)}", do="rename it")
