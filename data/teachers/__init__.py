"""Who is asked: the Teacher protocol, any OpenAI-compatible endpoint, and a replay teacher for tests."""

from data.teachers.endpoint import OpenAITeacher
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
