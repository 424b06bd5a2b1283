"""`harness cost scenario | decide | export`: a workload priced every way, and what follows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from harness.base import redaction
from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.cli.results import allow_option, as_json_option, campaign_option, emit
from harness.cli.results import console as terminal

if TYPE_CHECKING:
    from harness.planner.measured import Measured
    from harness.planner.scenario.decide import Decision
    from harness.planner.scenario.run import ScenarioResult

set_option = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a value, e.g. demand.requests_per_month=3e6."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioWords:
    """What is typed after `scenario` and `decide` alike."""

    scenario: Path
    changes: tuple[str, ...] = ()
    run_dir: Path | None = None
    campaign: str | None = None
    html: Path | None = None
    markdown: bool = False
    as_json: bool = False


def _scenario_words(command: Callable[[ScenarioWords], None]) -> Callable[..., None]:
    """Argument and options of a command that is about a scenario; it gets them as one value."""

    @click.argument("scenario", type=click.Path(path_type=Path))
    @set_option
    @click.option(
        "--run",
        "run_dir",
        type=click.Path(path_type=Path),
        help="Capacity and usage measured by this run or experiment.",
    )
    @campaign_option
    @click.option("--html", type=click.Path(path_type=Path), help="Also write the decision page to this file.")
    @click.option("--markdown", is_flag=True, help="The decision page as Markdown on stdout.")
    @as_json_option
    @wraps(command)
    def with_words(**words: Any) -> None:
        command(ScenarioWords(**words))

    return with_words


def load(words: ScenarioWords) -> tuple[ScenarioResult, Measured | None]:
    """A scenario's result, and the measured capacity in it (None where it is typed in)."""
    from harness.planner.scenario.run import run_scenario
    from harness.planner.scenario.spec import find_scenario, load_scenario

    changes = words.changes
    if words.run_dir is not None:
        changes = (f"capacity={json.dumps({'run': str(words.run_dir)})}", *changes)
    spec = load_scenario(find_scenario(words.scenario), changes)
    measured = None
    if spec.capacity.run is not None:
        from harness.planner.measured import measured as measured_in

        part = spec.capacity
        measured = measured_in(Path(part.run or ""), words.campaign, workload=part.workload, target=part.target)
        click.echo(f"capacity: {measured.plan_rps:.4g} requests/s to plan with; {measured.how}", err=True)
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


def _option_rows(result: ScenarioResult) -> list[list[str]]:
    shown = [o for o in result.options if not o.is_another]
    return [
        [o.kind, o.name, f"{o.usd_per_month:,.2f}", f"{o.usd_per_request * 1000:.4g}", o.infeasible or "; ".join(n for n in o.notes if "different product" in n or n.startswith("stale price"))]
        for o in shown
    ]  # fmt: skip


def render(console: Console, result: ScenarioResult) -> None:
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
@_scenario_words
def scenario_command(words: ScenarioWords) -> None:
    """Price a workload every way: SCENARIO is a YAML file or a name of configs/scenarios/."""
    result, measured = load(words)
    if words.html is not None or words.markdown:
        from harness.planner.scenario.decide import decide

        _pages(words, result, decide(result), measured)
    if words.as_json:
        emit(result)
    elif not words.markdown:
        render(terminal(), result)


@click.command("decide")
@_scenario_words
def decide_command(words: ScenarioWords) -> None:
    """Hosted, self-hosted, hybrid or dedicated, why, and what would flip it."""
    from harness.planner.scenario.decide import decide

    result, measured = load(words)
    decision = decide(result)
    _pages(words, result, decision, measured)
    if words.as_json:
        emit(decision)
    elif not words.markdown:
        _render_decision(result, decision)


def _pages(words: ScenarioWords, result: ScenarioResult, decision: Decision, measured: Measured | None) -> None:
    """The decision page, as a file and as Markdown on stdout, where asked for."""
    if words.html is None and not words.markdown:
        return
    from harness.planner.scenario.inputs import base_of
    from harness.report import pages
    from harness.report.decision import page

    base = base_of(result.spec, measured)
    if words.html is not None:  # before anything is printed: a closed pipe must not cost the file
        pages.write_whole(words.html, page.html(result, decision, base))
        click.echo(f"html: {words.html}", err=True)
    if words.markdown:
        click.echo(page.markdown(result, decision, base), nl=False)


def _render_decision(result: ScenarioResult, decision: Decision) -> None:
    console = terminal()
    console.print(f"{result.name}: {decision.choice}", style="bold", highlight=False, markup=False)
    click.echo(f"because: {decision.reason}")
    if decision.p_self_cheaper is not None:
        click.echo(
            f"P(self-hosted is cheaper than {result.reference}) = {decision.p_self_cheaper:.2f}; at no volume: {decision.p_never:.2f}"
        )
    click.echo("what would flip it:")
    for line in decision.flips:
        click.echo(f"  {line}")
    click.echo("declared:")
    for line in decision.constraints:
        click.echo(f"  {line}")
    if decision.excluded:
        click.echo("not taken:")
        for name, why in decision.excluded:
            click.echo(f"  {name}: {why}")
    for warning in decision.warnings:
        click.echo(f"warning: {warning}")


@click.command("audit", hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def audit_command(words: tuple[str, ...]) -> None:
    """Gone: the published comparison, claim by claim, is the page configs/scenarios/README.md."""
    page = data_dir("configs") / "scenarios" / "README.md"
    raise ConfigError("the audit is a page now, no command", " ".join(("audit", *words)), f"read {page}")


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
    """SOURCE, a run or experiment directory or a scenario, as FOCUS 1.4 CSV or Parquet, OpenCost-style metrics, or a spreadsheet.

    focus: both; Parquet where --out ends in .parquet. opencost: runs. xlsx: scenarios. All are estimates: nothing is billed.
    """
    data = _runs(source, form, campaign, allow_invalid) if source.is_dir() else _scenario(source, form, changes)
    if out is None:
        if isinstance(data, bytes):
            raise ConfigError("a spreadsheet needs a file", form, "add --out FILE.xlsx")
        click.echo(data if isinstance(data, str) else _focus_csv(data), nl=False)
        return
    if isinstance(data, list) and out.suffix == ".parquet":
        from harness.planner.focus import COLUMNS, column_kind
        from harness.store.table_file import write_table_file

        write_table_file(out, {name: column_kind(name) for name in COLUMNS}, data)
    else:
        text = _focus_csv(data) if isinstance(data, list) else data
        try:
            out.write_bytes(text if isinstance(text, bytes) else redaction.known(text).encode())
        except OSError as error:
            raise ConfigError("file cannot be written", out, str(error.strerror)) from None
    click.echo(f"{form}: {out}")


def _focus_csv(rows: list[dict[str, str]]) -> str:
    from harness.planner.focus import focus_csv

    return focus_csv(rows)


def _runs(source: Path, form: str, campaign: str | None, allow_invalid: bool) -> str | list[dict[str, str]]:
    """FOCUS rows, or the text of the metrics."""
    from harness.judge.runs import analyse
    from harness.planner.focus import charges_of_runs, focus_rows
    from harness.price.opencost import opencost_text
    from harness.price.run_cost import price_runs

    analysis = analyse(source, campaign)
    costs = {c.run_id: c for c in price_runs(analysis.summaries, allow_invalid=allow_invalid)}
    pairs = [(s, costs[s.run_id]) for s in analysis.summaries if s.run_id in costs]
    match form:
        case "focus":
            charges, left_out = charges_of_runs(pairs)
            for why in left_out:
                click.echo(f"not exported: {why}", err=True)
            return focus_rows(charges)
        case "opencost":
            return opencost_text(pairs)
        case _:
            raise ConfigError(
                "a run is no scenario", form, "give a scenario, with --set capacity.run or `scenario --run DIR`"
            )


def _scenario(source: Path, form: str, changes: tuple[str, ...]) -> bytes | list[dict[str, str]]:
    """FOCUS rows, or the spreadsheet."""
    from harness.planner.focus import charges_of_scenario, focus_rows

    result, measured = load(ScenarioWords(scenario=source, changes=changes))
    match form:
        case "focus":
            return focus_rows(charges_of_scenario(result, measured))
        case "xlsx":
            from harness.planner.workbook import workbook

            return workbook(result, measured)
        case _:
            raise ConfigError("a scenario has no metrics", form, "opencost takes a run or experiment directory")
