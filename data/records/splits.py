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
from typing import Any

import numpy as np

from data.memo import memoise
from data.nouns import Chunk, ItemCache, Question
from data.records.passage_splits import split_by_passage
from data.records.split_sides import (
    SPLITS,
    FrozenSplits,
    SplitOptions,
    Splits,
    balance,
    drawn_side,
    target_shares,
    too_lopsided,
    unit_draw,
    wanted_shares,
)
from data.text.alike import alike
from data.text.counts import counted
from data.text.unspaced import spaced_out

log = logging.getLogger("raft.data")

__all__ = ["SPLITS", "FrozenSplits", "SplitOptions", "Splits", "near_duplicates", "split_by_document"]

SHINGLE_WORDS = 5
_SHOWN = 3  # ties in a message
PERMUTATIONS = 64


def split_by_document(
    chunks: Sequence[Chunk],
    questions: Sequence[Question],
    *,
    options: SplitOptions | None = None,
    seed: int = 0,
    previous: FrozenSplits | None = None,
    together: Mapping[str, str] | None = None,
    cache: ItemCache | None = None,
) -> Splits:
    """Splits the documents of the chunks and questions. Accepted feedback has no say in it.

    Args:
        previous: the sides of an earlier run. These documents (or passages) keep their side (frozen test sets), and a
            new near-duplicate of one joins it; where a group had several sides, test beats validation beats train.
        together: document id -> name of the whole it is part of (a book, an article): parts stay on one side; None =
            as `works_of` finds them.
        cache: keeps the sketch of each text.

    Every split with a share above 0 gets at least one group with questions and, where documents are few or uneven, at
    least about half of its share. Where that is impossible (one manual, one book in three formats) the split runs
    within documents instead (`level` of the report is then `passage`); raises BadInput if even that is impossible.
    """
    options = options or SplitOptions()
    questions = [question for question in questions if question.examinable]
    if previous and previous.chunks:
        return split_by_passage(chunks, questions, options=options, seed=seed, previous=previous.chunks)
    documents = sorted({c.document_id for c in chunks} | {d for q in questions for d in q.document_ids})
    together = works_of(chunks) if together is None else together
    groups, ties = _groups(documents, chunks, questions, options, together, cache)
    joins = {why: len(pairs) for why, pairs in ties.items()}
    question_documents = {d for q in questions for d in q.document_ids}
    draw = {g: unit_draw(seed, g) for g in groups}
    side = {g: drawn_side(draw[g], options) for g in groups}
    fixed = set()
    if previous:
        for group, members in groups.items():
            before = {previous.documents[d] for d in members if d in previous.documents}
            if before:
                side[group] = max(before, key=SPLITS.index)
                fixed.add(group)
    group_of = {d: g for g, members in groups.items() for d in members}
    weight = Counter(group_of[q.document_ids[0]] for q in questions if q.document_ids)
    moves = balance(side, weight, draw, options, fixed) if len(weight) >= len(wanted_shares(options)) else []
    if not fixed and too_lopsided(side, weight, options):
        because = _why_not(chunks, ties, groups, weight)
        log.warning(
            "%s. So passages are held out, not documents, and the test shows other passages of documents that were "
            "trained on. %s",
            because,
            _remedy(ties),
        )
        by_passage = split_by_passage(chunks, questions, options=options, seed=seed)
        by_passage.report["because"] = because
        return by_passage
    of = {d: side[g] for g in groups for d in groups[g]}
    of = dict(sorted(of.items()))
    # The side of a question is that of its documents, which are in one group.
    per_question = [of[q.document_ids[0]] for q in questions if q.document_ids]
    report = {
        "seed": seed,
        "level": "document",
        "documents": {s: sum(v == s for v in of.values()) for s in SPLITS},
        "documents_with_questions": {s: sum(of[d] == s for d in question_documents) for s in SPLITS},
        "questions": {s: per_question.count(s) for s in SPLITS},
        "target": target_shares(options),
        "groups_of_several": sum(len(m) > 1 for m in groups.values()),
        "largest_group": max((len(m) for m in groups.values()), default=0),
        "joined": joins,
        "moved_to_fill": moves,
        "kept_from_before": len(fixed),
    }
    _warn_if_lopsided(report)
    return Splits(of, {d: g for d, g in sorted(group_of.items()) if len(groups[g]) > 1}, report)


def works_of(chunks: Sequence[Chunk]) -> dict[str, str]:
    """Document id -> title, for rows of tables that share it with others: paragraphs of one article, answers of one
    manual. A title that more than half of a table's rows have names no work.
    """
    titles: dict[str, dict[str, str]] = {}
    for chunk in chunks:
        table, mark, _ = chunk.source.rpartition("#")
        if mark and (title := alike(chunk.title).casefold()):
            titles.setdefault(table, {})[chunk.document_id] = title
    works: dict[str, str] = {}
    for rows in titles.values():
        counts = Counter(rows.values())
        works |= {d: title for d, title in rows.items() if 1 < counts[title] <= len(rows) / 2}
    return works


def _groups(
    documents: list[str],
    chunks: Sequence[Chunk],
    questions: Sequence[Question],
    options: SplitOptions,
    together: Mapping[str, str],
    cache: ItemCache | None,
) -> tuple[dict[str, list[str]], dict[str, list[tuple[str, str]]]]:
    """Connected documents: representative (smallest id) -> members, and by reason the pairs that connect them."""
    parent = {d: d for d in documents}

    def find(item: str) -> str:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        ties = []
        for pair in pairs:
            a, b = sorted(map(find, pair))
            if a != b:
                ties.append(pair)
            parent[b] = a
        return ties

    joins = {"shared_question": join((q.document_ids[0], d) for q in questions for d in q.document_ids[1:])}
    first: dict[str, str] = {}
    joins["given"] = join((first.setdefault(together[d], d), d) for d in documents if d in together)
    whole: dict[str, list[str]] = {}
    for chunk in chunks:
        whole.setdefault(chunk.document_id, []).append(chunk.text)
    texts = {d: "\n".join(parts) for d, parts in sorted(whole.items())}
    joins["near_duplicate_document"] = join(near_duplicates(texts, options.near_duplicate, cache=cache))
    gold = {c for q in questions for c in q.gold_chunk_ids}
    owner = {c.id: c.document_id for c in chunks}
    # A near-copy of an oracle, in whichever document, is on the oracle's side. Boilerplate that no question asks about
    # joins nothing.
    in_order = sorted(chunks, key=lambda c: (c.id not in gold, c.id))
    pairs = near_duplicates({c.id: c.text for c in in_order}, options.near_duplicate, against=gold, cache=cache)
    joins["near_duplicate_of_oracle"] = join((owner[a], owner[b]) for a, b in pairs)
    groups: dict[str, list[str]] = {}
    for document in documents:
        groups.setdefault(find(document), []).append(document)
    return groups, joins


_TIES = {
    "shared_question": "answers a question together with",
    "given": "is a part of the same work as",
    "near_duplicate_document": "is a near-copy of",
    "near_duplicate_of_oracle": "repeats a passage, about which a question is, of",
}


def _why_not(
    chunks: Sequence[Chunk],
    ties: Mapping[str, Sequence[tuple[str, str]]],
    groups: Mapping[str, Sequence[str]],
    weight: Mapping[str, int],
) -> str:
    """Why no document can be held out, in words: how few are independent, what ties them together, or which outweighs.

    Args:
        ties: the pairs that connect documents, by reason.
        groups: representative -> members. weight: representative -> questions.
    """
    source = {c.document_id: c.source for c in chunks}
    largest = max(sorted(weight), key=lambda group: weight[group], default="")
    members = {*groups.get(largest, ())}
    words = [
        f"{source.get(b, b)} {_TIES[why]} {source.get(a, a)}"
        for why, pairs in ties.items()
        for a, b in pairs
        if {a, b} <= members
    ]
    most = f"{source.get(largest, largest)}{f' and {len(members) - 1} tied to it' if len(members) > 1 else ''}"
    few = f"{counted(len(weight), 'independent document')} with questions"
    have = "have" if len(members) > 1 else "has"
    share = f"{most} alone {have} {weight[largest]} of the {sum(weight.values())} questions"
    shown = "; ".join(words[:_SHOWN]) + (f"; and {len(words) - _SHOWN} more such ties" if len(words) > _SHOWN else "")
    return f"{few} cannot be split, since {share}" + (f": {shown}" if shown else "")


def _remedy(ties: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """What to set or add so that documents can be held out."""
    ways = ["add documents that have questions of their own"]
    if ties.get("near_duplicate_document"):
        ways.insert(0, "set ingest.near_duplicates to drop, which keeps one of such copies")
    elif ties.get("near_duplicate_of_oracle"):
        ways.insert(0, "raise records.near_duplicate, if these passages do not say the same")
    return f"To hold out documents, {' or '.join(ways)}"


def near_duplicates(
    texts: Mapping[str, str],
    threshold: float,
    *,
    against: Collection[str] | None = None,
    cache: ItemCache | None = None,
) -> list[tuple[str, str]]:
    """Pairs of ids whose texts have about `threshold` or more of their word 5-grams in common (MinHash, Jaccard).

    Texts that differ only in case and white space are always paired. With `against`, only pairs with one of these ids
    are returned; these ids must come first. Pairs follow the order of the texts.
    """
    from datasketch import MinHashLSH

    first: dict[str, str] = {}
    pairs = []
    index = MinHashLSH(threshold=min(threshold, 0.9), num_perm=PERMUTATIONS)  # above, it has no bands to work with
    sketches: dict[str, Any] = {}
    normals = {key: spaced_out(" ".join(text.casefold().split())) for key, text in texts.items()}
    sketch_of = _sketches([normal for normal in normals.values() if normal], cache)
    for key, normal in normals.items():
        if not normal:
            continue
        if normal in first:
            pairs.append((first[normal], key))
            continue
        if against is None or key in against:
            first[normal] = key
        sketch = sketch_of[normal]
        # The index over-finds: the sketches decide.
        near = sorted(o for o in index.query(sketch) if sketch.jaccard(sketches[o]) >= threshold)
        pairs.extend((other, key) for other in near)
        if against is None or key in against:
            index.insert(key, sketch)
            sketches[key] = sketch
    return pairs


def _sketches(normals: Sequence[str], cache: ItemCache | None) -> dict[str, Any]:
    """The MinHash of each text, computed or read from the cache."""
    from datasketch import MinHash

    # drawing the permutations costs more than a sketch
    permutations, scheme = (first := MinHash(num_perm=PERMUTATIONS)).permutations, first.scheme

    def sketch(**settings: Any) -> MinHash:
        return MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32, permutations=permutations, scheme=scheme, **settings)

    def hashes(normal: str) -> list[int]:
        words = normal.split()
        stop = max(1, len(words) - SHINGLE_WORDS + 1)
        minhash = sketch()
        minhash.update_batch([" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in range(stop)])
        return [int(value) for value in minhash.hashvalues]

    distinct = list(dict.fromkeys(normals))
    minhashes = memoise(cache, f"minhash-1 {scheme} {PERMUTATIONS} {SHINGLE_WORDS}", distinct, hashes)
    kind = first.hashvalues.dtype
    return {n: sketch(hashvalues=np.array(values, kind)) for n, values in zip(distinct, minhashes, strict=True)}


def _warn_if_lopsided(report: dict[str, Any]) -> None:
    total = sum(report["questions"].values())
    shares = {s: n / total for s, n in report["questions"].items()} if total else {}
    report["question_shares"] = {s: round(share, 4) for s, share in shares.items()}
    target = np.array([report["target"][s] for s in shares])
    if total and np.abs(target - np.array(list(shares.values()))).max() > 0.15:
        log.warning(
            "the splits hold %s of the questions; the target was %s: the documents differ greatly in size",
            _shares(shares),
            _shares(report["target"]),
        )


def _shares(of: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.0%} {side}" for side, share in of.items())
