"""A domain that is served: its corpus to search, and its adapter in the versions that may be named.

A name is resolved to a version once per request. What a version was trained with (its contract) comes from its own
folder, so that two versions of one adapter may have different prompts.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.prompting.contract import PromptTemplate, chat_of, template_from_contract
from jora_engine.files.tokenizer import Tokenizer
from raft_errors import BadInput
from tasks.runtime.asking import Asked, put

if TYPE_CHECKING:
    from data.nouns import Chunk
    from retrieval.search import Retriever
    from tasks.adapters.feedback import FeedbackLog

RESERVED = ("base", "auto", "mix")
"""Names that mean something else than an adapter."""


class NotReady(BadInput):
    """A version cannot be used yet, or not at the moment: asking again later may help."""


@dataclass(frozen=True)
class ServedVersion:
    """One version of an adapter.

    Attributes:
        id: as answers name it (`faq@3`).
        folder: of its files.
        records: folder of the records that it was trained on; None where they are not known.
    """

    id: str
    folder: Path
    records: Path | None = None

    @functools.cached_property
    def contract(self) -> Mapping[str, Any]:
        """How it was prompted in training."""
        return json.loads((self.folder / "raft.json").read_text(encoding="utf-8"))["prompt"]

    @functools.cached_property
    def template(self) -> PromptTemplate:
        return template_from_contract(self.contract)


@dataclass(frozen=True)
class Domain:
    """A corpus and its adapter.

    Attributes:
        name: of the adapter.
        retriever: over the domain's passages.
        find: the version of a number, or the one that is promoted for None, quickly; `BadInput` where there is none.
        index: key of the index that it searches.
        renewed: the retriever to be used from now on, and its index, where documents were changed or forgotten since it
            was asked last, else None; None for documents that stay as they are.
        feedback: where what people say about its answers is kept; None keeps nothing.
    """

    name: str
    retriever: Retriever
    find: Callable[[int | None], ServedVersion]
    index: str = ""
    renewed: Callable[[], tuple[Retriever, str] | None] | None = None
    feedback: FeedbackLog | None = None

    @functools.cached_property
    def _documents(self) -> Mapping[str, list[Chunk]]:
        """Document id -> its chunks, in their order."""
        documents: dict[str, list[Chunk]] = {}
        for chunk in self.retriever.chunks.values():
            documents.setdefault(chunk.document_id, []).append(chunk)
        return {key: sorted(chunks, key=lambda chunk: chunk.ordinal) for key, chunks in documents.items()}

    def place(
        self, chunk_id: str, may_see: Callable[[str], bool] = lambda chunk_id: True
    ) -> tuple[Chunk, str, str] | None:
        """A chunk with the text that its neighbours in the document have before and after it; None for an unknown one.
        A neighbour may share words with it, which are left out; between the two only white space is missing.

        Args:
            may_see: whether the neighbour of an id may be shown.
        """
        chunk = self.retriever.chunks.get(chunk_id)
        if chunk is None:
            return None
        chunks = self._documents[chunk.document_id]
        at = next(n for n, other in enumerate(chunks) if other.id == chunk_id)
        before = after = ""
        if at and may_see(chunks[at - 1].id):
            other = chunks[at - 1]
            before = other.text[: max(0, chunk.start - other.start)] + "\n" * (other.end < chunk.start)
        if at + 1 < len(chunks) and may_see(chunks[at + 1].id):
            other = chunks[at + 1]
            after = "\n" * (chunk.end < other.start) + other.text[max(0, chunk.end - other.start) :]
        return chunk, before, after

    def __post_init__(self) -> None:
        if self.name in RESERVED or not self.name or set(self.name) & set("/@:") or self.name.startswith("."):
            raise BadInput(
                f"an adapter cannot be served under the name {self.name!r}",
                expected=f"a name without / @ : that is none of {', '.join(RESERVED)}",
                do="give the configuration another name",
            )


class Prompts:
    """The base's tokenizer, loaded once for each form of its chat template that versions were trained with."""

    def __init__(self, base: Path, chat: Mapping[str, Any]) -> None:
        self._base, self._chat = base, dict(chat)
        self._loaded: dict[str, Tokenizer] = {}

    def tokenizer(self, contract: Mapping[str, Any] | None = None) -> Tokenizer:
        """The tokenizer of a contract, or the base's own."""
        return self.told(chat_of(contract) if contract is not None else self._chat)

    def told(self, chat: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer whose chat template is told this."""
        key = json.dumps(chat, sort_keys=True)
        if key not in self._loaded:
            self._loaded[key] = Tokenizer.load(self._base, **chat)
        return self._loaded[key]


def fitting(asked: Asked, tokenizer: Tokenizer, room: int) -> tuple[Asked, list[int]]:
    """The question with as many of its passages as fit into `room` tokens, the last ranks left out first, and its
    prompt; the question itself is never cut, so the prompt may still be too long."""

    def shown(count: int) -> tuple[Asked, list[int]]:
        part = dataclasses.replace(asked, citations=asked.citations[:count])
        return part, tokenizer.apply_chat_template(part.messages(), add_generation_prompt=True)

    whole = shown(len(asked.citations))
    if len(whole[1]) <= room:
        return whole
    bare = shown(0)
    if len(bare[1]) > room:  # of a question that is a book not every number of passages is tried
        return bare
    parts = map(shown, range(len(asked.citations) - 1, 0, -1))
    return next((part for part in parts if len(part[1]) <= room), bare)


def ask_domain(domain: Domain, version: ServedVersion, question: str, where: Mapping[str, Any] | None = None) -> Asked:
    """The question with its passages, as the version was trained; only of those that pass the filter."""
    return put(question, domain.retriever, version.template, version.contract, where=where)
