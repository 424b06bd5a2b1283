"""Intervals, bootstraps and fits against the same by hand, and how often the intervals cover the truth."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipys

from harness.base.stats import bootstrap_mean, inside_variance, mean_interval, nnls, normal_above, t_above, t_beyond

RUNS = [98.0, 105.0, 91.0, 101.0, 110.0]


def blocks(requests, rng):
    """Circular blocks of the cube root of n neighbours, as many as are needed, cut to n."""
    n = len(requests)
    length = max(1, round(n ** (1 / 3)))
    drawn = []
    for start in rng.integers(0, n, math.ceil(n / length)):
        drawn += [requests[(start + k) % n] for k in range(length)]
    return np.array(drawn[:n])


# ---------------------------------------------------------------- Student's t


@pytest.mark.parametrize(("tail", "df"), [(0.05, 1), (0.025, 2), (0.00135, 9), (1e-12, 3), (0.5, 4), (0.9, 200)])
def test_students_t_is_exceeded_with_the_tails_probability(tail, df):
    """From one degree of freedom to many, from beyond the median to the far tail; both sides of it hold twice as much."""
    t = t_above(tail, df)
    assert t == pytest.approx(scipys.t.isf(tail, df), rel=1e-12, abs=1e-15)
    assert t_beyond(t, df) == t_beyond(-t, df) == pytest.approx(2 * min(tail, 1 - tail))


def test_a_standard_normal_is_exceeded_with_the_tails_probability():
    """3 standard errors: 0.00135."""
    assert normal_above(0.0013498980316300957) == pytest.approx(3)


def test_an_interval_of_two_values():
    """12.706 times half their difference at 95 %, 1 times it at 50 %; one value has none."""
    assert mean_interval(np.array([2.0, 6.0]), 0.95) == pytest.approx((4 - 2 * 12.7062047, 4 + 2 * 12.7062047))
    assert mean_interval(np.array([2.0, 6.0]), 0.5) == pytest.approx((2.0, 6.0))
    assert mean_interval(np.array([2.0]), 0.95) is None


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_students_t_covers_where_the_percentile_bootstrap_does_not(n):
    """2,000 draws: Student's t within 2 points of 95 %, percentiles of resampled means below 92 %."""
    rng = np.random.default_rng(n)
    drawn = rng.standard_normal((2000, n))
    assert np.mean([low <= 0 <= high for low, high in (mean_interval(x, 0.95) for x in drawn)]) == pytest.approx(
        0.95, abs=0.02
    )
    picks = rng.integers(0, n, (300, n))
    low, high = np.quantile(drawn[:, picks].mean(axis=-1), (0.025, 0.975), axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.92


# ---------------------------------------------------------------- the bootstrap of a mean


@pytest.mark.parametrize("words", [{}, {"draws": 300, "seed": 7}])
def test_a_bootstrapped_mean_has_its_interval_on_the_logarithm(words):
    """The mean times and over exp(t sqrt(n/(n-1)) x the standard deviation of the resamples' logarithms)."""
    picks = np.random.default_rng(words.get("seed", 1)).integers(0, 5, (words.get("draws", 2000), 5))
    spread = np.std([math.log(fmean(RUNS[i] for i in row)) for row in picks])
    factor = math.exp(math.sqrt(5 / 4) * scipys.t.ppf(0.9, 4) * spread)
    assert bootstrap_mean(RUNS, 0.8, **words) == pytest.approx((fmean(RUNS) / factor, fmean(RUNS) * factor))


def test_one_run_has_no_interval():
    """One run says nothing of its repeatability: None, not an interval of width 0."""
    assert bootstrap_mean([1.0], 0.9) is None


@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_intervals_of_5_runs_cover_the_truth_in_88_to_92_of_100_campaigns(kind):
    """1,000 simulated campaigns of 5 runs, 90 % asked: the truth is inside in 88-92 % of them."""
    rng = np.random.default_rng(3)
    runs = rng.normal(100, 8, (1000, 5)) if kind == "normal" else rng.lognormal(0, 0.2, (1000, 5))
    truth = 100 if kind == "normal" else math.exp(0.02)
    inside = [low <= truth <= high for low, high in (bootstrap_mean(one, 0.9, draws=1000) for one in runs)]
    assert 0.88 <= np.mean(inside) <= 0.92


# ---------------------------------------------------------------- what requests explain


@pytest.mark.parametrize("n", [20, 27, 100])
def test_the_variance_inside_a_run(n):
    """Of the statistic over 100 draws of blocks, seed 1; of fewer than 20 requests none."""
    x, chance = np.arange(n, dtype=float) ** 2, np.random.default_rng(1)
    drawn = [np.median(blocks(x, chance)) for _ in range(100)]
    assert inside_variance(x, np.median) == pytest.approx(np.var(drawn, ddof=1))
    assert inside_variance(x, np.median, draws=100, seed=1) == inside_variance(x, np.median)
    assert inside_variance(x[:19], np.median) is None


def test_the_variance_inside_a_run_is_the_textbooks_where_requests_are_independent():
    """Of a mean: s^2 / n within a third."""
    x = np.random.default_rng(1).normal(0, 2, 1000)
    assert inside_variance(x, np.mean, draws=400) == pytest.approx(4 / 1000, rel=0.33)


def test_neighbours_that_share_a_queue_have_less_to_say():
    """Strongly correlated requests: the variance is several times that of the same requests shuffled."""
    rng = np.random.default_rng(1)
    x = np.repeat(rng.normal(0, 1, 200), 10)
    kept = inside_variance(x, np.mean, draws=300)
    assert kept > 3 * inside_variance(rng.permutation(x), np.mean, draws=300)


# ---------------------------------------------------------------- least squares


def test_a_coefficient_that_would_be_negative_is_0():
    """y = 3 a - b cannot be: a alone, 5 / 2, is the best of what is left; y = 0 and y < 0 are fitted with nothing."""
    x = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert nnls(x, np.array([3.0, 2.0])) == pytest.approx([2.5, 0])
    assert nnls(x, np.array([3.0, 7.0])) == pytest.approx([3, 4])
    assert nnls(x, np.array([0.0, 5.0])) == pytest.approx([0, 5])
    assert nnls(x, np.array([-1.0, -2.0])).tolist() == [0, 0]


def test_a_later_column_alone_can_be_the_best():
    """y = (b - a, 3 b - a) = (1, 2) has a = -1/2, and a alone is negative too: b alone is 7 / 10."""
    assert nnls(np.array([[-1.0, 1.0], [-1.0, 3.0]]), np.array([1.0, 2.0])) == pytest.approx([0, 0.7])


def test_columns_without_a_value_have_no_coefficient():
    """0 throughout, and so near 0 that nothing can be told of it; the next larger size has one."""
    y = np.array([1.0, 2.0])
    assert nnls(np.array([[0.0, 1.0], [0.0, 2.0]]), y) == pytest.approx([0, 1])
    assert nnls(np.array([[1e-290, 0.0], [2e-291, 1.0]]), y) == pytest.approx([0, 2])
    assert nnls(np.array([[1e-289], [2e-289]]), y) == pytest.approx([1e289])


def test_two_columns_that_say_the_same_are_fitted_with_fewest():
    """The first alone."""
    assert nnls(np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([1.0, 2.0])).tolist() == pytest.approx([1, 0])


def test_a_column_that_is_tiny_beside_another_is_seen():
    """A column 1e-38 the size of another still gets its coefficient, and so does the other; an empty column gets 0."""
    x = np.array([[0.0, 1.2e-38, 0.0], [0.0, 0.0, 1.0]])
    assert nnls(x, np.array([1.0, 1.0])) == pytest.approx([0, 1 / 1.2e-38, 1])


@given(st.lists(st.lists(st.floats(0, 10), min_size=3, max_size=3), min_size=4, max_size=8), st.data())
def test_no_coefficient_is_below_0_and_no_single_change_helps(rows, data):
    """The optimum: no step in one coefficient lowers the error (convex, so none does)."""
    x = np.array(rows)
    y = np.array(data.draw(st.lists(st.floats(-10, 10), min_size=len(rows), max_size=len(rows))))
    c = nnls(x, y)
    assert (c >= 0).all()
    error = np.sum((y - x @ c) ** 2)
    for k in range(3):
        for step in (-1e-3, 1e-3):
            moved = c.copy()
            moved[k] = max(0.0, moved[k] + step)
            assert np.sum((y - x @ moved) ** 2) >= error - 1e-6 * (1 + error)


@given(st.floats(1e-5, 0.49), st.floats(1, 1000))
def test_quantiles_of_students_t_are_scipys(tail, df):
    """For degrees of freedom that are no whole number too."""
    assert t_above(tail, df) == pytest.approx(scipys.t.isf(tail, df), rel=1e-10)
