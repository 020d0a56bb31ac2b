"""Intervals cover what they claim, and calls of better, worse and equal are right on planted data."""

import numpy as np
import pytest
from scipy import stats

from data.statistics import (
    TOO_FEW,
    bootstrap_mean,
    chi_square_p,
    detectable_difference,
    holm,
    paired_bootstrap,
    sample_size,
    with_interval,
)
from raft_errors import BadInput


@pytest.mark.slow
def test_the_interval_agrees_with_the_normal_one_on_many_values():
    rng = np.random.default_rng(0)
    base, other = rng.normal(0.4, 0.2, 800), rng.normal(0.5, 0.2, 800)
    got = paired_bootstrap(base, other, seed=1)
    d = other - base
    error = 1.96 * d.std(ddof=1) / np.sqrt(d.size)
    assert got.value == pytest.approx(d.mean())
    assert got.low == pytest.approx(d.mean() - error, abs=0.003)
    assert got.high == pytest.approx(d.mean() + error, abs=0.003)
    assert got.verdict == "better"


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for i in range(200):
        interval = bootstrap_mean(rng.exponential(1.0, 80), samples=500, seed=i)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_planted_regression_is_called_worse_and_no_change_equal():
    rng = np.random.default_rng(2)
    base = rng.integers(0, 2, 300).astype(float)
    worse = paired_bootstrap(base, np.where(rng.random(300) < 0.3, 0.0, base))
    assert worse.high < 0
    assert worse.p_value < 0.01
    same = paired_bootstrap(base, base)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize(("units", "verdict"), [(1, TOO_FEW), (5, TOO_FEW), (6, "better")])
def test_a_handful_that_all_go_one_way_proves_nothing(units, verdict):
    interval = paired_bootstrap(np.zeros(units), np.ones(units))
    assert interval.verdict == verdict
    assert interval.p_value == pytest.approx(2 * 0.5**units)
    many = np.ones(20 * units)
    assert paired_bootstrap(0 * many, many, groups=np.repeat(np.arange(units), 20).tolist()).verdict == verdict


def test_a_difference_is_written_with_its_interval_or_with_why_it_has_none():
    enough = paired_bootstrap(np.zeros(6), np.ones(6))
    few = paired_bootstrap(np.zeros(5), np.ones(5))
    texts = [with_interval(i.value, {**i.to_dict(), "verdict": i.verdict}) for i in (enough, few)]
    assert texts == ["+1.000 [+1.000, +1.000]", "+1.000 (too few to say)"]


def test_pairing_sees_a_small_gain_on_hard_and_easy_questions():
    rng = np.random.default_rng(3)
    base = rng.random(200)
    assert paired_bootstrap(base, base + 0.01).verdict == "better"


def test_questions_of_one_document_are_not_independent():
    rng = np.random.default_rng(4)
    per_document = np.repeat(rng.normal(0, 1, 20), 25)
    groups = np.repeat(np.arange(20), 25).tolist()
    alone, grouped = bootstrap_mean(per_document), bootstrap_mean(per_document, groups=groups)
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
    assert (grouped.n, grouped.groups) == (500, 20)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(1).random(50)
    assert bootstrap_mean(values, seed=7) == bootstrap_mean(values, seed=7) != bootstrap_mean(values, seed=8)


def test_values_that_are_not_finite_or_not_paired_are_refused():
    with pytest.raises(BadInput, match="not finite"):
        bootstrap_mean([1.0, float("nan")])
    with pytest.raises(BadInput):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(BadInput):
        bootstrap_mean([])


def test_chi_square_agrees_with_scipy():
    rng = np.random.default_rng(6)
    for cells in (2, 4, 9, 40):
        for _ in range(10):
            expected = np.full(cells, 30.0)
            observed = rng.multinomial(30 * cells, np.full(cells, 1 / cells))
            assert chi_square_p(observed, expected) == pytest.approx(
                stats.chisquare(observed, expected).pvalue, abs=1e-9
            )
    assert chi_square_p([100, 0, 0], [33, 33, 34]) < 1e-9
    assert chi_square_p([5], [5]) == 1.0


def test_the_sample_size_and_the_detectable_difference_are_each_others_inverse():
    n = sample_size(0.45, 0.05)
    assert n == 636
    assert detectable_difference(0.45, n) == pytest.approx(0.05, rel=0.01)


def test_holm_adjusts_as_in_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
