"""Documents, passages and questions of a set as they lie under the shared data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.chunking.chunks import ChunkOptions, chunk_documents
from data.loading import LoadOptions, load_corpus
from data.nouns import Chunk, Document, digest, text_sha256

LABELS = {"SUPPORT": "support", "CONTRADICT": "contradict"}
"""SciFact's, as they are answered."""


def read_corpus(
    path: Path, tokens: int | None = None, tokenizer: Path | None = None
) -> tuple[list[Chunk], list[Document]]:
    """Every row as a document of one chunk, or cut to chunks of so many `tokens` of the tokenizer; of a folder every
    file, as the pipeline loads it."""
    if path.is_dir():
        documents = load_corpus([str(path)], options=LoadOptions(workers=1)).documents
        chunks = [_whole(document) for document in documents]
    else:
        chunks, documents = _rows(path)
    if tokens is None or tokenizer is None:
        return chunks, documents
    return chunk_documents(documents, tokenizer, options=ChunkOptions(max_tokens=tokens)), documents


def _rows(path: Path) -> tuple[list[Chunk], list[Document]]:
    documents = []
    for row in read(path):
        text, key, title = row["text"], digest(row["id"]), row.get("title", "")
        more = {"sentences": row["sentences"]} if "sentences" in row else {}
        documents.append(
            Document(key, row["id"], title, text, "text/plain", text_sha256(text), metadata={"id": row["id"], **more})
        )
    return [_whole(document) for document in documents], documents


def _whole(document: Document) -> Chunk:
    key, text = document.id, document.text
    chunk_id = digest(key, "0", text)
    return Chunk(chunk_id, key, 0, text, 0, len(text), 0, text_sha256(text), document.source, document.title)


def read_questions(name: str, folder: Path) -> list[dict[str, Any]]:
    """The question rows of a set: columns as `data.questions.files` knows them, and those by which
    `literature/parts.py` places a row."""
    return _READERS.get(name, _plain)(folder)


def _plain(folder: Path) -> list[dict[str, Any]]:
    return read(folder / "questions.jsonl")


def _torch_hub(folder: Path) -> list[dict[str, Any]]:
    """Gorilla's questions, each with its official side; the answer is the call as the API's description has it."""
    columns = ("id", "question", "answers", "gold_doc_ids")
    return [
        {**{column: row[column] for column in columns}, "split": side}
        for side in ("train", "eval")
        for row in read(folder / f"{side}.jsonl")
    ]


def _claims(folder: Path) -> list[dict[str, Any]]:
    """SciFact's labelled claims: the verdict is the answer, evidence sentences are the quotes; a claim on which no
    abstract of the corpus has evidence is one to be refused."""
    sentences = {row["id"]: row["sentences"] for row in read(folder / "corpus.jsonl.gz")}
    rows = []
    for row in read(folder / "claims_labelled.jsonl"):
        evidence: Sequence[dict[str, Any]] = row["evidence"]
        rows.append(
            {
                "id": row["id"],
                "question": row["claim"],
                "answers": list(dict.fromkeys(LABELS[e["label"]] for e in evidence)),
                "answerable": bool(evidence),
                "gold_doc_ids": list(dict.fromkeys(e["doc_id"] for e in evidence)),
                "quotes": [sentences[e["doc_id"]][number].strip() for e in evidence for number in e["sentences"]],
            }
        )
    return rows


_READERS = {"apibench_torchhub": _torch_hub, "scifact": _claims}


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, plain or gzipped."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.decode("utf-8").split("\n") if line]
