"""`harness history`: trends with change points, SQL over every run, indexing and retention."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.table import Table
from rich.text import Text

from harness.base.documents import csv_cell
from harness.base.errors import ConfigError, nearest
from harness.cli.results import as_json_option, console, emit

if TYPE_CHECKING:
    from harness.store.history_prune import Pruned


class _Group(click.Group):
    """`harness history [RESULTS_DIR]` is `harness history trend [RESULTS_DIR]`: the word may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in {"-h", "--help"}):
            args = ["trend", *args]
        return super().parse_args(ctx, args)


@click.group("history", cls=_Group)
def history_group() -> None:
    """Trends over the nights, SQL over every run, retention.

    `harness history [RESULTS_DIR]` shows trends: see `harness history trend --help`.
    """


results_argument = click.argument("results", default="results", metavar="[RESULTS_DIR|URL]")


@history_group.command("trend")
@results_argument
@click.option("--experiment", help="Only this experiment.")
@click.option("--metric", "metrics", multiple=True, help="A column, e.g. output_tps or ttft_s_p99 (ttft_s is its median); may be repeated.  [default: output_tps, of capacity searches capacity_rps]")  # fmt: skip
@click.option("--cell", help="Only cells target_workload_load that match: a part of it, or a pattern with * and ?.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="Only nights from this date on.")
@as_json_option
@click.option("--html", "page", type=click.Path(path_type=Path), help="Also write a page with plots.")
def trend(
    results: str,
    experiment: str | None,
    metrics: tuple[str, ...],
    cell: str | None,
    since: datetime | None,
    as_json: bool,
    page: Path | None,
) -> None:
    """Each cell's metric over the nights: first, last, best, worst, changes of level, the first bad night."""
    from harness.judge.trends import trends_of
    from harness.report import history as report
    from harness.store import history

    columns = _columns(metrics or ("output_tps", "capacity_rps"))
    rows = history.nights(results, columns, experiment=experiment, since=since)
    trends = trends_of(rows, columns, cell=cell)
    if page is not None:
        report.write(page, trends, f"History of {experiment or results}")
    if as_json:
        emit(report.as_json(trends))
    else:
        report.render(console(), trends)
        if page is not None:
            click.echo(f"html: {page}")


def _columns(metrics: tuple[str, ...]) -> list[str]:
    """Column names, once each; a distribution's name alone is its median. Raises ConfigError."""
    from harness.store.history_columns import metric_columns

    known = [c.name for c in metric_columns()]
    columns = []
    for name in dict.fromkeys(metrics):
        column = name if name in known else f"{name}_p50"
        if column not in known:
            advice = nearest(name, known, "results/README.md lists the columns")
            raise ConfigError("no such metric in the history", name, advice)
        columns.append(column)
    return columns


@history_group.command("sql")
@click.argument("query")
@click.option("--results", default="results", show_default=True, metavar="DIR|URL", help="Where the history is.")
@click.option("--monitor", metavar="DIR|URL", help="A monitor's store  [default: RESULTS/monitor]")
@as_json_option
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")
def sql_command(query: str, results: str, monitor: str | None, as_json: bool, as_csv: bool) -> None:
    """Run one SELECT (DuckDB) over the table `runs`, one row a run, and `requests`, every raw request that is left.

    Of a monitor: `readings`, the servers' counters as they were read, and `hours`, what they rose in each hour.
    A file of these that cannot be read is named on stderr and left out.
    `harness history sql "DESCRIBE runs"` lists the columns; results/README.md says what they mean.
    """
    from harness.report.formats import ABSENT, clean
    from harness.store import history

    table = history.sql(results, query, monitor)
    for warning in table.warnings:
        click.echo(clean(warning, 400), err=True)
    if as_json:
        click.echo(
            json.dumps([dict(zip(table.columns, row, strict=True)) for row in table.rows], indent=2, default=str)
        )
        return
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([csv_cell(name) for name in table.columns])
        writer.writerows([csv_cell(value) for value in row] for row in table.rows)
        return
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in table.columns:
        shown.add_column(Text(clean(name, 100)), overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(ABSENT if value is None else clean(value, 400)) for value in row))
    console().print(shown)
    click.echo(f"{len(table.rows):,} rows")


@history_group.command("index")
@results_argument
@click.option(
    "--to", metavar="DIR|URL", help="Write the history there, e.g. s3://bucket/results  [default: RESULTS_DIR]"
)
@click.option("--rebuild", is_flag=True, help="Also runs that are in the history already.")
@as_json_option
def index_command(results: str, to: str | None, rebuild: bool, as_json: bool) -> None:
    """Put the runs under RESULTS_DIR into the history (harness run does it at the end of a campaign)."""
    from harness.judge.runs import index_runs
    from harness.store.elsewhere import fetched, is_url

    to = to or (results if is_url(results) else None)
    index = index_runs(fetched(results, "all"), to, rebuild=rebuild, say=lambda text: click.echo(text, err=True))
    for problem in index.problems:
        click.echo(f"not indexed: {problem}", err=True)
    if as_json:
        emit(index)
        return
    click.echo(
        f"{index.written:,} runs indexed, {index.known:,} were in the history already, {index.pruned:,} are pruned"
    )


@history_group.command("prune")
@results_argument
@click.option("--raw-days", required=True, type=int, help="Keep raw files of campaigns at most so many days old.")
@click.option("--dry-run", is_flag=True, help="Say what would go, delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask: for timers.")
@as_json_option
def prune_command(results: str, raw_days: int, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete raw files of old campaigns; manifests, plans and the history's rows stay for ever.

    Shows what would go and asks first.
    """
    from harness.store.history_prune import delete, find_old

    old = find_old(results, raw_days)
    would = old.would
    for name, why in would.kept:
        click.echo(f"kept: {name}: {why}", err=True)
    if not dry_run and not yes and would.files:
        _ask_to_delete(results, would)
    if not dry_run:
        delete(old)
    if as_json:
        emit(asdict(would) | {"dry_run": dry_run})
        return
    for name in would.campaigns:
        click.echo(f"{'would prune' if dry_run else 'pruned'}: {name}")
    click.echo(_freed(would, "would be freed" if dry_run else "freed"))


def _freed(would: Pruned, word: str) -> str:
    return f"{would.freed_bytes / 1e6:,.1f} MB {word}: {would.files:,} files of {would.runs:,} runs in {len(would.campaigns):,} campaigns"


def _ask_to_delete(results: str, would: Pruned) -> None:
    """Raises ConfigError: nobody is there to ask; Abort: the answer is no."""
    for name in would.campaigns:
        click.echo(f"would prune: {name}", err=True)
    click.echo(_freed(would, "would be freed"), err=True)
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to be asked, and nothing was deleted", results, "give --yes, or look with --dry-run")  # fmt: skip
    click.confirm(f"Delete these files under {results} for ever?", abort=True, err=True)
