"""The questions of a part over the passages that the retriever finds for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.nouns import Record
from data.prompting.contract import load_template
from data.records.candidates import ShownPassage
from literature.arms import ARMS, refusal_questions, shown_to
from literature.protocols import Protocol
from literature.searching import search_of
from retrieval.search import Retriever


@dataclass(frozen=True)
class Exam:
    """The questions, with what was found for each.

    Attributes:
        records: the questions. retrieved: twice as many passages of each as are shown, best first.
        first: those that are shown. shown: the questions over them, as RAFT and the base with RAG are asked.
    """

    records: Sequence[Record]
    retrieved: Sequence[Sequence[ShownPassage]]
    first: Sequence[Sequence[ShownPassage]]
    shown: Sequence[Record]

    def others(self, place: int, passages: int) -> list[ShownPassage]:
        """The passages that would be shown of a question if the corpus did not hold its oracle."""
        oracles = set(self.records[place].metadata["oracle_ids"])
        return [shown for shown in self.retrieved[place] if shown.chunk.id not in oracles][:passages]

    def refusals(self, protocol: Protocol) -> list[int]:
        """Places of the questions on which refusal is measured (`literature.arms.refusal_questions`)."""
        return refusal_questions(self.records, self.first, protocol.refusal, protocol.seed)


def exam_of(records: Sequence[Record], protocol: Protocol, retriever: Retriever, may_refuse: bool) -> Exam:
    """The exam on these questions by this retriever."""
    template, search = load_template(protocol.template), search_of(protocol, retriever)
    rankings = search([r.metadata["question"] for r in records], 2 * protocol.passages)
    retrieved = [
        [ShownPassage(retriever.chunks[h.chunk_id], "distractor", "retrieved", h.rank, h.score) for h in ranking]
        for ranking in rankings
    ]
    first = [hits[: protocol.passages] for hits in retrieved]
    shown = [
        shown_to(ARMS["raft"], record, hits, may_refuse, template) for record, hits in zip(records, first, strict=True)
    ]
    return Exam(records, retrieved, first, shown)
