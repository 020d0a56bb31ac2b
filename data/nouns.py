"""The nouns that flow between stages: Document, Chunk, Question, Record, and their JSON Lines form.

Frozen values only. Ids are content-derived, so the same input gives the same ids on every machine. Nothing here reads
a user's document or talks to a model.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from raft_errors import BadInput

T = TypeVar("T", bound="Noun")


def digest(*parts: str) -> str:
    """16 hex digits (63 bits, so that it fits a signed FAISS id) of blake2b over the parts, NUL-separated."""
    raw = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return f"{int.from_bytes(raw, 'big') & (2**63 - 1):016x}"


def text_sha256(text: str) -> str:
    """Hex sha256 of the UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Noun:
    """JSON form shared by the frozen dataclasses below: field names as keys, tuples as lists."""

    def to_dict(self) -> dict[str, Any]:
        return {f.name: _thawed(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls: type[T], row: Mapping[str, Any]) -> T:
        names = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{k: _freeze(v) if k != "metadata" else dict(v) for k, v in row.items() if k in names})


def _thawed(value: Any) -> Any:
    """As `dataclasses.asdict` gives it, at a third of its time: values that cannot change are not copied."""
    if isinstance(value, (str, int, float, type(None))):
        return value
    if isinstance(value, dict):
        return {key: _thawed(v) for key, v in value.items()}
    if isinstance(value, Noun):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return type(value)([_thawed(v) for v in value])
    return copy.deepcopy(value)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Document(Noun):
    """One loaded source.

    Attributes:
        id: `digest(source)`.
        source: canonical URI: path relative to the corpus folder given by the user (POSIX slashes), `pydoc:topic`,
            `file.jsonl#row`, or a remote URL.
        title: shown in passages and citations.
        text: cleaned text; every offset in the project counts characters of this string.
        media_type: e.g. `text/markdown`, `application/pdf`.
        sha256: of `text`.
        pages: start offset of each page (page 1 first); empty where the format has no pages.
        headings: (start offset, level 1.., heading text), in order.
        metadata: loader name, encoding guess, language, user fields. JSON values only.
    """

    id: str
    source: str
    title: str
    text: str
    media_type: str
    sha256: str
    pages: tuple[int, ...] = ()
    headings: tuple[tuple[int, int, str], ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk(Noun):
    """A span of a document: `text == document.text[start:end]`.

    Attributes:
        id: `digest(document_id, str(ordinal), text)`; `int(id, 16)` is its FAISS id.
        page: 1-based page on which the span starts, or None.
        heading_path: headings above the span, outermost first.
        tokens: length of `text` in the embedder's tokenizer, special tokens not counted.
        source, title: of the document, repeated so that a citation needs no second look-up.
    """

    id: str
    document_id: str
    ordinal: int
    text: str
    start: int
    end: int
    tokens: int
    sha256: str
    source: str
    title: str
    page: int | None = None
    heading_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quote(Noun):
    """Words that stand verbatim in the chunk: `text in chunk.text`."""

    chunk_id: str
    text: str


FEEDBACK: Final = "feedback"
"""Origin of a question that somebody asked an adapter and somebody else accepted with its answer: trains, and is never
part of an exam."""


@dataclass(frozen=True)
class Question(Noun):
    """A question with its checked answer.

    Attributes:
        id: `digest(question, *gold_chunk_ids)`, of feedback with its origin behind them.
        answer: the final answer, short where the source allows; `answers` holds accepted alternatives (first = answer).
        reasoning: the chain of reasoning without the quotes' markup; may be empty.
        quotes: at least one for an answerable question.
        origin: `user`, `teacher:<model>` or `feedback`.
        document_ids: documents of the gold chunks (the split is by document).
        difficulty: rank (1-based) at which the retriever finds the first gold chunk, None if not within its depth.
    """

    id: str
    question: str
    answer: str
    gold_chunk_ids: tuple[str, ...]
    document_ids: tuple[str, ...]
    quotes: tuple[Quote, ...] = ()
    reasoning: str = ""
    answers: tuple[str, ...] = ()
    kind: str = "factoid"
    origin: str = "user"
    prompt_version: str = ""
    difficulty: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def examinable(self) -> bool:
        """Whether it may stand in validation or test, and have a say in which documents do."""
        return self.origin != FEEDBACK

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Question:
        row = dict(row)
        row["quotes"] = [Quote.from_dict(q) if isinstance(q, Mapping) else q for q in row.get("quotes", ())]
        return super().from_dict(row)


@dataclass(frozen=True)
class Record(Noun):
    """One RAFT training example in Alpaca form, and as a chat (`messages`).

    Attributes:
        instruction: the task sentence and the question.
        input: the numbered, titled passages.
        output: reasoning with quotes and citations, then the final answer.
        metadata: record_id, question_id, split, template_version, passages [{chunk_id, role oracle|distractor,
            mined_by, rank, score}] in shown order, oracle_ids, distractor_ids, oracle_present,
            oracle_positions (1-based), label (answer|refuse), answers (accepted final answers), quotes.
            JSON values only.
    """

    instruction: str
    input: str
    output: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The chat that is to be answered: one turn, the input on the line after the instruction.

        The one place where the two are joined. Training, evaluation, `ask`, serving and the files of other trainers
        have it from here; LLaMA-Factory joins a triple in the same way.
        """
        words = f"{self.instruction}\n{self.input}" if self.input else self.instruction
        return [{"role": "user", "content": words}]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The whole chat, the answer as its last turn: what the engine trains on."""
        return [*self.prompt, {"role": "assistant", "content": self.output}]


@dataclass(frozen=True)
class Hit(Noun):
    """One search result; rank is 1-based; higher score is better."""

    chunk_id: str
    score: float
    rank: int


Search = Callable[[Sequence[str], int], "list[list[Hit]]"]
"""`search(queries, k)` returns, for each query, at most k hits in rank order."""


class ItemCache(Protocol):
    """Keyed bytes that outlive a killed stage. `put_many` is one atomic commit."""

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]: ...

    def put_many(self, items: Mapping[str, bytes]) -> None: ...


class MemoryCache:
    """An `ItemCache` for tests and one-off use."""

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        return {k: self.items[k] for k in keys if k in self.items}

    def put_many(self, items: Mapping[str, bytes]) -> None:
        self.items.update(items)


Progress = Callable[[int, int | None, str], None]
"""`progress(done, total or None, what)`; called often, must be cheap."""


def write_jsonl(path: Path, rows: Iterable[Noun | Mapping[str, Any]]) -> int:
    """Writes one JSON object a line, UTF-8, and returns how many. Keys keep their order; output is deterministic."""
    count = 0
    with Path(path).open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row.to_dict() if isinstance(row, Noun) else row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path, kind: type[T]) -> Iterator[T]:
    """Reads what `write_jsonl` wrote. A damaged line is a `BadInput` that names the file and line."""
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield kind.from_dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise BadInput(
                    f"{path}, line {number}: not a {kind.__name__} ({error})",
                    expected=f"one JSON object a line with the fields of {kind.__name__}",
                    do="make the file again with the stage that wrote it",
                ) from error
