"""Intervals and draws as whole values, against formulas written anew here."""

from __future__ import annotations

import math
from dataclasses import asdict
from statistics import NormalDist, fmean

import numpy as np
import pytest
from scipy.stats import t as students_t

from harness.base.errors import ConfigError
from harness.planner.uncertainty import (
    Assumption,
    Interval,
    bootstrap_means,
    bootstrap_runs,
    checked,
    draw,
    quantiles,
    student_t,
)

BOOTSTRAP = "bootstrap over runs: Student's t x standard error"
BOOTSTRAP_INFINITE = "bootstrap over runs: expanded percentiles, infinite values kept"
RUNS = [98.0, 105.0, 91.0, 101.0, 110.0]


def resampled(runs, draws, seed):
    """The same resamples: indices drawn once, a row each."""
    picks = np.random.default_rng(seed).integers(0, len(runs), (draws, len(runs)))
    return [[runs[i] for i in row] for row in picks]


def reach(n, level):
    return math.sqrt(n / (n - 1)) * students_t.ppf(1 - (1 - level) / 2, n - 1)


# ---------------------------------------------------------------- over runs


@pytest.mark.parametrize(("p", "freedom"), [(0.95, 1), (0.95, 2), (0.995, 4), (0.75, 9), (0.9, 200), (0.5, 3)])
def test_students_t_is_scipys(p, freedom):
    """From one degree of freedom to many, from the median to the far tail."""
    assert student_t(p, freedom) == pytest.approx(students_t.ppf(p, freedom), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("words", "level", "draws", "seed"), [({}, 0.9, 2000, 1), ({"level": 0.5, "draws": 300, "seed": 7}, 0.5, 300, 7)])  # fmt: skip
def test_an_interval_of_a_positive_statistic_is_on_its_logarithm(words, level, draws, seed):
    """The statistic times and over exp(t sqrt(n/(n-1)) x the standard deviation of the resamples' logarithms)."""
    spread = np.std([math.log(fmean(one)) for one in resampled(RUNS, draws, seed)])
    factor = math.exp(reach(5, level) * spread)
    middle = fmean(RUNS)
    found = bootstrap_runs(RUNS, fmean, **words)
    assert found == Interval(pytest.approx(middle / factor, rel=1e-5), middle, pytest.approx(middle * factor, rel=1e-5), level, BOOTSTRAP, 5)  # fmt: skip


@pytest.mark.parametrize("runs", [[-2.0, 1.0, 4.0], [0.0, 1.0, 4.0], [-3.0, -1.0, -2.0]])
def test_an_interval_around_0_is_not(runs):
    """A statistic that is not above 0 in all resamples: plus and minus."""
    half = reach(3, 0.9) * np.std([fmean(one) for one in resampled(runs, 2000, 1)])
    middle = fmean(runs)
    assert bootstrap_runs(runs, fmean) == Interval(
        pytest.approx(middle - half, rel=1e-4), middle, pytest.approx(middle + half, rel=1e-4), 0.9, BOOTSTRAP, 3
    )


def test_infinite_resamples_are_expanded_percentiles():
    """Values of the resamples at the normal's shares of the widened reach; a statistic that is infinite itself, too."""
    tail = NormalDist().cdf(-reach(5, 0.9))

    def total(runs):
        return math.inf if sum(runs) < 470 else sum(runs)

    values = np.sort([total(one) for one in resampled(RUNS, 2000, 1)])
    low, high = (values[math.ceil(share * 2000) - 1] for share in (tail, 1 - tail))
    assert bootstrap_runs(RUNS, total) == Interval(low, sum(RUNS), high, 0.9, BOOTSTRAP_INFINITE, 5)
    assert bootstrap_runs(RUNS, lambda runs: math.inf).middle == math.inf
    most = bootstrap_runs(RUNS, lambda runs: math.inf if list(runs) == RUNS else 1.0)
    assert (most.low, most.middle, most.high, most.method) == (1.0, math.inf, 1.0, BOOTSTRAP_INFINITE)


def test_a_statistic_that_is_no_number_anywhere_is_refused():
    """Of the runs themselves, or of one resample."""
    with pytest.raises(ConfigError, match="not a number"):
        bootstrap_runs(RUNS, lambda runs: math.nan if list(runs) == RUNS else 1.0)
    with pytest.raises(ConfigError, match="not a number"):
        bootstrap_runs(RUNS, lambda runs: 1.0 if list(runs) == RUNS else math.nan)
    assert bootstrap_runs([3.0], lambda runs: math.nan) is None


@pytest.mark.parametrize(("words", "level", "draws", "seed"), [({}, 0.9, 1000, 1), ({"level": 0.5, "draws": 300, "seed": 7}, 0.5, 300, 7)])  # fmt: skip
def test_means_of_many_campaigns_at_once(words, level, draws, seed):
    """Each campaign as by itself, with the same resamples."""
    other = [2.0, 3.0, 2.5, 2.0, 4.0]
    low, high = bootstrap_means(np.array([[RUNS], [other]]), **words)
    for at, runs in ((0, RUNS), (1, other)):
        factor = math.exp(reach(5, level) * np.std([math.log(fmean(one)) for one in resampled(runs, draws, seed)]))
        assert (low[at, 0], high[at, 0]) == pytest.approx((fmean(runs) / factor, fmean(runs) * factor), rel=1e-5)


def test_quantiles_are_values_that_were_drawn():
    """Never between two of them, so that an infinite one is not averaged; no NaN."""
    values = np.array([1.0, math.inf, 3.0, 2.0])
    assert quantiles(values, (0.25, 0.26, 0.75, 0.76, 1)) == [1.0, 2.0, 3.0, math.inf, math.inf]
    with pytest.raises(ConfigError, match="a draw is not a number"):
        quantiles(np.array([1.0, math.nan]), (0.5,))


# ---------------------------------------------------------------- assumptions


def test_an_assumption_is_a_declared_range_unless_told_otherwise():
    """No source, no draws, no estimate; its level is that of intervals."""
    assert asdict(Assumption("x", 1, 2, 3)) == {
        "name": "x",
        "low": 1,
        "mode": 2,
        "high": 3,
        "source": "",
        "draws": (),
        "estimate": None,
        "level": 0.9,
    }


@pytest.mark.parametrize(
    "good",
    [
        Assumption("x", 1, 1, 3),
        Assumption("x", 1, 3, 3),
        Assumption("x", 2, 2, 2),
        Assumption("x", 1, 1, 3, estimate=1),
        Assumption("x", 1, 1, 3, estimate=3, level=0.99),
        Assumption("x", 1, 2, 3, level=2),
    ],
)
def test_ranges_may_end_at_their_mode_and_estimate(good):
    """The ends belong to a range; a level without an estimate is nobody's."""
    assert checked(good) is good


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (Assumption("x", 2, 1, 3), "low <= mode"),
        (Assumption("x", 1, 4, 3), "low <= mode"),
        (Assumption("x", -math.inf, 1, 3), "low <= mode"),
        (Assumption("x", 1, 2, math.inf), "low <= mode"),
        (Assumption("x", 1, 2, 3, draws=(1.0, math.nan)), "low <= mode"),
        (Assumption("x", 1, 2, 3, estimate=0.99), "not around its estimate"),
        (Assumption("x", 1, 2, 3, estimate=3.01), "not around its estimate"),
        (Assumption("x", 1, 2, 3, estimate=2, level=0), "not around its estimate"),
        (Assumption("x", 1, 2, 3, estimate=2, level=1), "not around its estimate"),
    ],
)
def test_ranges_that_are_none_are_refused(bad, word):
    """Out of order, infinite, drawn from no number; an estimate beside its interval; a level of nothing or everything."""
    for function in (checked, lambda one: draw([one], 3)):
        with pytest.raises(ConfigError, match=word):
            function(bad)


def test_draws_are_those_of_numpy_by_name_and_seed():
    """Each name has a stream of its own: a triangle, the values seen, one value, halves of two log-normals or normals."""
    end = NormalDist().inv_cdf(0.9)
    stream = {name: lambda name=name: np.random.default_rng([5, *name.encode()]) for name in "abcde"}
    ranges = [
        Assumption("a", 1, 2, 6),
        Assumption("b", 1, 2, 6, draws=(1.0, 2.0, 6.0)),
        Assumption("c", 4, 4, 4, estimate=4),
        Assumption("d", 2, 2, 12, estimate=4, level=0.8),
        Assumption("e", -2, 0, 12, estimate=4, level=0.8),
    ]
    drawn = draw(ranges, 50, seed=5)
    assert list(drawn) == ["a", "b", "c", "d", "e"]
    assert (drawn["a"] == stream["a"]().triangular(1, 2, 6, 50)).all()
    assert (drawn["b"] == stream["b"]().choice(np.array([1.0, 2.0, 6.0]), 50)).all()
    assert (drawn["c"] == np.full(50, 4)).all()
    for name, expected in (
        ("d", lambda z: 4 * (2 if z < 0 else 3) ** (z / end)),
        ("e", lambda z: 4 + z * (6 if z < 0 else 8) / end),
    ):
        assert drawn[name] == pytest.approx([expected(z) for z in stream[name]().standard_normal(50)])
    assert (draw(ranges[:1], 50)["a"] == np.random.default_rng([1, *b"a"]).triangular(1, 2, 6, 50)).all()
    zero = Assumption("e", 0, 0, 12, estimate=4, level=0.8)
    assert draw([zero], 50, seed=5)["e"].min() < 0
