"""The work of `chunk`: documents into spans of at most so many tokens, with offsets and heading paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.nouns import Document, read_jsonl, write_jsonl
from data.text.counts import counted
from tasks.runtime.folders import ModelFolder, StageFiles, write_json
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from tasks.chunk import ChunkConfig


def build(
    bench: Bench, config: ChunkConfig, ingest: StageFiles, *, embedder: ModelFolder, base: ModelFolder | None = None
) -> Outcome:
    """Writes chunks.jsonl, and columns.json where rows of tables have columns besides text, title and id."""
    from data.chunking.chunks import ChunkOptions, chunk_documents

    documents = list(read_jsonl(ingest.path("documents.jsonl"), Document))
    chunks = chunk_documents(
        documents,
        embedder.folder / "tokenizer.json",
        options=ChunkOptions(**config.model_dump()),
        context_tokenizer_file=base.folder / "tokenizer.json" if base else None,
        cache=bench.cache,
        progress=bench.progress,
    )
    write_jsonl(bench.out / "chunks.jsonl", chunks)
    columns = {d.id: d.metadata["fields"] for d in documents if d.metadata.get("fields")}
    if columns:  # what `retrieval.where` can filter by
        write_json(bench.out / "columns.json", columns)
    tokens = sum(chunk.tokens for chunk in chunks)
    return Outcome(
        f"{counted(len(documents), 'document')} → {counted(len(chunks), 'chunk')}, {counted(tokens, 'token')}",
        {"documents": len(documents), "chunks": len(chunks), "tokens": tokens},
    )
