"""Which kind each question is to be of, and the second chunk that a comparison rests on.

Kinds are drawn by hash, so a changed document changes only its own questions. Asks no teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from data.nouns import Chunk, Hit, Search, digest
from data.questions.selection import Candidate, statements

PARTNER_DEPTH = 20  # hits among which a comparison's second chunk is looked for


def draw_kinds(
    candidates: Sequence[Candidate], kinds: Sequence[str], chunks: Mapping[str, Chunk], search: Search, *, seed: int
) -> list[Candidate]:
    """The candidates with their kinds; a comparison that finds no partner is a factoid question instead.

    A partner is the best hit for the chunk's sentence that can itself be asked about, of the same document where there
    is one (a question over two documents keeps both on one side of the split), else of any.
    """
    drawn = [dataclasses.replace(c, kind=_kind(c, kinds, seed)) for c in candidates]
    pairs = [c for c in drawn if c.kind == "comparison"]
    if not pairs:
        return drawn
    found = search([c.statement.text for c in pairs], PARTNER_DEPTH)
    partners = {_place(c): _partner(c.chunk, hits, chunks) for c, hits in zip(pairs, found, strict=True)}
    return [
        dataclasses.replace(c, partner=other, kind="comparison" if other else "factoid")
        if (other := partners.get(_place(c))) or c.kind == "comparison"
        else c
        for c in drawn
    ]


def _place(candidate: Candidate) -> tuple[str, int]:
    return candidate.chunk.id, candidate.number


def _kind(candidate: Candidate, kinds: Sequence[str], seed: int) -> str:
    number = int(digest(str(seed), candidate.chunk.sha256, str(candidate.number)), 16)
    return kinds[number % len(kinds)]


def _partner(chunk: Chunk, hits: Sequence[Hit], chunks: Mapping[str, Chunk]) -> Chunk | None:
    near = [chunks[h.chunk_id] for h in hits if h.chunk_id in chunks]
    fit = [other for other in near if _stands_beside(chunk, other) and statements(other.text, title=other.title)]
    own = [other for other in fit if other.document_id == chunk.document_id]
    return next(iter(own or fit), None)


def _stands_beside(chunk: Chunk, other: Chunk) -> bool:
    """Another chunk with another text that shares no span with the first."""
    overlap = other.document_id == chunk.document_id and other.start < chunk.end and chunk.start < other.end
    return other.id != chunk.id and other.text != chunk.text and not overlap
