"""A LanceDB table as the vector store: embedded, versioned, on a disk or on object storage (extra `lancedb`).

Every change is a new version of the table at once, so `save` has nothing to do. Search is exact unless the team has
built an index on the table.
"""

from __future__ import annotations

import json
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

_SPARE = 8  # rows fetched beyond k, so that the id decides ties at the border


class LanceStore:
    """A `VectorStore` in a LanceDB table.

    Args:
        uri: folder, or object storage address that LanceDB knows.
        embedder: `EmbedderInfo.to_dict()` of the model whose vectors the store holds.
        table: created if missing.
        create: False if a missing table is an error.
    """

    def __init__(self, uri: str, *, embedder: Mapping[str, Any], table: str = "chunks", create: bool = True) -> None:
        try:
            import lancedb
            import pyarrow as pa
        except ImportError as error:
            raise BadInput("LanceDB is not installed", do="pip install 'jora-raft[lancedb]'") from error
        self._dim, self._digest = int(embedder["dim"]), str(embedder["digest"])
        self._schema = pa.schema(
            [
                pa.field("id", pa.string()),
                pa.field("document_id", pa.string()),
                pa.field("source", pa.string()),
                pa.field("title", pa.string()),
                pa.field("page", pa.int64()),
                pa.field("vector", pa.list_(pa.float32(), self._dim)),
            ],
            metadata={"raft": json.dumps({"embedder": dict(embedder)}, sort_keys=True)},
        )
        database: Any = lancedb.connect(str(uri))
        try:
            self._table = database.open_table(table)
        except (ValueError, FileNotFoundError):  # LanceDB says either for a table that is not there
            if not create:
                raise not_there(f"table {table} in {uri}", database.table_names()) from None
            self._table = database.create_table(table, schema=self._schema, exist_ok=True)
        notes = json.loads((self._table.schema.metadata or {}).get(b"raft", b"{}"))
        check_embedder(str(notes.get("embedder", {}).get("digest", "")), self._digest, f"Table {table} in {uri}")

    @property
    def embedder_digest(self) -> str:
        """Of the model that made the vectors."""
        return self._digest

    @property
    def chunk_ids(self) -> list[str]:
        """All ids, sorted."""
        return sorted(self._column("id"))

    def add(self, chunks: Sequence[Chunk], vectors: np.ndarray) -> None:
        """Adds float32 [n, dim] unit vectors; an id that is there already is replaced."""
        import pyarrow as pa

        vectors = check_addition(chunks, vectors, self._dim)
        if not chunks:
            return
        rows = [payload(chunk) for chunk in chunks]
        columns = [pa.array([row[f.name] for row in rows], f.type) for f in self._schema if f.name != "vector"]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self._dim)
        new = pa.Table.from_arrays([*columns, flat], schema=self._schema)
        self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(new)

    def delete(self, chunk_ids: Sequence[str]) -> int:
        """Removes chunks and returns how many there were; ids that are not there are passed over."""
        return self._delete("id", chunk_ids)

    def delete_documents(self, document_ids: Sequence[str]) -> int:
        """Removes all chunks of the documents and returns how many there were."""
        return self._delete("document_id", document_ids)

    def search(self, vectors: np.ndarray, k: int, *, where: Where | None = None) -> list[list[Hit]]:
        """At most k hits for each query, best first, equal scores by chunk id."""
        check_where(where)
        vectors = check_queries(vectors, k, self._dim)
        rankings = []
        for vector in vectors:
            query = self._table.search(vector).distance_type("dot").limit(k + _SPARE).select(["id", "vector"])
            if where:
                query = query.where(_sql(where), prefilter=True)
            rows = query.to_arrow()
            near = rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, self._dim)
            rankings.append(best_first(vector, rows["id"].to_pylist(), near, k))
        return rankings

    def stats(self) -> dict[str, Any]:
        """`chunks`, `documents`, `dim`, `kind`, `embedder`, `version` of the table."""
        return {
            "chunks": self._table.count_rows(),
            "documents": len(set(self._column("document_id"))),
            "dim": self._dim,
            "kind": "lancedb",
            "embedder": self._digest,
            "version": self._table.version,
        }

    def save(self) -> None:
        """Nothing to do: each change was a durable version of the table."""

    def _column(self, name: str) -> list[str]:
        count = self._table.count_rows()
        return self._table.search().select([name]).limit(count).to_arrow()[name].to_pylist() if count else []

    def _delete(self, field: str, values: Sequence[str]) -> int:
        before = self._table.count_rows()
        for begin in range(0, len(values), 1000):
            self._table.delete(_sql({field: list(values[begin : begin + 1000])}))
        return before - self._table.count_rows()


def _sql(where: Where) -> str:
    parts = []
    for field, value in where.items():
        values = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
        options = [f"{field} = {_literal(v)}" for v in values if v is not None]
        options += [f"{field} IS NULL"] if None in values else []
        parts.append(f"({' OR '.join(options) or 'false'})")
    return " AND ".join(parts)


def _literal(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"
