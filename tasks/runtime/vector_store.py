"""The section `retrieval.store`: a team's own vector store, opened in place of the run's index.

A store is read here and never written: the team decides who fills it, and when. Keys come from the environment.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.text.urls import text_without_secrets, without_secrets
from raft_errors import BadInput

if TYPE_CHECKING:
    from retrieval.stores.vector_store import VectorStore
    from tasks.retrieval import VectorStoreConfig


def open_vector_store(config: VectorStoreConfig, embedder: Mapping[str, Any]) -> VectorStore:
    """The store as it is.

    Args:
        embedder: `EmbedderInfo.to_dict()` of the model whose vectors it must hold.

    Raises:
        BadInput: it does not exist, cannot be reached, holds vectors of another model, or its extra is not installed.
    """
    if config.kind == "faiss":
        from retrieval.stores.faiss_store import FaissStore

        if not Path(config.at).is_dir():
            raise _not_there(config)
        return FaissStore(Path(config.at), embedder=embedder, mmap=True)
    try:
        if config.kind == "lancedb":
            from retrieval.stores.lance_store import LanceStore

            return LanceStore(config.at, embedder=embedder, table=config.collection, create=False)
        from retrieval.stores.qdrant_store import QdrantStore

        return QdrantStore(_qdrant(config.at), embedder=embedder, collection=config.collection, create=False)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001  clients raise what their transport raises
        raise BadInput(
            f"retrieval.store: {config.kind} at {without_secrets(config.at)} cannot be opened "
            f"({type(error).__name__}: {text_without_secrets(str(error))})",
            expected="a store that can be reached",
            do="start it, correct retrieval.store.at, or set its key in the environment",
        ) from None  # the cause may quote the address with its secrets


def _not_there(config: VectorStoreConfig) -> BadInput:
    return BadInput(
        f"retrieval.store: there is no {config.kind} store at {without_secrets(config.at)}",
        expected="a store that holds the run's chunks",
        do="correct retrieval.store.at, or fill it first: see docs/vector_stores.md",
    )


@functools.cache
def _qdrant(at: str) -> Any:
    """One client per process, since an embedded store allows only one."""
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise BadInput("The Qdrant client is not installed", do="pip install 'jora-raft[qdrant]'") from error
    if "://" in at:
        return QdrantClient(url=at, api_key=os.environ.get("QDRANT_API_KEY"))
    if not Path(at).is_dir():
        raise BadInput(
            f"retrieval.store: there is no folder {at}",
            expected="the folder of an embedded Qdrant, or the address of a server",
            do="correct retrieval.store.at",
        )
    return QdrantClient(path=at)
