"""`harness cost policies`: routing policies of a hybrid over a replayed day, beside the planner's optimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from harness.cli.fleet import demand_option, mean_option
from harness.cli.machine_price import given_price, price_options
from harness.cli.numbers import FloatRange
from harness.cli.results import as_json_option, campaign_option, directory_argument, emit, price_ref
from harness.cli.results import console as terminal

if TYPE_CHECKING:
    from harness.config.policy import PolicySpec
    from harness.planner.policies import PolicyTable

_KEY = {
    "concurrency": "own_in_flight",
    "share": "hosted_share",
    "clock": "hosted_hours",
    "slo": "margin",
    "cost": "margin",
}


@click.command("policies")
@directory_argument
@campaign_option
@click.option("--own", required=True, metavar="TARGET", help="The measured target that is paid by the hour.")
@click.option("--hosted", required=True, metavar="TARGET", help="The measured target that bills its tokens.")
@click.option("--hosted-price", metavar="PROVIDER/MODEL", help="Its price  [default: the target's own]")
@demand_option
@mean_option
@click.option(
    "--policy", "words", multiple=True, metavar="RULE[:VALUE]",
    help="slo[:MARGIN], cost[:MARGIN], concurrency:N, share:S or clock:0,1,2,3; may be repeated  [default: every rule once]",
)  # fmt: skip
@click.option(
    "--slots", type=click.IntRange(1, 65_536), help="Requests that the own side runs at once  [default: its flag]"
)
@click.option("--days", type=click.IntRange(1, 100), default=3, show_default=True, help="Days to replay.")
@click.option(
    "--day-s",
    type=FloatRange(min=60, max=86_400),
    default=1800.0,
    show_default=True,
    help="Length of a replayed day: its rates, each for less time.",
)
@click.option("--seed", type=int, default=1, show_default=True)
@price_options
@as_json_option
def policies_command(
    directory: Path,
    campaign: str | None,
    own: str,
    hosted: str,
    hosted_price: str | None,
    demand_spec: str,
    mean_rps: float | None,
    words: tuple[str, ...],
    slots: int | None,
    days: int,
    day_s: float,
    seed: int,
    usd_per_hour: float | None,
    instance: str | None,
    as_json: bool,
) -> None:
    """Which rule sends which request where: $ per request at the SLO of each policy over a day of demand, with both sides as measured in
    DIRECTORY, beside the planner's optimum."""
    from harness.planner.day_terms import day_terms
    from harness.planner.demand import find_demand
    from harness.planner.policies import policies_over

    terms = day_terms(
        directory, campaign, own, hosted,
        ref=None if hosted_price is None else price_ref(hosted_price),
        hardware_of=lambda created_utc: given_price(usd_per_hour, instance, created_utc),
        slots=slots,
    )  # fmt: skip
    # the day that is replayed is this curve's, not one of the days that it averages
    demand = replace(find_demand(demand_spec, mean_rps), peak_hour_to_mean=None)
    chosen = None if not words else {word: policy_of_words(word) for word in words}
    table = policies_over(demand, terms, chosen, days=days, day_s=day_s, seed=seed)
    if as_json:
        emit({"table": table, "own": terms.own, "promise": terms.promise, "attainment": terms.attainment})
        return
    _show(table, terms)


def policy_of_words(words: str) -> PolicySpec:
    """`concurrency:8`, `clock:0,1,2,3`, `slo`. Raises ConfigError."""
    from pydantic import ValidationError

    from harness.base.bounds import config_error
    from harness.config.policy import PolicySpec

    rule, _, value = words.partition(":")
    data: dict[str, Any] = {"rule": rule}
    if value:
        data[_KEY.get(rule, "margin")] = value.split(",") if rule == "clock" else value
    try:
        return PolicySpec.model_validate(data)
    except ValidationError as error:
        raise config_error(f"policy {words}", error, PolicySpec, "e.g. --policy slo --policy concurrency:8") from None


def _show(table: PolicyTable, terms: Any) -> None:
    best = table.optimum
    own = terms.own
    click.echo(
        f"Planner's optimum for {table.demand} at {table.mean_rps:.4g} requests/s: {best.replicas} of {terms.names[0]} at "
        f"{table.capacity_rps:.4g} requests/s each, {best.hosted_share:.1%} of requests hosted at "
        f"${table.hosted_usd_per_request * 1000:.4g} per 1,000: ${float(best.usd_per_request) * 1000:.4g} per 1,000 requests."
    )
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("policy", no_wrap=True)
    for heading in ("$/1,000 requests", "95 %", "over optimum", "attainment", "hosted", "$/1,000 good"):
        shown.add_column(heading, justify="right")
    for one in table.results:
        ends = (
            "" if one.low_usd is None or one.high_usd is None else f"{one.low_usd * 1000:.4g}-{one.high_usd * 1000:.4g}"
        )
        good = "-" if one.usd_per_good_request is None else f"{one.usd_per_good_request * 1000:.4g}"
        kept = f"{one.attainment:.2%}" + ("" if one.holds else " broken")
        shown.add_row(one.name, f"{one.usd_per_request * 1000:.4g}", ends, f"{one.over_optimum:+.1%}", kept, f"{one.hosted_share:.1%}", good)  # fmt: skip
    terminal().print(shown)
    click.echo(
        f"{table.days} replayed days, {table.results[0].requests:,} requests each policy; own side as fitted: {own.slots} at once, "
        f"{own.step_s * 1000:.3g} ms + {own.step_per_request_s * 1e6:.3g} us x running a token, first token after "
        f"{own.first_s * 1000:.3g} ms + {own.prefill_s * 1e6:.3g} us a prompt token; promise {_promise(terms.promise)} for {terms.attainment:.1%}"
    )


def _promise(promise: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {limit:g}" for name, limit in promise.items())
