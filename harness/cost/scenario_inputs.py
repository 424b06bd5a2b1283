"""The inputs of a scenario, worked out once: demand over a day, the machine as the unit of the fleet, and what it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal

from harness.cost.demand import Demand, curve, flat, scaled, shaped
from harness.cost.fleet import FleetCost, FleetSpec, fleet_cost, labour_usd_per_hour
from harness.cost.measured import Measured
from harness.cost.prices import declared, instance_price
from harness.cost.quantities import HOURS_PER_MONTH
from harness.cost.scenario_spec import ScenarioSpec
from harness.errors import ConfigError
from harness.records import Hardware

MONTH_S = HOURS_PER_MONTH * 3600


@dataclass(frozen=True, slots=True)
class Base:
    """Inputs worked out once: demand, the machine as the unit of the fleet, and what it can serve."""

    spec: ScenarioSpec
    at: datetime
    demand: Demand
    peak_factor: float
    machine: Hardware
    capacity_rps: float  # of a machine, to plan with
    capacity_inputs: Mapping[str, str]
    fixed_usd_per_hour: Decimal
    fleet_spec: FleetSpec
    fleet: FleetCost
    measured: Measured | None

    @property
    def usable_rps(self) -> float:
        return self.capacity_rps * self.spec.fleet.headroom / self.peak_factor

    @property
    def price(self) -> Decimal:
        return Decimal(self.machine.usd_per_hour)

    @property
    def requests(self) -> Decimal:
        return Decimal(repr(self.spec.demand.requests_per_month))


def _demand(spec: ScenarioSpec) -> tuple[Demand, float]:
    mean = Decimal(repr(spec.demand.requests_per_month)) / MONTH_S
    if isinstance(spec.demand.shape, list):
        found = scaled(curve("of the scenario", list(spec.demand.shape), source=spec.demand.source), mean)
    else:
        found = flat(mean) if spec.demand.shape == "flat" else shaped(spec.demand.shape, mean)
    if spec.demand.peak_factor is not None:
        return found, spec.demand.peak_factor
    known = found.peak_hour_to_mean
    return found, 1.0 if known is None else max(1.0, known / found.peak_to_mean)


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
    demand, peak_factor = _demand(spec)
    if spec.machine.declared is not None:
        machine = declared(spec.machine.declared)
    else:
        machine = instance_price(spec.machine.instance or "")
    capacity, inputs = _capacity(spec, measured)
    labour = labour_usd_per_hour(spec.labour.full_time, spec.labour.usd_per_work_hour)
    storage = Decimal(repr(spec.fleet.storage_usd_per_month))
    fleet_spec = FleetSpec(
        capacity_rps=capacity,
        replica_usd_per_hour=machine.usd_per_hour,
        headroom=spec.fleet.headroom / peak_factor,
        spares=spec.fleet.spares,
        min_replicas=spec.fleet.min_replicas,
        scaling=spec.fleet.scaling,
        cold_start_s=spec.fleet.cold_start_s,
        billing_s=spec.fleet.billing_s,
        storage_usd_per_month=storage,
        labour_usd_per_hour=labour,
    )
    fleet = fleet_cost(demand, fleet_spec)
    fixed = labour + storage / HOURS_PER_MONTH
    return Base(spec, at, demand, peak_factor, machine, capacity, inputs, fixed, fleet_spec, fleet, measured)
