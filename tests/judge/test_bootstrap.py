"""Intervals against the same draws looped over by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.bootstrap import bootstrap_t, hierarchical, inside_variance, percentile, student_t

X = np.array([3.0, 5.0, 4.0, 9.0, 4.5])


def blocks(requests, rng):
    """Circular blocks of the cube root of n neighbours, as many as are needed, cut to n."""
    n = len(requests)
    length = max(1, round(n ** (1 / 3)))
    drawn = []
    for start in rng.integers(0, n, math.ceil(n / length)):
        drawn += [requests[(start + k) % n] for k in range(length)]
    return np.array(drawn[:n])


def test_students_t():
    """Two values: 12.706 times half their difference at 95 %, 1 times it at 50 %; one value has none."""
    assert student_t(np.array([2.0, 6.0]), 0.95) == pytest.approx((4 - 2 * 12.7062047, 4 + 2 * 12.7062047))
    assert student_t(np.array([2.0, 6.0]), 0.5) == pytest.approx((2.0, 6.0))
    assert [test(X[:1], 0.95) for test in (student_t, percentile, bootstrap_t)] == [None] * 3
    assert all(test(X[:2], 0.95) is not None for test in (student_t, percentile, bootstrap_t))


def test_the_percentile_bootstrap():
    """Quantiles of the means of 2,000 draws with replacement, seed 1."""
    means = [np.mean([X[i] for i in row]) for row in np.random.default_rng(1).integers(0, 5, (2000, 5))]
    assert percentile(X, 0.9) == pytest.approx(tuple(np.quantile(means, (0.05, 0.95))))
    assert percentile(X, 0.9, draws=2000, seed=1) == percentile(X, 0.9) != percentile(X, 0.9, seed=2)


def test_the_studentised_bootstrap():
    """The draws' own t, turned round: its upper quantile makes the lower end."""
    t = []
    for row in np.random.default_rng(1).integers(0, 5, (2000, 5)):
        off, own = X[row].mean() - X.mean(), X[row].std(ddof=1) / math.sqrt(5)
        t.append(off / own if own > 0 else math.copysign(math.inf, off))
    low, high = sorted(t)[math.ceil(0.1 * 2000) - 1], sorted(t)[math.ceil(0.9 * 2000) - 1]
    spread = X.std(ddof=1) / math.sqrt(5)
    assert bootstrap_t(X, 0.8) == pytest.approx((X.mean() - high * spread, X.mean() - low * spread))
    assert bootstrap_t(X, 0.8, draws=2000, seed=1) == bootstrap_t(X, 0.8) != bootstrap_t(X, 0.8, seed=2)
    assert bootstrap_t(np.array([1.0, 3.0]), 0.9) == (-math.inf, math.inf)  # half the draws repeat one value
    # a draw whose mean is the middle has no t but 0, though it has no spread
    assert bootstrap_t(np.array([1.0, 2.0, 3.0]), 0.05, draws=400) == pytest.approx((2.0, 2.0))


def test_the_hierarchical_bootstrap():
    """Repetitions, then blocks inside each: the statistic's means over 1,000 draws, seed 1."""
    rng = np.random.default_rng(4)
    runs = [rng.normal(level, 1, 30) for level in (1, 2, 4)]
    chance, means = np.random.default_rng(1), []
    for _ in range(1000):
        picked = chance.integers(0, 3, 3)
        means.append(np.mean([blocks(runs[k], chance).mean() for k in picked]))
    assert hierarchical(runs, np.mean, 0.9) == pytest.approx(tuple(np.quantile(means, (0.05, 0.95))))
    assert hierarchical(runs, np.mean, 0.9, draws=1000, seed=1) == hierarchical(runs, np.mean, 0.9)
    assert hierarchical(runs[:2], np.mean, 0.9, draws=20) is not None
    assert hierarchical(runs[:1], np.mean, 0.9, draws=20) is None


@pytest.mark.parametrize("n", [20, 27, 100])
def test_the_variance_inside_a_run(n):
    """Of the statistic over 100 draws of blocks, seed 1; of fewer than 20 requests none."""
    x, chance = np.arange(n, dtype=float) ** 2, np.random.default_rng(1)
    drawn = [np.median(blocks(x, chance)) for _ in range(100)]
    assert inside_variance(x, np.median) == pytest.approx(np.var(drawn, ddof=1))
    assert inside_variance(x, np.median, draws=100, seed=1) == inside_variance(x, np.median)
    assert inside_variance(x[:19], np.median) is None
