"""Which documents are for training, which for validation and which for the test.

Documents are split, never questions, so that no test passage was seen in training. The choice is a seeded hash of the
document, so a document keeps its side while others come and go; near-duplicates and documents that share a question
stay together. Knows nothing of records.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from data.nouns import Question, digest
from raft_errors import BadInput

log = logging.getLogger("raft.data")

SPLITS = ("train", "validation", "test")
SHINGLE_WORDS = 5
PERMUTATIONS = 64


class TextPart(Protocol):
    """A `Chunk`: a part of a document with its text."""

    @property
    def id(self) -> str: ...

    @property
    def document_id(self) -> str: ...

    @property
    def text(self) -> str: ...


@dataclass(frozen=True)
class SplitOptions:
    """Attributes:
    validation, test: target shares of the documents, 0 to 1 and together below 1; 0 leaves that split out.
    near_duplicate: Jaccard similarity of word 5-grams from which two texts are kept on one side.
    """

    validation: float = 0.1
    test: float = 0.1
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
    report: counts and shares, JSON values only.
    """

    of: dict[str, str]
    group_of: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


def split_by_document(
    chunks: Sequence[TextPart],
    questions: Sequence[Question],
    *,
    options: SplitOptions | None = None,
    seed: int = 0,
    previous: Mapping[str, str] | None = None,
    together: Mapping[str, str] | None = None,
) -> Splits:
    """Splits the documents of the chunks and questions.

    Args:
        previous: document id -> split of an earlier run. These documents keep their side (frozen test sets), and a new
            near-duplicate of one joins it; where a group had several sides, test wins over validation over train.
        together: document id -> name of what it is a part of (a book, an article): parts stay on one side.

    Every split with a share above 0 gets at least one group with questions, and where documents are few or uneven about
    half of its share or more. Raises BadInput where there are fewer such groups than splits.
    """
    options = options or SplitOptions()
    documents = sorted({c.document_id for c in chunks} | {d for q in questions for d in q.document_ids})
    groups, joined = _groups(documents, chunks, questions, options, together or {})
    asked = {d for q in questions for d in q.document_ids}
    draw = {g: _unit(seed, g) for g in groups}
    side = {g: _side(draw[g], options) for g in groups}
    fixed = set()
    if previous:
        for group, members in groups.items():
            before = {previous[d] for d in members if d in previous}
            if before:
                side[group] = max(before, key=SPLITS.index)
                fixed.add(group)
    group_of = {d: g for g, members in groups.items() for d in members}
    weight = Counter(group_of[q.document_ids[0]] for q in questions if q.document_ids)
    moved = _balance(side, weight, draw, options, fixed)
    of = {d: side[g] for g in groups for d in groups[g]}
    of = dict(sorted(of.items()))
    # The side of a question is that of its documents, which are in one group.
    per_question = [of[q.document_ids[0]] for q in questions if q.document_ids]
    report = {
        "seed": seed,
        "documents": {s: sum(v == s for v in of.values()) for s in SPLITS},
        "documents_with_questions": {s: sum(of[d] == s for d in asked) for s in SPLITS},
        "questions": {s: per_question.count(s) for s in SPLITS},
        "target": {"train": 1 - options.validation - options.test, **_shares(options)},
        "groups_of_several": sum(len(m) > 1 for m in groups.values()),
        "largest_group": max((len(m) for m in groups.values()), default=0),
        "joined": joined,
        "moved_to_fill": moved,
        "kept_from_before": len(fixed),
    }
    _warn_if_lopsided(report)
    return Splits(of, {d: g for d, g in sorted(group_of.items()) if len(groups[g]) > 1}, report)


def _shares(options: SplitOptions) -> dict[str, float]:
    return {"validation": options.validation, "test": options.test}


def _unit(seed: int, group: str) -> float:
    """A number in [0, 1) that depends on the seed and the group alone."""
    return int(digest("split", str(seed), group), 16) / 2**63


def _side(draw: float, options: SplitOptions) -> str:
    if draw < options.test:
        return "test"
    return "validation" if draw < options.test + options.validation else "train"


def _balance(
    side: dict[str, str], weight: Mapping[str, int], draw: Mapping[str, float], options: SplitOptions, fixed: set[str]
) -> list[str]:
    """Moves groups until no wanted split is empty or far short of its share of the questions; returns the moved.

    A hash is fair to many documents and not to few of uneven size: a split that holds less than half its share takes
    groups from others, those nearest to its threshold first. With many documents nothing moves.
    """
    wanted = {"train": 1 - options.validation - options.test, **{s: x for s, x in _shares(options).items() if x > 0}}
    if len(weight) < len(wanted):
        raise BadInput(
            f"{len(weight)} independent document(s) with questions for {len(wanted)} splits",
            expected=f"at least {len(wanted)}: near-duplicates and documents that share a question count once",
            do="add documents or questions, or set the share of validation (or test) to 0",
        )
    total = sum(weight.values())
    held = {s: sum(w for g, w in weight.items() if side[g] == s) for s in SPLITS}
    moved = []
    for split in ("train", "test", "validation"):
        target = wanted.get(split, 0.0) * total
        while held[split] < target / 2:
            spare = {s: held[s] - wanted.get(s, 0.0) * total / 2 for s in SPLITS}
            take = _next_group(split, side, weight, draw, fixed, room=1.5 * target - held[split], spare=spare)
            if take is None:
                break
            held[side[take]] -= weight[take]
            held[split] += weight[take]
            side[take] = split
            moved.append(take)
    return moved


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
    """The group that a short split takes next: one that its own split can spare and that does not overfill this one."""
    count = Counter(side[g] for g in weight)
    empty = not count[split]
    others = [g for g in weight if side[g] != split and count[side[g]] > 1]
    kept = [g for g in others if g not in fixed] or (others if empty else [])
    free = [g for g in kept if weight[g] <= spare[side[g]]] or (kept if empty or split == "train" else [])
    if split == "train":
        return max(free, key=lambda g: (weight[g], g), default=None)
    nearest = min((g for g in free if weight[g] <= room), key=lambda g: (draw[g], g), default=None)
    if nearest is None and empty:
        return min(free, key=lambda g: (weight[g], g), default=None)
    return nearest


def _groups(
    documents: list[str],
    chunks: Sequence[TextPart],
    questions: Sequence[Question],
    options: SplitOptions,
    together: Mapping[str, str],
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Connected documents: representative (smallest id) -> members, and how many joins each reason made."""
    parent = {d: d for d in documents}

    def find(item: str) -> str:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(pairs: Iterable[tuple[str, str]]) -> int:
        count = 0
        for a, b in pairs:
            a, b = sorted((find(a), find(b)))
            count += a != b
            parent[b] = a
        return count

    joined = {"shared_question": join((q.document_ids[0], d) for q in questions for d in q.document_ids[1:])}
    first: dict[str, str] = {}
    joined["given"] = join((first.setdefault(together[d], d), d) for d in documents if d in together)
    whole: dict[str, list[str]] = {}
    for chunk in chunks:
        whole.setdefault(chunk.document_id, []).append(chunk.text)
    texts = {d: "\n".join(parts) for d, parts in sorted(whole.items())}
    joined["near_duplicate_document"] = join(near_duplicates(texts, options.near_duplicate))
    gold = {c for q in questions for c in q.gold_chunk_ids}
    owner = {c.id: c.document_id for c in chunks}
    # A near-copy of an oracle, in whichever document, is on the oracle's side. Boilerplate that no question asks about
    # joins nothing.
    in_order = sorted(chunks, key=lambda c: (c.id not in gold, c.id))
    pairs = near_duplicates({c.id: c.text for c in in_order}, options.near_duplicate, against=gold)
    joined["near_duplicate_of_oracle"] = join((owner[a], owner[b]) for a, b in pairs)
    groups: dict[str, list[str]] = {}
    for document in documents:
        groups.setdefault(find(document), []).append(document)
    return groups, joined


def near_duplicates(
    texts: Mapping[str, str], threshold: float, *, against: Collection[str] | None = None
) -> list[tuple[str, str]]:
    """Pairs of ids whose texts have about `threshold` or more of their word 5-grams in common (MinHash, Jaccard).

    Texts that are equal but for case and white space are always paired. With `against`, only pairs with one of these
    ids are found; they must come first. The order of pairs follows that of the texts.
    """
    from datasketch import MinHash, MinHashLSH

    first: dict[str, str] = {}
    pairs = []
    index = MinHashLSH(threshold=min(threshold, 0.9), num_perm=PERMUTATIONS)  # above, it has no bands to work with
    sketches: dict[str, Any] = {}
    for key, text in texts.items():
        words = text.casefold().split()
        normal = " ".join(words)
        if not words:
            continue
        if normal in first:
            pairs.append((first[normal], key))
            continue
        if against is None or key in against:
            first[normal] = key
        sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
        stop = max(1, len(words) - SHINGLE_WORDS + 1)
        sketch.update_batch([" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in range(stop)])
        # The index over-finds: the sketches decide.
        near = sorted(o for o in index.query(sketch) if sketch.jaccard(sketches[o]) >= threshold)
        pairs.extend((other, key) for other in near)
        if against is None or key in against:
            index.insert(key, sketch)
            sketches[key] = sketch
    return pairs


def _warn_if_lopsided(report: dict[str, Any]) -> None:
    total = sum(report["questions"].values())
    shares = {s: n / total for s, n in report["questions"].items()} if total else {}
    report["question_shares"] = {s: round(share, 4) for s, share in shares.items()}
    target = np.array([report["target"][s] for s in shares])
    if total and np.abs(target - np.array(list(shares.values()))).max() > 0.15:
        log.warning(
            "the splits hold %s of the questions; the target was %s: the documents differ much in size",
            {s: f"{v:.0%}" for s, v in shares.items()},
            {s: f"{v:.0%}" for s, v in report["target"].items()},
        )
