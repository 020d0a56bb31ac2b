"""The statistics behind every claim of "better": paired bootstrap intervals, sample sizes, a chi-square test.

Plain numpy over plain numbers; a value that is missing must be left out by the caller, and one that is not finite is
an error here, so that no failed answer slips in as a zero.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raft_errors import BadInput

TOO_FEW = "too few to say"
_BLOCK = 4_000_000  # resampled weights held at once


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval. `n` counts pairs (or values), `groups` the units that were resampled.

    `p_value` is two-sided, from the bootstrap: twice the smaller share of resamples on either side of zero. It is never
    below 2^(1 - groups), that of a sign test on as many units which all go one way: resampling a handful cannot know
    how they would differ from others.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    groups: int
    p_value: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval lies on one side of zero, else `no clear difference`; `too few to say`
        where so few units could not tell, whatever their figures (below six for an interval of 95 %)."""
        if _least_p(self.groups) > 1 - self.level:
            return TOO_FEW
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no clear difference"


def paired_bootstrap(
    base: ArrayLike,
    other: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of mean(other) - mean(base) over the same questions, [n] each.

    Args:
        groups: what is resampled as a whole, e.g. the document of each question: answers about one document are not
            independent. By default each question is its own group.
    """
    first, second = _finite(base, "base"), _finite(other, "other")
    if first.shape != second.shape:
        raise BadInput(
            f"paired bootstrap: {first.size} and {second.size} values", expected="the same questions in the same order"
        )
    return bootstrap_mean(second - first, groups=groups, samples=samples, level=level, seed=seed)


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean of values [n], resampling groups (see `paired_bootstrap`)."""
    array = _finite(values, "values")
    if array.size == 0:
        raise BadInput("bootstrap: no values", expected="at least one scored question")
    if not 0 < level < 1 or samples < 100:
        raise BadInput(f"bootstrap: level {level}, samples {samples}", expected="0 < level < 1 and 100 samples or more")
    sums, counts = _by_group(array, groups)
    means = _resampled_means(sums, counts, samples, np.random.default_rng(seed))
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    below, above = (means <= 0).mean(), (means >= 0).mean()
    p_value = min(1.0, max(2 * min(below, above), 1 / samples, _least_p(sums.size)))
    return Interval(float(array.mean()), float(low), float(high), level, array.size, sums.size, float(p_value))


def _least_p(units: int) -> float:
    """Two-sided p-value of a sign test on `units` that all go one way."""
    return 2.0 ** (1 - units)


def with_interval(value: float, figures: Mapping[str, Any]) -> str:
    """`+0.397 [+0.197, +0.597]`, or `+0.397 (too few to say)`; `figures` are an interval's, with its verdict."""
    if figures["verdict"] == TOO_FEW:
        return f"{value:+.3f} ({TOO_FEW})"
    return f"{value:+.3f} [{figures['low']:+.3f}, {figures['high']:+.3f}]"


def _by_group(
    array: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of the values of each group, in order of first appearance."""
    if groups is None:
        return array, np.ones_like(array)
    if len(groups) != array.size:
        raise BadInput(f"bootstrap: {len(groups)} groups for {array.size} values")
    places: dict[Hashable, int] = {}
    codes = np.array([places.setdefault(g, len(places)) for g in groups])
    return np.bincount(codes, weights=array).astype(np.float64), np.bincount(codes).astype(np.float64)


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], samples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Means of `samples` resamples: how often each group is drawn is one multinomial draw a resample."""
    size = sums.size
    means = np.empty(samples)
    block = max(1, _BLOCK // size)
    for start in range(0, samples, block):
        stop = min(samples, start + block)
        weights = rng.multinomial(size, np.full(size, 1 / size), size=stop - start)
        means[start:stop] = (weights @ sums) / (weights @ counts)
    return means


def sample_size(deviation: float, difference: float, *, level: float = 0.95, power: float = 0.8) -> int:
    """Questions needed to see a mean difference, given the standard deviation of the per-question differences."""
    if difference == 0 or deviation < 0:
        raise BadInput("sample size: needs a difference other than 0 and a deviation of 0 or more")
    normal = NormalDist()
    z = normal.inv_cdf(1 - (1 - level) / 2) + normal.inv_cdf(power)
    return max(2, math.ceil((z * deviation / abs(difference)) ** 2))


def detectable_difference(deviation: float, n: int, *, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true mean difference that n questions would show with that power."""
    normal = NormalDist()
    return (normal.inv_cdf(1 - (1 - level) / 2) + normal.inv_cdf(power)) * deviation / math.sqrt(n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order: many metrics, one family-wise error."""
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: (p_values[i], i))):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = worst
    return adjusted


def chi_square_p(observed: ArrayLike, expected: ArrayLike) -> float:
    """Probability of counts at least as far from the expected ones; 1.0 where there is nothing to test.

    Degrees of freedom are the cells with an expectation, less one.
    """
    seen, wanted = np.asarray(observed, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    cells = wanted > 0
    freedom = int(cells.sum()) - 1
    if freedom < 1:
        return 1.0
    statistic = float((((seen - wanted) ** 2)[cells] / wanted[cells]).sum())
    return _upper_gamma(freedom / 2, statistic / 2)


def _upper_gamma(a: float, x: float) -> float:
    """Regularised upper incomplete gamma function Q(a, x): series below a + 1, continued fraction above."""
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        for i in range(1, 1000):
            term *= x / (a + i)
            total += term
            if term < total * 1e-15:
                break
        return max(0.0, 1 - scale * total)
    b = x + 1 - a
    c, d = 1e300, 1 / b
    fraction = d
    for i in range(1, 1000):
        numerator = -i * (i - a)
        b += 2
        d = 1 / (numerator * d + b)
        c = b + numerator / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, scale * fraction)


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise BadInput(
            f"bootstrap: {name} holds {int((~np.isfinite(array)).sum())} value(s) that are not finite",
            expected="one finite score a question",
            do="leave failed answers out and count them",
        )
    return array
