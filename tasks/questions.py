"""Stage `questions`: imported from a file, or asked of a teacher and kept only if they survive every check."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from data.nouns import Document, read_jsonl, write_jsonl
from data.teachers.protocol import Price, Teacher
from raft_errors import BadInput
from tasks.build.section import Section, setting
from tasks.build.stage import Bench, Outcome, Stage, balanced
from tasks.inputs.models import ModelFiles
from tasks.runtime.retriever import RetrievalConfig, open_retriever
from tasks.store.store import Manifest, write_json


class QuestionsConfig(Section):
    """Where questions come from."""

    file: str | None = setting(
        None,
        "Your own questions (jsonl, csv, ...: question, answer, optional document and quote); null = ask the teacher",
        path=True,
        result="content",
    )
    columns: dict[str, str] = setting(
        {}, "Column names of that file where they are not the usual ones, e.g. {question: frage}"
    )
    min_score: float = setting(
        0.5,
        "Rows that name no document and whose answer is found nowhere word for word take the first hit from this score",
        ge=0,
        le=1,
    )
    count: int | None = setting(
        320, "Questions the teacher is asked for at most (fewer survive); null = about every chunk", ge=1
    )
    teacher: Literal["local", "openai"] = setting(
        "local", "local = the base model itself; openai = any OpenAI-compatible endpoint", from_outside=False
    )
    teacher_model: str = setting("gpt-4o-mini", "Model name at the endpoint")
    teacher_url: str | None = setting(None, "Address of the endpoint, e.g. http://127.0.0.1:8000/v1", result=False)
    teacher_key_variable: str = setting("OPENAI_API_KEY", "Environment variable that holds the key", result=False)
    teacher_concurrency: int = setting(8, "Requests in flight at once", ge=1, le=256, result=False)
    teacher_timeout_seconds: float = setting(
        120.0, "Longest wait for one whole reply", unit="seconds", gt=0, le=3600, result=False
    )
    teacher_attempts: int = setting(6, "Tries for one prompt, with growing pauses", ge=1, le=20, result=False)
    requests_per_minute: float | None = setting(
        None, "Requests sent in a minute at most; null = as fast as the endpoint answers", gt=0, result=False
    )
    structured: bool = setting(
        True, "Ask the endpoint for answers as JSON objects; one that refuses is asked for plain ones"
    )
    price_prompt: float | None = setting(
        None, "What a million tokens read cost, in the currency of the budget", ge=0, result=False
    )
    price_completion: float | None = setting(None, "What a million tokens written cost", ge=0, result=False)
    budget: float | None = setting(
        None, "Most that one run may cost; it stops before, and the next run goes on from there", gt=0, result=False
    )
    style: Literal["auto", "small", "full"] = setting(
        "auto", "small = one call, the answer is the text's own; full = two calls; auto = small for the local teacher"
    )
    kinds: tuple[Literal["factoid", "how_to", "yes_no", "comparison", "unanswerable"], ...] = setting(
        ("factoid",),
        "What a teacher of full style is asked for, in equal shares: comparison = over two passages, "
        "unanswerable = to be refused; name one twice for a double share",
        min_length=1,
    )
    templates: str | None = setting(
        None, "Folder of your own prompts: files replace those of the same name", path=True, result="content"
    )
    questions_per_chunk: int = setting(1, "Questions about one chunk at most", ge=1, le=20)
    round_trip_k: int = setting(
        5, "A question is kept if it finds its own chunk within this rank; 0 = all", ge=0, le=100
    )
    max_likeness: float = setting(
        0.95, "Cosine from which two questions mean the same and the later is dropped", ge=0.5, le=1
    )
    max_answer_words: int = setting(60, "Longest final answer of a teacher", unit="words", ge=1, le=1000)
    temperature: float = setting(0.0, "Of the teacher; 0 = greedy", ge=0, le=2)
    batch_size: int = setting(16, "Prompts the local teacher answers at once", unit="prompts", ge=1, le=512)
    dtype: Literal["bfloat16", "float32"] = setting("bfloat16", "Precision of the local teacher")


def models_for(config: QuestionsConfig) -> tuple[str, ...]:
    """The base model is needed only where it is the teacher."""
    return ("embedder", "base") if config.file is None and config.teacher == "local" else ("embedder",)


def build(
    bench: Bench,
    config: QuestionsConfig,
    ingest: Manifest,
    chunk: Manifest,
    index: Manifest,
    embedder: ModelFiles,
    retrieval: RetrievalConfig,
    base: ModelFiles | None = None,
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


def _teacher(config: QuestionsConfig, base: ModelFiles | None) -> Teacher:
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


STAGE = Stage(
    "questions",
    QuestionsConfig,
    build,
    inputs=("ingest", "chunk", "index"),
    models=models_for,
    shared=("retrieval",),
    seeded=True,
)
