"""`harness run CONFIG`: a campaign from its forecast to its last line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from harness.base.errors import ConfigError, HarnessError, InvalidRunError, StoreError
from harness.cli.offline import console, publish
from harness.cli.signals import INTERRUPTED
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign.intent import Intent

if TYPE_CHECKING:
    from harness.measure.campaign.forecast import Forecast
    from harness.pipeline import Analysis, Stop
    from harness.records import CostReport

_GIB = 2**30


def run_campaign(
    spec: ExperimentSpec,
    directory: Path,
    stop: Stop,
    intent: Intent,
    *,
    history: Path | None,
    allow_invalid: bool,
    as_json: bool,
) -> int:
    """Run, report, close and tell; `history`: the directory of all results, where its history stands. The exit code is that of an INVALID run; raises the worst failure after the report."""
    from harness import pipeline
    from harness.measure.campaign import ending
    from harness.report.live import Live

    try:
        with Live() as live:
            ran = pipeline.run_experiment(spec, directory, live, stop, intent=intent)
    except HarnessError as error:
        _tell_of_abort(spec, error)
        raise
    worst = ran.worst()
    analysis: Analysis | None = None
    costs: list[CostReport] = []
    paths: dict[str, Path] = {}
    if ran.run_dirs:
        analysis, costs, paths = publish(directory, ran.campaign_id, allow_invalid=allow_invalid, as_json=as_json)
    code = 0
    if analysis and any(s.verdict.state == "INVALID" for s in analysis.summaries):
        code = InvalidRunError.exit_code
    shown = INTERRUPTED if stop.asked else worst.exit_code if worst else code
    if analysis is not None and history is not None:
        _remember(history, analysis)
    summary = pipeline.conclude(spec, directory, ran, analysis, costs, paths.get("html"), shown)
    click.echo(ending.line(summary), err=as_json)
    ending.notify(spec.notify, summary, _warn)
    if worst is not None and not stop.asked:
        raise worst
    return code


def _remember(results: Path, analysis: Analysis) -> None:
    """The campaign's runs as rows of the history; that can be done later, so a failure is a warning."""
    from harness.store.history import index_campaign

    try:
        index_campaign(results, analysis.summaries)
    except (StoreError, ConfigError) as error:
        _warn(f"not in the history: {error.what}: {error.value}; `harness history index {results}` does it later")


def _warn(text: str) -> None:
    click.echo(text, err=True)


def _tell_of_abort(spec: ExperimentSpec, error: HarnessError) -> None:
    """Whoever wants to be told is told of a campaign that could not go on, too."""
    from harness.measure.campaign import ending

    why = "; ".join(str(error).splitlines())
    summary = ending.summarise_campaign(
        spec.experiment, "", "aborted", 0, 0.0, (), (), report=None, failures=[why], exit_code=error.exit_code
    )
    ending.notify(spec.notify, summary, _warn)


def show_forecast(forecast: Forecast, *, as_json: bool) -> None:
    """The cells in order with time, dollars and disk, and their sums."""
    from harness.measure.campaign.ending import duration

    if as_json:
        click.echo(json.dumps(asdict(forecast), indent=2, default=str))
        return
    hosted = forecast.hosted_usd is not None
    table = Table("#", "cell", "about", "from", "requests", "disk", *(["hosted $"] if hosted else []), box=None)
    for cell in forecast.cells:
        money = [f"{cell.usd:.4f}" if cell.usd is not None else ""] if hosted else []
        size = f"{cell.disk_bytes / 1e6:.1f} + {cell.scratch_bytes / 1e6:.1f} MB"
        table.add_row(
            str(cell.index), cell.name, duration(cell.seconds), cell.basis, f"{cell.requests:,}", size, *money
        )
    console().print(table)
    resumed = f" left of campaign {forecast.campaign_id}" if forecast.campaign_id else ""
    click.echo(f"{len(forecast.cells)} cells{resumed}, about {duration(forecast.total_s)}", nl=False)
    click.echo(f" ({duration(forecast.start_s)} of it starting servers, {duration(forecast.cool_down_s)} cooling down)")
    click.echo(f"disk: about {forecast.disk_bytes / _GIB:.2f} GiB of {forecast.free_bytes / _GIB:.1f} GiB free")
    if forecast.hosted_usd is not None:
        click.echo(f"hosted APIs: about ${forecast.hosted_usd:.2f}")
    for note in forecast.notes:
        click.echo(f"note: {note}")
