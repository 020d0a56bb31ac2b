"""Who is asked: the Teacher protocol, any OpenAI-compatible endpoint, and a replay teacher for tests."""

from data.teachers.endpoint import OpenAITeacher
from data.teachers.protocol import (
    BudgetReached,
    Messages,
    Price,
    Reply,
    Teacher,
    TeacherFailure,
    TeacherUnavailable,
    Usage,
)
from data.teachers.replay import ReplayTeacher, prompt_key

__all__ = [
    "BudgetReached",
    "Messages",
    "OpenAITeacher",
    "Price",
    "ReplayTeacher",
    "Reply",
    "Teacher",
    "TeacherFailure",
    "TeacherUnavailable",
    "Usage",
    "prompt_key",
]
