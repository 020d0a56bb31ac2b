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
    """How many hits a question needs: those shown, and enough distractors for the largest setting."""
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
    """(setting, record with the passages shown there), in order of settings, which not every question can have."""
    from data.evaluation.conditions import conditions
    from data.prompting.contract import template_from_contract

    template = template_from_contract(contract)
    by_setting: dict[str, list[Record]] = {name: [] for name in settings}
    for record, ranking in zip(records, hits, strict=True):
        variants = conditions(
            record,
            ranking,
            chunks,
            passages=contract["passages"],
            may_refuse=contract["may_refuse"],
            template=template,
            seed=seed,
        )
        for name in settings:
            variant = record if name == "records" else variants.get(name)
            if variant is not None:
                by_setting[name].append(variant)
    return [(name, record) for name in settings for record in by_setting[name]]


def make_answerer(
    base: ModelFolder, adapter: Path | None, digest: str, settings: Mapping[str, Any], contract: Mapping[str, Any]
) -> Answerer:
    """A contender that answers as the section `evaluate` says; `settings` are the values of the section."""
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
    questions: Sequence[tuple[str, Record]],
    contract: Mapping[str, Any],
    cache: ItemCache,
    progress: Progress,
) -> tuple[list[dict[str, Any]], float | None]:
    """Rows of one contender, and the mean seconds per answer (None if all came from the cache)."""
    from data.evaluation.scoring import score_row
    from data.prompting.contract import template_from_contract

    template = template_from_contract(contract)
    clock = Clock()
    answers = answer(who, [r for _, r in questions], cache, progress, f"{name} answers", clock=clock)
    rows = [
        score_row(
            record,
            reply.text,
            condition=name,
            setting=setting,
            template=template,
            finish_reason=reply.finish_reason,
        )
        for (setting, record), reply in zip(questions, answers, strict=True)
    ]
    return rows, clock.mean


def recall_figures(records: Sequence[Record], hits: Sequence[Any], passages: int) -> dict[str, float]:
    """How often the retriever finds an oracle of the test questions that have one, at the usual depths and at ours."""
    from retrieval.metrics import ranking_metrics

    gold = {r.metadata["record_id"]: r.metadata["oracle_ids"] for r in records if r.metadata["oracle_ids"]}
    run = {r.metadata["record_id"]: ranking for r, ranking in zip(records, hits, strict=True)}
    return ranking_metrics(run, gold, ks=sorted({1, 5, 10, passages})) if gold else {}
