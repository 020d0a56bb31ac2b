"""Stage `questions`: imported from a file, or asked of a teacher and kept only if they survive every check."""

from __future__ import annotations

from typing import Literal

from tasks.section import Section, setting


class QuestionsConfig(Section):
    """Where questions come from."""

    file: str | None = setting(
        None,
        "Your own questions (jsonl or csv: question, answer, optional document and quote); none = ask the teacher",
        path=True,
        result="content",
    )
    teacher: Literal["local", "openai"] = setting(
        "local", "local = the base model itself; openai = any OpenAI-compatible endpoint"
    )
    teacher_model: str = setting("gpt-4o-mini", "Model name at the endpoint")
    teacher_url: str | None = setting(None, "Address of the endpoint, e.g. http://127.0.0.1:8000/v1")
    teacher_key_variable: str = setting("OPENAI_API_KEY", "Environment variable that holds the key", result=False)
    teacher_concurrency: int = setting(8, "Requests in flight at once", unit="requests", ge=1, le=256, result=False)
    count: int = setting(96, "Questions to ask for", unit="questions", ge=1, le=1_000_000)
    round_trip_k: int = setting(5, "A question is kept if it retrieves its own chunk within this rank", ge=1, le=100)
    batch_size: int = setting(16, "Prompts the local teacher answers at once", unit="prompts", ge=1, le=512)


def models_for(config: QuestionsConfig) -> tuple[str, ...]:
    """The base model is needed only where it is the teacher."""
    return ("embedder", "base") if config.file is None and config.teacher == "local" else ("embedder",)
