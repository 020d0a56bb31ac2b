"""Documents, passages and questions of a set as they lie under the shared data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from data.chunking.chunks import ChunkOptions, chunk_documents
from data.nouns import Chunk, Document, digest, text_sha256


def read_corpus(
    path: Path, tokens: int | None = None, tokenizer: Path | None = None
) -> tuple[list[Chunk], list[Document]]:
    """Every row as a document of one chunk, or cut to chunks of so many `tokens` of the tokenizer."""
    chunks, documents = [], []
    for row in read(path):
        text, key, title = row["text"], digest(row["id"]), row.get("title", "")
        more = {"sentences": row["sentences"]} if "sentences" in row else {}
        documents.append(
            Document(key, row["id"], title, text, "text/plain", text_sha256(text), metadata={"id": row["id"], **more})
        )
        chunks.append(Chunk(digest(key, "0", text), key, 0, text, 0, len(text), 0, text_sha256(text), row["id"], title))
    if tokens is None or tokenizer is None:
        return chunks, documents
    return chunk_documents(documents, tokenizer, options=ChunkOptions(max_tokens=tokens)), documents


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, plain or gzipped."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.decode("utf-8").split("\n") if line]
