"""Splits within documents, for a corpus that has too few independent ones: a single manual, a book in three formats.

Blocks of neighbouring chunks take the place of documents. Copies of a held-out oracle elsewhere in the corpus, however
they are cut, are held out with it, and questions about such copies are dropped. `data.records.splits` uses it where
splitting by document cannot work. It shows nothing about unseen documents, and the records say so.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from data.nouns import Chunk, Question
from data.records.split_sides import (
    SPLITS,
    SplitOptions,
    Splits,
    balance,
    drawn_side,
    target_shares,
    unit_draw,
    wanted_shares,
)
from data.text.counts import counted
from data.text.unspaced import spaced_out
from raft_errors import BadInput

BLOCK_CHUNKS = 4
SHINGLE_WORDS = 5
LEAST_SHARED = 0.3  # of the shingles of the shorter of two texts


def split_by_passage(
    chunks: Sequence[Chunk],
    questions: Sequence[Question],
    *,
    options: SplitOptions,
    seed: int,
    previous: Mapping[str, str] | None = None,
) -> Splits:
    """Splits blocks of neighbouring chunks; blocks that share a question stay together.

    `previous` (chunk id -> split of an earlier run) fixes the side of a block that still holds one of these chunks; of
    several sides, test wins over validation over train.

    Raises BadInput where there are fewer blocks with questions than splits.
    """
    block = blocks(chunks)
    gold = [c for q in questions for c in q.gold_chunk_ids if c in block]
    unit = _units(block, questions)
    draw = {u: unit_draw(seed, u) for u in sorted(set(unit.values()))}
    side = {u: drawn_side(x, options) for u, x in draw.items()}
    fixed: set[str] = set()
    for chunk in chunks if previous else ():
        if before := (previous or {}).get(chunk.id):
            own_unit = unit[block[chunk.id]]
            side[own_unit] = max(before, side[own_unit], key=SPLITS.index) if own_unit in fixed else before
            fixed.add(own_unit)
    weight = Counter(unit[block[q.gold_chunk_ids[0]]] for q in questions if set(q.gold_chunk_ids[:1]) & block.keys())
    shares = wanted_shares(options)
    if len(weight) < len(shares):
        raise BadInput(
            f"the questions are about {counted(len(weight), 'independent part')} of the corpus, for "
            f"{len(shares)} splits",
            expected=f"at least {len(shares)} documents with questions, or parts of {BLOCK_CHUNKS} chunks",
            do="add documents or questions, or set the share of validation (or test) to 0",
        )
    moves = balance(side, weight, draw, options, fixed)
    own = {c.id: side[unit[block[c.id]]] for c in chunks}
    copies = hold_out_copies(chunks, gold, own, SPLITS.index)
    of_chunk = dict(sorted((own | copies).items()))
    most: dict[str, Counter[str]] = {}
    for chunk in chunks:
        most.setdefault(chunk.document_id, Counter())[of_chunk[chunk.id]] += 1
    of = {d: max(SPLITS, key=lambda s: (most[d][s], -SPLITS.index(s))) for d in sorted(most)}
    sides = [of_chunk[q.gold_chunk_ids[0]] for q in questions if q.gold_chunk_ids and q.gold_chunk_ids[0] in of_chunk]
    report = {
        "seed": seed,
        "level": "passage",
        "documents": {s: sum(v == s for v in of.values()) for s in SPLITS},
        "passages": {s: sum(v == s for v in of_chunk.values()) for s in SPLITS},
        "questions": {s: sides.count(s) for s in SPLITS},
        "target": target_shares(options),
        "copies_of_held_out_oracles": len(copies),
        "moved_to_fill": moves,
        "kept_from_before": len(fixed),
    }
    return Splits(of, {}, report, of_chunk, frozenset(copies))


def _units(block: Mapping[str, str], questions: Sequence[Question]) -> dict[str, str]:
    """Block -> representative of the blocks that it shares questions with."""
    parent = {b: b for b in block.values()}

    def find(item: str) -> str:
        while parent[item] != item:
            item = parent[item]
        return item

    for question in questions:
        own = [block[c] for c in question.gold_chunk_ids if c in block]
        for other in own[1:]:
            first, second = sorted((find(own[0]), find(other)))
            parent[second] = first
    return {b: find(b) for b in sorted(parent)}


def blocks(chunks: Sequence[Chunk]) -> dict[str, str]:
    """Chunk id -> name of its block: `BLOCK_CHUNKS` neighbouring chunks of a document, counted from its start."""
    return {c.id: f"{c.document_id}:{c.ordinal // BLOCK_CHUNKS}" for c in chunks}


def hold_out_copies(
    chunks: Sequence[Chunk], gold: Sequence[str], side: Mapping[str, str], rank: Callable[[str], int]
) -> dict[str, str]:
    """Chunk id -> later side, for chunks that share text with an oracle of a later side.

    Args:
        gold: ids of the chunks that answer a question.
        side: chunk id -> split.
        rank: of a split; training is 0, and a lower one must not show passages of a higher one.

    Two texts share text where 30 % of the word 5-grams of the shorter stand in the other.
    """
    texts = {c.id: c.text for c in chunks}
    later = [g for g in sorted(set(gold)) if rank(side[g]) > 0]
    sizes: dict[str, int] = {}
    places: dict[int, list[str]] = {}
    for oracle in later:
        shingles = _shingles(texts[oracle])
        sizes[oracle] = len(shingles)
        for shingle in sorted(shingles):
            places.setdefault(shingle, []).append(oracle)
    later_sides = {}
    for chunk in chunks:
        own = rank(side[chunk.id])
        shingles = _shingles(chunk.text)
        shared = Counter(o for s in shingles for o in places.get(s, ()) if rank(side[o]) > own)
        sides = [side[o] for o, n in shared.items() if n >= LEAST_SHARED * min(sizes[o], len(shingles))]
        if sides:
            later_sides[chunk.id] = max(sides, key=rank)
    return later_sides


def _shingles(text: str) -> set[int]:
    words = spaced_out(text.casefold()).split()
    stop = max(1, len(words) - SHINGLE_WORDS + 1) if words else 0
    return {zlib.crc32(" ".join(words[i : i + SHINGLE_WORDS]).encode()) for i in range(stop)}
