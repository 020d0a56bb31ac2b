"""The work of `questions`: imported from a file, or asked of a teacher and kept if they survive every check."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.nouns import Document, ItemCache, Progress, read_jsonl, write_jsonl
from data.teachers.protocol import Price, Teacher
from data.text.counts import counted
from raft_errors import BadInput
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.runtime.retriever import open_retriever
from tasks.work.bench import Bench, Outcome, balanced

if TYPE_CHECKING:
    from data.questions.options import QuestionOptions
    from data.questions.results import QuestionSet
    from retrieval.search import Retriever
    from tasks.questions import QuestionsConfig
    from tasks.retrieval import RetrievalConfig

log = logging.getLogger("raft.tasks")

_CUT = (
    "replies that reached their ceiling of tokens cost %d of %d questions: raise questions.question_tokens or "
    "questions.answer_tokens (raft questions --dropped shows which)"
)


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
    retriever = open_retriever(retrieval, index, chunk, {"embedder": embedder}, reranked=False, queries=bench.cache)
    teacher = teacher_of(config, base) if config.file is None else None
    outcome = ask_or_import(config, bench.seed, retriever, ingest, teacher, bench.cache, bench.progress)
    counts = dict(outcome.counts)
    dropped = sum(counts["dropped"].values())
    balanced("questions", counts["asked"], len(outcome.questions), dropped)
    if cut := counts["dropped"].get("cut_off"):
        log.warning(_CUT, cut, counts["asked"])
    if not outcome.questions:
        first = next((f"; the first: {row.detail}" for row in outcome.dropped if row.detail), "")
        asked = counted(counts["asked"], "question")
        raise BadInput(
            f"None of {asked} survived the checks ({_reasons(counts['dropped'])}{first})",
            expected="at least a few questions to make records from",
            do="see each with its reply (raft questions --dropped), then ask for more (questions.count), use a "
            "stronger teacher, or import your own (questions.file)",
        )
    # how many replies were cached and what was paid now: not the same on a resumed run
    replies = counts.pop("replies", None)
    usage = _usage(teacher)
    write_jsonl(bench.out / "questions.jsonl", outcome.questions)
    write_jsonl(bench.out / "dropped.jsonl", outcome.dropped)
    write_json(bench.out / "report.json", counts)
    reasons = f" ({_reasons(counts['dropped'])})" if dropped else ""
    if merged := counts.get("merged"):
        reasons += f"; {counted(merged, 'row')} merged into the one that asks the same"
    return Outcome(
        f"{counts['asked']} asked = {len(outcome.questions)} kept + {dropped} dropped{reasons}{_paid(usage)}",
        {**counts, **({"replies": replies} if replies else {}), **({"teacher": usage} if usage else {})},
    )


ACCEPTED = "accepted"  # of the setting `feedback`, where nothing has been accepted yet


def ask_or_import(
    config: QuestionsConfig,
    seed: int,
    retriever: Retriever,
    ingest: StageFiles,
    teacher: Teacher | None,
    cache: ItemCache,
    progress: Progress | None = None,
    *,
    traced: bool = False,
) -> QuestionSet:
    """The questions as the section says, from its file where there is no teacher; accepted feedback behind them."""
    asked = _asked_or_imported(config, seed, retriever, ingest, teacher, cache, progress, traced)
    if config.feedback is None or config.feedback == ACCEPTED:
        return asked
    from data.questions.importing import ImportOptions, with_feedback

    return with_feedback(
        asked,
        Path(config.feedback),
        list(retriever.chunks.values()),
        retriever.search,
        documents=list(read_jsonl(ingest.path("documents.jsonl"), Document)),
        copies=_copies(ingest),
        options=ImportOptions(min_score=config.min_score),
    )


def _asked_or_imported(
    config: QuestionsConfig,
    seed: int,
    retriever: Retriever,
    ingest: StageFiles,
    teacher: Teacher | None,
    cache: ItemCache,
    progress: Progress | None,
    traced: bool,
) -> QuestionSet:
    chunks = list(retriever.chunks.values())
    if teacher is None:
        from data.questions.importing import ImportOptions, import_questions

        assert config.file is not None
        return import_questions(
            Path(config.file),
            chunks,
            retriever.search,
            documents=list(read_jsonl(ingest.path("documents.jsonl"), Document)),
            copies=_copies(ingest),
            options=ImportOptions(columns=config.columns, min_score=config.min_score),
            progress=progress,
        )
    from data.questions.generate import generate_questions

    return generate_questions(
        chunks,
        teacher,
        retriever.search,
        options=options_of(config, seed),
        embed=retriever.embed,
        cache=cache,
        progress=progress,
        traced=traced,
    )


def _copies(ingest: StageFiles) -> dict[str, str]:
    """Source -> the source whose document stands for it, because their texts are the same."""
    if not any(entry.path == "report.json" for entry in ingest.files):
        return {}
    return {row["source"]: row["same_as"] for row in read_json(ingest.path("report.json")).get("duplicates", [])}


def options_of(config: QuestionsConfig, seed: int) -> QuestionOptions:
    """How a teacher is asked, as the section says."""
    from data.questions.options import QuestionOptions

    small = config.style == "small" or (config.style == "auto" and config.teacher == "local")
    return QuestionOptions(
        style="small" if small else "full",
        max_questions=config.count,
        questions_per_chunk=config.questions_per_chunk,
        round_trip_k=config.round_trip_k,
        max_likeness=config.max_likeness,
        max_answer_words=config.max_answer_words,
        kinds=config.kinds,
        templates=Path(config.templates) if config.templates else None,
        question_tokens=config.question_tokens,
        answer_tokens=config.answer_tokens,
        temperature=config.temperature,
        seed=seed,
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
    return f"; {counted(usage['requests'], 'request')} now, {counted(read, 'token')} read, {written} written{cost}"


def teacher_of(config: QuestionsConfig, base: ModelFolder | None) -> Teacher:
    """Who is asked, as the section says; nothing is loaded or sent yet."""
    if config.teacher == "openai":
        from data.teachers.endpoint import OpenAITeacher

        return OpenAITeacher(
            config.teacher_model,
            base_url=config.teacher_url,
            api_version=config.teacher_api_version,
            key_header=config.teacher_key_header,
            key_variable=config.teacher_key_variable,
            concurrency=config.teacher_concurrency,
            timeout_seconds=config.teacher_timeout_seconds,
            attempts=config.teacher_attempts,
            requests_per_minute=config.requests_per_minute,
            structured=config.structured,
            price=price_of(config),
            budget=config.budget,
        )
    from tasks.runtime.local_teacher import LocalTeacher

    assert base is not None
    return LocalTeacher(base, batch_size=config.batch_size, dtype=config.dtype)


def price_of(config: QuestionsConfig) -> Price | None:
    """What tokens cost, where the section says it."""
    if config.price_prompt is None and config.price_completion is None:
        return None
    return Price(config.price_prompt or 0.0, config.price_completion or 0.0)


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in list(dropped.items())[:4])
