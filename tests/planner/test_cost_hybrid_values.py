"""Hybrid plans, layers and the clock as whole values, worked by hand on a curve of four hours."""

from __future__ import annotations

from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.planner.demand import curve, flat
from harness.planner.hybrid import (
    MAX_REPLICAS,
    ClockPolicy,
    HybridPlan,
    Layer,
    LayeredPlan,
    clock_policy,
    hybrid_usd_per_hour,
    plan_hybrid,
    plan_layers,
    spot_usd_per_hour,
)

# Replicas of 10 rps carry 7.5, 5 and 2.5 rps on average at heights 1, 2 and 3; a hosted rps costs $3.60 an hour.
STEPS = curve("steps", [0, 10, 20, 30])
HOSTED = "0.001"


def test_a_replica_that_only_breaks_even_is_not_owned():
    """The first saves $27 for $18, the second $18 for $18: one, half of the requests and 20 rps of the peak hosted."""
    assert plan_hybrid(STEPS, 10, 18, HOSTED) == HybridPlan(
        replicas=1, usd_per_hour=D(45), usd_per_request=D(45) / (3600 * 15), hosted_share=0.5, hosted_peak_rps=20.0,
        needed_utilisation=0.5, fractile_rps=20.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("price", "own", "replicas", "needed", "fractile"),
    [
        ("17.99", 0, 2, 0.4997, 20.0),
        (0, 0, 3, 0.0, 30.0),
        (36, 0, 0, 1.0, 0.0),
        ("36.01", 0, 0, 1.00028, None),
        (8, "0.0005", 2, 0.44444, 20.0),
        (9, "0.0005", 1, 0.5, 20.0),
        (1, "0.001", 0, None, None),
        (1, "0.002", 0, None, None),
    ],
)
def test_plans_around_their_edges(price, own, replicas, needed, fractile):
    """A cent below the tie; free; used all the time; never; a marginal cost of half the hosted price, of all of it, above it."""
    plan = plan_hybrid(STEPS, 10, price, HOSTED, own_usd_per_request=own)
    assert (plan.replicas, plan.fractile_rps) == (replicas, fractile)
    assert plan.needed_utilisation == (needed and pytest.approx(needed, rel=1e-4))
    carried = (0, 7.5, 12.5, 15)[replicas]
    usd = float(price) * replicas + 3600 * float(own) * carried + 3.6 * (15 - carried)
    assert float(plan.usd_per_hour) == pytest.approx(usd)
    assert plan.hosted_share == pytest.approx(1 - carried / 15)


def test_dollars_of_any_number_of_replicas():
    """0 to 3 at $18 with the rest hosted, with a marginal cost, and with $36.525 a month of minimum: 5 cents an hour."""
    assert [hybrid_usd_per_hour(STEPS, k, 10, 18, HOSTED) for k in range(4)] == [54, 45, 45, 54]
    assert hybrid_usd_per_hour(STEPS, 1, 10, 18, HOSTED, own_usd_per_request="0.0005") == D("58.5")
    assert hybrid_usd_per_hour(STEPS, 3, 10, 18, HOSTED, minimum_usd_per_month="36.525") == D("54.05")
    for bad in (-1, 0.5):
        with pytest.raises(ConfigError, match=r"^replicas is"):
            hybrid_usd_per_hour(STEPS, bad, 10, 18, HOSTED)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("capacity_rps", "capacity of a replica"), ("replica_usd_per_hour", "price of a replica"), ("hosted_usd_per_request", "hosted price"),
        ("own_usd_per_request", "own marginal cost"), ("minimum_usd_per_month", "minimum commitment"),
    ],
)  # fmt: skip
def test_negative_terms_are_refused_by_name(name, named):
    """A capacity, a price, a marginal cost or a minimum below 0."""
    good = {"capacity_rps": 10, "replica_usd_per_hour": 18, "hosted_usd_per_request": HOSTED}
    for function in (
        lambda **words: plan_hybrid(STEPS, **words),
        lambda **words: hybrid_usd_per_hour(STEPS, 1, **words),
    ):
        with pytest.raises(ConfigError, match=f"{named}.* is negative"):
            function(**{**good, name: -1})


def test_a_hundred_thousand_replicas_are_planned_and_no_more():
    """Both rates in the same unit: at the limit there is a plan, one above it is refused, in layers too."""
    assert MAX_REPLICAS == 100_000
    assert plan_hybrid(flat(100_000), 1, 9, HOSTED).replicas == 0
    with pytest.raises(ConfigError, match="check the units"):
        plan_hybrid(flat(100_001), 1, 9, HOSTED)
    with pytest.raises(ConfigError, match="check the units"):
        plan_layers(flat(100_001), 1, HOSTED)


# ---------------------------------------------------------------- layers


def test_all_four_supplies_in_one_stack():
    """Reserved at the bottom, on demand where spot may not be, spot above it, and 1 rps of one hour hosted."""
    demand = curve("steps", [0, 10, 20, 31])
    found = plan_layers(
        demand, 10, HOSTED, reserved_usd_per_hour=14, on_demand_usd_per_hour=20, spot_usd_per_useful_hour=12, never_spot=2
    )  # fmt: skip
    assert found == LayeredPlan(
        reserved_replicas=1,
        layers=(
            Layer("reserved", 1, D(14), pytest.approx(7.5 / 15.25)),
            Layer("on-demand", 1, D(10), pytest.approx(5 / 15.25)),
            Layer("spot", 1, D(3), pytest.approx(2.5 / 15.25)),
            Layer("hosted", 1, D("0.9"), pytest.approx(0.25 / 15.25)),
        ),
        usd_per_hour=D("27.9"),
        usd_per_request=pytest.approx(D("27.9") / (3600 * D("15.25"))),
    )


def test_one_supply_alone():
    """Nothing but hosted; on demand at its price; reserved is not taken where it only breaks even."""
    assert plan_layers(STEPS, 10, HOSTED) == LayeredPlan(
        0, (Layer("hosted", 3, D(54), 1.0),), D(54), D(54) / (3600 * 15)
    )
    found = plan_layers(STEPS, 10, HOSTED, on_demand_usd_per_hour=20, reserved_usd_per_hour=15)
    assert found.layers == (Layer("on-demand", 3, D(30), 1.0),)
    found = plan_layers(STEPS, 10, HOSTED, spot_usd_per_useful_hour=20)
    assert found.layers == (Layer("spot", 3, D(30), 1.0),)
    found = plan_layers(STEPS, 10, HOSTED, reserved_usd_per_hour=8)
    assert found == LayeredPlan(3, (Layer("reserved", 3, D(24), 1.0),), D(24), D(24) / (3600 * 15))


@pytest.mark.parametrize(
    ("name", "bad", "named"),
    [
        ("never_spot", -1, "replicas that are never spot"),
        ("never_spot", 0.5, "replicas that are never spot"),
        ("reserved_usd_per_hour", -1, "reserved price"),
        ("on_demand_usd_per_hour", -1, "on-demand price"),
        ("spot_usd_per_useful_hour", -1, "spot price"),
        ("hosted_usd_per_request", -1, "hosted price"),
        ("capacity_rps", 0, "capacity of a replica"),
    ],
)
def test_layers_that_cannot_be_are_refused_by_name(name, bad, named):
    """Negative prices, half a height without spot, no capacity."""
    with pytest.raises(ConfigError, match=named):
        plan_layers(STEPS, **{"capacity_rps": 10, "hosted_usd_per_request": HOSTED, name: bad})


def test_a_spot_hour_that_is_useful():
    """$1 with a fifth of the time lost is $1.25; half of the hours on demand at $3 are $2.125; all of them lost is refused."""
    lost = {"interruptions_per_hour": "0.1", "lost_hours": 2}
    assert spot_usd_per_hour(1, 3, **lost) == D("1.25")
    assert spot_usd_per_hour(1, 3, **lost, unavailable="0.5") == D("2.125")
    assert spot_usd_per_hour(1, 3, interruptions_per_hour=0, lost_hours=2) == 1
    assert spot_usd_per_hour(1, 3, interruptions_per_hour=1, lost_hours="0.5") == 2
    good = {"spot": 1, "on_demand": 3, **lost, "unavailable": 0}
    for name, bad, named in (
        ("interruptions_per_hour", "0.5", "faster than it starts"), ("spot", -1, "spot price"), ("spot", None, "spot price"),
        ("on_demand", -1, "on-demand price"), ("interruptions_per_hour", -1, "interruptions per hour"),
        ("lost_hours", -1, "hours lost at an interruption"), ("unavailable", 1.1, "share of hours without"),
        ("unavailable", -0.1, "share of hours without"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=named):
            spot_usd_per_hour(**{**good, name: bad})


# ---------------------------------------------------------------- the clock


def test_hosted_by_the_clock_by_hand():
    """2 machines of $5 in a 720-hour month; of 2 rps at all hours, 4 hours a day are 864,000 requests at $0.001."""
    found = clock_policy(flat(2), 2, 5, HOSTED, hours_per_month=720)
    assert found == ClockPolicy(
        replicas_usd=D(7200), idle_usd=D(1200), hosted_usd=D(864), total_usd=D(8064), saved_without_usd=D(864)
    )
    assert clock_policy(None, 2, 5, HOSTED) == ClockPolicy(D(7305), D("1217.5"), D(0), D(7305), D(0))
    assert clock_policy(None, 1, 24, None, hours=(23, 0, 23)).idle_usd == 2 * D("730.5")


def test_machines_that_could_serve_those_hours_exactly():
    """Only the hours of the clock count, and two machines of half their rate are enough; of a little less they are not."""
    day = curve("d", [2, *[9] * 23])
    assert clock_policy(day, 2, 5, HOSTED, hours=(0,), capacity_rps=1).hosted_usd > 0
    with pytest.raises(ConfigError, match="cannot serve") as error:
        clock_policy(day, 2, 5, HOSTED, hours=(0,), capacity_rps="0.999")
    assert error.value.value == "2 rps, 2 replicas"
    with pytest.raises(ConfigError, match="cannot serve"):
        clock_policy(day, 2, 5, HOSTED, hours=(1,), capacity_rps=1)


@pytest.mark.parametrize(
    ("name", "bad", "named"),
    [
        ("hours", (), "0 to 23"), ("hours", (24,), "0 to 23"), ("hours", (-1,), "hour of the day"), ("hours", (0.5,), "hour of the day"),
        ("replicas", 0, "^replicas is"), ("hours_per_month", 0, "hours per month"), ("replica_usd_per_hour", -1, "price of a replica"),
        ("hosted_usd_per_request", -1, "hosted price"), ("capacity_rps", 0, "capacity of a replica"),
    ],
)  # fmt: skip
def test_clocks_that_cannot_be_are_refused_by_name(name, bad, named):
    """No hour, hours that no day has, no machine, a month of nothing, negative prices."""
    good = {"demand": flat(2), "replicas": 2, "replica_usd_per_hour": 5, "hosted_usd_per_request": HOSTED}
    with pytest.raises(ConfigError, match=named):
        clock_policy(**{**good, name: bad})
