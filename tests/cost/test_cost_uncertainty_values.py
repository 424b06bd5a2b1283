"""Intervals, draws and outlooks as whole values, against formulas written anew here."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from statistics import NormalDist, fmean

import numpy as np
import pytest
from scipy.stats import t as students_t

from harness.cost.uncertainty import (
    BOOTSTRAP,
    BOOTSTRAP_INFINITE,
    Assumption,
    Bar,
    Case,
    Interval,
    bootstrap_means,
    bootstrap_runs,
    checked,
    draw,
    hosted_usd_per_hour,
    never_cheaper,
    outlook,
    permanent_rps,
    quantiles,
    self_usd_per_hour,
    student_t,
    tornado,
    two_way,
)
from harness.errors import ConfigError

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


# ---------------------------------------------------------------- the comparison


def test_a_case_has_nothing_but_replicas_and_requests_unless_told_otherwise():
    """All of a replica is used, equal tokens, no spare, one replica at least, a steady demand."""
    assert asdict(Case(1, 2, 3, 4)) == {
        "demand_rps": 1,
        "capacity_rps": 2,
        "replica_usd_per_hour": 3,
        "hosted_usd_per_request": 4,
        "headroom": 1.0,
        "tokenizer_ratio": 1.0,
        "fixed_usd_per_hour": 0.0,
        "hosted_minimum_usd_per_hour": 0.0,
        "spares": 0.0,
        "min_replicas": 1.0,
        "shape": (1.0,),
        "shares": (),
    }


# 5 rps a replica of $2; a fifth of the time nothing, half of it the mean, the rest 5/3 of it. Hosted: $3.60 an hour for 1 rps.
CASE = Case(
    demand_rps=12.0, capacity_rps=10.0, replica_usd_per_hour=2.0, hosted_usd_per_request=0.0005, headroom=0.5, tokenizer_ratio=2.0,
    fixed_usd_per_hour=3.0, spares=1.0, min_replicas=0.0, shape=(0.0, 1.0, 5 / 3), shares=(0.2, 0.5, 0.3),
)  # fmt: skip


def test_dollars_of_both_sides():
    """0, 3 and 4 replicas for their shares of the time, a spare and $3; 43,200 requests of twice the tokens, or the minimum."""
    assert CASE.paid == ((0.0, 0.2), (1.0, 0.5), (5 / 3, 0.3))
    assert replace(CASE, shares=()).paid == ((0.0, 1 / 3), (1.0, 1 / 3), (5 / 3, 1 / 3))
    assert self_usd_per_hour(CASE) == pytest.approx((0.5 * 3 + 0.3 * 4 + 1) * 2 + 3)
    assert self_usd_per_hour(replace(CASE, min_replicas=4.0)) == pytest.approx((4 + 1) * 2 + 3)
    hardly = replace(CASE, demand_rps=1e-12, shape=(0.0, 0.5, 5 / 3))  # some load is a replica, none is none
    assert self_usd_per_hour(hardly) == pytest.approx((0.8 + 1) * 2 + 3)
    assert hosted_usd_per_hour(CASE) == pytest.approx(43.2)
    assert hosted_usd_per_hour(replace(CASE, hosted_minimum_usd_per_hour=50.0)) == 50
    # rounding of a billionth of a replica buys none, more does
    exact = Case(5.0 * (1 + 1e-10), 5.0, 2.0, 0.0)
    assert (self_usd_per_hour(exact), self_usd_per_hour(replace(exact, demand_rps=5.0 * (1 + 1e-8)))) == (2, 4)


@pytest.mark.parametrize(
    ("case", "rps", "never"),
    [
        (Case(1.0, 1.0, 27.0, 0.01), 2.25, False),  # $36 a stair of 1 rps: 27 x 3 / 36
        (Case(1.0, 1.0, 18.0, 0.01), 0.5, False),
        (Case(1.0, 2.0, 27.0, 0.005, headroom=0.5, tokenizer_ratio=2.0), 2.25, False),
        (Case(1.0, 1.0, 18.0, 0.01, spares=1.0, fixed_usd_per_hour=9.0), 2.25, False),
        (Case(1.0, 1.0, 18.0, 0.01, shape=(2.0,)), math.inf, True),
        (Case(1.0, 1.0, 9.0, 0.01, shape=(0.5, 1.5), shares=(0.5, 0.5)), 0.25, False),
        (Case(1.0, 1.0, 36.0, 0.01), math.inf, True),
        (Case(1.0, 1.0, 36.0, 0.01, hosted_minimum_usd_per_hour=36.0), math.inf, True),
        (Case(1.0, 1.0, 36.0, 0.01, hosted_minimum_usd_per_hour=36.01), math.inf, False),
        (Case(1.0, 1.0, 18.0, 0.01, hosted_minimum_usd_per_hour=18.0), 0.5, False),
        (Case(1.0, 1.0, 18.0, 0.01, hosted_minimum_usd_per_hour=18.01), 0.0, False),
        (Case(1.0, 1.0, 0.0, 0.0), math.inf, True),
    ],
)
def test_from_where_on_self_hosting_stays_cheaper(case, rps, never):
    """Steady, with headroom and tokens, a spare, a peak, halves; at the price of a full replica; under a minimum, at and above it."""
    assert float(permanent_rps(case)) == pytest.approx(rps)
    assert bool(never_cheaper(case)) is never


HOSTED = Assumption("hosted_usd_per_request", 0.00001, 0.0005, 0.0005)
DEMAND = Assumption("demand_rps", 5.0, 12.0, 12.0)
FIXED = Assumption("fixed_usd_per_hour", 3.0, 4.0, 4.0)


def difference(**change):
    """self - hosted by hand, of CASE."""
    one = replace(CASE, **change)
    own = sum(s * math.ceil(one.demand_rps * r / 5 - 1e-9) for r, s in CASE.paid) + 1
    return own * 2 + one.fixed_usd_per_hour - 3600 * one.demand_rps * one.hosted_usd_per_request * 2


def test_bars_of_a_tornado():
    """Each at its ends with the others at their modes, the widest first, of equals by name; what flips is what changes sides."""
    base = {"hosted_usd_per_request": 0.0005, "demand_rps": 12.0, "fixed_usd_per_hour": 4.0}
    bars = tornado(CASE, [FIXED, DEMAND, HOSTED])
    expected = [
        Bar(a.name, a.low, a.high, *(pytest.approx(difference(**{**base, a.name: x})) for x in (a.low, a.high)))
        for a in (HOSTED, DEMAND, FIXED)
    ]
    assert list(bars) == expected
    assert [bar.swing for bar in bars] == pytest.approx([42.336, 22.0, 1.0])
    same = [replace(FIXED, low=4.0), Assumption("spares", 1.0, 1.0, 1.0)]
    assert [bar.name for bar in tornado(CASE, same[::-1])] == ["fixed_usd_per_hour", "spares"]


def test_a_map_of_two_assumptions():
    """Rows of the first from low to high, columns of the second; nine by nine unless told otherwise."""
    grid = two_way(CASE, DEMAND, HOSTED, steps=2)
    assert grid == [
        [pytest.approx(difference(demand_rps=d, hosted_usd_per_request=p)) for p in (0.00001, 0.0005)]
        for d in (5.0, 12.0)
    ]
    assert [len(row) for row in two_way(CASE, DEMAND, HOSTED)] == [9] * 9


def test_an_outlook_by_its_own_draws():
    """300 joint draws, each priced by hand: odds, quantiles and the curve over given volumes."""
    found = outlook(CASE, [HOSTED, DEMAND], volumes_rps=[3, 30], draws=300, seed=4, level=0.5)
    drawn = draw([HOSTED, DEMAND], 300, seed=4)
    pairs = list(zip(drawn["hosted_usd_per_request"].tolist(), drawn["demand_rps"].tolist(), strict=True))
    values = sorted(difference(hosted_usd_per_request=p, demand_rps=d) for p, d in pairs)
    method = "Monte Carlo, 300 joint draws"
    picked = [pytest.approx(values[math.ceil(300 * share) - 1]) for share in (0.25, 0.5, 0.75)]
    assert found.difference == Interval(*picked, 0.5, method, 0)
    crossings = sorted(float(permanent_rps(replace(CASE, hosted_usd_per_request=p))) for p, _ in pairs)
    picked = [pytest.approx(crossings[math.ceil(300 * share) - 1]) for share in (0.25, 0.5, 0.75)]
    assert found.permanent == Interval(*picked, 0.5, method, 0)
    assert (found.draws, found.seed) == (300, 4)
    assert found.p_self_cheaper == pytest.approx(np.mean([v < 0 for v in values]))
    assert 0 < found.p_never == pytest.approx(np.mean([math.isinf(c) for c in crossings]))
    cheaper = [np.mean([difference(hosted_usd_per_request=p, demand_rps=v) < 0 for p, _ in pairs]) for v in (3.0, 30.0)]
    assert found.curve == ((3.0, pytest.approx(cheaper[0])), (30.0, pytest.approx(cheaper[1])))
    assert found.base_usd_per_hour == pytest.approx(difference(hosted_usd_per_request=0.0005, demand_rps=12.0))
    assert found.tornado == tornado(CASE, [HOSTED, DEMAND])
    assert found.flips == ("hosted_usd_per_request",)


def test_an_outlook_unless_told_otherwise():
    """10,000 draws of seed 1 at 90 %, volumes from a twentieth to twenty times the planned demand in 21 steps of one factor."""
    found = outlook(CASE, [])
    assert (found.draws, found.seed, found.difference.level, found.permanent.level) == (10_000, 1, 0.9, 0.9)
    volumes = [v for v, _ in found.curve]
    assert volumes == pytest.approx([0.6 * 400 ** (n / 20) for n in range(21)])
    assert found.difference.low == found.difference.high == pytest.approx(difference())
    wide = outlook(CASE, [replace(DEMAND, mode=10.0)])
    assert wide.curve[0][0] == pytest.approx(0.5)
    assert wide == outlook(CASE, [replace(DEMAND, mode=10.0)], draws=10_000, seed=1, level=0.9)


@pytest.mark.parametrize(
    ("name", "low", "high", "refused"),
    [
        ("demand_rps", 0.0, 0.0, True),
        ("capacity_rps", 0.0, 0.0, True),
        ("headroom", 0.0, 0.0, True),
        ("tokenizer_ratio", 0.0, 0.0, True),
        ("fixed_usd_per_hour", 0.0, 0.0, False),
        ("fixed_usd_per_hour", -1.0, -1.0, True),
        ("headroom", 1.0, 1.0, False),
        ("headroom", 1.01, 1.01, True),
        ("tokenizer_ratio", 1.01, 1.01, False),
        ("spares", 2.0, 2.0, False),
    ],
)
def test_what_a_quantity_cannot_be(name, low, high, refused):
    """Nothing of what divides, less than nothing, more than all of a replica."""
    one = Assumption(name, low, low, high)
    if refused:
        with pytest.raises(ConfigError, match="impossible") as error:
            outlook(CASE, [one], draws=9)
        assert error.value.value == f"{name}: {low:g} to {high:g}"
    else:
        assert outlook(CASE, [one], draws=9).draws == 9


@pytest.mark.parametrize("name", ["gpu", "shape", "shares", "min_replicas"])
def test_what_is_not_drawn_is_refused_by_name(name):
    """A name that a case has not, and what of it is no range: the known ones are listed in order."""
    with pytest.raises(ConfigError, match="no such assumption") as error:
        outlook(CASE, [Assumption(name, 1, 2, 3)], draws=9)
    assert error.value.value == name
    assert error.value.advice == (
        "known: capacity_rps, demand_rps, fixed_usd_per_hour, headroom, hosted_minimum_usd_per_hour, hosted_usd_per_request, "
        "replica_usd_per_hour, spares, tokenizer_ratio"
    )
