"""Fleets as whole values, worked by hand: every part of the cost, every rung of the ladder, every bound."""

from __future__ import annotations

from dataclasses import asdict, replace
from decimal import Decimal as D
from fractions import Fraction as F

import pytest

from harness.base.errors import ConfigError
from harness.planner.demand import curve, flat
from harness.planner.fleet import (
    CostPart,
    FleetCost,
    FleetSpec,
    Rung,
    cost_ladder,
    fixed_usd_per_hour,
    fleet_cost,
    labour_usd_per_hour,
    paid_shares,
    replica_counts,
    replicas_for,
    replicas_needed,
)

# 5 rps a replica inside the headroom: 1, 2 and 5 replicas in three hours, whose third starts three more.
RISING = curve("rising", [4, 8, 22])
SPEC = FleetSpec(
    capacity_rps=10, replica_usd_per_hour=36, headroom=0.5, spares=1, cold_start_s=600, billing_s=1800, storage_usd_per_month=7305,
    egress_usd_per_gb="0.5", bytes_per_request=1_000_000, labour_usd_per_hour=2, other_usd_per_hour=1, power_kw=2, pue="1.5",
    usd_per_kwh="0.1",
)  # fmt: skip
REQUESTS = 34 * 3600  # of one cycle


def test_what_a_fleet_is_unless_told_otherwise():
    """70 % planned, one spare, one replica at least and no limit, autoscaled at once and by the second, nothing else to pay."""
    assert asdict(FleetSpec(capacity_rps=1, replica_usd_per_hour=2)) == {
        "capacity_rps": 1,
        "replica_usd_per_hour": 2,
        "headroom": 0.7,
        "spares": 1,
        "min_replicas": 1,
        "max_replicas": None,
        "scaling": "autoscaled",
        "cold_start_s": 0,
        "billing_s": 1,
        "storage_usd_per_month": 0,
        "egress_usd_per_gb": 0,
        "bytes_per_request": 0,
        "labour_usd_per_hour": 0,
        "other_usd_per_hour": 0,
        "power_kw": 0,
        "pue": 1,
        "usd_per_kwh": 0,
    }


def test_every_part_of_a_fleets_cost():
    """3 h of one replica, 2 h + 10 min of the second billed as 2.5, three times 1 h + 10 min as 1.5, 3 h of the spare: 13 h."""
    total = D(468) + 30 + D("61.2") + 6 + 3
    assert fleet_cost(RISING, SPEC) == FleetCost(
        hours=3.0,
        requests=float(REQUESTS),
        replicas=(2, 3, 6),
        paid_replica_hours=D(13),
        cold_starts=4,
        utilisation=pytest.approx(REQUESTS / (13 * 3600 * 10)),
        parts=(
            CostPart("replicas", D(468), True, "13 replica-hours x 36 $/h"),
            CostPart("storage", D(30), True, "3.0 h of a month of 730.5 h"),
            CostPart("egress", D("61.2"), True, "122.4 GB"),
            CostPart("labour", D(6), True, "3.0 clock hours"),
            CostPart("other", D(3), True, "3.0 h"),
            CostPart("energy", D("3.9"), False, "39.0 kWh: in the price"),
        ),
        total_usd=total,
        usd_per_hour=total / 3,
        usd_per_request=total / REQUESTS,
        usd_per_month=total / 3 * D("730.5"),
    )
    assert fixed_usd_per_hour(SPEC) == 10 + 2 + 1


def test_a_fixed_fleet_has_no_cold_starts():
    """The highest hour of the trace, twice the mean of 34/3, needs 5 replicas; with the spare 6 at all times."""
    demand = replace(RISING, peak_hour_to_mean=2.0)
    found = fleet_cost(demand, replace(SPEC, scaling="fixed"))
    assert (found.replicas, found.paid_replica_hours, found.cold_starts) == ((6, 6, 6), D(18), 0)
    assert paid_shares(demand, replace(SPEC, scaling="fixed")) == ((demand.highest_rps, F(1)),)


def test_shares_of_the_time_that_a_replica_more_is_paid():
    """3 h, 2.5 h and 1.5 h of three: what each rate adds."""
    assert paid_shares(RISING, SPEC) == ((4.0, F(1, 6)), (8.0, F(1, 3)), (22.0, F(1, 2)))


def test_times_need_not_be_whole_seconds():
    """Half a second up and a quarter to start, billed in tenths: 0.8 s of the second replica beside 2 s of the first."""
    spec = FleetSpec(capacity_rps=1, replica_usd_per_hour=1, headroom=1, spares=0, cold_start_s=0.25, billing_s="0.1")
    found = fleet_cost(curve("d", [1, 2, 1, 1], step_s=0.5), spec)
    assert found.paid_replica_hours * 3600 == D("2.8")


def test_a_cold_start_as_long_as_the_pause_is_not_taken():
    """One hour up, one down, an hour to start: the replica is kept, paid and not started; a second less and it is started."""
    spec = FleetSpec(capacity_rps=1, replica_usd_per_hour=1, headroom=1, spares=0, cold_start_s=3600)
    kept = fleet_cost(curve("d", [1, 2]), spec)
    assert (kept.paid_replica_hours, kept.cold_starts) == (D(4), 0)
    started = fleet_cost(curve("d", [1, 2]), replace(spec, cold_start_s=3599))
    assert (started.paid_replica_hours * 3600, started.cold_starts) == (pytest.approx(D(14_399)), 1)


# ---------------------------------------------------------------- replicas


@pytest.mark.parametrize(
    ("rate", "replicas"), [(0, 0), (1e-12, 1), (5, 1), (5 * (1 + 9e-10), 1), (5 * (1 + 1.1e-9), 2), ("10", 2), (22, 5)]
)
def test_replicas_for_a_rate(rate, replicas):
    """None for nothing, one for anything, a billionth of a replica is rounding and no more than that."""
    assert replicas_needed(rate, 10, "0.5") == replicas
    assert replicas_for(rate, SPEC) == max(1, replicas)
    assert replicas_for(rate, replace(SPEC, min_replicas=3)) == max(3, replicas)


@pytest.mark.parametrize(
    ("bad", "named"),
    [((-1, 10, 0.5), "rate"), ((1, 0, 0.5), "capacity"), ((1, 10, 0), "headroom"), ((1, 10, 1.1), "headroom")],
)
def test_rates_and_capacities_that_cannot_be(bad, named):
    """A negative rate, no capacity, a headroom that is no share."""
    with pytest.raises(ConfigError, match=f"^{named}"):
        replicas_needed(*bad)


def test_as_many_as_there_are_is_enough():
    """Five and a spare of six; of five it is an error that says the rate and both counts."""
    assert replica_counts(RISING, replace(SPEC, max_replicas=6)) == (2, 3, 6)
    with pytest.raises(ConfigError) as error:
        replica_counts(RISING, replace(SPEC, max_replicas=5))
    assert error.value.value == "22 rps need 5 replicas + 1 spares, there are 5"


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("storage_usd_per_month", "storage"), ("egress_usd_per_gb", "egress"), ("bytes_per_request", "bytes per request"),
        ("labour_usd_per_hour", "labour"), ("other_usd_per_hour", "other"), ("power_kw", "power"), ("pue", "PUE"),
        ("usd_per_kwh", "energy price"), ("cold_start_s", "cold start"), ("min_replicas", "min replicas"), ("max_replicas", "max replicas"),
        ("spares", "spares"), ("billing_s", "billing granularity"), ("replica_usd_per_hour", "price of a replica"),
        ("capacity_rps", "capacity of a replica"), ("headroom", "headroom"),
    ],
)  # fmt: skip
def test_no_field_may_be_negative(field, named):
    """Each field of a fleet below 0 is an error that names it."""
    with pytest.raises(ConfigError, match=f"^{named}"):
        fleet_cost(RISING, replace(SPEC, **{field: -1}))


@pytest.mark.parametrize(
    ("field", "named"),
    [("storage_usd_per_month", "storage"), ("labour_usd_per_hour", "labour"), ("other_usd_per_hour", "other")],
)
def test_fixed_parts_may_not_be_negative(field, named):
    """What is paid at every hour, each by its name."""
    with pytest.raises(ConfigError, match=f"^{named}"):
        fixed_usd_per_hour(replace(SPEC, **{field: -1}))


def test_labour_per_hour_of_the_clock():
    """4.2 people of 40 in 168 hours are one at all hours; none and for nothing are free, a negative one is refused."""
    assert labour_usd_per_hour("4.2", 10) == 10
    assert labour_usd_per_hour(0, 10) == labour_usd_per_hour(1, 0) == 0
    for bad, named in (((-1, 10), "full-time"), ((1, -10), "labour"), ((1, None), "labour")):
        with pytest.raises(ConfigError, match=named):
            labour_usd_per_hour(*bad)


# ---------------------------------------------------------------- the ladder


def ladder(usd, names):
    """Rungs from dollars of a cycle per 1,000 requests."""
    before = [usd[0], *usd]
    return tuple(
        Rung(name, pytest.approx(D(value)), pytest.approx(float(value / last)), pytest.approx(float(value / usd[0])))
        for name, value, last in zip(names, usd, before, strict=False)
    )


def test_every_rung_by_hand():
    """No SLO 20 rps, at the SLO 10, half of it; 8 h of replicas, 3 of a spare, 2 more started and billed, $94.2, $6 of labour."""
    of_cycle = [F(hours * 36) + F(more) for hours, more in ((8, 0), (11, 0), (13, 0), (13, "94.2"), (13, "100.2"))]
    usd = [F(1, 2), F(1), F(2), *(paid * 1000 / REQUESTS for paid in of_cycle)]
    usd = [D(x.numerator) / D(x.denominator) for x in usd]
    names = [
        "no SLO, 100 % full",
        "at SLO capacity, 100 % full",
        "+ headroom: 0.5 of it is planned to be used",
        "+ demand shape and whole replicas, autoscaled",
        "+ 1 spare",
        "+ cold starts and billing granularity",
        "+ storage, egress and other",
        "+ labour: what you pay",
    ]
    assert cost_ladder(RISING, SPEC, saturated_rps=20) == ladder(usd, names)
    assert cost_ladder(RISING, SPEC) == ladder(usd[1:], names[1:])


def test_spares_are_counted_in_words():
    """None and two are plural; a fixed fleet says so."""
    for spares, words in ((0, "+ 0 spares"), (2, "+ 2 spares")):
        found = cost_ladder(flat(4), replace(SPEC, spares=spares, scaling="fixed"))
        assert [rung.name for rung in found[2:4]] == ["+ demand shape and whole replicas, fixed", words]


@pytest.mark.parametrize(
    ("change", "saturated", "word"),
    [
        ({"replica_usd_per_hour": 0}, None, "a replica is free"),
        ({"capacity_rps": 0}, None, "capacity of a replica"),
        ({"headroom": 0}, None, "headroom"),
        ({}, 0, "rate with no SLO"),
        ({}, -1, "rate with no SLO"),
    ],
)
def test_ladders_that_cannot_be(change, saturated, word):
    """Nothing to be a factor of, nothing served, no headroom."""
    with pytest.raises(ConfigError, match=word):
        cost_ladder(flat(4), replace(SPEC, **change), saturated_rps=saturated)
