"""The one place that opens a retriever, as the section `retrieval` says.

Questions, records, evaluation, `raft search` and `raft ask` all search through it, so that a model is trained for the
retriever that will serve it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.nouns import Chunk, ItemCache, read_jsonl
from tasks.runtime.embedder import load_embedder
from tasks.runtime.folders import ModelFolder, StageFiles, read_json
from tasks.runtime.vector_store import open_vector_store

if TYPE_CHECKING:
    from retrieval.search import Retriever
    from tasks.retrieval import RetrievalConfig


def open_retriever(
    config: RetrievalConfig,
    index: StageFiles,
    chunk: StageFiles,
    embedder: ModelFolder,
    *,
    device: str = "auto",
    queries: ItemCache | None = None,
) -> Retriever:
    """A `Retriever` over the published index, or over the configured store in its place.

    Queries are embedded in the precision that the index was built with.

    Args:
        queries: keeps the vectors of queries, for a stage that repeats most of them after a change.
    """
    from retrieval.index.faiss_index import Index, open_index
    from retrieval.search import Retriever
    from retrieval.stores.vector_store import VectorStore

    chunks = list(read_jsonl(chunk.path("chunks.jsonl"), Chunk))
    vectors: Index | VectorStore | None = None
    model = None
    if config.mode != "lexical":
        precision = read_json(index.path("index.json"))["embedder"]["precision"]
        model = load_embedder(embedder, device=device, precision=precision)
        if config.store is None:
            vectors = open_index(index.folder, expect_embedder=model.info.digest)
        else:
            vectors = open_vector_store(config.store, model.info.to_dict())
    reranker = None
    if config.rerank is not None:
        from retrieval.rerank import Reranker

        reranker = Reranker.load(Path(config.rerank), device=device)
    return Retriever(
        vectors,
        model,
        chunks,
        mode=config.mode,
        language=config.bm25_language,
        columns=_columns(chunk),
        where=config.where or None,
        reranker=reranker,
        rerank_depth=config.rerank_depth,
        query_cache=queries,
    )


def _columns(chunk: StageFiles) -> dict[str, dict[str, Any]] | None:
    """Document id -> the columns of its row, where the corpus has rows of tables."""
    has_columns = any(entry.path == "columns.json" for entry in chunk.files)
    return read_json(chunk.path("columns.json")) if has_columns else None
