"""Stage `chunk`: documents into spans of at most so many tokens of the embedder, with offsets and heading paths."""

from __future__ import annotations

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.chunk import build


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


STAGE = Stage(
    "chunk",
    ChunkConfig,
    build,
    help="Cut the documents into chunks.",
    models=models_for,
)
