"""Stage `evaluate`: base with retrieval against adapter with retrieval, on documents that were not trained on."""

from __future__ import annotations

from typing import Any, Literal

from data.nouns import Record, read_jsonl, write_jsonl
from raft_errors import BadInput
from tasks.answers import Answerer, answer
from tasks.models import ModelFiles
from tasks.retriever import SEARCH_PACKAGES, RetrievalConfig, open_retriever
from tasks.section import Section, setting
from tasks.stage import Bench, Outcome, Stage
from tasks.store import Manifest, read_json, write_json

Setting = Literal["records", "retrieved", "oracle_only", "distractors_only", "closed_book"]


class EvaluateConfig(Section):
    """How the adapter is measured."""

    settings: tuple[Setting, ...] = setting(
        ("retrieved",), "Which passages are shown: as retrieved, of the record, the oracle alone, ...", min_length=1
    )
    limit: int | None = setting(None, "Test records at most, in order; null = all", ge=1)
    max_new_tokens: int = setting(160, "Longest answer", unit="tokens", ge=8, le=8192)
    batch_size: int = setting(16, "Prompts answered side by side", unit="prompts", ge=1, le=512)
    dtype: Literal["bfloat16", "float32"] = setting("bfloat16", "Precision of the models")
    samples: int = setting(10_000, "Bootstrap samples behind an interval", ge=100, le=1_000_000)


def build(
    bench: Bench,
    config: EvaluateConfig,
    export: Manifest,
    train: Manifest,
    records: Manifest,
    index: Manifest,
    chunk: Manifest,
    embedder: ModelFiles,
    base: ModelFiles,
    retrieval: RetrievalConfig,
) -> Outcome:
    """Writes rows.jsonl, metrics.json and report.html."""
    from data.comparison import summarise
    from data.conditions import conditions
    from data.prompting import template_from_contract
    from data.report import write_report
    from data.scoring import score_row

    test = list(read_jsonl(records.path("test.jsonl"), Record))
    used = test[: config.limit]
    if not used:
        raise BadInput(
            "There is no test record to evaluate on",
            expected="at least one question on a document that was held out",
            do="ask more questions (questions.count), or raise records.test",
        )
    contract = read_json(records.path("contract.json"))
    template = template_from_contract(contract)
    retriever = open_retriever(retrieval, index, chunk, embedder)
    depth = max(10, 2 * contract["passages"])
    hits = retriever.search([r.metadata["question"] for r in used], depth)
    shown: dict[str, list[Record]] = {name: [] for name in config.settings}
    for record, found in zip(used, hits, strict=True):
        variants = conditions(
            record,
            found,
            retriever.chunks,
            passages=contract["passages"],
            may_refuse=contract["may_refuse"],
            template=template,
            seed=bench.seed,
        )
        for name in config.settings:
            variant = record if name == "records" else variants.get(name)
            if variant is not None:
                shown[name].append(variant)
    asked = [(name, record) for name in config.settings for record in shown[name]]
    rows: list[dict[str, Any]] = []
    for condition, adapter, digest in (
        ("base", None, base.digest),
        ("adapter", export.path("adapter"), f"{base.digest}+{train.digest}"),
    ):
        who = Answerer(base.folder, adapter, digest, config.dtype, config.max_new_tokens, config.batch_size)
        answers = answer(who, [record for _, record in asked], bench.cache, bench.progress, f"{condition} answers")
        rows += [
            score_row(
                record,
                given.text,
                condition=condition,
                setting=name,
                template=template,
                finish_reason=given.finish_reason,
            )
            for (name, record), given in zip(asked, answers, strict=True)
        ]
    summary = summarise(rows, samples=config.samples, seed=bench.seed)
    retrieval = _retrieval(used, hits)
    write_jsonl(bench.out / "rows.jsonl", rows)
    write_json(bench.out / "metrics.json", {"summary": summary, "retrieval": retrieval})
    write_report(
        bench.out / "report.html",
        title=f"{base.name}: base against adapter",
        summary=summary,
        rows=rows,
        retrieval=retrieval,
        training=_training(train),
        config={m.stage: m.ingredients["config"] for m in (chunk, records, train, export)}
        | {"evaluate": config.model_dump(mode="json")},
        lineage=dict(bench.lineage),
    )
    headline = summary.get("headline") or {}
    words = f"{len(used)} of {len(test)} test records, 2 × {len(asked)} answers"
    if headline:
        words += (
            f"; token F1 base {headline['base']:.3f} → adapter {headline['other']:.3f}, difference "
            f"{headline['difference']:+.3f} [{headline['low']:+.3f}, {headline['high']:+.3f}]"
        )
    return Outcome(words, {"records": len(used), "answers": len(rows), "headline": headline, **retrieval})


def _retrieval(records: list[Record], hits: list[Any]) -> dict[str, float]:
    """How often the retriever finds an oracle of the test questions that have one."""
    from retrieval.metrics import ranking_metrics

    judged = {r.metadata["record_id"]: r.metadata["oracle_ids"] for r in records if r.metadata["oracle_ids"]}
    run = {r.metadata["record_id"]: found for r, found in zip(records, hits, strict=True)}
    return ranking_metrics(run, judged) if judged else {}


def _training(train: Manifest) -> dict[str, Any]:
    """The loss curves and the figures of the training, for the report."""
    import json

    rows = [json.loads(line) for line in train.path("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curves = {
        name: [[r["step"], r[name]] for r in rows if r.get(name) is not None] for name in ("loss", "validation_loss")
    }
    return {**train.metrics, **{name: points for name, points in curves.items() if points}}


STAGE = Stage(
    "evaluate",
    EvaluateConfig,
    build,
    inputs=("export", "train", "records", "index", "chunk"),
    models=("embedder", "base"),
    shared=("retrieval",),
    seeded=True,
    modules=("tasks.answers", "tasks.retriever"),
    packages=(*SEARCH_PACKAGES, "jax", "jaxlib", "rouge-score", "ir-measures"),
)
