"""`harness calibrate`: what load this machine's client can measure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.table import Table

from harness.cli.results import as_json_option, console, emit

if TYPE_CHECKING:
    from harness.measure.calibrate import Calibration, Ceiling, Point


@click.command("calibrate")
@click.option("--workers", type=click.IntRange(min=1, max=64), default=1, show_default=True, help="Reading processes.")
@click.option("--quick", is_flag=True, help="Fewer and shorter steps: 15 s instead of 60 s at most.")
@as_json_option
def calibrate_command(workers: int, quick: bool, as_json: bool) -> None:
    """Measure the load generator against a server that knows the truth: the load that this machine can measure
    with an error below 1 ms and below 5 ms. Kept for later runs, which are INVALID beyond it.

    Needs a C compiler (the server is compiled at first use) and an otherwise idle machine.
    """
    from harness.measure import calibrate

    def show(point: Point) -> None:
        click.echo(_line(point), err=True)

    result = calibrate.calibrate(workers=workers, quick=quick, on_point=show)
    path = calibrate.save(result)
    if as_json:
        emit(asdict(result) | {"saved_to": str(path)})
        return
    console().print(_table(result))
    for ceiling in result.ceilings:
        click.echo(_ceiling(ceiling))
    load = "unknown" if result.load1 is None else f"{result.load1:.2f}"
    click.echo(f"{result.seconds:.0f} s on {result.cores} cores, load average before {load}; saved to {path}")


def _offered(point: Point) -> str:
    match point.kind:
        case "tokens":
            return f"{point.streams:,} streams x 50/s"
        case "requests":
            return f"{point.offered_rps:,.0f} requests/s x 8"
        case _:
            return f"{point.streams:,} streams x 1/s"


def _ms(seconds: float | None) -> str:
    return "lost some" if seconds is None else f"{seconds * 1e3:.3f}"


def _line(point: Point) -> str:
    return f"{_offered(point)}: {point.tokens_per_s:,.0f} tokens/s, error p99 {_ms(point.error_p99_s)} ms"


def _table(result: Calibration) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("offered, tokens", no_wrap=True)
    for heading in ("tokens/s", "error p50 ms", "p99 ms", "merged reads", "CPU us/token", "server late p99 ms"):
        table.add_column(heading, justify="right")
    for point in result.points:
        table.add_row(
            _offered(point),
            f"{point.tokens_per_s:,.0f}",
            _ms(point.error_p50_s),
            _ms(point.error_p99_s),
            f"{point.merged_reads:,} of {point.reads:,}",
            f"{point.cpu_s_per_token * 1e6:.1f}",
            "-" if point.server_late_p99_s is None else f"{point.server_late_p99_s * 1e3:.3f}",
        )
    return table


def _ceiling(ceiling: Ceiling) -> str:
    """One line: the load up to which the error stays below a limit."""

    def upto(value: float | None, bounded: bool, unit: str) -> str:
        if value is None:
            return f"{unit}: not even the lightest step" if bounded else f"{unit}: not measured"
        return f"{value:,.0f} {unit}{'' if bounded else ' or more'}"

    parts = (
        upto(ceiling.tokens_per_s, ceiling.tokens_bounded, "tokens/s"),
        upto(ceiling.streams, ceiling.tokens_bounded, "streams of 50 tokens/s"),
        upto(ceiling.requests_per_s, ceiling.requests_bounded, "requests/s"),
        upto(ceiling.held_streams, ceiling.held_bounded, "streams of 1 token/s"),
    )
    return f"error below {ceiling.error_s * 1e3:g} ms: {', '.join(parts)}"
