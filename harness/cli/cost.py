"""`harness cost ..`: dollars from a measured run, and decisions from numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from harness.cli import attribute, breakeven, decisions, fleet, machines, policies, reconcile, tokens
from harness.cli.machine_price import given_price, price_options
from harness.cli.numbers import FloatRange
from harness.cli.results import (
    allow_option,
    as_json_option,
    campaign_option,
    directory_argument,
    price_ref,
)
from harness.cli.results import console as terminal


class _WithDefault(click.Group):
    """A group whose first word may be a directory: `harness cost DIR` is `harness cost of DIR`."""

    default = "of"

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = [self.default, *args]
        return super().resolve_command(ctx, args)


@click.group("cost", cls=_WithDefault)
def cost_group() -> None:
    """Dollars: of a run (`harness cost RUN_OR_EXPERIMENT_DIR`), of a scenario, and the decisions that follow."""


@cost_group.command("of")
@directory_argument
@campaign_option
@allow_option
@as_json_option
@price_options
@click.option("--utilisation", type=FloatRange(min=0, max=1, min_open=True), help="Another declared utilisation.")
@click.option("--hosted-price", multiple=True, metavar="PROVIDER/MODEL")
def cost_of(
    directory: Path,
    campaign: str | None,
    allow_invalid: bool,
    as_json: bool,
    usd_per_hour: float | None,
    instance: str | None,
    utilisation: float | None,
    hosted_price: tuple[str, ...],
) -> None:
    """Price the measured tokens of a run or experiment, here and at hosted prices."""
    from harness.config.experiment import CostSpec, of_run
    from harness.judge.runs import analyse
    from harness.price.run_cost import price_runs
    from harness.report.run import tables
    from harness.report.run.answer import answer

    analysis = analyse(directory, campaign)
    base = of_run(CostSpec, analysis.summaries[0].config.get("cost", {}), analysis.summaries[0].run_id)
    changes: dict[str, Any] = {}
    if utilisation is not None:
        changes["utilisation"] = utilisation
    if hosted_price:
        changes["hosted"] = [price_ref(text) for text in hosted_price]
    hardware = given_price(usd_per_hour, instance, analysis.summaries[0].created_utc)
    costs = price_runs(analysis.summaries, base.model_copy(update=changes), hardware, allow_invalid=allow_invalid)
    if as_json:
        click.echo(
            json.dumps(
                tables.as_json(list(analysis.summaries), costs, allow_invalid=allow_invalid), indent=2, default=str
            )
        )
        return
    console = terminal()
    tables.render_costs(console, costs)
    console.print(
        answer(list(analysis.summaries), costs, allow_invalid=allow_invalid),
        style="bold",
        highlight=False,
        markup=False,
    )


for command in (
    breakeven.breakeven,
    fleet.fleet,
    fleet.hybrid,
    policies.policies_command,
    machines.memory_command,
    machines.instances_command,
    decisions.scenario_command,
    decisions.decide_command,
    decisions.audit_command,
    decisions.export_command,
    attribute.attribute,
    tokens.tokens_command,
    reconcile.reconcile_command,
):
    cost_group.add_command(command)
