"""Who is asked: the Teacher protocol, any OpenAI-compatible endpoint, and a replay teacher for tests."""

from typing import TYPE_CHECKING, Any

from data.teachers.protocol import (
    BudgetReached,
    Counted,
    Messages,
    Price,
    Reply,
    Shape,
    Teacher,
    TeacherFailure,
    TeacherUnavailable,
    Usage,
)
from data.teachers.replay import ReplayTeacher, prompt_key

if TYPE_CHECKING:
    from data.teachers.endpoint import OpenAITeacher

__all__ = [
    "BudgetReached",
    "Counted",
    "Messages",
    "OpenAITeacher",
    "Price",
    "ReplayTeacher",
    "Reply",
    "Shape",
    "Teacher",
    "TeacherFailure",
    "TeacherUnavailable",
    "Usage",
    "prompt_key",
]


def __getattr__(name: str) -> Any:
    if name == "OpenAITeacher":  # its client takes longer to import than most commands take to run
        from data.teachers.endpoint import OpenAITeacher

        return OpenAITeacher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
