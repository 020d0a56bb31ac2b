"""The one place that opens a retriever, as the section `retrieval` says.

Questions, records, evaluation, the gate, `raft search` and `raft ask` all search through it, so that a model is trained
for the retriever that will serve it. Questions alone go without the reranker: they are checked for being findable, and
their scores must be those of the first search.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data.nouns import Chunk, ItemCache, read_jsonl
from tasks.runtime.adapted import adapted, choice_of
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
    models: Mapping[str, ModelFolder | None],
    *,
    adapt: StageFiles | None = None,
    reranked: bool = True,
    device: str = "auto",
    queries: ItemCache | None = None,
    interactive: bool = False,
) -> Retriever:
    """A `Retriever` over the published index, or over the configured store in its place.

    Queries are embedded, and pairs read, in the precision that the index was built with.

    Args:
        models: by role: `embedder`, and `reranker` where the section names one.
        adapt: what was fitted to the domain and kept: models that take the place of these, the weights of the fusion,
            and whether reranking is worth its time. `index` must hold the vectors of the embedder that was kept.
        reranked: False leaves the reranker out: the first search alone, with its own scores.
        queries: keeps the vectors of queries and the scores of pairs, for a stage that repeats most of them after a
            change.
        interactive: for somebody who waits for one question: its vector may differ from a stage's in the last bits.
    """
    from retrieval.index.faiss_index import Index, open_index
    from retrieval.search import Retriever
    from retrieval.stores.vector_store import VectorStore

    chunks = list(read_jsonl(chunk.path("chunks.jsonl"), Chunk))
    choice = choice_of(adapt)
    vectors: Index | VectorStore | None = None
    model = None
    precision = read_json(index.path("index.json"))["embedder"]["precision"]
    if config.mode != "lexical":
        embedder = adapted(adapt, "embedder") or models["embedder"]
        assert embedder is not None
        model = load_embedder(embedder, device=device, precision=precision, interactive=interactive)
        if config.store is None:
            vectors = open_index(index.folder, expect_embedder=model.info.digest)
        else:
            vectors = open_vector_store(config.store, model.info.to_dict())
    reranker = None
    if reranked and config.rerank is not None and choice.get("rerank", True):
        from retrieval.rerank import Reranker

        files = adapted(adapt, "reranker") or models["reranker"]
        assert files is not None
        reranker = Reranker.load(files.folder, device=device, precision=precision)
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
        lexical_share=choice.get("lexical_share", 0.5),
    )


def rerank_figures(retriever: Retriever) -> dict[str, Any]:
    """What reranking has cost so far; empty where there is no reranker.

    Returns:
        candidates: hits read a question; pairs, computed: asked for, and not taken from the cache;
        seconds_per_question: as measured on what was computed, None where nothing was.
    """
    effort = getattr(retriever.reranker, "effort", None)
    if effort is None:
        return {}
    a_pair = effort.seconds_per_pair
    return {
        "candidates": retriever.rerank_depth,
        "pairs": effort.pairs,
        "computed": effort.computed,
        "seconds_per_question": None if a_pair is None else round(a_pair * retriever.rerank_depth, 4),
    }


def _columns(chunk: StageFiles) -> dict[str, dict[str, Any]] | None:
    """Document id -> the columns of its row, where the corpus has rows of tables."""
    has_columns = any(entry.path == "columns.json" for entry in chunk.files)
    return read_json(chunk.path("columns.json")) if has_columns else None
