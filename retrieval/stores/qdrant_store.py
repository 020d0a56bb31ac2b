"""A Qdrant collection as the vector store: a server, or embedded in this process (extra `qdrant`).

The caller makes the client, since it knows address and key. Every change is durable at once, so `save` has nothing to
do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.nouns import Chunk, Hit
from raft_errors import BadInput
from retrieval.stores.vector_store import (
    Where,
    best_first,
    check_addition,
    check_embedder,
    check_queries,
    check_where,
    not_there,
    payload,
)

_SPARE = 8  # points fetched beyond k, so that the id decides ties at the border
_POINTS_A_CALL = 512
_EMBEDDER = "raft_embedder"  # payload field: which model the vector comes from


class QdrantStore:
    """A `VectorStore` in a Qdrant collection.

    Args:
        client: a `qdrant_client.QdrantClient`; `QdrantClient(path=...)` runs embedded.
        embedder: `EmbedderInfo.to_dict()` of the model whose vectors the store holds.
        collection: created if missing.
        create: False if a missing collection is an error.
    """

    def __init__(
        self, client: Any, *, embedder: Mapping[str, Any], collection: str = "chunks", create: bool = True
    ) -> None:
        try:
            from qdrant_client import models
        except ImportError as error:
            raise BadInput("The Qdrant client is not installed", do="pip install 'jora-raft[qdrant]'") from error
        self._client, self._name, self._models = client, collection, models
        self._dim, self._digest = int(embedder["dim"]), str(embedder["digest"])
        if not client.collection_exists(collection):
            if not create:
                raise not_there(f"collection {collection}", [c.name for c in client.get_collections().collections])
            size = models.VectorParams(size=self._dim, distance=models.Distance.DOT)
            client.create_collection(collection, vectors_config=size)
        points, _ = client.scroll(collection, limit=1, with_payload=True)
        if points:
            check_embedder(str(points[0].payload.get(_EMBEDDER, "")), self._digest, f"Collection {collection}")

    @property
    def embedder_digest(self) -> str:
        """Of the model that made the vectors."""
        return self._digest

    @property
    def chunk_ids(self) -> list[str]:
        """All ids, sorted."""
        return sorted(row["id"] for row in self._payloads())

    def add(self, chunks: Sequence[Chunk], vectors: np.ndarray) -> None:
        """Adds float32 [n, dim] unit vectors; an id that is there already is replaced."""
        vectors = check_addition(chunks, vectors, self._dim)
        points = [
            self._models.PointStruct(
                id=int(chunk.id, 16), vector=vector.tolist(), payload={**payload(chunk), _EMBEDDER: self._digest}
            )
            for chunk, vector in zip(chunks, vectors)
        ]
        for begin in range(0, len(points), _POINTS_A_CALL):
            self._client.upsert(self._name, points[begin : begin + _POINTS_A_CALL], wait=True)

    def delete(self, chunk_ids: Sequence[str]) -> int:
        """Removes chunks and returns how many there were; ids that are not there are passed over."""
        return self._delete({"id": list(chunk_ids)})

    def delete_documents(self, document_ids: Sequence[str]) -> int:
        """Removes all chunks of the documents and returns how many there were."""
        return self._delete({"document_id": list(document_ids)})

    def search(self, vectors: np.ndarray, k: int, *, where: Where | None = None) -> list[list[Hit]]:
        """At most k hits for each query, best first, equal scores by chunk id."""
        check_where(where)
        rankings = []
        for vector in check_queries(vectors, k, self._dim):
            answer = self._client.query_points(
                self._name,
                query=vector.tolist(),
                query_filter=self._filter(where),
                limit=k + _SPARE,
                with_payload=["id"],
                with_vectors=True,
            )
            near = np.asarray([p.vector for p in answer.points], dtype=np.float32).reshape(-1, self._dim)
            rankings.append(best_first(vector, [p.payload["id"] for p in answer.points], near, k))
        return rankings

    def stats(self) -> dict[str, Any]:
        """`chunks`, `documents`, `dim`, `kind`, `embedder`."""
        rows = list(self._payloads())
        return {
            "chunks": len(rows),
            "documents": len({row["document_id"] for row in rows}),
            "dim": self._dim,
            "kind": "qdrant",
            "embedder": self._digest,
        }

    def save(self) -> None:
        """Nothing to do: each change was durable when it returned."""

    def _payloads(self):
        offset = None
        while True:
            points, offset = self._client.scroll(self._name, limit=1000, offset=offset, with_payload=True)
            yield from (point.payload for point in points)
            if offset is None:
                return

    def _delete(self, where: Where) -> int:
        condition = self._filter(where)
        count = self._client.count(self._name, count_filter=condition, exact=True).count
        if count:
            self._client.delete(self._name, self._models.FilterSelector(filter=condition), wait=True)
        return count

    def _filter(self, where: Where | None) -> Any:
        if not where:
            return None
        models, must = self._models, []
        for field, value in where.items():
            values = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
            options: list[Any] = []
            if present := [v for v in values if v is not None]:
                options.append(models.FieldCondition(key=field, match=models.MatchAny(any=present)))
            if None in values:
                options.append(models.IsNullCondition(is_null=models.PayloadField(key=field)))
            none_of_all = models.HasIdCondition(has_id=[])
            must.append(models.Filter(should=options or [none_of_all]))
        return models.Filter(must=must)
