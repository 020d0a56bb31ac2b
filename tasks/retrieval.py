"""The section `retrieval`, which every stage that searches shares: how passages are found, and in which store.

`tasks.runtime.retriever` opens what is set here.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import field_validator

from retrieval.mode import DEFAULT_MODE, Mode
from tasks.build.section import Section, setting
from tasks.inputs.model_catalog import DEFAULT_RERANKER

Value = str | int | float | bool


class VectorStoreConfig(Section):
    """A vector store that holds the run's chunks; only its kind and collection count for what was made with it."""

    kind: Literal["faiss", "lancedb", "qdrant"] = setting(..., "What it is")
    at: str = setting(
        ...,
        "Folder, or address as the store's client knows it; a key is taken from QDRANT_API_KEY or LANCEDB_API_KEY",
        path=True,
        result=False,
        min_length=1,
    )
    collection: str = setting("chunks", "Collection of Qdrant, table of LanceDB", min_length=1)

    @field_validator("at")
    @classmethod
    def _no_secret(cls, at: str) -> str:
        parts = urlsplit(at)
        if parts.username or parts.password or "api_key" in parts.query:
            raise ValueError("it holds a password or key: put that into the environment")
        return at


class RetrievalConfig(Section):
    """How passages are found, for training and serving alike."""

    mode: Mode = setting(
        DEFAULT_MODE, "hybrid = vectors and words (BM25), fused by rank; dense = vectors alone; lexical = words alone"
    )
    language: str = setting(
        "english",
        "Language whose stemmer and stop words BM25 uses (a Snowball language), or auto; english gives way to the "
        "language of the corpus as well",
    )
    where: dict[str, Value | tuple[Value, ...]] | None = setting(
        None,
        "Only passages that pass this filter are found, e.g. {source: guides/*}; by source, title, page, document_id, "
        "or a column of a table; null = all",
    )
    store: VectorStoreConfig | None = setting(
        None,
        "A vector store of yours that is searched in place of the run's index (kind, at, collection); null = the index",
    )
    rerank: str | None = setting(
        None,
        f"Cross-encoder that orders the first hits anew, wherever passages are found: a folder or a Hub id, such as "
        f"{DEFAULT_RERANKER}; auto = that one, where validation questions show that it helps; null = none",
        path="or name",
        result="auto",
    )
    rerank_revision: str | None = setting(
        None, "Commit, tag or branch of the cross-encoder on the Hub; none = the pinned one", result=False
    )
    rerank_seconds: float = setting(
        1.0, "Under auto: longest time that reranking may take a question", unit="seconds", gt=0, le=60
    )
    weights: Literal["equal", "measured"] = setting(
        "equal",
        "Of BM25 and vectors in hybrid search; measured = as validation questions show, equal where they are too few",
    )
    rerank_depth: int = setting(20, "Hits that the cross-encoder reads", unit="passages", ge=2, le=1000)

    @property
    def reranker(self) -> str:
        """The cross-encoder's name."""
        return DEFAULT_RERANKER if self.rerank in (None, "auto") else self.rerank

    @property
    def bm25_language(self) -> str:
        """The language as `retrieval.lexical` takes it; nobody means English for a corpus that is in another one."""
        return "auto" if self.language == "english" else self.language
