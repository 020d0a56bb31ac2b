"""What a whole run of questions will need, told from a few that were asked: calls, tokens, price and time, each with an
interval that holds in nine runs of ten.

Prompts are known beforehand, so only what a teacher adds to them is estimated: how many tokens its tokenizer makes of
them, how much it writes, how many of its questions come as far as an answer. Asks nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from data.teachers.protocol import Price

LEVEL = 0.95  # of each part's interval: together they hold in at least nine runs of ten
_LEAST = 0.02  # the reach of an interval, however alike the few were


@dataclass(frozen=True)
class Call:
    """One prompt that was answered: how long it was, what it cost, how long it took (None: it came from the cache)."""

    prompt_bytes: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None = None


@dataclass(frozen=True)
class Sampled:
    """What one question cost; `answer` is None where the question was dropped before an answer was asked for."""

    question: Call
    answer: Call | None = None


class Span(NamedTuple):
    """An estimate between the lowest and the highest value that are to be expected."""

    low: float
    middle: float
    high: float

    def __add__(self, other: object) -> Span:
        assert isinstance(other, Span)
        return Span(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def times(self, other: Span) -> Span:
        """The product of two quantities that are not negative."""
        return Span(self.low * other.low, self.middle * other.middle, self.high * other.high)

    def by(self, factor: float) -> Span:
        """The quantity in another unit."""
        return Span(self.low * factor, self.middle * factor, self.high * factor)


@dataclass(frozen=True)
class Estimate:
    """What is still to be paid for; None where the teacher does not say (tokens), no price is known, or nothing was
    asked just now (time)."""

    calls: Span
    prompt_tokens: Span | None
    completion_tokens: Span | None
    cost: Span | None
    seconds: Span | None

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file: low, middle, high."""
        return {
            name: None if span is None else {"low": span.low, "middle": span.middle, "high": span.high}
            for name, span in vars(self).items()
        }


def estimate(
    sample: Sequence[Sampled],
    left: Sequence[int],
    *,
    answers: bool,
    price: Price | None = None,
    at_once: int = 1,
    per_minute: float | None = None,
) -> Estimate:
    """What the rest of a run needs.

    Args:
        sample: questions drawn at random; at least one.
        left: bytes of each question prompt that is still to be asked.
        answers: whether a question that passes its checks costs a second call.
        at_once: requests in flight. per_minute: most that are sent in a minute.
    """
    count, size = len(left), float(sum(left))
    replied = [one.answer for one in sample if one.answer]
    share = _share(len(replied), len(sample), count) if answers else Span(0.0, 0.0, 0.0)
    questions, further = Span(count, count, count), share.by(count)
    calls = questions + further
    both = [one.question for one in sample] + replied
    counted = all(call.prompt_tokens + call.completion_tokens > 0 for call in both)

    read = written = None
    if counted:
        # where no question came as far as an answer, one is taken to cost what a question does
        ratios = [one.question.prompt_tokens / one.question.prompt_bytes for one in sample]
        beside = [one.answer.prompt_tokens / one.question.prompt_bytes for one in sample if one.answer] or ratios
        own = [one.question.completion_tokens for one in sample]
        answered = [call.completion_tokens for call in replied] or own
        read = _mean(ratios, count).by(size) + share.times(_mean(beside, count)).by(size)
        written = questions.times(_mean(own, count)) + further.times(_mean(answered, count))
    cost = read.by(price.prompt / 1e6) + written.by(price.completion / 1e6) if price and read and written else None
    times = [call.seconds for call in both if call.seconds is not None]
    seconds = None
    if times:
        seconds = calls.times(_mean(times, count)).by(1 / max(1, min(at_once, count)))
        if per_minute:
            seconds = Span(*(max(time, n * 60 / per_minute) for time, n in zip(seconds, calls, strict=True)))
    return Estimate(calls, read, written, cost, seconds)


def _share(hits: int, trials: int, count: int) -> Span:
    """The share among `count` further ones: Wilson's interval, wider where few are to come."""
    z, p = statistics.NormalDist().inv_cdf(0.5 + LEVEL / 2), hits / trials
    n = 1 / (1 / trials + 1 / max(1, count))
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Span(max(0.0, middle - reach), p, min(1.0, middle + reach))


def _mean(values: Sequence[float], count: int) -> Span:
    """The mean of `count` further values, by Student's t over the logarithms (what a teacher writes has a long tail).

    One value alone says nothing of how far others lie from it: then from none to three times as much.
    """
    positive = [value for value in values if value > 0]
    if not positive:
        return Span(0.0, 0.0, 0.0)
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Span(0.0, mean, 3 * mean)
    logs = [math.log(value) for value in positive]
    spread = statistics.stdev(logs) if len(logs) > 1 else 0.0
    # Cox's interval for the mean of a log-normal quantity
    error = math.sqrt(spread**2 * (1 / n + 1 / max(1, count)) + spread**4 / (2 * (n - 1)))
    centre, reach = statistics.fmean(logs) + spread**2 / 2, max(_LEAST, _student(n - 1) * error)
    return Span(min(mean, math.exp(centre - reach)), mean, max(mean, math.exp(centre + reach)))


def _student(freedom: int) -> float:
    """Two-sided quantile of Student's t at `LEVEL` (Hill's expansion; within 1 % from three degrees of freedom)."""
    if freedom < 3:
        return {1: 12.706, 2: 4.303}[freedom]
    z = statistics.NormalDist().inv_cdf(0.5 + LEVEL / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
