"""What an endpoint's faults mean: try again, give the one prompt up, or ask without a form; and what its counts say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.teachers.protocol import Reply, TeacherFailure


class Retry(Exception):
    """One attempt failed in a way that another may mend."""

    def __init__(self, reason: str, detail: str, wait_seconds: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.failure = TeacherFailure(reason, detail, transient=True)
        self.wait_seconds = wait_seconds


class Rejected(Exception):
    """The endpoint refuses this one prompt (too long, filtered); trying again changes nothing."""

    def __init__(self, failure: TeacherFailure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


SHAPE_REFUSALS = (400, 415, 422, 501)
"""Answers of endpoints that do not know `response_format`."""


def refuses_shape(reply: Reply, settings: Mapping[str, Any]) -> bool:
    """The endpoint may have minded the form that was asked for, and not the prompt."""
    asked = bool(settings.get("response_format"))
    return asked and isinstance(reply, TeacherFailure) and reply.reason == "rejected"


def token_counts(usage: Any) -> tuple[int, int]:
    """(prompt, completion) as the endpoint counted them; zeros where it did not."""
    if not isinstance(usage, Mapping):
        return 0, 0
    try:
        return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (TypeError, ValueError):
        return 0, 0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks us to wait; dates are left to the back-off."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return None
