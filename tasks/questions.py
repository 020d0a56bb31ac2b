"""Stage `questions`: imported from a file, or asked of a teacher and kept only if they survive every check."""

from __future__ import annotations

from typing import Literal

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.questions import ACCEPTED, build


class QuestionsConfig(Section):
    """Where questions come from."""

    file: str | None = setting(
        None,
        "Your own questions (jsonl, csv, ...: question, answer, optional document and quote); null = ask the teacher",
        path=True,
        result="content",
    )
    feedback: str | None = setting(
        ACCEPTED,
        "Feedback that is trained on beside these and never examined: accepted = what raft feedback has accepted for "
        "this adapter, if anything; a question file; null = none",
        path="or name",
        result="content",
    )
    columns: dict[str, str] = setting(
        {}, "Column names of that file where they are not the usual ones, e.g. {question: frage}"
    )
    min_score: float = setting(
        0.5,
        "Where the words of an imported answer decide nothing (yes or no without a document; an answer in other words "
        "than its document's), the retriever's hit is taken from this score",
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
    teacher_api_version: str | None = setting(
        None, "Azure's api-version, where the address itself has none, e.g. 2024-10-21", result=False
    )
    teacher_key_variable: str = setting("OPENAI_API_KEY", "Environment variable that holds the key", result=False)
    teacher_key_header: str | None = setting(
        None, "Header that carries the key; null = Authorization, or api-key with an api-version", result=False
    )
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
    question_tokens: int | None = setting(
        None,
        "Ceiling of a reply with a question, thinking included; null = 96 (28 in small style)",
        unit="tokens",
        ge=8,
        le=131072,
    )
    answer_tokens: int | None = setting(
        None, "Ceiling of a reply with an answer, thinking included; null = 512", unit="tokens", ge=8, le=131072
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


STAGE = Stage(
    "questions",
    QuestionsConfig,
    build,
    help="Import questions or ask the teacher for them.",
    models=models_for,
    shared=("retrieval",),
    seeded=True,
)
