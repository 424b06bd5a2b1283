"""What `harness run --dry-run` shows."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.table import Table

from harness.cli.offline import console

if TYPE_CHECKING:
    from harness.measure.campaign.forecast import Forecast

_GIB = 2**30


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
