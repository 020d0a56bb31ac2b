"""A short probe of the base model, before anything is trained: its figures and what they suggest.

Its answers land in the item cache of `evaluate`, so that the evaluation does not ask for them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.nouns import ItemCache, Progress, Record, read_jsonl
from data.prompting.contract import with_quote_weight
from raft_errors import BadInput
from tasks.evaluate import EvaluateConfig
from tasks.inputs.models import ModelFiles
from tasks.retrieval import RetrievalConfig
from tasks.runtime.exam import answer_and_score, contexts, depth_for, make_answerer, retrieval_figures, try_searches
from tasks.runtime.retriever import open_retriever
from tasks.store.manifest import Manifest
from tasks.store.store import read_json

if TYPE_CHECKING:
    from data.evaluation.advice import Advice, Probe
    from data.evaluation.promotion import Decision


def probe_base(
    config: EvaluateConfig,
    cache: ItemCache,
    progress: Progress,
    *,
    records: Manifest,
    index: Manifest,
    chunk: Manifest,
    adapt: Manifest | None = None,
    models: Mapping[str, ModelFiles],
    retrieval: RetrievalConfig,
    settings: Sequence[str],
    count: int,
    seed: int,
    sections: Mapping[str, Any],
    train: Manifest | None = None,
    evaluate: Manifest | None = None,
    quote_weight: float = 0.0,
) -> tuple[Probe, list[Advice]]:
    """What the base model alone scores on the first `count` test (else validation) records, and what that suggests.

    Args:
        settings: which passages the base is shown.
        sections: what is set, `section.field` -> value.
        train, evaluate: of this configuration, where they are finished: the advice then rests on their verdict.
        quote_weight: as the adapter's contract will have it (`ask.quote_weight`).
    """
    from data.evaluation.advice import advise, probe_from
    from data.evaluation.comparison import summarise
    from data.evaluation.presupposing import presupposing_questions

    test, validation = (list(read_jsonl(records.path(f"{name}.jsonl"), Record)) for name in ("test", "validation"))
    used = [*test, *validation][:count]
    if not used:
        raise BadInput("There is no held-out record to probe with", do="ask more questions, or raise records.test")
    contract = with_quote_weight(read_json(records.path("contract.json")), quote_weight)
    every_mode = open_retriever(retrieval.model_copy(update={"mode": "hybrid"}), index, chunk, models, adapt=adapt)
    retriever, passages = every_mode.in_mode(retrieval.mode), contract["passages"]
    hits = retriever.search([r.metadata["question"] for r in used], depth_for(settings, passages))
    asked = contexts(used, hits, retriever.chunks, contract, settings, seed)
    who = make_answerer(
        *(models["base"], None, models["base"].digest, config.model_dump(), contract),
        reranked=retriever.reranker is not None,
    )
    rows, _ = answer_and_score("base", who, asked, contract, cache, progress)
    probe = probe_from(
        summarise(rows, samples=100, seed=seed),
        records.metrics["records"],
        retrieval=retrieval_figures(used, hits, passages),
        passages=passages,
        trial=try_searches(every_mode, retrieval.mode, validation, passages),
        fitted=adapt.metrics if adapt else {},
        presupposing=presupposing_questions(used),
        questions=len(used),
        answers=[r.metadata["answers"] for r in used],
        settings=sections,
        training=_training(train) if train else {},
        decision=_decision(evaluate) if evaluate else None,
    )
    return probe, advise(probe)


def _training(train: Manifest) -> dict[str, Any]:
    return {**train.metrics, "learning_rate": read_json(train.path("training.json"))["training"]["learning_rate"]}


def _decision(evaluate: Manifest) -> Decision | None:
    from data.evaluation.promotion import Decision

    decision = read_json(evaluate.path("metrics.json")).get("decision")
    return Decision.from_dict(decision) if decision else None
