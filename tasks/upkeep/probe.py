"""A short probe of the base model, before anything is trained: its figures and what they suggest.

Its answers land in the item cache of `evaluate`, so that the evaluation does not ask for them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from data.nouns import ItemCache, Progress, Record, read_jsonl
from raft_errors import BadInput
from tasks.evaluate import EvaluateConfig
from tasks.inputs.models import ModelFiles
from tasks.retrieval import RetrievalConfig
from tasks.runtime.exam import answer_and_score, contexts, depth_for, make_answerer, recall_figures
from tasks.runtime.retriever import open_retriever
from tasks.store.manifest import Manifest
from tasks.store.store import read_json

if TYPE_CHECKING:
    from data.evaluation.advice import Advice, Probe


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
) -> tuple[Probe, list[Advice]]:
    """What the base model alone scores on the first `count` test (else validation) records, and what that suggests."""
    from data.evaluation.advice import advise, probe_from
    from data.evaluation.comparison import summarise

    held_out = [r for split in ("test", "validation") for r in read_jsonl(records.path(f"{split}.jsonl"), Record)]
    used = held_out[:count]
    if not used:
        raise BadInput("There is no held-out record to probe with", do="ask more questions, or raise records.test")
    contract = read_json(records.path("contract.json"))
    retriever = open_retriever(retrieval, index, chunk, models, adapt=adapt)
    hits = retriever.search([r.metadata["question"] for r in used], depth_for(settings, contract["passages"]))
    asked = contexts(used, hits, retriever.chunks, contract, settings, seed)
    who = make_answerer(models["base"], None, models["base"].digest, config.model_dump(), contract)
    rows, _ = answer_and_score("base", who, asked, contract, cache, progress)
    figures = recall_figures(used, hits, contract["passages"])
    probe = probe_from(
        summarise(rows, samples=100, seed=seed),
        records.metrics["records"],
        recall=figures.get(f"recall@{contract['passages']}"),
        answers=[r.metadata["answers"] for r in used],
    )
    return probe, advise(probe)
