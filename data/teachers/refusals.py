"""What an endpoint's faults mean: try again, give the one prompt up, ask in another way, or stop the run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from data.teachers.protocol import BudgetReached, TeacherFailure
from data.teachers.replies import Problem
from data.text.urls import without_secrets
from raft_errors import BadInput


class Retry(Exception):
    """One attempt failed in a way that another may mend."""

    def __init__(self, reason: str, detail: str, wait_seconds: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.failure = TeacherFailure(reason, detail, transient=True)
        self.wait_seconds = wait_seconds


class Rejected(Exception):
    """The endpoint refuses this one prompt (too long, filtered); trying again changes nothing.

    `problem` is there where another form of the request might be taken.
    """

    def __init__(self, reason: str, problem: Problem, *, mendable: bool = False) -> None:
        super().__init__(str(problem))
        self.failure = TeacherFailure(reason, str(problem))
        self.problem = problem if mendable else None


_FILTERS = re.compile(
    r"content.?(?:filter|policy|management)|responsible.?ai|moderation|flagged|safety.?(?:system|filter|setting|check)"
    r"|jailbreak|guardrail|prohibited.content|inappropriate|violat\w+ .{0,40}polic|polic\w+.violation|data.?inspection",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(
    r"insufficient.?(?:quota|balance|credit|funds)|exceeded.current.quota|billing|payment|overdue|arrear|no.credit"
)
_TOO_LONG = re.compile(r"context.?(?:length|window|size)|too many tokens|maximum (?:context|input)|prompt is too long")
_MAY_MIND_THE_FORM = frozenset({400, 404, 415, 422, 501})
_PASSES = frozenset({408, 409, 425, 429})


def exception_of(
    problem: Problem, headers: Mapping[str, str], *, where: str, model: str, key_variable: str, accepted: bool
) -> Exception:
    """What to raise for a problem.

    Args:
        where: the endpoint's address, for messages.
        accepted: whether the endpoint has taken some request with this key and model already; a 403 then speaks of the
            prompt. Before that it is the key that may be at fault.
    """
    code, text = problem.status, f"{problem.codes} {problem.words}"
    if 300 <= code < 400:
        moved = without_secrets(headers.get("location", ""))
        return BadInput(
            f"the teacher at {where} answered {code}: it is not here" + (f" but at {moved}" if moved else ""),
            do="correct the address and run again",
        )
    if code == 402 or (code in (400, 403, 429) and _NO_CREDIT.search(problem.codes)):
        return BudgetReached(
            f"the teacher's account has no quota or credit left: {problem}",
            do="top it up and run again: finished replies are kept and not paid again",
        )
    if code in (400, 403, 422, 451) and _FILTERS.search(text):
        return Rejected("content_filter", problem)
    if code == 403 and accepted:
        return Rejected("rejected", problem)
    if code in (401, 403) or (code == 404 and not _names_parameter(problem)):
        wrong = f"the model {model!r} or the path" if code == 404 else f"the key in {key_variable}"
        return BadInput(
            f"the teacher at {where} answered {code}: it does not accept {wrong}"
            + (f" ({problem.words})" if problem.words else ""),
            do="correct it and run again",
        )
    if code in _PASSES or (code >= 500 and code != 501 and not _names_parameter(problem)):
        return Retry("rate_limit" if code == 429 else "server_error", str(problem), retry_after(headers))
    mendable = (code in _MAY_MIND_THE_FORM or code >= 500) and not _TOO_LONG.search(text.lower())
    return Rejected("rejected", problem, mendable=mendable)


def _names_parameter(problem: Problem) -> bool:
    """Whether the endpoint complains of a parameter, in so many words."""
    words = problem.words.lower()
    return bool(
        re.search(r"unsupported|not supported|does not support|unknown|unrecogni[sz]ed|grammar", words)
    ) and any(name in words for name in ("max_tokens", "temperature", "seed", "response_format", "json_schema"))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks us to wait, stated in seconds or as a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError, OverflowError):
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
