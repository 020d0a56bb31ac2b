"""What is compared on one part of a set, as in the RAFT paper: the base without and with passages, a LoRA that was
trained without documents ("domain fine-tuning") without and with them, and RAFT.

All of them answer the same questions; those with passages read what the same retriever finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.evaluation.conditions import with_passages
from data.nouns import Record, digest
from data.prompting.contract import PromptTemplate, load_template, render, render_output
from data.records.candidates import ShownPassage


@dataclass(frozen=True)
class Arm:
    """Attributes:
    label: in tables. adapter: who answers: `base`, `dsf` (trained without documents) or `raft`.
    passages: whether those that the retriever finds are shown.
    """

    label: str
    adapter: str
    passages: bool


ARMS = {
    "closed": Arm("base, closed book", "base", False),
    "rag": Arm("base + RAG", "base", True),
    "dsf": Arm("LoRA without documents", "dsf", False),
    "dsf_rag": Arm("LoRA without documents + RAG", "dsf", True),
    "raft": Arm("RAFT", "raft", True),
}
OVERHEAD = 16  # tokens that a chat template adds, as in `RecordOptions`
ALWAYS = ("rag", "raft")


def template_of(arm: Arm, template: PromptTemplate) -> PromptTemplate:
    """What an arm is prompted and read with: who never saw a passage was taught no quotes."""
    return load_template("direct") if arm.adapter == "dsf" else template


def unanswerable(records: Sequence[Record]) -> bool:
    """Whether some questions have no answer in any document, so that to say this is an answer like others."""
    return any(not record.metadata["answers"] for record in records)


def closed_records(records: Sequence[Record], count_tokens: Callable[[str], int]) -> list[Record]:
    """Each question of the records once, without documents, and its answer alone; where it has none, the refusal."""
    template, may_refuse = load_template("direct"), unanswerable(records)
    closed: dict[str, Record] = {}
    for record in records:
        meta = record.metadata
        if meta["question_id"] in closed:
            continue
        instruction, text = render(meta["question"], [], template=template, may_refuse=may_refuse)
        output = render_output(next(iter(meta["answers"]), template.refusal), template=template)
        tokens = count_tokens(f"{instruction}\n{output}") + OVERHEAD
        closed[meta["question_id"]] = Record(instruction, text, output, {**meta, "quotes": [], "tokens": tokens})
    return list(closed.values())


def shown_to(
    arm: Arm,
    record: Record,
    hits: Sequence[ShownPassage],
    may_refuse: bool,
    template: PromptTemplate,
    *,
    closed_refusals: bool = False,
) -> Record:
    """The question as an arm is asked it; a LoRA without documents is asked as it was trained: without a refusal,
    unless some of its questions had no answer (`closed_refusals`)."""
    shown = hits if arm.passages else ()
    allowed = may_refuse and (arm.adapter != "dsf" or closed_refusals)
    return with_passages(record, shown, may_refuse=allowed, template=template_of(arm, template))


def refusal_questions(
    records: Sequence[Record], hits: Sequence[Sequence[ShownPassage]], count: int, seed: int
) -> list[int]:
    """Places of the questions whose oracle was retrieved, by hash: the first half loses it. At most 2 x `count`."""
    with_oracle = [
        place
        for place, (record, passages) in enumerate(zip(records, hits, strict=True))
        if {shown.chunk.id for shown in passages} & set(record.metadata["oracle_ids"])
    ]
    with_oracle.sort(key=lambda place: digest("refusal", str(seed), records[place].metadata["question_id"]))
    return with_oracle[: 2 * min(count, len(with_oracle) // 2)]
