"""`harness cost scenario | decide | audit | export`: a workload priced every way, and what follows. COMMANDS go under `cost`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from harness.cli.offline import allow_option, as_json_option, campaign_option
from harness.errors import ConfigError

scenario_argument = click.argument("scenario", type=click.Path(path_type=Path))
set_option = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a value, e.g. demand.requests_per_month=3e6."
)
run_option = click.option(
    "--run", "run_dir", type=click.Path(path_type=Path), help="Capacity and usage measured by this run or experiment."
)


def plain(value: Any) -> Any:
    """A result as JSON values: money as decimal text, what is not finite as "inf", pydantic specs left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "spec"}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return format(value, "f") if isinstance(value, Decimal) else value


def emit(value: Any) -> None:
    click.echo(json.dumps(plain(value), indent=2, default=str))


def load(
    scenario: Path, changes: tuple[str, ...], run_dir: Path | None, campaign: str | None = None
) -> tuple[Any, Any]:
    """A scenario's result, and the measured capacity in it (None where it is typed in)."""
    from harness import pipeline
    from harness.cost.measured import measured_capacity
    from harness.cost.scenario import run_scenario
    from harness.cost.scenario_spec import find_scenario, load_scenario

    if run_dir is not None:
        given = json.dumps({"run": str(run_dir)})
        changes = (f"capacity={given}", *changes)
    spec = load_scenario(find_scenario(scenario), changes)
    measured = None
    if spec.capacity.run is not None:
        measured = measured_capacity(
            pipeline.analyse(Path(spec.capacity.run), campaign).summaries, spec.capacity.workload
        )
    return run_scenario(spec, measured), measured


def amount(value: Decimal | None) -> str:
    """A figure for people: four significant digits below 1, two decimals above, - where there is none."""
    if value is None:
        return "never"
    if value == value.to_integral_value():
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.4g}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in {"value", "$/month", "$/1,000 requests", "theirs", "ours"} else "left", overflow="fold")  # fmt: skip
    for row in rows:
        table.add_row(*row)
    return table


def _option_rows(result: Any) -> list[list[str]]:
    shown = [o for o in result.options if not (o.infeasible or "").startswith(("not a machine", "the machines carry"))]
    return [
        [o.kind, o.name, f"{o.usd_per_month:,.2f}", f"{o.usd_per_request * 1000:.4g}", o.infeasible or "; ".join(n for n in o.notes if "different product" in n)]
        for o in shown
    ]  # fmt: skip


def render(console: Console, result: Any) -> None:
    """Options, figures, published claims, odds, warnings, and the verdict last."""
    click.echo(f"{result.name}: {result.description}\nprices as of {result.at}; SLO: {result.slo}\n")
    console.print(
        _table("A month, every way", ["kind", "what", "$/month", "$/1,000 requests", "but"], _option_rows(result))
    )
    figures = [
        [f.label, amount(f.value), f.unit, f.formula] for f in result.figures if not f.name.startswith("hosted_")
    ]
    console.print(_table("How", ["figure", "value", "unit", "formula"], figures))
    if result.claims:
        rows = [
            [str(c.row or ""), c.says, c.stated, "-" if c.published is None else amount(c.published), amount(c.right), c.unit, c.reason]
            for c in result.claims
        ]  # fmt: skip
        console.print(_table("What was published, and what is right", ["row", "claim", "stated", "theirs", "ours", "unit", "why"], rows))  # fmt: skip
    if result.outlook is not None:
        odds = result.outlook
        rows = [
            [b.name, f"{b.low:.4g}", f"{b.high:.4g}", f"{b.at_low:,.2f}", f"{b.at_high:,.2f}"] for b in odds.tornado
        ]
        title = f"Self-hosted - {result.reference}, $/hour: {odds.base_usd_per_hour:,.2f}; one assumption at a time"
        console.print(_table(title, ["assumption", "low", "high", "$/h at low", "$/h at high"], rows))
        click.echo(
            f"P(self-hosted is cheaper) = {odds.p_self_cheaper:.2f}; P(at no volume) = {odds.p_never:.2f}; {odds.draws:,} draws"
        )
    for warning in result.warnings:
        click.echo(f"warning: {warning}")
    console.print(result.verdict, style="bold", highlight=False, markup=False)


@click.command("scenario")
@scenario_argument
@set_option
@run_option
@campaign_option
@as_json_option
def scenario_command(
    scenario: Path, changes: tuple[str, ...], run_dir: Path | None, campaign: str | None, as_json: bool
) -> None:
    """Price a workload every way: SCENARIO is a YAML file or a name of configs/scenarios/."""
    result, _ = load(scenario, changes, run_dir, campaign)
    if as_json:
        emit(result)
        return
    render(Console(), result)


@click.command("decide")
@scenario_argument
@set_option
@run_option
@campaign_option
@as_json_option
def decide_command(
    scenario: Path, changes: tuple[str, ...], run_dir: Path | None, campaign: str | None, as_json: bool
) -> None:
    """Hosted, self-hosted, hybrid or dedicated, why, and what would flip it."""
    from harness.cost.decide import decide

    result, _ = load(scenario, changes, run_dir, campaign)
    found = decide(result)
    if as_json:
        emit(found)
        return
    console = Console()
    console.print(f"{result.name}: {found.choice}", style="bold", highlight=False, markup=False)
    click.echo(f"because: {found.reason}")
    if found.p_self_cheaper is not None:
        click.echo(
            f"P(self-hosted is cheaper than {result.reference}) = {found.p_self_cheaper:.2f}; at no volume: {found.p_never:.2f}"
        )
    click.echo("what would flip it:")
    for line in found.flips:
        click.echo(f"  {line}")
    click.echo("declared:")
    for line in found.constraints:
        click.echo(f"  {line}")
    if found.excluded:
        click.echo("not taken:")
        for name, why in found.excluded:
            click.echo(f"  {name}: {why}")
    for warning in found.warnings:
        click.echo(f"warning: {warning}")


@click.command("audit")
@click.option("--markdown", is_flag=True, help="The table as Markdown.")
@as_json_option
def audit_command(markdown: bool, as_json: bool) -> None:
    """A published cost comparison, claim by claim: 33 rows, right values computed now, each with its test."""
    from harness.cost.audit import as_markdown, audit

    rows = audit()
    if as_json:
        emit(list(rows))
    elif markdown:
        click.echo(as_markdown(rows), nl=False)
    else:
        table = [[str(r.row), r.claim, r.right] for r in rows]
        Console().print(_table("A published cost comparison, claim by claim", ["row", "it says", "right"], table))
        click.echo(f"each row's test: {rows[0].test.removesuffix('1')}N")


@click.command("export")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["focus", "opencost", "xlsx"]), required=True)
@click.option("--out", type=click.Path(path_type=Path), help="File  [default: stdout; xlsx needs one]")
@set_option
@campaign_option
@allow_option
def export_command(
    source: Path, form: str, out: Path | None, changes: tuple[str, ...], campaign: str | None, allow_invalid: bool
) -> None:
    """SOURCE, a run or experiment directory or a scenario, as FOCUS 1.4 CSV, OpenCost-style metrics, or a spreadsheet.

    focus: both. opencost: runs. xlsx: scenarios. All are estimates: nothing is billed.
    """
    data = _runs(source, form, campaign, allow_invalid) if source.is_dir() else _scenario(source, form, changes)
    if out is None:
        if isinstance(data, bytes):
            raise ConfigError("a spreadsheet needs a file", form, "add --out FILE.xlsx")
        click.echo(data, nl=False)
        return
    try:
        out.write_bytes(data if isinstance(data, bytes) else data.encode())
    except OSError as error:
        raise ConfigError("file cannot be written", out, str(error.strerror)) from None
    click.echo(f"{form}: {out}")


def _runs(source: Path, form: str, campaign: str | None, allow_invalid: bool) -> str:
    from harness import pipeline
    from harness.cost.exports import opencost_text
    from harness.cost.focus import charges_of_run, focus_csv

    analysis = pipeline.analyse(source, campaign)
    costs = {c.run_id: c for c in pipeline.cost(analysis, allow_invalid=allow_invalid)}
    pairs = [(s, costs[s.run_id]) for s in analysis.summaries if s.run_id in costs]
    match form:
        case "focus":
            return focus_csv([charge for s, c in pairs for charge in charges_of_run(s, c)])
        case "opencost":
            return opencost_text(pairs)
        case _:
            raise ConfigError(
                "a run is no scenario", form, "give a scenario, with --set capacity.run or `scenario --run DIR`"
            )


def _scenario(source: Path, form: str, changes: tuple[str, ...]) -> str | bytes:
    from harness.cost.focus import charges_of_scenario, focus_csv
    from harness.cost.workbook import workbook

    result, measured = load(source, changes, None)
    match form:
        case "focus":
            return focus_csv(charges_of_scenario(result))
        case "xlsx":
            return workbook(result, measured)
        case _:
            raise ConfigError("a scenario has no metrics", form, "opencost takes a run or experiment directory")


COMMANDS = [scenario_command, decide_command, audit_command, export_command]
