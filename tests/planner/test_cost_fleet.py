"""Fleets over demand: replicas, paid hours, the ladder, owned machines."""

import json
import math
from dataclasses import replace
from decimal import Decimal as D

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.cli.fleet import fleet as command
from harness.planner.demand import curve, flat, scaled, shaped
from harness.planner.fleet import (
    FleetSpec,
    cost_ladder,
    fleet_cost,
    labour_usd_per_hour,
    paid_shares,
    replica_counts,
    replicas_needed,
)
from harness.planner.owned_machine import OwnedMachine, load_owned, owned_cost

# Qwen3-8B FP8 on an H100 at $3.49/h: 32.26 rps at the SLO; two weeks of ServeGen m-large, mean 195.8, peak hour 364.7 rps.
WORKED = FleetSpec(capacity_rps=32.26, replica_usd_per_hour=3.49, headroom=0.7, spares=1)
CURVES = st.lists(st.integers(0, 300), min_size=1, max_size=30).filter(any).map(lambda r: curve("any", r))


def test_worked_ladder_where_its_inputs_are_given():
    """Rungs that need no curve, or the peak only, are the published ones: 0.0301, 0.0429, and 0.0891 fixed at the peak."""
    ladder = cost_ladder(flat(195.8), WORKED)
    assert [round(float(r.usd_per_1000_requests), 4) for r in ladder[:2]] == [0.0301, 0.0429]
    assert [round(r.of_first, 2) for r in ladder[:2]] == [1.0, 1.43]
    # any curve with that mean and that peak has the same fixed fleet: 17 + 1 replicas
    peaked = curve("peak", [364.7, *[(195.8 * 24 - 364.7) / 23] * 23])
    fixed = fleet_cost(peaked, replace(WORKED, scaling="fixed"))
    assert set(fixed.replicas) == {18}
    assert round(float(fixed.usd_per_hour), 2) == 62.82
    assert round(float(fixed.usd_per_request) * 1000, 4) == 0.0891


def test_worked_increments_of_a_spare_and_of_labour():
    """One spare adds 0.0050 and $25/h of labour 0.0355 per 1,000 requests at 195.8 rps, whatever the curve: 0.0502 to 0.0857."""
    day = shaped("m-large", 195.8)
    ladder = cost_ladder(day, replace(WORKED, labour_usd_per_hour=25))
    value = {rung.name: float(rung.usd_per_1000_requests) for rung in ladder}
    assert value["+ 1 spare"] - value["+ demand shape and whole replicas, autoscaled"] == pytest.approx(
        0.0502 - 0.0453, abs=1e-4
    )
    assert ladder[-1].usd_per_1000_requests - ladder[-2].usd_per_1000_requests == pytest.approx(
        D("0.0857") - D("0.0502"), abs=D("1e-4")
    )


def test_worked_autoscaled_rung_from_the_averaged_day_only():
    """The published 0.0453 is of two weeks, which are not here; the averaged day gives 0.0456, within 1 %."""
    day = shaped("m-large", 195.8)
    bare = fleet_cost(day, replace(WORKED, spares=0))
    assert float(bare.usd_per_request) * 1000 == pytest.approx(0.0453, rel=0.01)
    assert round(float(bare.usd_per_request) * 1000, 4) == 0.0456


def test_ladder_ends_at_what_is_paid_and_never_falls():
    """The last rung is the fleet's own cost, each rung at least the one before it."""
    spec = replace(
        WORKED, cold_start_s=300, billing_s=3600, storage_usd_per_month=200, other_usd_per_hour=1, labour_usd_per_hour=9
    )
    day = shaped("m-small", 100)
    ladder = cost_ladder(day, spec, saturated_rps=50)
    usd = [r.usd_per_1000_requests for r in ladder]
    assert usd == sorted(usd)
    assert ladder[0].name == "no SLO, 100 % full"
    assert ladder[1].of_previous == pytest.approx(50 / 32.26)
    assert usd[-1] == fleet_cost(day, spec).usd_per_request * 1000
    assert math.prod(r.of_previous for r in ladder) == pytest.approx(ladder[-1].of_first)


@given(CURVES, st.integers(0, 3), st.integers(0, 3), st.sampled_from(["autoscaled", "fixed"]))
def test_replicas_carry_their_load(demand, spares, least, scaling):
    """Without the spares every step has room for its demand inside the headroom, and one replica less would not."""
    spec = replace(WORKED, capacity_rps=10, headroom=0.5, spares=spares, min_replicas=least, scaling=scaling)
    counts = replica_counts(demand, spec)
    assert all((n - spares) * 5 >= rate for n, rate in zip(counts, demand.rps, strict=True))
    if scaling == "autoscaled":
        tight = [n for n in counts if n - spares > least]
        assert all((n - spares - 1) * 5 < rate for n, rate in zip(counts, demand.rps, strict=True) if n in tight)
    else:
        assert len(set(counts)) == 1


def test_a_whole_replica_is_exact_at_its_edge():
    """0.7 x 10 rps at 7 rps is one replica, not two by a rounding error."""
    assert [replicas_needed(rate, 10, 0.7) for rate in (0, 7, 7.0000001, 14, 21, 63)] == [0, 1, 2, 2, 3, 9]


@given(st.integers(1, 8), st.floats(0.05, 0.9), st.floats(1.01, 3))
def test_idle_costs_money(replicas, use, more):
    """The same paid fleet at more of its load: utilisation rises and the cost of a request falls strictly."""
    spec = FleetSpec(
        capacity_rps=10, replica_usd_per_hour=2, headroom=1, spares=0, min_replicas=replicas, max_replicas=replicas,
        labour_usd_per_hour=3,
    )  # fmt: skip
    low, high = flat(replicas * 10 * use), flat(replicas * 10 * min(1.0, use * more))
    a, b = fleet_cost(low, spec), fleet_cost(high, spec)
    assert b.utilisation > a.utilisation
    assert b.usd_per_request < a.usd_per_request
    assert b.total_usd == a.total_usd


@given(CURVES, st.integers(0, 3), st.decimals("0.01", "20", places=2), st.integers(1, 1000))
def test_money_laws(demand, spares, price, x):
    """Cost per request x requests is what is paid; all prices x times is all costs x times; a spare never makes it cheaper."""
    spec = FleetSpec(
        capacity_rps=10, replica_usd_per_hour=price, spares=spares, cold_start_s=300, billing_s=60,
        storage_usd_per_month=100, labour_usd_per_hour=5, other_usd_per_hour=1,
    )  # fmt: skip
    cost = fleet_cost(demand, spec)
    assert abs(cost.usd_per_request * D(repr(demand.requests)) - cost.total_usd) < D("0.005")
    assert cost.total_usd == sum(part.usd for part in cost.parts if part.added)
    assert all(part.usd >= 0 for part in cost.parts)
    assert 0 < cost.utilisation <= 1
    scaled_prices = replace(
        spec,
        replica_usd_per_hour=price * x,
        storage_usd_per_month=100 * x,
        labour_usd_per_hour=5 * x,
        other_usd_per_hour=x,
    )
    assert fleet_cost(demand, scaled_prices).total_usd == pytest.approx(cost.total_usd * x, rel=D("1e-20"))
    assert fleet_cost(demand, replace(spec, spares=spares + 1)).total_usd > cost.total_usd


def paid(counts, cold_start_s, billing_s):
    """(replica-hours, cold starts) of a fleet that has these replicas in these hours."""
    spec = FleetSpec(
        capacity_rps=1, replica_usd_per_hour=1, headroom=1, spares=0, min_replicas=0, cold_start_s=cold_start_s,
        billing_s=billing_s,
    )  # fmt: skip
    cost = fleet_cost(curve("counts", counts), spec)
    assert cost.replicas == tuple(counts)
    return cost.paid_replica_hours * 3600, cost.cold_starts


def test_paid_time_of_a_known_day():
    """Two replicas, the second up for 2 of 6 hours: a cold start and whole billed hours are paid on top of its 2 hours."""
    counts = (1, 1, 2, 2, 1, 1)
    assert paid(counts, 0, 1) == (8 * 3600, 1)
    assert paid(counts, 300, 1) == (8 * 3600 + 300, 1)
    assert paid(counts, 300, 3600) == (9 * 3600, 1)
    assert paid((2, 2), 300, 3600) == (4 * 3600, 0)
    # up at both ends of the day is one stretch, not two
    assert paid((2, 1, 1, 1, 2), 300, 1) == (7 * 3600 + 300, 1)
    # a pause of one hour that a cold start and rounding would fill: kept up, paid, and not started cold
    assert paid((1, 2, 1, 2, 1, 1), 300, 7200) == (6 * 3600 + 2 * 7200, 1)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=24).filter(any), st.integers(0, 7200), st.integers(1, 7200))
def test_paid_time_is_between_served_and_always_on(counts, cold, unit):
    """Never less than the time that replicas are up, never more than having the highest number up at all times."""
    seconds, starts = paid(counts, cold, unit)
    assert sum(counts) * 3600 <= seconds <= max(counts) * len(counts) * 3600
    assert starts == 0 or min(counts) < max(counts)


@settings(max_examples=60)
@given(CURVES, st.integers(0, 7200), st.integers(1, 7200))
def test_shares_of_the_paid_time_add_up_to_one(demand, cold, unit):
    """A replica at every rate is a replica all the time, and no rate has a share below 0: a higher rate is never paid longer."""
    for scaling in ("autoscaled", "fixed"):
        shares = paid_shares(demand, replace(WORKED, cold_start_s=cold, billing_s=unit, scaling=scaling))
        assert sum(part for _, part in shares) == 1
        assert min(part for _, part in shares) >= 0


def test_a_fixed_fleet_carries_the_trace_behind_an_averaged_day():
    """m-large at 195.8 rps: 1.86 x its mean, 17 replicas + 1, $62.82/h; autoscaled it follows each hour: $35.6, headroom whole."""
    day = shaped("m-large", 195.8)
    fixed = fleet_cost(day, replace(WORKED, scaling="fixed"))
    assert set(fixed.replicas) == {18}
    assert round(fixed.usd_per_hour, 2) == D("62.82")
    assert 35.40 <= fleet_cost(day, WORKED).usd_per_hour <= 35.68
    assert fleet_cost(replace(day, peak_hour_to_mean=None), WORKED) == fleet_cost(day, WORKED)


@pytest.mark.parametrize("step_s", [600, 3600, 5400])
def test_storage_and_labour_are_of_the_cycle_not_of_a_month(step_s):
    """$730.5 a month of storage is $1 an hour of whatever cycle; labour and other by its hours too; the month is 730.5 h."""
    demand = curve("short", [5, 9, 2], step_s=step_s)
    spec = replace(WORKED, storage_usd_per_month="730.5", labour_usd_per_hour=2, other_usd_per_hour=3)
    cost = fleet_cost(demand, spec)
    parts = {part.name: part.usd for part in cost.parts}
    assert (parts["storage"], parts["labour"], parts["other"]) == (3 * step_s / D(3600), 6 * step_s / D(3600), 9 * step_s / D(3600))  # fmt: skip
    assert cost.usd_per_hour == 2 * D("3.49") + 6
    assert cost.usd_per_month == cost.usd_per_hour * D("730.5")
    assert cost.usd_per_request * 16 * step_s == pytest.approx(cost.total_usd)


@pytest.mark.parametrize("step_s", [600, 1800, 5400, 7200])
def test_cold_starts_are_paid_in_seconds_whatever_the_step(step_s):
    """One replica up for one step in three, 300 s cold: the step and 300 s, in any length of step."""
    spec = replace(WORKED, capacity_rps=10, headroom=1, spares=0, min_replicas=0, cold_start_s=300, billing_s=1)
    cost = fleet_cost(curve("d", [10, 0, 0], step_s=step_s), spec)
    assert float(cost.paid_replica_hours * 3600) == pytest.approx(step_s + 300, rel=1e-12)
    assert cost.utilisation == pytest.approx(step_s / (step_s + 300))


def test_demand_above_what_there_is_is_an_error():
    """Not a wrong price: the rate, what it needs and what there is."""
    with pytest.raises(ConfigError, match="hybrid") as error:
        fleet_cost(flat(100), replace(WORKED, max_replicas=4))
    assert "5 replicas + 1 spares, there are 4" in str(error.value)


def test_energy_of_rented_machines_is_shown_and_free():
    """kWh and their price are in the parts, not in the total."""
    metered = replace(WORKED, power_kw=1.73, usd_per_kwh=0.08, pue=1.2)
    shown = {p.name: p for p in fleet_cost(flat(100), metered).parts}["energy"]
    assert shown.usd == pytest.approx(D("1.73") * D("0.08") * D("1.2") * 6 * 24)
    assert not shown.added
    assert fleet_cost(flat(100), metered).total_usd == fleet_cost(flat(100), WORKED).total_usd


def test_labour_per_clock_hour():
    """0.25 of an engineer at $150 is $8.93/h or $6,520 a month; 0.7 is $25/h."""
    assert round(labour_usd_per_hour(0.25, 150), 2) == D("8.93")
    assert round(labour_usd_per_hour(0.25, 150) * D("730.5"), -1) == 6520
    assert round(labour_usd_per_hour(0.7, 150), 2) == 25


@pytest.mark.parametrize(
    "change",
    [
        {"capacity_rps": 0},
        {"capacity_rps": float("nan")},
        {"replica_usd_per_hour": -1},
        {"replica_usd_per_hour": None},
        {"headroom": 1.01},
        {"headroom": 0},
        {"spares": -1},
        {"spares": 1.5},
        {"cold_start_s": -1},
        {"billing_s": 0},
        {"labour_usd_per_hour": float("inf")},
        {"scaling": "sometimes"},
    ],
)
def test_bad_numbers_are_refused(change):
    """Every input out of range is an error of three lines, never a cost."""
    with pytest.raises(ConfigError) as error:
        fleet_cost(flat(10), replace(WORKED, **change))
    assert str(error.value).count("\n") == 2


def test_owned_h100_is_1_21_to_1_42():
    """$31-34k, 8-12 %, 4 years, 1.73 kW at $0.08: the published range per GPU-hour."""
    low = OwnedMachine(
        capex_usd=31000, years=4, interest=0.08, power_kw=1.73, power_billing="metered", usd_per_kwh=0.08
    )
    assert round(owned_cost(low).total_usd_per_hour, 2) == D("1.21")
    high = replace(low, capex_usd=34000, interest=0.12)
    assert round(owned_cost(high).total_usd_per_hour, 2) == D("1.42")


def test_colocation_with_power_included_has_no_energy_on_top():
    """A price per kW-month usually holds power and cooling: then energy is 0 and PUE multiplies nothing."""
    machine = OwnedMachine(
        capex_usd=300000, years=4, interest=0.1, power_kw=10.2, power_billing="included", usd_per_kwh=0.1, pue=1.4,
        colocation_usd_per_kw_month=200, maintenance_usd_per_year=8766, availability=0.5,
    )  # fmt: skip
    cost = owned_cost(machine)
    assert cost.energy_usd == 0
    assert cost.colocation_usd == pytest.approx(D(200) * D("10.2") / D("730.5"))
    assert cost.maintenance_usd == 1
    assert cost.total_usd_per_hour == (cost.capital_usd + cost.colocation_usd + 1) * 2
    metered = owned_cost(replace(machine, power_billing="metered"))
    assert metered.energy_usd == pytest.approx(D("10.2") * D("1.4") * D("0.1"))


def test_capital_recovery():
    """Payments of CRF pay back 1 with interest; at no interest they are 1 / years; resale lowers them."""
    machine = OwnedMachine(capex_usd=1000, years=4, interest=0, power_kw=0, power_billing="included")
    crf = owned_cost(replace(machine, interest=0.1)).crf
    assert sum(crf / D("1.1") ** year for year in range(1, 5)) == pytest.approx(D(1))
    assert owned_cost(machine).crf == D("0.25")
    assert owned_cost(replace(machine, residual_usd=400)).capital_usd == D(600) / 4 / 8766
    for change in ({"years": 0}, {"interest": -0.1}, {"pue": 0.9}, {"power_billing": "free"}, {"capex_usd": None}):
        with pytest.raises(ConfigError):
            owned_cost(replace(machine, **change))
    with pytest.raises(ConfigError):
        owned_cost(replace(machine, residual_usd=2000))


ARGUMENTS = ["--capacity-rps", "32.26", "--demand", "m-large", "--mean-rps", "195.8"]


def test_command(tmp_path):
    """The answer in the first line, the ladder under it; an owned machine from its file; one price exactly."""
    said = CliRunner().invoke(command, [*ARGUMENTS, "--replica-usd-per-hour", "3.49"], catch_exceptions=False).output
    assert said.splitlines()[0].startswith("$0.05")
    assert "1.86 x" in said
    owned = tmp_path / "h100.yaml"
    owned.write_text(
        "capex_usd: 31000\nyears: 4\ninterest: 0.08\npower_kw: 1.73\npower_billing: metered\nusd_per_kwh: 0.08\n"
    )
    output = CliRunner().invoke(command, [*ARGUMENTS, "--owned", str(owned), "--json"], catch_exceptions=False).output
    shown = json.loads(output)
    assert round(float(shown["owned"]["total_usd_per_hour"]), 2) == 1.21
    assert shown["ladder"][0]["of_first"] == 1
    assert 0 < shown["cost"]["utilisation"] < 1
    for bad in ([], ["--replica-usd-per-hour", "1", "--owned", str(owned)]):
        assert isinstance(CliRunner().invoke(command, [*ARGUMENTS, *bad]).exception, ConfigError)
    owned.write_text("capex_usd: 31000\n")
    with pytest.raises(ConfigError, match="missing key"):
        load_owned(owned)
    owned.write_text("capex: 31000\n")
    with pytest.raises(ConfigError, match="unknown key"):
        load_owned(owned)


def test_utilisation_is_never_asked_for():
    """No option and no field takes a utilisation: it follows from demand and capacity."""
    assert not any("util" in name for name in FleetSpec.__dataclass_fields__)
    assert not any("util" in str(option.opts) for option in command.params)
    half = fleet_cost(scaled(flat(1), 5), FleetSpec(capacity_rps=10, replica_usd_per_hour=1, headroom=1, spares=0))
    assert half.utilisation == 0.5
