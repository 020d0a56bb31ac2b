"""The sides of a split: what they are, and which units (documents or passages) go where.

A unit's side is a seeded hash of its name, so it stays the same while others come and go; where units are few or
uneven, some are moved so that every side has its fair share of the questions. Knows nothing of texts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.nouns import digest
from raft_errors import BadInput

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitOptions:
    """Attributes:
    validation, test: target shares of the documents, 0 to 1 and together below 1; 0 leaves that split out.
    near_duplicate: Jaccard similarity of word 5-grams from which two texts are kept on one side.
    """

    validation: float = 0.1
    test: float = 0.2
    near_duplicate: float = 0.8

    def __post_init__(self) -> None:
        if not (0 <= self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise BadInput(
                f"splits: validation {self.validation} and test {self.test}",
                expected="shares between 0 and 1 that leave something for training",
                do="lower them",
            )
        if not 0 < self.near_duplicate <= 1:
            raise BadInput(f"splits: near_duplicate {self.near_duplicate}", expected="above 0, at most 1")


@dataclass(frozen=True)
class Splits:
    """Attributes:
    of: document id -> `train`, `validation` or `test`, in order of id.
    group_of: document id -> smallest document id of its group, for documents that are not alone.
    report: counts and shares, JSON values only; `level` is `document` or `passage`.
    of_chunk: chunk id -> split where the split runs within documents (level `passage`), else empty. `of` then gives the
        side that most of a document's chunks are on.
    copies: chunks whose side is that of a held-out oracle which they repeat; no question may rest on them.
    """

    of: dict[str, str]
    group_of: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    of_chunk: dict[str, str] = field(default_factory=dict)
    copies: frozenset[str] = frozenset()

    def side(self, chunk_id: str, document_id: str) -> str:
        """The split that a chunk belongs to."""
        return self.of_chunk.get(chunk_id) or self.of[document_id]

    def frozen(self) -> FrozenSplits:
        """These sides, to be kept by a later split of the corpus."""
        chunks = {c: side for c, side in self.of_chunk.items() if c not in self.copies}
        return FrozenSplits({} if chunks else self.of, chunks)


@dataclass(frozen=True)
class FrozenSplits:
    """The sides of an earlier split: of documents, or of passages where it ran within documents. One of the two."""

    documents: Mapping[str, str] = field(default_factory=dict)
    chunks: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        text = json.dumps({"documents": dict(self.documents), "chunks": dict(self.chunks)}, indent=1)
        path.write_text(text + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def read(cls, path: Path) -> FrozenSplits:
        """Raises BadInput if `write` did not write the file."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            frozen = cls(dict(values["documents"]), dict(values["chunks"]))
            sides = {*frozen.documents.values(), *frozen.chunks.values()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path}: not the sides of an earlier split ({type(error).__name__})",
                expected="the splits.json of an earlier records stage",
                do="copy it from there, or leave the setting out",
            ) from error
        if unknown := sorted(sides - set(SPLITS)):
            raise BadInput(f"{path}: {unknown[0]!r} is not a split", expected=", ".join(SPLITS))
        return frozen


def target_shares(options: SplitOptions) -> dict[str, float]:
    """Split -> target share, all three."""
    return {"train": 1 - options.validation - options.test, "validation": options.validation, "test": options.test}


def wanted_shares(options: SplitOptions) -> dict[str, float]:
    """Split -> target share, for the splits that are to exist."""
    return {s: share for s, share in target_shares(options).items() if share > 0}


def too_lopsided(side: Mapping[str, str], weight: Mapping[str, int], options: SplitOptions) -> bool:
    """Whether a split that should exist is empty or holds less than a quarter of its share of the questions."""
    total = sum(weight.values())
    counts = Counter({s: sum(w for u, w in weight.items() if side[u] == s) for s in SPLITS})
    return any(not counts[s] or counts[s] < share * total / 4 for s, share in wanted_shares(options).items())


def unit_draw(seed: int, group: str) -> float:
    """A number in [0, 1) that depends on the seed and the group alone."""
    return int(digest("split", str(seed), group), 16) / 2**63


def drawn_side(draw: float, options: SplitOptions) -> str:
    if draw < options.test:
        return "test"
    return "validation" if draw < options.test + options.validation else "train"


def balance(
    side: dict[str, str], weight: Mapping[str, int], draw: Mapping[str, float], options: SplitOptions, fixed: set[str]
) -> list[str]:
    """Moves groups until no split that should exist is empty or far short of its share; returns the groups moved.

    A hash is fair to many documents, but not to a few of uneven size: a split with less than half its share of the
    questions takes groups from others, those nearest to its threshold first. With many documents nothing moves.
    """
    shares = wanted_shares(options)
    total = sum(weight.values())
    counts = {s: sum(w for g, w in weight.items() if side[g] == s) for s in SPLITS}
    moves = []
    for split in ("train", "test", "validation"):
        target = shares.get(split, 0.0) * total
        while counts[split] < target / 2:
            spare = {s: counts[s] - shares.get(s, 0.0) * total / 2 for s in SPLITS}
            take = _next_group(split, side, weight, draw, fixed, room=1.5 * target - counts[split], spare=spare)
            if take is None:
                break
            counts[side[take]] -= weight[take]
            counts[split] += weight[take]
            side[take] = split
            moves.append(take)
    return moves


def _next_group(
    split: str,
    side: Mapping[str, str],
    weight: Mapping[str, int],
    draw: Mapping[str, float],
    fixed: set[str],
    *,
    room: float,
    spare: Mapping[str, float],
) -> str | None:
    """The group that a short split takes next: one that its present split can spare and that fits into this one."""
    count = Counter(side[g] for g in weight)
    empty = not count[split]
    others = [g for g in weight if side[g] != split and count[side[g]] > 1]
    movable = [g for g in others if g not in fixed] or (others if empty else [])
    free = [g for g in movable if weight[g] <= spare[side[g]]] or (movable if empty or split == "train" else [])
    if split == "train":
        return max(free, key=lambda g: (weight[g], g), default=None)
    nearest = min((g for g in free if weight[g] <= room), key=lambda g: (draw[g], g), default=None)
    if nearest is None and empty:
        return min(free, key=lambda g: (weight[g], g), default=None)
    return nearest
