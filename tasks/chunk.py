"""Stage `chunk`: documents into spans of at most so many tokens of the embedder, with offsets and heading paths."""

from __future__ import annotations

from data.nouns import Document, read_jsonl, write_jsonl
from tasks.build.section import Section, setting
from tasks.build.stage import Bench, Outcome, Stage
from tasks.inputs.models import ModelFiles
from tasks.store.store import Manifest, write_json


class ChunkConfig(Section):
    """How documents are cut."""

    max_tokens: int = setting(128, "Longest chunk, counted by the embedder's tokenizer", unit="tokens", ge=16, le=8192)
    overlap_tokens: int = setting(
        0, "Tokens repeated from the end of one chunk at the start of the next", unit="tokens", ge=0, le=4096
    )
    min_tokens: int = setting(16, "Smaller chunks are joined to a neighbour where both fit", unit="tokens", ge=0)
    max_context_tokens: int | None = setting(
        None, "Longest chunk, counted by the base model's tokenizer too; null = not counted", unit="tokens", ge=16
    )


def models_for(config: ChunkConfig) -> tuple[str, ...]:
    """The base model is needed only where its tokenizer counts."""
    return ("embedder",) if config.max_context_tokens is None else ("embedder", "base")


def build(
    bench: Bench, config: ChunkConfig, ingest: Manifest, embedder: ModelFiles, base: ModelFiles | None = None
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
        f"{len(documents)} documents → {len(chunks)} chunks, {tokens} tokens",
        {"documents": len(documents), "chunks": len(chunks), "tokens": tokens},
    )


STAGE = Stage(
    "chunk",
    ChunkConfig,
    build,
    inputs=("ingest",),
    models=models_for,
)
