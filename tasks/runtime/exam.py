"""Puts held-out questions to a model: what is shown in each setting, the answers, their scores, and the retriever's.

The evaluation and the adviser's probe both go through here, so a probe's answers are the evaluation's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.nouns import Chunk, Hit, ItemCache, Progress, Record
from tasks.runtime.answers import Answerer, Clock, answer
from tasks.runtime.folders import ModelFolder, StageFiles, read_json

if TYPE_CHECKING:
    from data.evaluation.advice import SearchTrial
    from retrieval.search import Retriever

TRIAL_QUESTIONS = 200
TRIAL_QUESTIONS_RERANKED = 50  # a cross-encoder reads tens of passages a second


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
    base: ModelFolder,
    adapter: Path | None,
    digest: str,
    settings: Mapping[str, Any],
    contract: Mapping[str, Any],
    precision: str | None = None,
    *,
    reranked: bool = False,
) -> Answerer:
    """A contender that answers as the section `evaluate` says; `settings` are the values of the section.

    Args:
        precision: how the base is held; None = as the adapter's was in training.
        reranked: whether the scores of the passages are a cross-encoder's.
    """
    from data.prompting.contract import quote_weight_of, template_from_contract
    from jora_engine.adapters.peft_folder import precision_of

    return Answerer(
        base.folder,
        adapter,
        digest,
        settings["dtype"],
        settings["max_new_tokens"],
        settings["batch_size"],
        copying=template_from_contract(contract) if settings["copy_quotes"] else None,
        chat=base.chat,
        precision=precision or precision_of(adapter),
        quote_weight=quote_weight_of(contract),
        reranked=reranked,
    )


def contract_of_export(records: StageFiles, export: StageFiles) -> dict[str, Any]:
    """The prompt contract of the records, with the weight in quoting that the exported adapter is asked with."""
    from data.prompting.contract import quote_weight_of, with_quote_weight

    serving = read_json(export.path("adapter/raft.json"))
    return with_quote_weight(read_json(records.path("contract.json")), quote_weight_of(serving["prompt"]))


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


def citation_score_of(record: Record, row: Mapping[str, Any]) -> float | None:
    """How sure the citation of a scored answer is (`data.evaluation.citing.citing_score`); None where none is given.

    Args:
        record: the question with the passages that the search gave it.
    """
    from data.evaluation.citing import citing_score

    scores = [float(passage["score"]) for passage in record.metadata["passages"]]
    return None if row["refused"] else citing_score(row["quotes"], scores)


def retrieval_figures(records: Sequence[Record], hits: Sequence[Any], passages: int) -> dict[str, float]:
    """`retrieval.metrics.ranking_metrics` of the questions that have an oracle, at the usual depths and at ours; none
    where no question has one. `queries` is their number."""
    from retrieval.metrics import ranking_metrics

    gold = {r.metadata["record_id"]: r.metadata["oracle_ids"] for r in records if r.metadata["oracle_ids"]}
    run = {r.metadata["record_id"]: ranking for r, ranking in zip(records, hits, strict=True)}
    return ranking_metrics(run, gold, ks=sorted({1, 5, 10, passages})) if gold else {}


def try_searches(retriever: Retriever, mode: str, records: Sequence[Record], passages: int) -> SearchTrial | None:
    """What other modes and more passages would bring on the validation records; None where none has an oracle.

    Args:
        retriever: opened in mode `hybrid`, which has the parts for all modes; `mode`: the one that is configured.
        passages: how many a question is shown.
    """
    from data.evaluation.advice import SearchTrial
    from retrieval.mode import MODES

    limit = TRIAL_QUESTIONS if retriever.reranker is None else TRIAL_QUESTIONS_RERANKED
    sample = [record for record in records if record.metadata["oracle_ids"]][:limit]
    if not sample:
        return None
    questions, depth = [record.metadata["question"] for record in sample], max(2 * passages, 10)

    def any_hits(hits: Sequence[Any], count: int) -> int:
        return round(retrieval_figures(sample, hits, count)[f"any_hit@{count}"] * len(sample))

    hits: dict[str, Any] = {name: retriever.in_mode(name).search(questions, depth) for name in MODES}
    return SearchTrial(
        questions=len(sample),
        passages=passages,
        any_hit=any_hits(hits[mode], passages),
        by_mode={name: any_hits(some, passages) for name, some in hits.items() if name != mode},
        by_passages={n: any_hits(hits[mode], n) for n in sorted({passages + 2, 2 * passages})},
    )
