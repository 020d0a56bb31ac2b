"""Puts held-out questions to a model: what is shown in each setting, the answers, their scores, and the retriever's.

The evaluation and the adviser's probe both go through here, so a probe's answers are the evaluation's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.nouns import Chunk, Hit, ItemCache, Progress, Record
from tasks.runtime.answers import Answerer, Clock, answer
from tasks.runtime.folders import ModelFolder


def depth_for(settings: Sequence[str], passages: int) -> int:
    """How many hits a question needs: those shown, and distractors enough for the largest setting."""
    most = max((int(s.removeprefix("oracle_with_")) for s in settings if s.startswith("oracle_with_")), default=0)
    return max(10, 2 * passages, most + passages)


def contexts(
    records: Sequence[Record],
    hits: Sequence[Sequence[Hit]],
    chunks: Mapping[str, Chunk],
    contract: Mapping[str, Any],
    settings: Sequence[str],
    seed: int,
) -> list[tuple[str, Record]]:
    """(setting, record as it is asked there), settings in order; what a question cannot have is left out."""
    from data.evaluation.conditions import conditions
    from data.prompting.contract import template_from_contract

    template = template_from_contract(contract)
    shown: dict[str, list[Record]] = {name: [] for name in settings}
    for record, found in zip(records, hits, strict=True):
        variants = conditions(
            record,
            found,
            chunks,
            passages=contract["passages"],
            may_refuse=contract["may_refuse"],
            template=template,
            seed=seed,
        )
        for name in settings:
            variant = record if name == "records" else variants.get(name)
            if variant is not None:
                shown[name].append(variant)
    return [(name, record) for name in settings for record in shown[name]]


def make_answerer(
    base: ModelFolder, adapter: Path | None, digest: str, settings: Mapping[str, Any], contract: Mapping[str, Any]
) -> Answerer:
    """A contender as the section `evaluate` (its values as `settings`) has it answer."""
    from data.prompting.contract import template_from_contract

    return Answerer(
        base.folder,
        adapter,
        digest,
        settings["dtype"],
        settings["max_new_tokens"],
        settings["batch_size"],
        copying=template_from_contract(contract) if settings["copy_quotes"] else None,
        chat=base.chat,
    )


def answer_and_score(
    name: str,
    who: Answerer,
    asked: Sequence[tuple[str, Record]],
    contract: Mapping[str, Any],
    cache: ItemCache,
    progress: Progress,
) -> tuple[list[dict[str, Any]], float | None]:
    """Rows of one contender, and the seconds an answer took (None where all were known)."""
    from data.evaluation.scoring import score_row
    from data.prompting.contract import template_from_contract

    template = template_from_contract(contract)
    clock = Clock()
    answers = answer(who, [r for _, r in asked], cache, progress, f"{name} answers", clock=clock)
    rows = [
        score_row(
            record,
            given.text,
            condition=name,
            setting=setting,
            template=template,
            finish_reason=given.finish_reason,
        )
        for (setting, record), given in zip(asked, answers, strict=True)
    ]
    return rows, clock.mean


def recall_figures(records: Sequence[Record], hits: Sequence[Any], passages: int) -> dict[str, float]:
    """How often the retriever finds an oracle of the test questions that have one, at the usual depths and ours."""
    from retrieval.metrics import ranking_metrics

    judged = {r.metadata["record_id"]: r.metadata["oracle_ids"] for r in records if r.metadata["oracle_ids"]}
    run = {r.metadata["record_id"]: found for r, found in zip(records, hits, strict=True)}
    return ranking_metrics(run, judged, ks=sorted({1, 5, 10, passages})) if judged else {}
