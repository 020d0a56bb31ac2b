"""The work of `questions`: imported from a file, or asked of a teacher and kept if they survive every check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.nouns import Document, read_jsonl, write_jsonl
from data.teachers.protocol import Price, Teacher
from raft_errors import BadInput
from tasks.runtime.folders import ModelFolder, StageFiles, write_json
from tasks.runtime.retriever import open_retriever
from tasks.work.bench import Bench, Outcome, balanced

if TYPE_CHECKING:
    from tasks.questions import QuestionsConfig
    from tasks.retrieval import RetrievalConfig


def build(
    bench: Bench,
    config: QuestionsConfig,
    ingest: StageFiles,
    chunk: StageFiles,
    index: StageFiles,
    *,
    embedder: ModelFolder,
    retrieval: RetrievalConfig,
    base: ModelFolder | None = None,
) -> Outcome:
    """Writes questions.jsonl, dropped.jsonl and report.json."""
    from data.questions.generate import QuestionOptions, generate_questions
    from data.questions.importing import ImportOptions, import_questions

    retriever = open_retriever(retrieval, index, chunk, embedder, queries=bench.cache)
    chunks = list(retriever.chunks.values())
    teacher: Teacher | None = None
    if config.file is not None:
        made = import_questions(
            Path(config.file),
            chunks,
            retriever.search,
            documents=list(read_jsonl(ingest.path("documents.jsonl"), Document)),
            options=ImportOptions(columns=config.columns, min_score=config.min_score),
            progress=bench.progress,
        )
    else:
        small = config.style == "small" or (config.style == "auto" and config.teacher == "local")
        options = QuestionOptions(
            style="small" if small else "full",
            max_questions=config.count,
            questions_per_chunk=config.questions_per_chunk,
            round_trip_k=config.round_trip_k,
            max_likeness=config.max_likeness,
            max_answer_words=config.max_answer_words,
            kinds=config.kinds,
            templates=Path(config.templates) if config.templates else None,
            temperature=config.temperature,
            seed=bench.seed,
        )
        teacher = _teacher(config, base)
        made = generate_questions(
            chunks,
            teacher,
            retriever.search,
            options=options,
            embed=retriever.embed,
            cache=bench.cache,
            progress=bench.progress,
        )
    counts = dict(made.counts)
    dropped = sum(counts["dropped"].values())
    balanced("questions", counts["asked"], len(made.questions), dropped)
    if not made.questions:
        raise BadInput(
            f"None of {counts['asked']} questions survived the checks ({_reasons(counts['dropped'])})",
            expected="at least a few questions to make records from",
            do="ask for more (questions.count), use a stronger teacher, or import your own (questions.file)",
        )
    # how many replies were cached and what was paid now: not the same on a resumed run
    replies = counts.pop("replies", None)
    usage = _usage(teacher)
    write_jsonl(bench.out / "questions.jsonl", made.questions)
    write_jsonl(bench.out / "dropped.jsonl", made.dropped)
    write_json(bench.out / "report.json", counts)
    reasons = f" ({_reasons(counts['dropped'])})" if dropped else ""
    return Outcome(
        f"{counts['asked']} asked = {len(made.questions)} kept + {dropped} dropped{reasons}{_paid(usage)}",
        {**counts, **({"replies": replies} if replies else {}), **({"teacher": usage} if usage else {})},
    )


def _usage(teacher: Teacher | None) -> dict[str, Any]:
    """Requests, tokens and cost of this build, where the teacher keeps an account."""
    account = getattr(teacher, "usage", None)
    return account.to_dict() if account else {}


def _paid(usage: dict[str, Any]) -> str:
    if not usage:
        return ""
    cost = "" if usage["cost"] is None else f", cost {usage['cost']:.4f}"
    read, written = usage["prompt_tokens"], usage["completion_tokens"]
    return f"; {usage['requests']} requests now, {read} tokens read, {written} written{cost}"


def _teacher(config: QuestionsConfig, base: ModelFolder | None) -> Teacher:
    if config.teacher == "openai":
        from data.teachers.endpoint import OpenAITeacher

        return OpenAITeacher(
            config.teacher_model,
            base_url=config.teacher_url,
            key_variable=config.teacher_key_variable,
            concurrency=config.teacher_concurrency,
            timeout_seconds=config.teacher_timeout_seconds,
            attempts=config.teacher_attempts,
            requests_per_minute=config.requests_per_minute,
            structured=config.structured,
            price=_price(config),
            budget=config.budget,
        )
    from tasks.runtime.local_teacher import LocalTeacher

    assert base is not None
    return LocalTeacher(base, batch_size=config.batch_size, dtype=config.dtype)


def _price(config: QuestionsConfig) -> Price | None:
    if config.price_prompt is None and config.price_completion is None:
        return None
    return Price(config.price_prompt or 0.0, config.price_completion or 0.0)


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in list(dropped.items())[:4])
