"""`harness analyse` and `harness report`, and how every command prints results."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from harness.base import clock
from harness.base.documents import plain
from harness.base.errors import ConfigError
from harness.cli.machine_price import given_price, price_options

if TYPE_CHECKING:
    from harness.config.price_ref import PriceRef
    from harness.pipeline import Outcome, Results


class Directory(click.ParamType[Path]):
    """A directory of results of this machine; of a URL (s3://..) what is there is fetched, of an experiment the campaign that was chosen."""

    name = "directory"

    def __init__(self, campaign: str | None = None) -> None:
        self._campaign = campaign

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002 - click's
        from harness.store.elsewhere import fetched

        chosen = self._campaign or (ctx.params.get("campaign") if ctx is not None else None)
        if not isinstance(chosen, str):  # click's own word for an option that was not given
            chosen = None
        return fetched(value, chosen, lambda text: click.echo(text, err=True))


directory_argument = click.argument("directory", type=Directory(), metavar="DIRECTORY|URL")
campaign_option = click.option(
    "--campaign", is_eager=True, help='Another campaign\'s id, or "all"  [default: the newest]'
)
as_json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
at_option = click.option(
    "--at", type=click.DateTime(["%Y-%m-%d"]), help="Prices in force on this day (UTC)  [default: now]"
)
allow_option = click.option("--allow-invalid", is_flag=True, help="Show money for INVALID runs too.")


@click.command("analyse")
@directory_argument
@campaign_option
@as_json_option
def analyse_command(directory: Path, campaign: str | None, as_json: bool) -> int:
    """Metrics and verdict of a run or experiment directory, complete or interrupted."""
    from harness.base.errors import InvalidRunError
    from harness.judge.runs import analyse

    analysis = analyse(directory, campaign)
    _print(analysis, [], {}, allow_invalid=True, as_json=as_json, money=False)
    return InvalidRunError.exit_code if any(s.verdict.state == "INVALID" for s in analysis.summaries) else 0


@click.command("report")
@directory_argument
@campaign_option
@allow_option
@price_options
@as_json_option
def report_command(directory: Path, campaign: str | None, allow_invalid: bool, as_json: bool, **price: Any) -> int:
    """Write report.md and report.html of a run or experiment again, from its raw files."""
    return finish(directory, campaign, allow_invalid=allow_invalid, as_json=as_json, **price)


def finish(
    directory: Path,
    campaign: str | None,
    *,
    allow_invalid: bool,
    as_json: bool,
    usd_per_hour: float | None = None,
    instance: str | None = None,
) -> int:
    """Judge, price, report, print; the exit code says whether a run was INVALID.

    `usd_per_hour`, `instance`: another price of the measured machine than the runs' own.
    """
    from harness.judge.runs import analyse
    from harness.pipeline import results_of

    analysis = analyse(directory, campaign)
    created = next((summary.created_utc for summary in analysis.summaries), clock.utc_now().isoformat())
    hardware = given_price(usd_per_hour, instance, created)
    results = results_of(analysis, hardware=hardware, allow_invalid=allow_invalid)
    return show(results, allow_invalid=allow_invalid, as_json=as_json)


def show(results: Results, *, allow_invalid: bool, as_json: bool) -> int:
    """Print what was found; the exit code says whether a run was INVALID."""
    _print(results.analysis, results.costs, results.files, allow_invalid=allow_invalid, as_json=as_json)
    return results.exit_code


def show_outcome(outcome: Outcome, *, allow_invalid: bool, as_json: bool) -> int:
    """Print what a campaign came to and its last line; the exit code as `show`'s."""
    from harness.measure.campaign import ending

    code = 0
    if outcome.results is not None:
        code = show(outcome.results, allow_invalid=allow_invalid, as_json=as_json)
    click.echo(ending.line(outcome.summary), err=as_json)
    return code


def _print(
    analysis: Any, costs: Any, paths: dict[str, Path], *, allow_invalid: bool, as_json: bool, money: bool = True
) -> None:
    from harness.report import capacity
    from harness.report.run import cells, hybrids, replicas, sides_page, tables
    from harness.report.run.answer import answer
    from harness.report.run.sides import sides

    for problem in analysis.problems:
        click.echo(f"not read: {problem}", err=True)
    summaries = list(analysis.summaries)
    table = cells.rows(summaries, list(costs), allow_invalid=allow_invalid)
    policies, several = hybrids.policy_tables(table, costs), replicas.replica_tables(table)
    if as_json:
        document = tables.as_json(summaries, list(costs), allow_invalid=allow_invalid)
        document["capacities"] = [
            {"cell": asdict(found.cell), **capacity.as_values(found.result)} for found in analysis.capacities
        ]
        document["hybrids"] = [hybrids.as_values(table) for table in policies]
        document["replicas"] = [replicas.as_values(one) for one in several]
        document["files"] = {name: str(path) for name, path in paths.items()}
        click.echo(json.dumps(document, indent=2, default=str))
        return
    out = console()
    tables.render(out, summaries, list(costs), allow_invalid=allow_invalid)
    tables.render_hosted(out, summaries)
    tables.render_reasons(out, summaries)
    hybrids.render(out, policies)
    replicas.render(out, several)
    for found in analysis.capacities:
        out.print()
        out.print(
            f"{capacity.cell_words(found.cell)}: {capacity.headline(found.result)}", highlight=False, markup=False
        )
    for words, sentence in capacity.together([(found.cell, found.result) for found in analysis.capacities]):
        out.print(f"{words}: {sentence}", highlight=False, markup=False)
    if money:
        both = sides(summaries, list(costs), allow_invalid=allow_invalid)
        sides_page.render(out, both, list(costs), allow_invalid=allow_invalid)
        out.print()
        out.print(
            answer(summaries, list(costs), allow_invalid=allow_invalid), style="bold", highlight=False, markup=False
        )
        out.print()
    for name, path in paths.items():
        click.echo(f"{name}: {path}")
    if paths:
        click.echo(f"every dollar with its formula and inputs: harness cost {paths['html'].parents[1]}")


def moment(day: datetime | None) -> datetime:
    """Noon (UTC) of a day that was asked for, else now."""
    return clock.utc_now() if day is None else day.replace(hour=12, tzinfo=UTC)


def console() -> Console:
    """The terminal as wide as it is; a file or pipe 120 columns wide."""
    return Console(width=None if sys.stdout.isatty() else 120)


def emit(value: Any, indent: int | None = 2) -> None:
    """A result as JSON on stdout: money as decimal text, what is not finite as "inf", without the pydantic specs in it. `indent` None: a line."""

    def leaf(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return format(value, "f") if isinstance(value, Decimal) else value

    click.echo(json.dumps(plain(value, leaf, without="spec"), indent=indent, default=str))


def price_ref(text: str) -> PriceRef:
    """Raises ConfigError for words that are not PROVIDER/MODEL."""
    from harness.config.price_ref import PriceRef

    provider, _, model = text.partition("/")
    if not model:
        raise ConfigError(
            "a hosted price is PROVIDER/MODEL", text, "e.g. groq/llama-3.1-8b-instant; harness prices show lists them"
        )
    return PriceRef(provider=provider, model=model)
