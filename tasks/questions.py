"""Stage `questions`: imported from a file, or asked of a teacher and kept only if they survive every check."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from data.nouns import Document, read_jsonl, write_jsonl
from data.teachers import Teacher
from raft_errors import BadInput
from tasks.models import ModelFiles
from tasks.retriever import SEARCH_PACKAGES, RetrievalConfig, open_retriever
from tasks.section import Section, setting
from tasks.stage import Bench, Outcome, Stage, balanced
from tasks.store import Manifest, write_json


class QuestionsConfig(Section):
    """Where questions come from."""

    file: str | None = setting(
        None,
        "Your own questions (jsonl, csv, ...: question, answer, optional document and quote); null = ask the teacher",
        path=True,
        result="content",
    )
    count: int | None = setting(
        320, "Questions the teacher is asked for at most (fewer survive); null = about every chunk", ge=1
    )
    teacher: Literal["local", "openai"] = setting(
        "local", "local = the base model itself; openai = any OpenAI-compatible endpoint"
    )
    teacher_model: str = setting("gpt-4o-mini", "Model name at the endpoint")
    teacher_url: str | None = setting(None, "Address of the endpoint, e.g. http://127.0.0.1:8000/v1", result=False)
    teacher_key_variable: str = setting("OPENAI_API_KEY", "Environment variable that holds the key", result=False)
    teacher_concurrency: int = setting(8, "Requests in flight at once", ge=1, le=256, result=False)
    style: Literal["auto", "small", "full"] = setting(
        "auto", "small = one call, the answer is the text's own; full = two calls; auto = small for the local teacher"
    )
    questions_per_chunk: int = setting(1, "Questions about one chunk at most", ge=1, le=20)
    round_trip_k: int = setting(
        5, "A question is kept if it finds its own chunk within this rank; 0 = all", ge=0, le=100
    )
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
    from data.importing import import_questions
    from data.questions.generate import QuestionOptions, generate_questions

    retriever = open_retriever(retrieval, index, chunk, embedder)
    chunks = list(retriever.chunks.values())
    if config.file is not None:
        made = import_questions(
            Path(config.file),
            chunks,
            retriever.search,
            documents=list(read_jsonl(ingest.path("documents.jsonl"), Document)),
            progress=bench.progress,
        )
    else:
        small = config.style == "small" or (config.style == "auto" and config.teacher == "local")
        options = QuestionOptions(
            style="small" if small else "full",
            max_questions=config.count,
            questions_per_chunk=config.questions_per_chunk,
            round_trip_k=config.round_trip_k,
            temperature=config.temperature,
            seed=bench.seed,
        )
        made = generate_questions(
            chunks,
            _teacher(config, base),
            retriever.search,
            options=options,
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
    replies = counts.pop("replies", None)  # how many were cached: not the same on a resumed run
    write_jsonl(bench.out / "questions.jsonl", made.questions)
    write_jsonl(bench.out / "dropped.jsonl", made.dropped)
    write_json(bench.out / "report.json", counts)
    reasons = f" ({_reasons(counts['dropped'])})" if dropped else ""
    return Outcome(
        f"{counts['asked']} asked = {len(made.questions)} kept + {dropped} dropped{reasons}",
        {**counts, **({"replies": replies} if replies else {})},
    )


def _teacher(config: QuestionsConfig, base: ModelFiles | None) -> Teacher:
    if config.teacher == "openai":
        from data.teachers import OpenAITeacher

        return OpenAITeacher(
            config.teacher_model,
            base_url=config.teacher_url,
            key_variable=config.teacher_key_variable,
            concurrency=config.teacher_concurrency,
        )
    from tasks.local_teacher import LocalTeacher

    assert base is not None
    return LocalTeacher(base, batch_size=config.batch_size, dtype=config.dtype)


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
    modules=("tasks.local_teacher", "tasks.retriever"),
    packages=(*SEARCH_PACKAGES, "rapidfuzz", "jax", "jaxlib"),
)
