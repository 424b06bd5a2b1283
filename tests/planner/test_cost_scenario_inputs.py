"""What a scenario is worked out from: demand, capacity, machine and fleet, each input of it in its place."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal as D

import pytest

from harness.planner.demand import curve, shaped
from harness.planner.fleet import FleetSpec, fleet_cost
from harness.planner.measured import Measured
from harness.planner.scenario.inputs import MONTH_S, Base, base_of
from harness.records import Hardware
from tests.planner.scenario_values import scenario

TEN_RPS = 26_298_000  # requests of a month of 730.5 h


def test_everything_worked_out_once():
    """Every declared number arrives at the fleet's field of its name; half a person at $100 is $11.90 of each hour."""
    spec = scenario(
        demand={"requests_per_month": TEN_RPS, "shape": [1, 3], "step_s": 1800, "source": "log"},
        capacity={"requests_per_s": None, "tokens_per_s": 5000},
        machine={"replicas": 2},
        fleet={
            "spares": 2, "min_replicas": 3, "headroom": 0.6, "scaling": "autoscaled", "cold_start_s": 90, "billing_s": 60,
            "storage_usd_per_month": 73.05,
        },
        labour={"full_time": 0.5, "usd_per_work_hour": 100, "source": "rota"},
    )  # fmt: skip
    found = base_of(spec, None)
    demand = curve("of the scenario", [5, 15], step_s=1800, source="log")
    fleet = FleetSpec(
        capacity_rps=10, replica_usd_per_hour="4.0", headroom=0.6, spares=2, min_replicas=3, scaling="autoscaled", cold_start_s=90,
        billing_s=60, storage_usd_per_month=73.05, labour_usd_per_hour=D(50) * 40 / 168,
    )  # fmt: skip
    inputs = {
        "capacity source": "declared",
        "capacity as of": "2026-11-01",
        "tokens/s of a replica": "5000 / 1000 tokens a request",
    }
    assert found == Base(
        spec, datetime(2026, 11, 24, 12, tzinfo=UTC), demand, Hardware("box", "4.0", "quote", "2026-11-01"), 10, inputs, fleet,
        fleet_cost(demand, fleet), None,
    )  # fmt: skip
    assert (found.usable_rps, found.price, found.requests) == (6, 4, D(TEN_RPS))
    assert found.price_age == "23 days old"
    assert float(found.fixed_usd_per_hour) == pytest.approx(0.1 + 50 * 40 / 168)
    assert found.requests / MONTH_S == 10


@pytest.mark.parametrize(
    ("part", "want", "highest"),
    [
        ({}, ("flat", [10] * 24, 3600), 10),
        ({"shape": [1, 3]}, ("of the scenario", [5, 15], 3600), 15),
        ({"shape": [1, 3], "peak_factor": 1.2}, ("of the scenario", [5, 15], 3600), 18),
        ({"peak_factor": 2}, ("flat", [10] * 24, 3600), 20),
    ],
)
def test_demand_is_the_shape_at_the_mean_of_the_month(part, want, highest):
    """26,298,000 requests are 10 a second: flat, by numbers, and with peaks that the shape averages out."""
    found = base_of(scenario(demand={"requests_per_month": TEN_RPS, **part}), None).demand
    name, rates, step_s = want
    assert (found.name, found.step_s) == (name, step_s)
    assert list(found.rps) == pytest.approx(rates)
    assert found.highest_rps == pytest.approx(highest)


def test_a_named_shape_keeps_its_trace_s_peak_unless_another_is_given():
    """m-large as it stands in the data; a factor of one's own replaces what is known of it."""
    demand = {"requests_per_month": TEN_RPS, "shape": "m-large"}
    known = base_of(scenario(demand=demand), None).demand
    assert known == shaped("m-large", D(TEN_RPS) / MONTH_S)
    changed = base_of(scenario(demand={**demand, "peak_factor": 3}), None).demand
    assert changed.rps == known.rps
    assert changed.highest_rps == pytest.approx(3 * known.peak_rps)


def test_where_a_capacity_comes_from():
    """A machine of 8 replicas: what was typed in times 8, its day or that there is none; of a run, what the plan says and how."""
    machine = {"replicas": 8}
    typed = base_of(scenario(machine=machine, capacity={"as_of": None}), None)
    assert typed.capacity_rps == 80
    assert typed.capacity_inputs == {"capacity source": "declared", "capacity as of": "not given"}
    seen = Measured(3.0, 4.0, None, ((800, 0, 200, 0),), ("r1", "r2"), ("m",), "20261120T000000Z", "two runs", ())
    ran = base_of(scenario(machine=machine, capacity={"requests_per_s": None, "run": "x", "source": ""}), seen)
    assert ran.capacity_rps == 24
    assert ran.capacity_inputs == {"capacity source": "measured: two runs; runs r1, r2 of 20261120T000000Z"}
    assert ran.measured is seen


def test_a_machine_of_the_price_table_at_the_scenario_s_date():
    """aws/g5.12xlarge at $5.672, 127 days after it was looked up."""
    found = base_of(scenario(machine={"declared": None, "instance": "g5.12xlarge"}), None)
    assert found.machine.name.startswith("aws/g5.12xlarge (")
    assert (found.price, found.price_age) == (D("5.672"), "127 days old, STALE (limit 120)")
