"""Reads a folder of documents, queries and relevance judgements in the layout of BEIR, or of TREC qrels.

Each document becomes one chunk, since such sets are searched by document. Knows only the format; embeds nothing.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.nouns import Chunk, Document, Question, digest, text_sha256
from raft_errors import BadInput

_LAYOUT = "corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and qrels/test.tsv or qrels.tsv"

log = logging.getLogger("raft.retrieval")


@dataclass(frozen=True)
class JudgedSet:
    """Documents as chunks, the judged queries as questions, and `grades`: question id -> {chunk id: grade}."""

    chunks: list[Chunk]
    questions: list[Question]
    grades: dict[str, dict[str, int]]

    @property
    def documents(self) -> list[Document]:
        """The documents, for those who cut them into chunks of their own: a chunk's `document_id` is then judged."""
        return [Document(c.document_id, c.source, c.title, c.text, "text/plain", c.sha256) for c in self.chunks]


def read_judged_set(folder: Path, *, split: str = "test") -> JudgedSet:
    """The set in `folder`; files may be gzipped.

    Public sets hold documents without a word. No search can find them, so they are left out with the judgements about
    them, and the log says how many.

    Args:
        split: which judgements, where the folder has several (`qrels/<split>.tsv`, `qrels_<split>.tsv`).

    Raises:
        BadInput: a file is missing or damaged, a judged query or document does not exist, or nothing is judged.
    """
    folder = Path(folder)
    corpus = _find(folder, "documents", "corpus.jsonl")
    queries = _find(folder, "queries", "queries.jsonl", f"questions_{split}.jsonl", "questions.jsonl")
    qrels = _find(folder, "judgements", f"qrels/{split}.tsv", f"qrels_{split}.tsv", "qrels.tsv")
    chunks = {_id(row, corpus): _chunk(row, corpus) for row in _rows(corpus)}
    texts = {_id(row, queries): _text(row, queries, "text", "question", "query") for row in _rows(queries)}
    grades: dict[str, dict[str, int]] = {}
    about_empty = 0
    for number, (query, document, grade) in enumerate(_judgements(qrels), 1):
        if query not in texts or document not in chunks:
            name = f"query {query!r}" if query not in texts else f"document {document!r}"
            raise BadInput(
                f"{qrels}, judgement {number}: there is no {name}",
                expected=f"judgements about the queries of {queries.name} and the documents of {corpus.name}",
                do="use files of one set",
            )
        if chunks[document].text:
            grades.setdefault(query, {})[chunks[document].id] = grade
        elif grade > 0:
            about_empty += 1
    grades = {
        query: judgements for query, judgements in grades.items() if any(grade > 0 for grade in judgements.values())
    }
    if not grades:
        raise BadInput(f"{qrels} judges no document relevant", expected="at least one grade above 0")
    if empty := [name for name, chunk in chunks.items() if not chunk.text]:
        names = ", ".join(empty[:3]) + (", …" if len(empty) > 3 else "")
        words = "%s: %d of %d documents are empty (%s) and left out, with %d judgements that name one as relevant"
        log.warning(words, corpus, len(empty), len(chunks), names, about_empty)
    by_id = {chunk.id: chunk for chunk in chunks.values() if chunk.text}
    questions = [_question(query, texts[query], judgements, by_id) for query, judgements in grades.items()]
    return JudgedSet(list(by_id.values()), questions, grades)


def _find(folder: Path, what: str, *names: str) -> Path:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise BadInput(f"{folder} has no {what} ({', '.join(names)})", expected=_LAYOUT, do="give the folder of the set")


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            yield from (line for line in lines if line.strip())
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error})", expected="UTF-8 text, plain or gzipped") from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number}: not JSON ({error})", expected="one JSON object per line") from error
        if not isinstance(row, dict):
            raise BadInput(f"{path}, line {number}: a {type(row).__name__}", expected="one JSON object per line")
        yield row


def _judgements(path: Path) -> Iterator[tuple[str, str, int]]:
    """(query, document, grade) of BEIR's three columns with a header, or of TREC's four."""
    for number, line in enumerate(_lines(path), 1):
        parts = line.rstrip("\n").split("\t") if "\t" in line else line.split()
        if number == 1 and parts[-1] == "score":
            continue
        if len(parts) not in (3, 4) or not parts[-1].lstrip("-").isdigit():
            expected = "query, document, grade; or query, 0, document, grade"
            raise BadInput(f"{path}, line {number}: {line.strip()[:80]!r}", expected=expected, do="correct the line")
        yield parts[0], parts[-2], int(parts[-1])


def _id(row: Mapping[str, Any], path: Path) -> str:
    return _text(row, path, "_id", "id")


def _text(row: Mapping[str, Any], path: Path, *names: str) -> str:
    for name in names:
        if row.get(name) not in (None, ""):
            return str(row[name])
    raise BadInput(f"{path}: a row without {' or '.join(names)} ({str(dict(row))[:80]})", expected=_LAYOUT)


def _chunk(row: Mapping[str, Any], path: Path) -> Chunk:
    name = _id(row, path)
    fields = [row[field] for field in ("text", "title") if field in row]
    is_empty = bool(fields) and not any(str(value or "").strip() for value in fields)
    text = "" if is_empty else _text(row, path, "text", "title")
    return Chunk(
        id=digest(name, "0", text),
        document_id=digest(name),
        ordinal=0,
        text=text,
        start=0,
        end=len(text),
        tokens=0,
        sha256=text_sha256(text),
        source=name,
        title=str(row.get("title") or ""),
    )


def _question(query: str, text: str, grades: Mapping[str, int], chunks: Mapping[str, Chunk]) -> Question:
    gold = tuple(chunk for chunk, grade in grades.items() if grade > 0)
    return Question(query, text, "", gold, tuple(chunks[chunk].document_id for chunk in gold))
