"""The contexts under which a test question is asked: no passages, the oracle alone, with distractors, as retrieved.

Each is a record with the same question and other passages, so that prompting and scoring are those of every record.
Its label is empty: nothing here is for training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from data.nouns import Chunk, Hit, Record, digest
from data.prompting.contract import PromptTemplate, load_template, render
from data.records.candidates import ShownPassage
from data.records.draft import passage_rows

DISTRACTOR_COUNTS = (0, 2, 4, 8)


def with_passages(
    record: Record,
    passages: Sequence[Chunk | ShownPassage],
    *,
    may_refuse: bool,
    template: PromptTemplate | None = None,
) -> Record:
    """The record's question over these passages, in this order; a passage is an oracle if the record says so by id.

    `label` becomes `answer` where the question has one: what the retriever misses counts against the answer.
    `oracle_present` says whether a refusal was due.
    """
    template = template or load_template()
    meta = record.metadata
    oracles = set(meta["oracle_ids"])
    items = [s if isinstance(s, ShownPassage) else ShownPassage(s, "distractor") for s in passages]
    items = [replace(s, role="oracle" if s.chunk.id in oracles else "distractor") for s in items]
    instruction, text = render(meta["question"], [s.chunk for s in items], template=template, may_refuse=may_refuse)
    positions = [i for i, s in enumerate(items, 1) if s.role == "oracle"]
    return Record(
        instruction,
        text,
        "",
        {
            **meta,
            "template": template.id,
            "template_version": template.version,
            "passages": passage_rows(items, text),
            "distractor_ids": [s.chunk.id for s in items if s.role == "distractor"],
            "oracle_present": bool(positions),
            "oracle_positions": positions,
            "label": "answer" if meta["answers"] else "refuse",
            "quotes": [],
        },
    )


def conditions(
    record: Record,
    hits: Sequence[Hit],
    chunks: Mapping[str, Chunk],
    *,
    passages: int,
    may_refuse: bool,
    template: PromptTemplate | None = None,
    distractor_counts: Sequence[int] = DISTRACTOR_COUNTS,
    seed: int = 0,
) -> dict[str, Record]:
    """Setting -> record: `retrieved`, `oracle_only`, `oracle_with_<k>`, `distractors_only`, `closed_book`.

    Args:
        hits: the production retriever's hits for the question, best first, at least `passages` of them and ideally
            `max(distractor_counts)` more; distractors are the best hits that are not oracles.
        chunks: every chunk by id.
        passages: how many passages `retrieved` and `distractors_only` show.

    A setting that this question cannot have (no oracle, too few hits) is left out. Where an oracle stands among
    distractors, a hash decides the order; retrieved passages keep the order of the search.
    """
    oracles = [ShownPassage(chunks[c], "oracle") for c in record.metadata["oracle_ids"] if c in chunks]
    ranking = [
        ShownPassage(chunks[h.chunk_id], "distractor", "retrieved", h.rank, h.score)
        for h in hits
        if h.chunk_id in chunks
    ]
    others = [s for s in ranking if s.chunk.id not in record.metadata["oracle_ids"]]
    contexts: dict[str, list[ShownPassage]] = {"retrieved": ranking[:passages]} if ranking else {}
    for count in distractor_counts if oracles else ():
        if count <= len(others):
            mixed = [*oracles, *others[:count]]
            mixed.sort(key=lambda s: digest("order", str(seed), record.metadata["question_id"], s.chunk.id))
            contexts["oracle_only" if count == 0 else f"oracle_with_{count}"] = mixed
    if len(others) >= passages:
        contexts["distractors_only"] = others[:passages]
    contexts["closed_book"] = []
    return {
        name: with_passages(record, items, may_refuse=may_refuse, template=template) for name, items in contexts.items()
    }


def setting_words(setting: str) -> str:
    """How a report names a setting."""
    words = {
        "records": "the passages of the test records",
        "retrieved": "the passages that the retriever finds",
        "closed_book": "no passages",
        "oracle_only": "the oracle alone",
        "distractors_only": "distractors alone",
    }
    if setting.startswith("oracle_with_"):
        return f"the oracle and {setting.removeprefix('oracle_with_')} distractors"
    return words.get(setting, setting.replace("_", " "))


def condition_words(condition: str) -> str:
    """How a report names a condition."""
    return {"base": "Base model", "adapter": "Adapter"}.get(condition, condition)


def measure_words(measure: str) -> str:
    """How a report names a figure of the retriever: the share of the oracles and any of them are told apart."""
    name, _, depth = measure.partition("@")
    words = {
        "recall": f"Oracles among the first {depth} (recall@{depth})",
        "any_hit": f"Questions with an oracle among the first {depth} (any-hit@{depth})",
        "queries": "Questions with an oracle in the corpus",
    }
    return words.get(name, measure)
