"""`harness cost breakeven`: at which volumes self-hosting is cheaper, in words first."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from harness.base.errors import ConfigError
from harness.base.quantities import HOURS_PER_MONTH
from harness.cli.numbers import Float
from harness.cli.results import as_json_option, emit
from harness.cli.results import console as terminal

capacity_option = click.option(
    "--capacity-rps",
    required=True,
    type=Float(),
    help="Requests/s of one replica at the SLO (harness run measures it).",
)
minimum_option = click.option(
    "--hosted-minimum-usd-per-month",
    type=Float(),
    default=0.0,
    show_default=True,
    help="What the hosted contract bills at least.",
)
hosted_option = click.option(
    "--hosted-usd-per-request", required=True, type=Float(), help="The hosted API's price of a request."
)


def _rate(rps: float) -> str:
    return f"{rps:.3g} requests/s ({rps * 3600 * float(HOURS_PER_MONTH) / 1e6:.3g} M requests/month)"


def _in_words(result: Any, what: str) -> list[str]:
    if not result.crossings and result.scanned_to_rps is None:
        return [
            "The hosted API is cheaper at every volume.",
            "A replica would have to be used more than it can be: "
            + ("hosted requests are free." if result.break_even_utilisation is None else "")
            + (
                f"break-even utilisation {result.break_even_utilisation:.1%}."
                if result.break_even_utilisation is not None
                else ""
            ),
        ]
    lines = []
    from_the_first = bool(result.crossings) and result.crossings[0].rps == 0
    if from_the_first:
        lines.append(f"Self-hosting is cheaper from the first request on{what}.")
        if len(result.crossings) > 1:
            lines.append(f"Above {_rate(result.crossings[1].rps)} the hosted API is cheaper.")
    if result.permanent_rps == 0:
        lines.append("No volume changes that.")
    elif result.permanent_rps is not None:
        lines.append(f"Self-hosting is cheaper for good above {_rate(result.permanent_rps)}{what}.")
    elif result.scanned_to_rps is None:
        lines.append("Above that it stays the cheaper one.")
    else:
        lines.append(
            f"No permanent crossing was found up to {_rate(result.scanned_to_rps)}{what}; nothing is said above it."
        )
    if result.crossings and not from_the_first:
        lines.append(f"Below {_rate(result.crossings[0].rps)} the hosted API is cheaper.")
    if len(result.crossings) > 1 and result.permanent_rps is not None:
        count = len(result.crossings) + result.crossings_omitted
        lines.append(
            f"Between them the answer changes {count} times in all: each new replica must fill up before it pays."
        )
    if result.break_even_utilisation is not None:
        lines.append(f"A replica pays once it is used {result.break_even_utilisation:.1%} of its capacity.")
    if result.crossings_omitted:
        lines.append(f"{result.crossings_omitted:,} further crossings are not listed.")
    return lines


def _crossing_table(result: Any) -> None:
    if not result.crossings:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("requests/s", "cheaper above"):
        table.add_column(heading, justify="right")
    for crossing in result.crossings[:50]:
        table.add_row(f"{crossing.rps:.6g}", crossing.cheaper_above)
    terminal().print(table)
    if len(result.crossings) > 50:
        click.echo(f"({len(result.crossings) - 50} more with --json)")


@click.command("breakeven")
@capacity_option
@click.option("--replica-usd-per-hour", required=True, type=Float(), help="Dollars per paid hour of one replica.")
@hosted_option
@click.option("--spares", type=int, default=0, show_default=True, help="Replicas beyond what the load needs.")
@click.option(
    "--fixed-usd-per-hour", type=Float(), default=0.0, show_default=True, help="Labour and all else per hour."
)
@minimum_option
@click.option("--at-rps", type=Float(), help="Also the break-even GPU price and hosted price at this rate.")
@click.option("--demand", "demand_spec", help="A curve: rates are then its mean; flat, a shape's name, or a file.")
@click.option("--fixed-fleet", is_flag=True, help="With --demand: replicas for the peak at all times.")
@click.option(
    "--headroom", type=Float(), default=1.0, show_default=True, help="Share of --capacity-rps planned to be used."
)
@click.option("--min-replicas", type=int, default=1, show_default=True, help="With --demand.")
@click.option("--cold-start-s", type=Float(), default=0.0, show_default=True, help="With --demand.")
@click.option("--billing-s", type=Float(), default=1.0, show_default=True, help="Billing granularity, with --demand.")
@as_json_option
def breakeven(
    capacity_rps: float,
    replica_usd_per_hour: float,
    hosted_usd_per_request: float,
    spares: int,
    fixed_usd_per_hour: float,
    hosted_minimum_usd_per_month: float,
    at_rps: float | None,
    demand_spec: str | None,
    fixed_fleet: bool,
    as_json: bool,
    **numbers: Any,
) -> None:
    """At which volumes self-hosting is cheaper than a hosted API, with whole replicas: every crossing."""
    from harness.planner import breakeven as model
    from harness.planner.demand import find_demand, flat, scaled
    from harness.planner.fleet import FleetSpec

    if fixed_fleet and demand_spec is None:
        raise ConfigError(
            "--fixed-fleet without a curve", "no --demand", "add --demand NAME: a steady rate has no peak"
        )
    is_file = demand_spec is not None and demand_spec.lower().endswith((".csv", ".yaml", ".yml"))
    demand = flat(1) if demand_spec is None else find_demand(demand_spec, None if is_file else 1.0)
    fleet = FleetSpec(
        capacity_rps=capacity_rps,
        replica_usd_per_hour=replica_usd_per_hour,
        spares=spares,
        other_usd_per_hour=fixed_usd_per_hour,
        scaling="fixed" if fixed_fleet or demand_spec is None else "autoscaled",
        **numbers,
    )
    hosted: dict[str, Any] = {"minimum_usd_per_month": hosted_minimum_usd_per_month}
    result = model.break_even_over_demand(demand, fleet, hosted_usd_per_request, **hosted)
    what = ""
    if demand_spec is not None:
        what = f" on average, with the shape of {demand.name} (peak {demand.peak_to_mean:.2f} x mean)"
    document: dict[str, Any] = {
        "crossings": result.crossings,
        "permanent_rps": result.permanent_rps,
        "break_even_utilisation": result.break_even_utilisation,
    }
    if result.crossings_omitted:
        document["crossings_omitted"] = result.crossings_omitted
    if result.scanned_to_rps is not None:
        document["scanned_to_rps"] = result.scanned_to_rps
    lines = _in_words(result, what)
    if at_rps is not None:
        equal = model.equal_prices(scaled(demand, at_rps), fleet, hosted_usd_per_request, **hosted)
        gpu, price = equal.replica_usd_per_hour, equal.hosted_usd_per_request
        document |= {"break_even_replica_usd_per_hour": gpu, "break_even_hosted_usd_per_request": price}
        most = "no price above 0" if gpu is None else f"less than ${gpu:.4g}/h"
        least = f"a hosted request must cost more than ${price:.4g}" if price else "a hosted request any price: its minimum is more"  # fmt: skip
        rate = f"At a steady {at_rps:g} requests/s" if demand_spec is None else f"At {at_rps:g} requests/s on average"
        lines.insert(0, f"{rate} a replica may cost {most}, or {least}.")
    if as_json:
        emit(document)
        return
    for line in lines:
        click.echo(line)
    _crossing_table(result)
