"""`harness cost fleet | hybrid`: what to own for a demand curve."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from harness.base.errors import ConfigError
from harness.cli.breakeven import capacity_option, hosted_option, minimum_option
from harness.cli.numbers import Float, FloatRange
from harness.cli.results import as_json_option, emit
from harness.cli.results import console as terminal

price_option = click.option("--replica-usd-per-hour", type=Float(), help="Dollars per paid hour of one replica.")
demand_option = click.option(
    "--demand", "demand_spec", default="flat", show_default=True, help="flat, a shape's name, or a CSV or YAML file."
)
mean_option = click.option("--mean-rps", type=Float(), help="Mean requests/s of the curve; a file has its own.")


spares_option = click.option("--spares", type=int, default=1, show_default=True)
min_replicas_option = click.option("--min-replicas", type=int, default=1, show_default=True)
cold_start_option = click.option("--cold-start-s", type=Float(), default=300.0, show_default=True)
billing_option = click.option("--billing-s", type=Float(), default=60.0, show_default=True, help="Billing granularity.")


@click.command("fleet")
@capacity_option
@price_option
@click.option("--owned", type=click.Path(path_type=Path), help="YAML of a bought machine, instead of a price per hour.")
@demand_option
@mean_option
@click.option(
    "--headroom",
    type=Float(),
    default=0.7,
    show_default=True,
    help="Share of capacity that is planned to be used.",
)
@spares_option
@min_replicas_option
@click.option("--max-replicas", type=int, help="What there is to be had; more demand than that is an error.")
@click.option("--fixed-fleet", is_flag=True, help="Replicas for the peak at all times, instead of autoscaled.")
@cold_start_option
@billing_option
@click.option("--storage-usd-per-month", type=Float(), default=0.0, show_default=True)
@click.option(
    "--labour-usd-per-hour", type=Float(), default=0.0, show_default=True, help="Per clock hour; or --labour-fte."
)
@click.option("--labour-fte", type=Float(), help="Full-time equivalents at $150 per work hour.")
@click.option(
    "--power-kw",
    type=Float(),
    default=0.0,
    help="Of one replica at the wall: energy is shown, in the price already.",
)
@click.option("--usd-per-kwh", type=Float(), default=0.0)
@click.option("--saturated-rps", type=Float(), help="Rate with no SLO: the ladder's first rung.")
@as_json_option
def fleet(
    capacity_rps: float,
    replica_usd_per_hour: float | None,
    owned: Path | None,
    demand_spec: str,
    mean_rps: float | None,
    fixed_fleet: bool,
    labour_usd_per_hour: float,
    labour_fte: float | None,
    saturated_rps: float | None,
    as_json: bool,
    **numbers: Any,
) -> None:
    """What a fleet of whole replicas costs over a demand curve, and the ladder from 100 % full to what you pay."""
    from harness.planner.demand import find_demand
    from harness.planner.fleet import FleetSpec, cost_ladder, fleet_cost
    from harness.planner.fleet import labour_usd_per_hour as labour_of
    from harness.planner.owned_machine import load_owned, owned_cost

    if (replica_usd_per_hour is None) == (owned is None):
        raise ConfigError("a replica needs one price", "--replica-usd-per-hour or --owned", "give exactly one")
    own = None if owned is None else owned_cost(load_owned(owned))
    price = replica_usd_per_hour if own is None else own.total_usd_per_hour
    assert price is not None
    labour = labour_usd_per_hour if labour_fte is None else labour_of(labour_fte, 150)
    demand = find_demand(demand_spec, mean_rps)
    spec = FleetSpec(
        capacity_rps=capacity_rps,
        replica_usd_per_hour=price,
        scaling="fixed" if fixed_fleet else "autoscaled",
        labour_usd_per_hour=labour,
        **numbers,
    )
    cost = fleet_cost(demand, spec)
    ladder = cost_ladder(demand, spec, saturated_rps=saturated_rps)
    notes = _notes(demand)
    if as_json:
        emit(
            {
                "cost": cost,
                "ladder": ladder,
                "owned": own,
                "demand": {"name": demand.name, "mean_rps": demand.mean_rps, "peak_to_mean": demand.peak_to_mean},
                "notes": notes,
            }
        )
        return
    click.echo(
        f"${cost.usd_per_request * 1000:.4g} per 1,000 requests, ${cost.usd_per_hour:.4g}/h, ${cost.usd_per_month:,.0f}/month: "
        f"{min(cost.replicas)}-{max(cost.replicas)} replicas, {cost.utilisation:.1%} of the paid SLO capacity used."
    )
    _rungs(ladder)
    _cost_parts(cost, own)
    for note in notes:
        click.echo(note)


def _notes(demand: Any) -> list[str]:
    if demand.peak_hour_to_mean is None:
        return []
    note = (
        f"{demand.name} is an averaged day with a peak of {demand.peak_to_mean:.2f} x its mean; the trace behind it peaks at "
        f"{demand.peak_hour_to_mean:.2f} x: a fixed fleet is sized for that, and what a hybrid leaves over is of days that differ so"
    )
    return [note]


def _rungs(ladder: Any) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("cost ladder", no_wrap=True)
    for heading in ("$/1,000 requests", "x before", "x first"):
        table.add_column(heading, justify="right")
    for rung in ladder:
        table.add_row(rung.name, f"{rung.usd_per_1000_requests:.4f}", f"{rung.of_previous:.2f}", f"{rung.of_first:.2f}")
    terminal().print(table)


def _cost_parts(cost: Any, own: Any) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("part", "USD per cycle", "how"):
        table.add_column(heading, justify="right" if heading.startswith("USD") else "left")
    for part in cost.parts:
        if part.usd:
            table.add_row(part.name, f"{part.usd:.2f}" if part.added else f"({part.usd:.2f} not added)", part.how)
    terminal().print(table)
    if own is not None:
        click.echo(
            f"owned: ${own.total_usd_per_hour:.4g}/h = capital {own.capital_usd:.4g} + colocation {own.colocation_usd:.4g} "
            f"+ energy {own.energy_usd:.4g} + maintenance {own.maintenance_usd:.4g}, over availability"
        )


@click.command("hybrid")
@capacity_option
@click.option(
    "--replica-usd-per-hour", required=True, type=Float(), help="Dollars per paid hour of an on-demand replica."
)
@hosted_option
@minimum_option
@demand_option
@mean_option
@click.option("--headroom", type=Float(), default=0.7, show_default=True)
@spares_option
@min_replicas_option
@cold_start_option
@billing_option
@click.option(
    "--own-usd-per-request", type=Float(), default=0.0, show_default=True, help="Marginal cost: energy, if owned."
)
@click.option("--reserved-usd-per-hour", type=Float(), help="A committed replica's price: adds the layered plan.")
@click.option("--spot-usd-per-hour", type=Float(), help="A spot replica's price: adds the layered plan.")
@click.option("--interruptions-per-hour", type=FloatRange(0, 1_000_000), default=0.05, show_default=True)
@click.option(
    "--lost-hours",
    type=FloatRange(0, 1_000_000),
    default=0.25,
    show_default=True,
    help="Lost at each interruption.",
)
@click.option(
    "--never-spot", type=int, default=1, show_default=True, help="Replicas at the bottom that are never spot."
)
@as_json_option
def hybrid(
    capacity_rps: float,
    replica_usd_per_hour: float,
    hosted_usd_per_request: float,
    hosted_minimum_usd_per_month: float,
    demand_spec: str,
    mean_rps: float | None,
    headroom: float,
    own_usd_per_request: float,
    reserved_usd_per_hour: float | None,
    spot_usd_per_hour: float | None,
    interruptions_per_hour: float,
    lost_hours: float,
    never_spot: int,
    as_json: bool,
    **numbers: Any,
) -> None:
    """How many replicas to own for the base when the peak bursts to a hosted API, beside the plans it is to beat."""
    from harness.base.quantities import exact, share
    from harness.planner import hybrid as model
    from harness.planner.demand import find_demand
    from harness.planner.fleet import FleetSpec

    demand = find_demand(demand_spec, mean_rps)
    share(headroom, "headroom")
    usable = exact(capacity_rps, "capacity of a replica (rps)") * exact(headroom, "headroom")
    own_cost: dict[str, Any] = {"own_usd_per_request": own_usd_per_request, "minimum_usd_per_month": hosted_minimum_usd_per_month}  # fmt: skip
    terms = (usable, replica_usd_per_hour, hosted_usd_per_request)
    plan = model.plan_hybrid(demand, *terms, **own_cost)
    spec = FleetSpec(capacity_rps=capacity_rps, replica_usd_per_hour=replica_usd_per_hour, headroom=headroom, **numbers)
    beside = {
        "all hosted": model.hybrid_usd_per_hour(demand, 0, *terms, **own_cost),
        **_own_usd_per_hour(demand, spec, own_usd_per_request),
        f"hybrid, {plan.replicas} replicas + hosted peak": plan.usd_per_hour,
    }
    layers = None
    if reserved_usd_per_hour is not None or spot_usd_per_hour is not None:
        if hosted_minimum_usd_per_month:
            raise ConfigError("layers with a hosted minimum", hosted_minimum_usd_per_month, "leave one of the two out")
        lost = {"interruptions_per_hour": interruptions_per_hour, "lost_hours": lost_hours}
        spot = spot_usd_per_hour and model.spot_usd_per_hour(spot_usd_per_hour, replica_usd_per_hour, **lost)
        layers = model.plan_layers(
            demand, usable, hosted_usd_per_request, reserved_usd_per_hour=reserved_usd_per_hour,
            on_demand_usd_per_hour=replica_usd_per_hour, spot_usd_per_useful_hour=spot, never_spot=never_spot,
        )  # fmt: skip
        beside["layers, elastic ones hour by hour"] = layers.usd_per_hour
    clock = None
    if plan.replicas and demand.hours % 24 == 0:
        clock = model.clock_policy(demand, plan.replicas, replica_usd_per_hour, hosted_usd_per_request)
    if as_json:
        emit(
            {
                "plan": plan,
                "plans_usd_per_hour": beside,
                "layers": layers,
                "clock_policy_usd_per_month": clock,
                "notes": _notes(demand),
            }
        )
        return
    _hybrid_words(plan, clock)
    _plans(beside, demand.mean_rps, layers)
    for note in _notes(demand):
        click.echo(note)


def _own_usd_per_hour(demand: Any, spec: Any, own_usd_per_request: float) -> dict[str, Decimal]:
    """Fleets without a hosted API: fixed and autoscaled, as `cost fleet` prices them, and the marginal cost of every request."""
    from harness.base.quantities import to_decimal, usd
    from harness.planner.fleet import fleet_cost

    marginal = usd(own_usd_per_request, "own marginal cost (USD per request)") * to_decimal(demand.mean_rps) * 3600
    spares = f"{spec.spares} spare{'s' * (spec.spares != 1)}"
    return {
        f"own, fixed at peak + {spares}": fleet_cost(demand, replace(spec, scaling="fixed")).usd_per_hour + marginal,
        f"own, autoscaled + {spares}": fleet_cost(demand, spec).usd_per_hour + marginal,
    }


def _hybrid_words(plan: Any, clock: Any) -> None:
    if not plan.replicas:
        click.echo(f"Own nothing: no replica is used enough to pay. All hosted costs ${plan.usd_per_hour:.4g}/h.")
    else:
        click.echo(
            f"Own {plan.replicas} replicas at all times and send {plan.hosted_share:.1%} of requests (up to "
            f"{plan.hosted_peak_rps:.4g}/s) to the hosted API: ${plan.usd_per_hour:.4g}/h."
            + ("" if plan.needed_utilisation is None else f" A replica pays once it is used {plan.needed_utilisation:.1%} of the time: the next one would be used less, or only take what the minimum pays for anyway.")
        )  # fmt: skip
    if clock is not None:
        click.echo(
            f"Hosted by the clock in hours 0-3 instead: ${clock.idle_usd:,.0f}/month of these replicas stands idle and "
            f"${clock.hosted_usd:,.0f}/month is billed for what they had room for."
        )


def _plans(beside: dict[str, Decimal], mean_rps: float, layers: Any) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("plan")
    table.add_column("$/h", justify="right")
    table.add_column("$/1,000 requests", justify="right")
    for name, usd in beside.items():
        table.add_row(name, f"{usd:.2f}", f"{float(usd) / mean_rps / 3.6:.4f}")
    for layer in () if layers is None else layers.layers:
        table.add_row(
            f"  {layer.kind} x {layer.replicas}, {layer.request_share:.1%} of requests", f"{layer.usd_per_hour:.2f}", ""
        )
    terminal().print(table)
