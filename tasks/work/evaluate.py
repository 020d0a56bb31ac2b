"""The work of `evaluate`: base and adapter, both with retrieval, answer questions on documents held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.nouns import Record, read_jsonl, write_jsonl
from data.teachers.protocol import Teacher
from data.text.urls import value_without_secrets
from raft_errors import BadInput
from tasks.runtime.contenders import contenders
from tasks.runtime.exam import answer_and_score, contexts, depth_for, make_answerer, recall_figures
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.runtime.general_skills import general_skills
from tasks.runtime.retriever import open_retriever
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from tasks.evaluate import EvaluateConfig
    from tasks.retrieval import RetrievalConfig


def build(
    bench: Bench,
    config: EvaluateConfig,
    export: StageFiles,
    train: StageFiles,
    records: StageFiles,
    index: StageFiles,
    chunk: StageFiles,
    *,
    embedder: ModelFolder,
    base: ModelFolder,
    retrieval: RetrievalConfig,
) -> Outcome:
    """Writes rows.jsonl, rows.parquet, metrics.json, summary.md and report.html."""
    from data.evaluation.advice import advise, probe_from
    from data.evaluation.comparison import summarise
    from data.evaluation.row_table import write_rows
    from data.reports.report import summary_markdown, write_report
    from data.statistics import with_interval

    test = list(read_jsonl(records.path("test.jsonl"), Record))
    used = test[: config.limit]
    if not used:
        raise BadInput(
            "There is no test record to evaluate on",
            expected="at least one question on a document that was held out",
            do="ask more questions (questions.count), or raise records.test",
        )
    contract = read_json(records.path("contract.json"))
    who = contenders(base, export.path("adapter"), train.digest, contract, config.earlier)
    retriever = open_retriever(retrieval, index, chunk, embedder)
    hits = retriever.search([r.metadata["question"] for r in used], depth_for(config.settings, contract["passages"]))
    asked = contexts(used, hits, retriever.chunks, contract, config.settings, bench.seed)
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    for one in who:
        answerer = make_answerer(base.folder, one.adapter, one.digest, config.model_dump(), contract)
        scored, took = answer_and_score(one.name, answerer, asked, contract, bench.cache, bench.progress)
        rows += scored
        seconds |= {} if took is None else {f"seconds_per_answer_{one.name}": took}
    general = None
    if config.general:
        general = general_skills(
            {one.name: (one.adapter, one.digest) for one in who[:2]},
            base.folder,
            count=config.general,
            dtype=config.dtype,
            batch_size=config.batch_size,
            cache=bench.cache,
            progress=bench.progress,
            samples=config.samples,
            seed=bench.seed,
        )
    judge = None
    if config.judge != "none":
        from data.evaluation.teacher_judge import judge_rows

        rows, judge = judge_rows(
            rows, _judge(config, base), cache=bench.cache, progress=bench.progress, seed=bench.seed
        )
    summary = summarise(rows, samples=config.samples, seed=bench.seed)
    found = recall_figures(used, hits, contract["passages"])
    probe = probe_from(
        summary,
        records.metrics["records"],
        recall=found.get(f"recall@{contract['passages']}"),
        answers=[r.metadata["answers"] for r in used],
    )
    advice = [a.to_dict() for a in advise(probe)]
    title = f"{base.name}: base against adapter"
    write_jsonl(bench.out / "rows.jsonl", rows)
    write_rows(bench.out / "rows.parquet", rows)
    write_json(
        bench.out / "metrics.json",
        {"summary": summary, "retrieval": found, "general": general, "judge": judge, "advice": advice},
    )
    words = summary_markdown(summary, title=title, advice=advice, general=general)
    (bench.out / "summary.md").write_text(words, encoding="utf-8", newline="\n")
    write_report(
        bench.out / "report.html",
        title=title,
        summary=summary,
        rows=rows,
        retrieval=found,
        training=_training(train),
        config={m.stage: m.ingredients["config"] for m in (chunk, records, train, export)}
        | value_without_secrets(
            {"retrieval": retrieval.model_dump(mode="json"), "evaluate": config.model_dump(mode="json")}
        ),
        lineage={n: f"{v} (kept: made by other code)" if n in bench.kept else v for n, v in bench.lineage.items()},
        advice=advice,
        general=general,
        judge=judge,
    )
    headline = summary.get("headline") or {}
    line = f"{len(used)} of {len(test)} test records, {len(who)} × {len(asked)} answers"
    if headline:
        line += (
            f"; token F1 base {headline['base']:.3f} → adapter {headline['other']:.3f}, difference "
            f"{with_interval(headline['difference'], headline)}"
        )
    figures = {"records": len(used), "answers": len(rows), "headline": headline, **found, **seconds}
    return Outcome(line, figures | ({"general_skills": general.get("verdict")} if general else {}))


def _judge(config: EvaluateConfig, base: ModelFolder) -> Teacher:
    if config.judge == "openai":
        from data.teachers.endpoint import OpenAITeacher

        return OpenAITeacher(config.judge_model, base_url=config.judge_url, key_variable=config.judge_key_variable)
    from tasks.runtime.local_teacher import LocalTeacher

    return LocalTeacher(base, batch_size=config.batch_size, dtype=config.dtype)


def _training(train: StageFiles) -> dict[str, Any]:
    """The loss curves and the figures of the training, for the report."""
    import json

    rows = [json.loads(line) for line in train.path("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curves = {
        name: [[r["step"], r[name]] for r in rows if r.get(name) is not None] for name in ("loss", "validation_loss")
    }
    return {**train.metrics, **{name: points for name, points in curves.items() if points}}
