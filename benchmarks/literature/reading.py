"""Who answers the questions of a part, and what the answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.evaluation.scoring import score_row
from data.nouns import Record
from data.prompting.contract import PromptTemplate, load_template
from literature.arms import ARMS, shown_to, template_of
from literature.exam import Exam
from literature.figures import figures_of, refusal_figures, search_figures
from literature.measures import Measure
from literature.protocols import Protocol
from literature.training import say
from tasks.inputs.models import ModelFiles
from tasks.runtime.answers import Answerer, answer
from tasks.store.itemcache import SqliteCache

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Readers:
    """The base and its adapters over one set.

    Attributes:
        adapters: who -> folder of the adapter; None is the base itself.
        measure: what the set's own rules add to a row. group: what is resampled whole with a question.
        reranked: whether a cross-encoder ordered the passages.
        may_refuse: whether prompts allow it; closed_refusals: those of a LoRA without documents too.
    """

    base: ModelFiles
    adapters: Mapping[str, Path | None]
    protocol: Protocol
    cache: SqliteCache
    measure: Measure | None
    group: Callable[[Record], str]
    reranked: bool
    may_refuse: bool
    closed_refusals: bool

    def scored(
        self,
        who: str,
        prompts: Sequence[Record],
        label: str,
        setting: str = "retrieved",
        form: PromptTemplate | None = None,
        *,
        quote_weight: float | None = None,
    ) -> Rows:
        """One scored answer a prompt, from an earlier run where it was asked before; quotes are copied where the
        protocol says so, and under a `quote_weight` that is given."""
        folder, protocol = self.adapters[who], self.protocol
        form = form or load_template(protocol.template)
        copied = protocol.copy_quotes or quote_weight is not None
        answerer = Answerer(
            base=self.base.folder,
            adapter=folder,
            digest=self.base.digest if folder is None else f"{self.base.digest}+{folder.parent.parent.name}",
            dtype="bfloat16",
            max_new_tokens=protocol.max_new_tokens,
            batch_size=32,
            copying=form if copied else None,
            quote_weight=protocol.quote_weight if quote_weight is None else quote_weight,
            reranked=self.reranked,
        )
        progress = lambda done, total, what: say(f"{what}: {done} of {total}")  # noqa: E731
        results = []
        for record, given in zip(prompts, answer(answerer, prompts, self.cache, progress, who), strict=True):
            reason = given.finish_reason
            row = score_row(record, given.text, condition=label, setting=setting, template=form, finish_reason=reason)
            row["group"] = self.group(record)
            results.append(row | (self.measure(record, row) if self.measure else {}))
        return results

    def figures(self, key: str, exam: Exam, by_reader: Mapping[str, Rows]) -> dict[str, dict[str, Any]]:
        """The figures of an arm; `by_reader` has the answers of base and RAFT over what was retrieved."""
        arm, template, protocol = ARMS[key], load_template(self.protocol.template), self.protocol
        if key in ("rag", "raft"):
            answered = by_reader[arm.adapter]
        else:
            prompts = [
                shown_to(arm, record, hits, self.may_refuse, template, closed_refusals=self.closed_refusals)
                for record, hits in zip(exam.records, exam.first, strict=True)
            ]
            setting = "retrieved" if arm.passages else "closed_book"
            answered = self.scored(arm.adapter, prompts, key, setting, template_of(arm, template))
        figures = figures_of(answered, by_reader["base"], protocol.seed)
        halves = exam.refusals(protocol)
        if arm.passages and self.may_refuse and arm.adapter != "dsf" and halves:
            half = len(halves) // 2
            without = [
                shown_to(arm, exam.records[place], exam.others(place, protocol.passages), True, template)
                for place in halves[:half]
            ]
            refused = self.scored(arm.adapter, without, key, "distractors_only")
            figures |= refusal_figures(refused, [answered[place] for place in halves[half:]], protocol.seed)
        return figures | (search_figures(exam.shown) if arm.passages else {})
