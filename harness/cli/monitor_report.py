"""`harness monitor report`: what a period cost, out of what a monitor stored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from harness.base import clock
from harness.base.errors import ConfigError
from harness.cli.results import as_json_option, console, emit

_DATES = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])


@click.command("report")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--from", "begin", type=_DATES, help="Begin (UTC)  [default: the first of this month, or the first reading]"
)
@click.option("--to", "end", type=_DATES, help="End, itself not in it (UTC)  [default: now]")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Also write report.html, report.md, figures.csv and focus.csv (FOCUS 1.4) there.")  # fmt: skip
@as_json_option
def report_command(config: Path, begin: datetime | None, end: datetime | None, out: Path | None, as_json: bool) -> None:
    """What a period cost: dollars a token, idle dollars and what they were for, the hosted bill, advice."""
    from harness.config.monitor import load_monitor
    from harness.monitor.period import period
    from harness.report.monitor import page, summary

    spec, now = load_monitor(config), clock.utc_now()
    last = min(now, now if end is None else end.replace(tzinfo=UTC))
    first = (
        now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) if begin is None else begin.replace(tzinfo=UTC)
    )
    if first >= last:
        raise ConfigError("this period has no length", f"{first:%Y-%m-%dT%H:%M} to {last:%Y-%m-%dT%H:%M} UTC", "give --from before --to, and before now")  # fmt: skip
    seen = period(spec, _ns(first), _ns(last), since_first=begin is None)
    paths = {} if out is None else page.write(seen, out)
    if as_json:
        emit({"view": seen, "files": {name: str(path) for name, path in paths.items()}})
        return
    summary.render(console(), seen)
    for name, path in paths.items():
        click.echo(f"{name}: {path}")


def _ns(when: datetime) -> int:
    return round(when.timestamp()) * clock.NS
