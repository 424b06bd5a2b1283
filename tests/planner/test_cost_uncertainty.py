"""Intervals: they cover the truth as often as they say, lose no infinite draw, and name what moves the answer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.planner.measured import Measured
from harness.planner.scenario import run as scenario_module
from harness.planner.uncertainty import (
    Assumption,
    Case,
    Interval,
    draw,
    outlook,
    permanent_rps,
    quantiles,
    self_usd_per_hour,
    tornado,
)
from tests.planner.scenario_values import scenario
from tests.planner.steady_fleet import break_even

QWEN = Case(  # facts of the worked example: Qwen3-8B FP8 1024/128, H100 $3.49, 32.26 rps, hosted $0.0614 per 1,000
    demand_rps=200.0, capacity_rps=32.26, replica_usd_per_hour=3.49, hosted_usd_per_request=0.0614e-3, headroom=0.7,
    fixed_usd_per_hour=12.5, spares=1,
)  # fmt: skip
RANGES = [
    Assumption("hosted_usd_per_request", 0.03e-3, 0.0614e-3, 0.0793e-3),
    Assumption("fixed_usd_per_hour", 0, 12.5, 25),
    Assumption("demand_rps", 100, 200, 400),
    Assumption("replica_usd_per_hour", 2.69, 3.49, 4.29),
    Assumption("headroom", 0.55, 0.7, 0.85),
    Assumption("tokenizer_ratio", 0.95, 1.0, 1.2),
    Assumption("capacity_rps", 32.26 * 0.92, 32.26, 32.26 * 1.08),
]


def test_joint_draws_are_the_same_again():
    """10,000 joint draws with curve and tornado: the same seed gives the same answer."""
    first = outlook(QWEN, RANGES)
    assert first == outlook(QWEN, RANGES)
    assert first.draws == 10_000


def test_p_cheaper_rises_with_volume_as_published():
    """0 at 20 rps and about 0.8 at 1,000; never falling from one volume to one twice as large."""
    ranges = [a for a in RANGES if a.name != "demand_rps"]
    curve = dict(outlook(QWEN, ranges, volumes_rps=[20, 100, 200, 500, 1000]).curve)
    assert curve[20] == 0
    assert 0.6 < curve[1000] < 1
    values = list(curve.values())
    assert values == sorted(values)


def test_the_tornado_is_sorted_around_the_base():
    """The widest swing first, each bar's range holds the base line; hosted price, labour and demand lead here."""
    bars = tornado(QWEN, RANGES)
    assert [b.swing for b in bars] == sorted((b.swing for b in bars), reverse=True)
    base = outlook(QWEN, RANGES).base_usd_per_hour
    assert all(min(b.at_low, b.at_high) - 1e-9 <= base <= max(b.at_low, b.at_high) + 1e-9 for b in bars)
    assert {b.name for b in bars[:3]} == {"hosted_usd_per_request", "fixed_usd_per_hour", "demand_rps"}


def test_never_is_counted_and_stays_in_the_quantiles():
    """Hosted at 0.02-0.08 per 1,000 around u* = 1: some draws never cross; P(never) counts them and the high end is infinite."""
    found = outlook(QWEN, [Assumption("hosted_usd_per_request", 0.02e-3, 0.045e-3, 0.08e-3)])
    assert 0.05 < found.p_never < 0.5
    assert found.permanent.high == math.inf
    assert found.permanent.low < math.inf


def test_a_hosted_price_below_the_full_replica_is_never_beaten():
    """u* >= 1 in every draw: P(never) = 1, the curve is 0 everywhere."""
    found = outlook(replace(QWEN, hosted_usd_per_request=0.03e-3), [])
    assert found.p_never == 1
    assert all(p == 0 for _, p in found.curve)
    assert math.isinf(found.permanent.low)


@given(
    st.floats(0.1, 50),
    st.floats(0.1, 100),
    st.floats(1e-6, 1e-2),
    st.integers(0, 3),
    st.just(0.0) | st.floats(1e-6, 30),
)
def test_permanent_crossing_agrees_with_the_exact_one(mu, c, p, spares, fixed):
    """The array formula is the exact one of breakeven, to rounding."""
    case = Case(1.0, mu, c, p, spares=spares, fixed_usd_per_hour=fixed)
    around = [
        break_even(mu * f, c, p, spares=spares, fixed_usd_per_hour=fixed).permanent_rps for f in (1 - 1e-9, 1, 1 + 1e-9)
    ]
    if None in around and around != [None] * 3:
        return  # at u* = 1 a float decides either way
    if around[0] is None:
        assert math.isinf(float(permanent_rps(case)))
    elif max(around) - min(around) < 1e-6 * max(around):  # else the answer jumps a stair right here
        assert float(permanent_rps(case)) == pytest.approx(around[1], rel=1e-6)


def test_whole_replicas_and_the_shape_of_demand():
    """A fixed fleet pays its peak all day, an autoscaled one each step's count; both plus spares and the fixed part."""
    case = Case(10.0, 10.0, 2.0, 0.0, spares=1, fixed_usd_per_hour=3.0, shape=(1.6,))
    assert float(self_usd_per_hour(case)) == (2 + 1) * 2.0 + 3.0
    assert float(self_usd_per_hour(replace(case, shape=(0.4, 1.6)))) == (1.5 + 1) * 2.0 + 3.0


def test_draws_of_one_assumption_do_not_move_when_another_is_added():
    """Each has its own stream: an answer changes only by what was added."""
    alone = draw(RANGES[:1], 100)["hosted_usd_per_request"]
    assert (draw(RANGES, 100)["hosted_usd_per_request"] == alone).all()


@given(st.floats(0.01, 1e4), st.floats(0.5, 1), st.floats(1, 3), st.floats(0.5, 0.99), st.booleans())
def test_an_interval_keeps_its_ends_as_quantiles_and_its_estimate_as_median(estimate, down, up, level, around_zero):
    """Of 20,000 draws (1 - level)/2 lie below low, as many above high and half below the estimate; none is a bound."""
    shift = estimate if around_zero else 0.0  # an interval that holds 0 is drawn normally
    low, high = estimate * (down - 0.01) - shift, estimate * (up + 0.01) - shift
    measured = Assumption("demand_rps", low, low, high, estimate=estimate - shift, level=level)
    drawn = draw([measured], 20_000)["demand_rps"]
    tail = (1 - level) / 2
    assert np.mean(drawn < low) == pytest.approx(tail, abs=0.012)
    assert np.mean(drawn > high) == pytest.approx(tail, abs=0.012)
    assert np.mean(drawn < estimate - shift) == pytest.approx(0.5, abs=0.015)
    if not around_zero:
        assert drawn.min() > 0


def test_a_declared_range_has_bounds_and_its_mode():
    """Low and high of a declared range are never passed, and its mean is that of a triangle."""
    drawn = draw([Assumption("demand_rps", 1, 2, 6)], 20_000)["demand_rps"]
    assert (drawn.min() >= 1, drawn.max() <= 6) == (True, True)
    assert drawn.mean() == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_measured_capacity_enters_the_odds_as_its_interval(monkeypatch, replicas):
    """Planned with the low end, drawn around the estimate: 5 % below low, 5 % above high, half below the estimate, per machine."""
    interval = Interval(8.0, 10.0, 11.0, 0.9, "search", 3)
    measured = Measured(8.0, 10.0, interval, ((800, 0, 200, 0),) * 3, ("r",), ("m",), "2026", "search", ())
    given_to = []
    monkeypatch.setattr(
        scenario_module, "outlook", lambda case, assumptions: given_to.append(assumptions) or outlook(case, assumptions)
    )
    spec = scenario(
        capacity={"requests_per_s": None, "source": "", "as_of": None, "run": "x"}, machine={"replicas": replicas}
    )
    result = scenario_module.run_scenario(spec, measured)
    (assumption,) = [a for a in given_to[0] if a.name == "capacity_rps"]
    drawn = draw([assumption], 20_000)["capacity_rps"] / replicas
    assert np.quantile(drawn, (0.05, 0.5, 0.95)) == pytest.approx((8.0, 10.0, 11.0), rel=0.01)
    assert assumption.mode == 8.0 * replicas  # the fleet's own plan: the base of the odds is the fleet that is priced
    hosted_each = next(o for o in result.options if o.kind == "hosted").usd_per_month
    assert result.outlook.base_usd_per_hour == pytest.approx(
        float(result.figure("self_usd_per_month") - hosted_each) / 730.5
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: draw([Assumption("capacity_rps", 1, 1, 2, estimate=2.5)], 9), "not around its estimate"),
        (lambda: draw([Assumption("capacity_rps", 1, 1, 2, estimate=1.5, level=1)], 9), "not around its estimate"),
        (lambda: draw([Assumption("capacity_rps", 1, 1, 2, estimate=math.nan)], 9), "not around its estimate"),
        (lambda: outlook(QWEN, [Assumption("headroom", 0.5, 0.7, 1.2)]), "impossible"),
        (lambda: outlook(QWEN, [Assumption("capacity_rps", 0, 1, 0.5)]), "low <= mode <= high"),
        (lambda: outlook(QWEN, [Assumption("capacity_rps", 1, float("nan"), 2)]), "low <= mode <= high"),
        (lambda: outlook(QWEN, [Assumption("gpu", 1, 2, 3)]), "no such assumption"),
        (lambda: quantiles(np.array([1.0, float("nan")]), (0.5,)), "not a number"),
    ],
)
def test_bad_ranges_are_refused(make, says):
    """A range that cannot be, NaN, or an unknown name is an error of three lines."""
    with pytest.raises(ConfigError, match=says) as error:
        make()
    assert len(str(error.value).splitlines()) == 3
