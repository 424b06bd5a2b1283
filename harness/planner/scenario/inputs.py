"""The inputs of a scenario, worked out once: demand over a day, the machine as the unit of the fleet, and what it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from decimal import Decimal

from harness.base.errors import ConfigError
from harness.base.quantities import HOURS_PER_MONTH
from harness.planner.demand import Demand, curve, flat, scaled, shaped
from harness.planner.fleet import FleetCost, FleetSpec, fixed_usd_per_hour, fleet_cost, labour_usd_per_hour
from harness.planner.measured import Measured
from harness.planner.scenario.spec import ScenarioSpec
from harness.price.prices import declared, instance_price, machine_age_words
from harness.records import Hardware

MONTH_S = HOURS_PER_MONTH * 3600


@dataclass(frozen=True, slots=True)
class Base:
    """Inputs worked out once: demand, the machine as the unit of the fleet, and what it can serve."""

    spec: ScenarioSpec
    at: datetime
    demand: Demand
    machine: Hardware
    capacity_rps: float  # of a machine, to plan with
    capacity_inputs: Mapping[str, str]
    fleet_spec: FleetSpec
    fleet: FleetCost
    measured: Measured | None

    @property
    def usable_rps(self) -> float:
        return self.capacity_rps * self.spec.fleet.headroom

    @property
    def fixed_usd_per_hour(self) -> Decimal:
        return fixed_usd_per_hour(self.fleet_spec)

    @property
    def price(self) -> Decimal:
        return Decimal(self.machine.usd_per_hour)

    @property
    def price_age(self) -> str:
        """Age of the machine's price at the scenario's date, for tables."""
        return machine_age_words(self.machine, self.at)

    @property
    def requests(self) -> Decimal:
        return Decimal(repr(self.spec.demand.requests_per_month))


def _demand(spec: ScenarioSpec) -> Demand:
    part, mean = spec.demand, Decimal(repr(spec.demand.requests_per_month)) / MONTH_S
    if isinstance(part.shape, list):
        demand = scaled(curve("of the scenario", part.shape, step_s=part.step_s, source=part.source), mean)
    else:
        demand = flat(mean) if part.shape == "flat" else shaped(part.shape, mean)
    if part.peak_factor is None:
        return demand
    return replace(demand, peak_hour_to_mean=part.peak_factor * demand.peak_to_mean)


def _capacity(spec: ScenarioSpec, measured: Measured | None) -> tuple[float, dict[str, str]]:
    part, replicas = spec.capacity, spec.machine.replicas
    if part.run is not None:
        if measured is None:
            raise ConfigError(
                "capacity of a run was not handed over",
                part.run,
                "harness cost scenario reads it; or give requests_per_s",
            )
        source = f"measured: {measured.how}; runs {', '.join(measured.run_ids)} of {measured.created_utc}"
        return measured.plan_rps * replicas, {"capacity source": source}
    inputs = {"capacity source": part.source, "capacity as of": part.as_of or "not given"}
    if part.requests_per_s is not None:
        return part.requests_per_s * replicas, inputs
    assert part.tokens_per_s is not None
    tokens = spec.workload.input_tokens + spec.workload.output_tokens
    return part.tokens_per_s / tokens * replicas, {
        **inputs,
        "tokens/s of a replica": f"{part.tokens_per_s:g} / {tokens} tokens a request",
    }


def base_of(spec: ScenarioSpec, measured: Measured | None) -> Base:
    """Demand, machine, capacity and fleet of a scenario. Raises ConfigError where one cannot be had."""
    at = datetime.combine(spec.as_of, time(12), UTC)
    demand = _demand(spec)
    if spec.machine.instance is not None:
        machine = instance_price(spec.machine.instance, at)
    else:
        assert spec.machine.declared is not None
        machine = declared(spec.machine.declared)
    capacity, inputs = _capacity(spec, measured)
    fleet_spec = FleetSpec(
        capacity_rps=capacity,
        replica_usd_per_hour=machine.usd_per_hour,
        headroom=spec.fleet.headroom,
        spares=spec.fleet.spares,
        min_replicas=spec.fleet.min_replicas,
        scaling=spec.fleet.scaling,
        cold_start_s=spec.fleet.cold_start_s,
        billing_s=spec.fleet.billing_s,
        storage_usd_per_month=spec.fleet.storage_usd_per_month,
        labour_usd_per_hour=labour_usd_per_hour(spec.labour.full_time, spec.labour.usd_per_work_hour),
    )
    return Base(spec, at, demand, machine, capacity, inputs, fleet_spec, fleet_cost(demand, fleet_spec), measured)
