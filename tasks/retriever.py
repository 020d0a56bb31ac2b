"""Opens the retriever that `embed` and `index` left: the same one for questions, records, search and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.nouns import Chunk, read_jsonl
from tasks.embed import calibration_file
from tasks.models import ModelFiles
from tasks.store import Manifest, read_json

if TYPE_CHECKING:
    from retrieval.search import Retriever


def open_retriever(index: Manifest, chunk: Manifest, embedder: ModelFiles, *, device: str = "auto") -> Retriever:
    """A `Retriever` over the published index; queries are embedded in the precision the index was made with."""
    from retrieval.embedding import Embedder
    from retrieval.index import open_index
    from retrieval.search import Retriever

    chunks = list(read_jsonl(chunk.path("chunks.jsonl"), Chunk))
    made_by = read_json(index.path("index.json"))["embedder"]
    model = Embedder.load(
        embedder.folder, device=device, precision=made_by["precision"], calibration=calibration_file()
    )
    return Retriever(open_index(index.folder, expect_embedder=model.info.digest), model, chunks)
