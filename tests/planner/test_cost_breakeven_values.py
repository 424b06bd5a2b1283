"""Break-even as whole values, by hand: a hosted rps costs $36 an hour at $0.01 a request."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D
from fractions import Fraction as F
from math import ceil

import pytest

from harness.base.errors import ConfigError
from harness.planner.breakeven import (
    BreakEven,
    Crossing,
    EqualPrices,
    break_even_over_demand,
    equal_prices,
    staircase,
)
from harness.planner.demand import curve, flat
from harness.planner.fleet import FleetSpec
from tests.planner.steady_fleet import break_even

SPEC = FleetSpec(capacity_rps=20, replica_usd_per_hour=4, headroom="0.5", spares=1, other_usd_per_hour=3)
BARE = replace(SPEC, spares=0, other_usd_per_hour=0)
# Of the mean, half the time half of it and half the time 1.5 times as much: stairs at 20 k and at 20 k / 3.
UP_AND_DOWN = curve("up and down", [1, 3])


def at(*pairs):
    return tuple(Crossing(rps, side) for rps, side in pairs)


# ---------------------------------------------------------------- a steady rate


@pytest.mark.parametrize(
    ("price", "words", "found"),
    [
        (18, {}, BreakEven(at((0.5, "self")), 0.5, 0.5, 0, None)),
        (27, {}, BreakEven(at((0.75, "self"), (1, "hosted"), (1.5, "self"), (2, "hosted"), (2.25, "self")), 2.25, 0.75)),
        (18, {"spares": 1, "fixed_usd_per_hour": 9}, BreakEven(at((1.75, "self"), (2, "hosted"), (2.25, "self")), 2.25, 0.5)),
        (36, {}, BreakEven((), None, 1.0)),
        (0, {}, BreakEven(at((0, "self")), 0.0, 0.0)),
        (0, {"fixed_usd_per_hour": 9}, BreakEven(at((0.25, "self")), 0.25, 0.0)),
        (18, {"minimum_usd_per_month": D(18) * D("730.5")}, BreakEven(at((0.5, "self")), 0.5, 0.5)),
        (18, {"minimum_usd_per_month": D("18.01") * D("730.5")}, BreakEven(at((0, "self")), 0.0, 0.5)),
        (27, {"minimum_usd_per_month": D("27.01") * D("730.5")}, BreakEven(at((0, "self"), (1, "hosted"), (1.5, "self"), (2, "hosted"), (2.25, "self")), 2.25, 0.75)),
        (27, {"minimum_usd_per_month": D("54.01") * D("730.5")}, BreakEven(at((0, "self"), (2, "hosted"), (2.25, "self")), 2.25, 0.75)),
        (36, {"minimum_usd_per_month": 73_050}, BreakEven(at((0, "self"), (2, "hosted")), None, 1.0)),
    ],
)  # fmt: skip
def test_every_crossing_and_what_is_said_of_them(price, words, found):
    """Replicas of 1 rps: halved, three stairs, a spare and a fixed part, never, free, and a minimum at, above and far above a stair."""
    assert break_even(1, price, "0.01", **words) == found


def test_free_on_both_sides():
    """Nothing to pay for: nobody is cheaper; with a minimum, or a fixed part below it, self-hosting is from the start."""
    assert break_even(1, 0, 0) == BreakEven((), None, None)
    assert break_even(1, 0, 0, minimum_usd_per_month=1) == BreakEven(at((0, "self")), 0.0, None)
    assert break_even(1, 0, 0, minimum_usd_per_month=7305, fixed_usd_per_hour=10) == BreakEven((), None, None)


@pytest.mark.parametrize(("minimum", "floor_stairs"), [(0, 0), (D(36) * D(7305), 10)])
def test_ten_thousand_crossings_are_listed_and_the_rest_counted(minimum, floor_stairs):
    """u* of 0.9999997: upwards on every stair and back at its edge; a minimum's two stand for the stairs below it."""
    price = F("35.99999")
    found = break_even(1, "35.99999", "0.01", minimum_usd_per_month=minimum)
    last = ceil(price / (36 - price))
    every = 2 * (last - floor_stairs) - 1 + (2 if floor_stairs else 0)
    assert (len(found.crossings), found.crossings_omitted) == (10_000, every - 10_000)
    assert found.permanent_rps == float(price * last / 36)
    if floor_stairs:
        assert found.crossings[:3] == at((0, "self"), (10, "hosted"), (float(price * 11 / 36), "self"))
    else:
        assert found.crossings[-1] == Crossing(5000.0, "hosted")


def test_touching_is_to_within_a_millionth_of_a_billionth():
    """u* one part in 2e15 below 1 is 1; one in 1e13 below it is not."""
    assert break_even(1, 36 * (1 - F(1, 2 * 10**15)), "0.01").crossings == ()
    assert break_even(1, 36 * (1 - F(1, 10**13)), "0.01").crossings[0].cheaper_above == "self"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"capacity_rps": 0}, "capacity of a replica"),
        ({"replica_usd_per_hour": -1}, "price of a replica"),
        ({"hosted_usd_per_request": None}, "hosted price"),
        ({"spares": -1}, "spares"),
        ({"fixed_usd_per_hour": -1}, "other"),
        ({"minimum_usd_per_month": -1}, "minimum commitment"),
    ],
)
def test_bad_terms_are_refused_by_name(words, named):
    """Each term out of range says which it is."""
    good = {"capacity_rps": 1, "replica_usd_per_hour": 1, "hosted_usd_per_request": 1}
    with pytest.raises(ConfigError, match=named):
        break_even(**{**good, **words})


# ---------------------------------------------------------------- prices


def test_prices_at_which_both_cost_the_same():
    """$11 an hour of which $8 are replicas, against $14.40: $5.70 a replica, 11/7200 a request."""
    assert equal_prices(flat(2), SPEC, "0.002") == EqualPrices(D("5.7"), D(11) / 7200)
    metered = replace(SPEC, power_kw=1, usd_per_kwh=9)  # in the price of a rented machine
    assert equal_prices(flat(2), metered, "0.002") == EqualPrices(D("5.7"), D(11) / 7200)


@pytest.mark.parametrize(
    ("hosted", "minimum", "replica", "request_usd"),
    [
        (D(3) / 7200, 0, D(0), D(11) / 7200),
        (D(2) / 7200, 0, None, D(11) / 7200),
        (D(3) / 7200, 11, D(4), D(11) / 7200),
        (D(3) / 7200, "11.01", D("4.005"), D(0)),
        (D(13) / 7200, "11.01", D(5), D(0)),
    ],
)
def test_prices_at_their_edges(hosted, minimum, replica, request_usd):
    """The fixed part alone is the bill: $0 a replica; more than it: none. A minimum of just the fleet leaves a price, more does not."""
    found = equal_prices(flat(2), SPEC, hosted, minimum_usd_per_month=D(minimum) * D("730.5"))
    assert found.replica_usd_per_hour == (None if replica is None else pytest.approx(replica, abs=D("1e-20")))
    assert found.hosted_usd_per_request == request_usd


@pytest.mark.parametrize(("words", "named"), [((-1, 0), "hosted price"), ((1, -1), "minimum commitment")])
def test_bad_prices_are_refused_by_name(words, named):
    """Negative hosted prices and minimums."""
    with pytest.raises(ConfigError, match=named):
        equal_prices(flat(2), SPEC, words[0], minimum_usd_per_month=words[1])


# ---------------------------------------------------------------- stairs


def test_stairs_by_hand():
    """10 rps a replica: a stair every 10 rps on a steady day; on two levels half a replica at each of their edges."""
    assert staircase(flat(1), SPEC, 25) == [(0, 11), (10, 15), (20, 19), (25, 19)]
    assert staircase(flat(1), replace(SPEC, min_replicas=2), 25) == [(0, 15), (20, 19), (25, 19)]
    assert staircase(flat(1), SPEC, 5) == [(0, 11), (10, 11)]
    steps = [(0, 4), (20 / 3, 6), (40 / 3, 8), (20, 10), (20, 12), (24, 12)]
    assert [x for point in staircase(UP_AND_DOWN, BARE, 24) for x in point] == pytest.approx(
        [x for point in steps for x in point]
    )


def test_hours_without_demand_pay_for_the_least():
    """Half of the time nothing: half a replica where none must be up, a whole one where one must."""
    half = curve("half", [0, 2])
    assert staircase(half, replace(BARE, min_replicas=0), 4)[0] == (0, 2)
    assert staircase(half, BARE, 4)[0] == (0, 4)
    assert staircase(half, replace(BARE, min_replicas=3), 4)[0] == (0, 12)


def test_stairs_that_are_too_many_end_early():
    """Of two levels' million, those below 99,999 replicas' rate: 200,000 in all; as many as that are all there."""
    one = replace(BARE, capacity_rps=2)
    assert staircase(UP_AND_DOWN, one, 1e6)[-1][0] == 99_999
    assert staircase(flat(1), one, 199_999)[-1][0] == 199_999


@pytest.mark.parametrize(
    ("words", "named"), [({"capacity_rps": 0}, "capacity of a replica"), ({"headroom": 0}, "headroom"), ({"replica_usd_per_hour": -1}, "price of a replica"), ({"min_replicas": -1}, "min replicas"), ({"spares": -1}, "spares")]
)  # fmt: skip
def test_bad_stairs_are_refused_by_name(words, named):
    """What the staircase is made of, out of range."""
    with pytest.raises(ConfigError, match=named):
        staircase(flat(1), replace(SPEC, **words), 9)


# ---------------------------------------------------------------- a curve


def over(demand, spec, price, minimum_per_hour=0):
    """With crossings to within rounding: the scan is in floats."""
    found = break_even_over_demand(demand, spec, price, minimum_usd_per_month=D(minimum_per_hour) * D("730.5"))
    rounded = tuple(Crossing(pytest.approx(c.rps), c.cheaper_above) for c in found.crossings)
    return replace(found, crossings=rounded), found


@pytest.mark.parametrize(
    ("demand", "change", "price", "minimum", "expected"),
    [
        (flat(1), {}, "0.0001", 0, BreakEven((), None, 4 / 3.6)),
        (flat(1), {}, "0.0002", 0, BreakEven(at((4 / 0.72, "self"), (10, "hosted"), (8 / 0.72, "self")), 8 / 0.72, 4 / 7.2)),
        (flat(1), {"min_replicas": 2}, "0.0002", 0, BreakEven(at((8 / 0.72, "self")), 8 / 0.72, 4 / 7.2)),
        (flat(1), {"min_replicas": 2, "scaling": "fixed"}, "0.0002", 0, BreakEven(at((8 / 0.72, "self")), 8 / 0.72, 4 / 7.2)),
        (flat(1), {}, 0, 0, BreakEven((), None, None)),
        (flat(1), {}, 0, 4, BreakEven((), None, None)),
        (flat(1), {}, 0, 10, BreakEven(at((0, "self"), (20, "hosted")), None, None)),
        (flat(1), {}, 0, 8, BreakEven(at((0, "self"), (10, "hosted")), None, None)),
        (flat(1), {"replica_usd_per_hour": 0}, 0, 1, BreakEven(at((0, "self")), 0.0, None)),
        (flat(1), {"replica_usd_per_hour": 0, "other_usd_per_hour": 1}, 0, 1, BreakEven((), None, None)),
        (UP_AND_DOWN, {}, "0.0002", 0, BreakEven(at((4 / 0.72, "self"), (20 / 3, "hosted"), (6 / 0.72, "self")), 6 / 0.72, 4 / 7.2)),
        (UP_AND_DOWN, {"scaling": "fixed"}, "0.0002", 0, BreakEven(at(*[pair for n in range(1, 6) for pair in ((n * 50 / 9, "self"), (n * 20 / 3, "hosted"))][:-1]), 250 / 9, 1.5 * 4 / 7.2)),
        (UP_AND_DOWN, {}, "0.0002", 5, BreakEven(at((0, "self"), (20 / 3, "hosted"), (6 / 0.72, "self")), 6 / 0.72, 4 / 7.2)),
    ],
)  # fmt: skip
def test_curves_by_hand(demand, change, price, minimum, expected):
    """Steady and of two levels, autoscaled and fixed, with more replicas than needed, free, and under a minimum."""
    found, exact = over(demand, replace(BARE, **change), price, minimum)
    assert found.crossings == expected.crossings
    assert found.permanent_rps == (None if expected.permanent_rps is None else pytest.approx(expected.permanent_rps))
    u = expected.break_even_utilisation
    assert found.break_even_utilisation == (None if u is None else pytest.approx(u))
    assert (exact.crossings_omitted, exact.scanned_to_rps) == (0, None)


def test_a_scan_that_ends_early_claims_nothing_above():
    """200,000 stairs of u* = 0.999997: two crossings each but the first, the list cut at 10,000, nothing said beyond 199,999 rps."""
    found = break_even_over_demand(flat(1), replace(BARE, capacity_rps=2, replica_usd_per_hour="35.9999"), "0.01")
    assert (found.permanent_rps, found.scanned_to_rps) == (None, 199_999)
    assert (len(found.crossings), found.crossings_omitted) == (10_000, 2 * 199_999 - 1 - 10_000)


def test_egress_is_refused_only_where_there_is_some():
    """A price of a gigabyte with nothing sent, or bytes that are free, are no egress; both are refused, with the price."""
    for words in ({"egress_usd_per_gb": 9}, {"bytes_per_request": 9}):
        assert break_even_over_demand(flat(1), replace(BARE, **words), "0.0002").permanent_rps is not None
    with pytest.raises(ConfigError, match="no egress") as error:
        break_even_over_demand(flat(1), replace(BARE, egress_usd_per_gb=9, bytes_per_request=8), "0.0002")
    assert error.value.value == "9"
