"""The comparison of hourly costs as whole values: both sides, crossings, tornados, maps and outlooks, by hand."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.planner.uncertainty import (
    Assumption,
    Bar,
    Case,
    Interval,
    draw,
    hosted_usd_per_hour,
    never_cheaper,
    outlook,
    permanent_rps,
    self_usd_per_hour,
    tornado,
)


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
