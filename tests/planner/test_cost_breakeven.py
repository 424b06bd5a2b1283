"""Break-even: every crossing of a staircase with a line, against an evaluation of the two costs themselves."""

import json
import math
import random
from decimal import Decimal
from fractions import Fraction as F
from itertools import pairwise

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.cli.breakeven import breakeven as command
from harness.planner.breakeven import (
    MAX_CROSSINGS,
    break_even_over_demand,
    equal_prices,
    staircase,
)
from harness.planner.demand import curve, flat, scaled, shaped
from harness.planner.fleet import FleetSpec, fleet_cost
from tests.planner.steady_fleet import break_even

MU = 0.7 * 32.26  # Qwen3-8B FP8, 1024 in / 128 out, one H100 at $3.49/h, 30 % headroom


def fleet_of(mu, c, spares=0, fixed=0, **more):
    return FleetSpec(
        capacity_rps=mu, replica_usd_per_hour=c, headroom=1, spares=spares, other_usd_per_hour=fixed, billing_s="0.001", **more
    )  # fmt: skip


def found(result):
    return [(c.rps, c.cheaper_above) for c in result.crossings]


def brute_force(mu, c, p, spares, fixed, rates=(F(1),), least=1):
    """Crossings by evaluating both costs between all rates where either can change sides; no formula of the module."""
    mu, c, p, fixed = (F(str(x)) for x in (mu, c, p, fixed))
    per_hour = 3600 * p

    def own(rate):
        return c * (sum(max(least, math.ceil(rate * r / mu)) for r in rates) / F(len(rates)) + spares) + fixed

    if per_hour * mu <= c:
        return []
    beyond = (c * (spares + max(1, least) + 1) + fixed) / (per_hour - c / mu) + mu
    edges = sorted({k * mu / r for r in rates for k in range(math.ceil(beyond * r / mu) + 1)})
    crossings, side = [], "hosted"
    for low, high in pairwise(edges):
        level = own((low + high) / 2) / per_hour  # where the line reaches this stair
        points = [low, *([level] if low < level < high else []), high]
        for a, b in pairwise(points):
            middle = (a + b) / 2
            now = "self" if own(middle) < per_hour * middle else "hosted"
            if now != side:
                crossings.append((float(a), now))
                side = now
    return crossings


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        a[1] == b[1] and abs(a[0] - b[0]) <= 1e-6 * max(1.0, abs(b[0])) for a, b in zip(ours, theirs, strict=True)
    )


def test_closed_form_is_the_brute_force_on_1000_random_cases():
    """Every crossing and its direction, within 1e-6, for u* from 0.05 to 1.2, 0 to 4 spares and fixed costs."""
    draw, several = random.Random(6), 0
    for _ in range(1000):
        mu, c = round(draw.uniform(0.5, 60), 3), round(draw.uniform(0.2, 20), 3)
        u = draw.uniform(0.05, 1.2) if draw.random() < 0.9 else draw.uniform(0.9, 0.99)
        p = round(c / (u * 3600 * mu), 9)
        spares, fixed = draw.randint(0, 4), draw.choice([0, round(draw.uniform(0, 5), 2)])
        result = break_even(mu, c, p, spares=spares, fixed_usd_per_hour=fixed)
        expected = brute_force(mu, c, p, spares, fixed)
        assert same(found(result), expected), (mu, c, p, spares, fixed)
        assert (result.permanent_rps is None) == (not expected)
        if expected:
            assert abs(result.permanent_rps - expected[-1][0]) <= 1e-6 * max(1, expected[-1][0])
        several += len(expected) > 1
    assert several > 300  # the cases are not all of the easy kind


@pytest.mark.parametrize(
    ("p", "spares", "fixed", "u", "expected"),
    [
        (0.0614e-3, 0, 0, 0.699, [15.79, 22.58, 31.58, 45.16, 47.37]),
        (0.0614e-3, 1, 0, 0.699, [63.2, 67.7, 78.9, 90.3, 94.7]),
        (0.178e-3, 0, 0, 0.241, [5.44]),
        (0.030e-3, 0, 0, 1.43, []),
    ],
)
def test_worked_examples(p, spares, fixed, u, expected):
    """Qwen3-8B on an H100: the published crossings to the digits given; never at $0.030 per 1,000."""
    result = break_even(MU, 3.49, p, spares=spares, fixed_usd_per_hour=fixed)
    assert [c.rps for c in result.crossings] == pytest.approx(expected, rel=1.5e-3)  # 0.178 is a rounded price
    assert [c.cheaper_above for c in result.crossings] == ["self", "hosted"] * (len(expected) // 2) + ["self"] * (
        len(expected) % 2
    )
    assert result.break_even_utilisation == pytest.approx(u, abs=0.004)
    assert (result.permanent_rps is None) == (not expected)


def test_worked_example_with_labour():
    """One spare and $25/h: seven crossings, the first at 428.9 rps, for good from 476."""
    result = break_even(MU, 3.49, 0.0614e-3, spares=1, fixed_usd_per_hour=25)
    assert len(result.crossings) == 7
    assert result.crossings[0].rps == pytest.approx(428.9, abs=0.1)
    assert result.permanent_rps == pytest.approx(476, abs=0.5)


def test_hosted_wins_always_at_u_of_one_and_above():
    """At u* = 1 the line only touches the stairs' edges, above it not even that: nothing crosses."""
    for c in (36, "36.0001", 1000):
        for spares, fixed in ((0, 0), (2, 0), (0, 3)):
            result = break_even(1, c, 0.01, spares=spares, fixed_usd_per_hour=fixed)
            assert result.crossings == ()
            assert result.permanent_rps is None
            assert result.break_even_utilisation >= 1


def test_a_stair_that_only_touches_the_line_is_no_crossing():
    """Equal cost at the far edge of the first stair alone: hosted stays cheaper below and above, the next crossing counts."""
    # P = 36 $/h per rps, mu = 1, c = 18, F = 18: stair 1 costs 36 = P x mu at its edge; stair 2 costs 54, crossed at 1.5
    result = break_even(1, 18, 0.01, fixed_usd_per_hour=18)
    assert found(result) == [(1.5, "self")]
    assert found(result) == brute_force(1, 18, "0.01", 0, 18)


def test_jump_back_exactly_at_an_edge_that_ties():
    """The next stair starting exactly on the line does not give hosted the edge back."""
    # P = 36, mu = 2, c = 36: stair 1 crossed at 1, stair 2 costs 72 = P x 2 at the edge: self keeps it
    assert found(break_even(2, 36, 0.01)) == [(1.0, "self")] == brute_force(2, 36, "0.01", 0, 0)


def test_free_replicas_and_free_hosted():
    """Free replicas are cheaper from the first request on; a free API at no volume."""
    assert found(break_even(5, 0, 0.01)) == [(0.0, "self")]
    assert found(break_even(5, 0, 0.01, fixed_usd_per_hour=360)) == [(10.0, "self")]
    free = break_even(5, 1, 0)
    assert (free.crossings, free.permanent_rps, free.break_even_utilisation) == ((), None, None)


def test_u_just_below_one_is_bounded_and_says_so():
    """A million stairs: the list stops at its limit, the rest is counted, and the permanent crossing is exact."""
    result = break_even(1, "35.99999", 0.01)
    assert len(result.crossings) == MAX_CROSSINGS
    assert result.crossings_omitted > 1_000_000
    stair = math.ceil(F(36) / F("0.00001")) - 1  # n* - 1 of the published closed form
    assert result.permanent_rps == pytest.approx(float(F("35.99999") * stair / 36), rel=1e-12)


def test_many_spares():
    """A thousand spares push the first crossing out; it is still on the right stair."""
    result = break_even(10, 1, 0.001, spares=1000)
    assert found(result) == brute_force(10, 1, "0.001", 1000, 0)
    assert result.crossings[0].rps > 1000 / 3.6


POSITIVE = st.decimals("0.01", "50", places=2)


@settings(max_examples=150, deadline=None)
@given(POSITIVE, POSITIVE, st.decimals("0.05", "0.98", places=2), st.integers(0, 5), st.decimals("0", "20", places=1))
def test_laws_of_crossings(mu, c, u, spares, fixed):
    """Sides alternate from self, rates rise strictly, the last one is the permanent one, and money's unit does not matter."""
    p = c / (u * 3600 * mu)
    result = break_even(mu, c, p, spares=spares, fixed_usd_per_hour=fixed)
    rates = [x.rps for x in result.crossings]
    assert rates == sorted(set(rates))
    assert [x.cheaper_above for x in result.crossings] == [("self", "hosted")[n % 2] for n in range(len(rates))]
    assert result.crossings[-1].cheaper_above == "self"
    assert result.crossings[-1].rps == result.permanent_rps
    more = break_even(mu, c, p, spares=spares + 1, fixed_usd_per_hour=fixed)
    assert more.permanent_rps >= result.permanent_rps
    scaled = break_even(mu, 7 * c, 7 * p, spares=spares, fixed_usd_per_hour=7 * fixed)
    assert [x.rps for x in scaled.crossings] == pytest.approx(rates, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(POSITIVE, POSITIVE, POSITIVE, st.integers(0, 4), st.decimals("0", "20", places=1))
def test_break_even_prices_are_where_costs_meet(rate, mu, c, spares, fixed):
    """At p* a request costs the same on both sides, and p*'s own c* is the price it was made with."""
    steady, fleet = curve("steady", [rate]), fleet_of(mu, c, spares, fixed)
    price = equal_prices(steady, fleet, 0).hosted_usd_per_request
    replicas = -(-F(rate) // F(mu)) + spares
    assert float(price * 3600 * rate) == pytest.approx(float(F(c) * replicas + F(fixed)), rel=1e-12)
    assert float(equal_prices(steady, fleet, price).replica_usd_per_hour) == pytest.approx(float(c), rel=1e-9)


def test_no_price_of_a_replica_is_low_enough():
    """Where fixed cost alone is above the hosted bill, c* is absent, not 0."""
    assert equal_prices(curve("one", [1]), fleet_of(10, 1, fixed=25), 0.001).replica_usd_per_hour is None
    assert equal_prices(curve("ten", [10]), fleet_of(10, 1, fixed=11), 0.001).replica_usd_per_hour == Decimal(25)


# ---------------------------------------------------------------- a minimum commitment


def test_a_minimum_is_a_floor_and_no_price_of_a_request():
    """$20,000 a month committed, self-hosting $5,844: cheaper from the first request on, never "hosted below 2.92 M requests"."""
    result = break_even(5, 4, 0.0002, spares=1, minimum_usd_per_month=20_000)
    assert found(result)[0] == (0.0, "self")
    # $27.38/h of commitment are 5 machines of $4 and a spare: up to 25 rps; on every later stair hosted is cheaper at 0.72 $/h a rps
    assert found(result) == [(0.0, "self"), (25.0, "hosted")]
    assert result.permanent_rps is None
    assert found(break_even(5, 4, 0.0002, spares=1)) == []


@settings(max_examples=200, deadline=None)
@given(POSITIVE, POSITIVE, st.decimals("0.05", "1.3", places=2), st.integers(0, 3), st.decimals("0", "20", places=1), st.integers(0, 100_000))  # fmt: skip
def test_with_a_minimum_both_sides_meet_at_every_crossing(mu, c, u, spares, fixed, minimum):
    """At 60 rates between and around the listed crossings the cheaper side is the one they say: hosted is max(minimum, usage)."""
    p = c / (u * 3600 * mu)
    result = break_even(mu, c, p, spares=spares, fixed_usd_per_hour=fixed, minimum_usd_per_month=minimum)
    crossings, listed = found(result), [x.rps for x in result.crossings]
    assert listed == sorted(listed)
    last = (listed[-1] if listed else 0.0) + 3 * float(mu)
    if result.crossings_omitted:
        last = listed[-1]
    edges = [0.0, *listed, last]
    for low, high in pairwise(edges):
        for part in (0.01, 0.3, 0.5, 0.8, 0.99):
            rate = F(low + (high - low) * part)
            if rate <= 0:
                continue
            own = F(c) * (math.ceil(rate / F(mu)) + spares) + F(fixed)
            hosted = max(F(minimum) / F("730.5"), 3600 * F(p) * rate)
            says = next((side for at, side in reversed(crossings) if at < rate), "hosted")
            if abs(own - hosted) > own * F(1, 10**9):
                assert says == ("self" if own < hosted else "hosted"), float(rate)
    if result.permanent_rps is not None:
        assert crossings[-1] == (result.permanent_rps, "self")


def test_a_minimum_over_a_curve():
    """An autoscaled fleet under a commitment: self first, then as without one; where u* is above 1, hosted for good after it."""
    day = shaped("m-small", 1)
    spec = fleet_of(MU, 3.49, spares=1)
    without = break_even_over_demand(day, spec, 0.178e-3)
    with_it = break_even_over_demand(day, spec, 0.178e-3, minimum_usd_per_month=6000)
    assert found(with_it)[0] == (0.0, "self")
    assert with_it.permanent_rps in (0.0, without.permanent_rps)
    never = break_even_over_demand(day, spec, 0.01e-3, minimum_usd_per_month=10_000)
    assert [side for _, side in found(never)] == ["self", "hosted"]
    for factor, cheaper in ((1 - 1e-6, True), (1 + 1e-6, False)):
        cost = fleet_cost(scaled(day, never.crossings[1].rps * factor), spec).usd_per_month
        assert (cost < 10_000) is cheaper
    assert never.permanent_rps is None
    assert never.scanned_to_rps is None


def test_prices_where_costs_meet_under_a_minimum():
    """Hosted billed $20,000 at the least: any price of a request is too dear, and a machine may cost what the minimum pays for."""
    equal = equal_prices(flat(1), fleet_of(10, 4, spares=1), 0.0001, minimum_usd_per_month=20_000)
    assert equal.hosted_usd_per_request == 0
    assert equal.replica_usd_per_hour == pytest.approx(20_000 / Decimal("730.5") / 2)


def test_flat_demand_is_the_steady_case():
    """A curve that never changes has the steady crossings, by the scan too."""
    steady = break_even(MU, 3.49, 0.0614e-3, spares=1)
    over = break_even_over_demand(flat(1), fleet_of(MU, 3.49, 1), 0.0614e-3)
    assert same(found(over), found(steady))
    assert over.permanent_rps == pytest.approx(steady.permanent_rps, rel=1e-9)


def test_crossings_over_curves_are_the_brute_force():
    """Forty random daily curves: the scan from stair to stair finds every crossing that evaluation does."""
    draw, several = random.Random(4), 0
    for _ in range(40):
        rates = [round(draw.uniform(0, 3), 2) for _ in range(draw.randint(2, 5))]
        rates[0] = 1.0
        mu, c = round(draw.uniform(1, 9), 1), round(draw.uniform(1, 9), 1)
        p, spares, least = round(c / draw.uniform(0.3, 1.05) / 3600 / mu, 7), draw.randint(0, 2), draw.randint(0, 2)
        mean = sum(F(str(r)) for r in rates) / len(rates)
        over = break_even_over_demand(curve("random", rates), fleet_of(mu, c, spares, min_replicas=least), p)
        expected = brute_force(mu, c, p, spares, 0, [F(str(r)) / mean for r in rates], least)
        assert same(found(over), expected), (rates, mu, c, p, spares, least)
        several += len(expected) > 1
    assert several > 10


def test_fixed_fleet_over_a_curve_pays_for_the_peak():
    """A fleet held at the highest hour of the trace breaks even that hour over the mean times later in utilisation, or never."""
    day = shaped("m-small", 1)
    always = fleet_of(MU, 3.49, scaling="fixed")
    fixed = break_even_over_demand(day, always, 0.178e-3)
    assert fixed.break_even_utilisation == pytest.approx(3.49 / (0.178e-3 * 3600 * MU) * 2.06)
    assert break_even_over_demand(day, always, 0.0614e-3).crossings == ()
    assert break_even_over_demand(day, fleet_of(MU, 3.49), 0.0614e-3).crossings != ()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1, "many"])
@pytest.mark.parametrize("which", ["mu", "c", "p", "fixed"])
def test_bad_numbers_are_refused(bad, which):
    """NaN, infinite, negative or no number at all: three lines, never an answer."""
    values = {"mu": 1, "c": 1, "p": 0.01, "fixed": 0} | {which: bad}
    with pytest.raises(ConfigError) as error:
        break_even(values["mu"], values["c"], values["p"], fixed_usd_per_hour=values["fixed"])
    assert str(error.value).count("\n") == 2


@pytest.mark.parametrize("spares", [-1, 0.5])
def test_bad_spares_and_zero_capacity_are_refused(spares):
    """Spares are a count and a replica serves something."""
    with pytest.raises(ConfigError):
        break_even(1, 1, 0.01, spares=spares)
    with pytest.raises(ConfigError):
        break_even(0, 1, 0.01)


ARGUMENTS = ["--capacity-rps", "22.582", "--replica-usd-per-hour", "3.49", "--hosted-usd-per-request"]


def test_command_prints_the_agreed_json():
    """The keys that others read, crossings in order, null and [] where hosted always wins."""
    shown = json.loads(CliRunner().invoke(command, [*ARGUMENTS, "0.0000614", "--json"], catch_exceptions=False).output)
    assert set(shown) == {"crossings", "permanent_rps", "break_even_utilisation"}
    assert [round(x["rps"], 2) for x in shown["crossings"]] == [15.79, 22.58, 31.58, 45.16, 47.37]
    assert shown["permanent_rps"] == shown["crossings"][-1]["rps"]
    never = json.loads(CliRunner().invoke(command, [*ARGUMENTS, "0.00003", "--json"], catch_exceptions=False).output)
    assert (never["crossings"], never["permanent_rps"]) == ([], None)
    assert never["break_even_utilisation"] == pytest.approx(1.431, abs=1e-3)


def test_command_says_it_in_words_first():
    """The first line is the answer, not a table."""
    said = CliRunner().invoke(command, [*ARGUMENTS, "0.0000614"], catch_exceptions=False).output
    assert said.splitlines()[0].startswith("Self-hosting is cheaper for good above 47.4 requests/s")
    never = CliRunner().invoke(command, [*ARGUMENTS, "0.00003"], catch_exceptions=False).output
    assert never.splitlines()[0].startswith("The hosted API is cheaper at every volume")


def test_command_quotes_prices_and_curves():
    """At a rate it adds c* and p*; over a curve it scans the mean rate."""
    at = [*ARGUMENTS, "0.0000614", "--at-rps", "100", "--json"]
    shown = json.loads(CliRunner().invoke(command, at, catch_exceptions=False).output)
    assert float(shown["break_even_replica_usd_per_hour"]) == pytest.approx(0.0000614 * 3600 * 100 / 5, rel=1e-9)
    assert float(shown["break_even_hosted_usd_per_request"]) == pytest.approx(5 * 3.49 / 360000, rel=1e-9)
    over = [*ARGUMENTS, "0.0000614", "--demand", "m-large", "--json"]
    assert json.loads(CliRunner().invoke(command, over, catch_exceptions=False).output)["crossings"]


@pytest.mark.parametrize("scaling", ["autoscaled", "fixed"])
def test_the_staircase_is_the_fleet_at_every_rate(scaling):
    """On 200 random fleets the stair at a random rate is what `fleet_cost` says there, to 1e-9, and stairs are in order."""
    rng = random.Random(5)
    for _ in range(200):
        rates = [rng.randint(0, 9) for _ in range(rng.randint(1, 6))] + [1]
        demand = curve("d", rates, step_s=rng.choice([600, 3600, 7200]), peak_hour_to_mean=rng.choice([None, 9]))
        spec = FleetSpec(
            capacity_rps=rng.uniform(0.3, 4), replica_usd_per_hour=rng.uniform(0.1, 9), headroom=rng.uniform(0.4, 1),
            spares=rng.randint(0, 2), min_replicas=rng.randint(0, 3), scaling=scaling, cold_start_s=rng.choice([0, 300]),
            billing_s=rng.choice([1, 3600]), labour_usd_per_hour=2,
        )  # fmt: skip
        stairs = staircase(demand, spec, rng.uniform(1, 30))
        assert [rate for rate, _ in stairs] == sorted(rate for rate, _ in stairs)
        rate = rng.uniform(0.01, 0.99) * stairs[-1][0]
        at = max(usd for x, usd in stairs if x <= rate)
        assert at == pytest.approx(float(fleet_cost(scaled(demand, rate), spec).usd_per_hour), rel=1e-9)
