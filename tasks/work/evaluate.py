"""The work of `evaluate`: base and adapter, both with retrieval, answer questions about held-out documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.nouns import Record, read_jsonl, write_jsonl
from data.teachers.protocol import Teacher
from data.text.counts import counted
from data.text.urls import value_without_secrets
from raft_errors import BadInput
from tasks.runtime.contenders import Contender, contenders
from tasks.runtime.exam import (
    answer_and_score,
    citation_score_of,
    contexts,
    contract_of_export,
    depth_for,
    make_answerer,
    retrieval_figures,
    try_searches,
)
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.runtime.general_replies import measure_general_skills
from tasks.runtime.retriever import open_retriever
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from data.evaluation.promotion import Decision
    from tasks.evaluate import EvaluateConfig
    from tasks.gate import GateConfig
    from tasks.retrieval import RetrievalConfig


def build(
    bench: Bench,
    config: EvaluateConfig,
    export: StageFiles,
    train: StageFiles,
    records: StageFiles,
    index: StageFiles,
    chunk: StageFiles,
    adapt: StageFiles | None = None,
    *,
    embedder: ModelFolder,
    base: ModelFolder,
    retrieval: RetrievalConfig,
    gate: GateConfig,
    reranker: ModelFolder | None = None,
) -> Outcome:
    """Writes rows.jsonl, rows.parquet, metrics.json, summary.md and report.html."""
    from data.evaluation.comparison import summarise
    from data.evaluation.promotion import decide_evaluation

    test = list(read_jsonl(records.path("test.jsonl"), Record))
    sample = test[: config.limit]
    if not sample:
        raise BadInput(
            "There is no test record to evaluate on",
            expected="at least one question on a document that was held out",
            do="ask more questions (questions.count), or raise records.test",
        )
    contract = contract_of_export(records, export)
    who = contenders(base, export.path("adapter"), train.digest, contract, config.earlier)
    every_mode = open_retriever(
        retrieval.model_copy(update={"mode": "hybrid"}),
        index,
        chunk,
        {"embedder": embedder, "reranker": reranker},
        adapt=adapt,
        queries=bench.cache,
    )
    retriever = every_mode.in_mode(retrieval.mode)
    depth = depth_for(config.settings, contract["passages"])
    hits = retriever.search([r.metadata["question"] for r in sample], depth)
    questions = contexts(sample, hits, retriever.chunks, contract, config.settings, bench.seed)
    rows, seconds = _answers(who, questions, contract, config, base, bench, retriever.reranker is not None)
    general = _general_skills(who, config, base, bench)
    rows, judge = _with_verdicts(rows, config, base, bench)
    summary = summarise(rows, samples=config.samples, seed=bench.seed)
    citing = _citing(export, questions, [row for row in rows if row["condition"] == who[1].name], config)
    decision = decide_evaluation(summary, general, gate.rule)
    passages, training = contract["passages"], _training(train)
    if full_base := export.metrics.get("full_base"):
        training["full_base"] = full_base
    figures = retrieval_figures(sample, hits, passages)
    validation = list(read_jsonl(records.path("validation.jsonl"), Record))
    known = {
        "retrieval": figures,
        "passages": passages,
        "trial": try_searches(every_mode, retrieval.mode, validation, passages),
        "fitted": {} if adapt is None else adapt.metrics,
        "settings": _flat(
            {m.stage: m.ingredients["config"] for m in (records, train, adapt) if m is not None}
            | {"retrieval": retrieval.model_dump()}
        ),
        "training": training,
        "decision": decision,
    }
    findings = {
        "summary": summary,
        "decision": decision.to_dict() if decision else None,
        "retrieval": figures,
        "general": general,
        "judge": judge,
        **({"citing": citing} if citing else {}),
        "advice": _advice(summary, records, sample, known),
    }
    settings = {m.stage: m.ingredients["config"] for m in (chunk, records, train, export)} | value_without_secrets(
        {"retrieval": retrieval.model_dump(mode="json"), "evaluate": config.model_dump(mode="json")}
    )
    about = {"rerank": records.metrics.get("rerank"), "fitted": None if adapt is None else adapt.metrics}
    retriever_facts = {name: facts for name, facts in about.items() if facts}
    _write(bench, f"{base.name}: base against adapter", rows, findings, training, settings, retriever_facts)
    headline = summary.get("headline") or {}
    metrics = {"records": len(sample), "answers": len(rows), "headline": headline, **figures, **seconds}
    if decision:
        metrics |= {"verdict": decision.verdict, "reason": decision.reason}
    return Outcome(
        f"{len(sample)} of {counted(len(test), 'test record')}, {len(who)} × {counted(len(questions), 'answer')}"
        f"{_in_words(headline, decision)}",
        metrics | ({"general_skills": general.get("verdict")} if general else {}),
    )


def _answers(
    who: Sequence[Contender],
    questions: Sequence[tuple[str, Record]],
    contract: Mapping[str, Any],
    config: EvaluateConfig,
    base: ModelFolder,
    bench: Bench,
    reranked: bool,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The scored answers of all contenders, and the mean seconds an answer took, where any was generated now."""
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    for one in who:
        answerer = make_answerer(
            base, one.adapter, one.digest, config.model_dump(), contract, one.precision, reranked=reranked
        )
        replies, mean = answer_and_score(one.name, answerer, questions, contract, bench.cache, bench.progress)
        rows += replies
        if mean is not None:
            seconds[f"seconds_per_answer_{one.name}"] = mean
    return rows, seconds


def _general_skills(
    who: Sequence[Contender], config: EvaluateConfig, base: ModelFolder, bench: Bench
) -> dict[str, Any] | None:
    if not config.general:
        return None
    return measure_general_skills(
        who[:2],
        base,
        count=config.general,
        dtype=config.dtype,
        batch_size=config.batch_size,
        cache=bench.cache,
        progress=bench.progress,
        samples=config.samples,
        seed=bench.seed,
    )


def _with_verdicts(
    rows: list[dict[str, Any]], config: EvaluateConfig, base: ModelFolder, bench: Bench
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The rows with the judge's verdicts, and the figures about the judge; as they were where none is configured."""
    if config.judge == "none":
        return rows, None
    from data.evaluation.teacher_judge import judge_rows

    judge, tokens = judge_of(config, base), config.judge_tokens
    return judge_rows(rows, judge, cache=bench.cache, progress=bench.progress, seed=bench.seed, max_tokens=tokens)


def _advice(
    summary: Mapping[str, Any], records: StageFiles, sample: Sequence[Record], known: Mapping[str, Any]
) -> list[dict[str, Any]]:
    from data.evaluation.advice import advise, probe_from
    from data.evaluation.presupposing import presupposing_questions

    probe = probe_from(
        summary,
        records.metrics["records"],
        presupposing=presupposing_questions(sample),
        questions=len(sample),
        answers=[r.metadata["answers"] for r in sample],
        **known,
    )
    return [a.to_dict() for a in advise(probe)]


def _flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{name}.{field}": value for name, section in sections.items() for field, value in section.items()}


def _write(
    bench: Bench,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    findings: Mapping[str, Any],
    training: Mapping[str, Any],
    settings: Mapping[str, Any],
    retriever: Mapping[str, Any],
) -> None:
    """Args:
    retriever: what reranking cost when the records were made, and what fitting the retriever came to.
    """
    from data.evaluation.row_table import write_rows
    from data.reports.report import summary_markdown, write_report

    write_jsonl(bench.out / "rows.jsonl", rows)
    write_rows(bench.out / "rows.parquet", rows)
    write_json(bench.out / "metrics.json", findings)
    summary, advice, general = findings["summary"], findings["advice"], findings["general"]
    decision = findings["decision"]
    citing = findings.get("citing", {})
    markdown = summary_markdown(
        summary, title=title, decision=decision, training=training, advice=advice, general=general, citing=citing
    )
    (bench.out / "summary.md").write_text(markdown, encoding="utf-8", newline="\n")
    write_report(
        bench.out / "report.html",
        title=title,
        summary=summary,
        decision=decision,
        rows=rows,
        retrieval={**findings["retrieval"], **retriever},
        training=training,
        config=settings,
        lineage={
            n: f"{v} (kept: made by other code, or for an earlier corpus)" if n in bench.kept else v
            for n, v in bench.lineage.items()
        },
        advice=advice,
        general=general,
        judge=findings["judge"],
        citing=citing,
    )


def _in_words(headline: Mapping[str, Any], decision: Decision | None) -> str:
    from data.statistics import with_interval

    if not headline:
        return ""
    change = with_interval(headline["difference"], headline)
    words = f"; token F1 base {headline['base']:.3f} → adapter {headline['other']:.3f}, difference {change}"
    if decision is None or decision.verdict == "promote":
        return words + ("" if decision is None else "; verdict: promote")
    return f"{words}; verdict: {decision.verdict}, {decision.reason}"


def judge_of(config: EvaluateConfig, base: ModelFolder | None) -> Teacher:
    """Who says of each reply whether it is right, as the section says; nothing is loaded or sent yet."""
    if config.judge == "openai":
        from data.teachers.endpoint import OpenAITeacher

        return OpenAITeacher(config.judge_model, base_url=config.judge_url, key_variable=config.judge_key_variable)
    from tasks.runtime.local_teacher import LocalTeacher

    assert base is not None
    return LocalTeacher(base, batch_size=config.batch_size, dtype=config.dtype)


def _citing(
    export: StageFiles,
    questions: Sequence[tuple[str, Record]],
    rows: Sequence[Mapping[str, Any]],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """What the adapter's calibration promises, and `measured`, what its threshold comes to on the test questions where
    they were asked in the same way; empty where it promises nothing.

    Args:
        rows: the adapter's, of all `questions`.
    """
    from data.evaluation.citing import cites_rightly, outcome

    promised = read_json(export.path("adapter/raft.json"))["prompt"].get("citing")
    if not promised:
        return {}
    pairs = [(record, row) for (setting, record), row in zip(questions, rows, strict=True) if setting == "retrieved"]
    if not pairs or config.copy_quotes != promised["copy_quotes"]:
        return {**promised, "measured": None}
    scores = [citation_score_of(record, row) for record, row in pairs]
    right, documents = [cites_rightly(row["quotes"]) for _, row in pairs], [row["group"] for _, row in pairs]
    return {**promised, "measured": outcome(scores, right, documents, promised["threshold"])}


def _training(train: StageFiles) -> dict[str, Any]:
    """The loss curves, the figures and the peak rate of the training, for report and advice."""
    import json

    rows = [json.loads(line) for line in train.path("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curves = {
        name: [[r["step"], r[name]] for r in rows if r.get(name) is not None] for name in ("loss", "validation_loss")
    }
    rate = read_json(train.path("training.json"))["training"]["learning_rate"]
    return {**train.metrics, "learning_rate": rate, **{name: points for name, points in curves.items() if points}}
