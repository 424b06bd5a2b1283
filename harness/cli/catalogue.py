"""The commands that look things up: workloads, prices, this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click
from rich.table import Table

from harness.base import redaction
from harness.base.documents import dump_yaml
from harness.base.errors import ConfigError, TargetError
from harness.cli.numbers import FloatRange
from harness.cli.results import at_option, console, moment

_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


@click.group()
def workloads() -> None:
    """Presets of token lengths and arrivals, with their sources."""


@workloads.command("list")
@_json
def workloads_list(as_json: bool) -> None:
    """Names of the presets."""
    from harness.measure.plan.preset import presets

    names = presets()
    click.echo(json.dumps(names) if as_json else "\n".join(names))


@workloads.command("show")
@click.argument("name")
@_json
def workloads_show(name: str, as_json: bool) -> None:
    """Quantiles, means, source and licence of a workload SPEC."""
    from harness.measure.plan.describing import describe

    shown = describe(name)
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for key, value in shown.items():
        if key == "histogram":
            for what, bins in value.items():
                click.echo("\n".join(_histogram(what, bins)))
        elif value not in (None, {}, []):
            click.echo(f"{key.replace('_', ' ')}: {_plain(value)}")


def _plain(value: object) -> str:
    """A value in one line; what is absent shows as -."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _histogram(what: str, bins: list[tuple[int, int, int]], width: int = 50) -> list[str]:
    """Bars of a histogram, one line a bin."""
    most = max(count for _, _, count in bins)
    lines = [f"{what.replace('_', ' ')}, requests by length:"]
    for low, high, count in bins:
        lines.append(f"  {low:>9,} - {high:>9,} {'█' * round(width * count / most):<{width}} {count:,}")
    return lines


@workloads.command("check")
@click.argument("names", nargs=-1)
@click.option("--n", "count", type=click.IntRange(min=1000), default=100_000, show_default=True, help="Requests drawn.")
@_json
def workloads_check(names: tuple[str, ...], count: int, as_json: bool) -> None:
    """Figures of presets' sources beside those of a sample (all presets without NAMES)."""
    from harness.measure.plan.checking import check
    from harness.measure.plan.preset import presets

    figures_of = {name: check(name, count) for name in names or presets()}
    if as_json:
        rows = {
            name: [asdict(one) | {"deviation": one.deviation} for one in figures]
            for name, figures in figures_of.items()
        }
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("preset", "quantity"):
        table.add_column(heading)
    for heading in ("source", "drawn", "deviation"):
        table.add_column(heading, justify="right")
    for name, figures in figures_of.items():
        for one in figures:
            deviation = (
                "-"
                if one.deviation is None
                else f"{one.deviation * 100:+.1f} {'points' if one.unit == 'share' else '%'}"
            )
            quantity = one.quantity + (f", {one.unit}" if one.unit else "")
            table.add_row(name, quantity, f"{one.source:,.6g}", f"{one.drawn:,.6g}", deviation)
    console().print(table)


@workloads.command("fit")
@click.argument("file")
@click.option("--out", type=click.Path(path_type=Path), help="Preset file to write; without it, it goes to stdout.")
@click.option("--name", default="own log", show_default=True, help="What the preset is called.")
@click.option("--licence", default="not for sharing", show_default=True, help="Under which others may use it.")
@click.option("--skip-bad", is_flag=True, help="Count bad rows instead of stopping at the first.")
@_json
def workloads_fit(file: str, out: Path | None, name: str, licence: str, skip_bad: bool, as_json: bool) -> None:
    """Make a preset of quantiles (no text, no single request) from a log, and say how well it reproduces it.

    FILE: CSV, JSONL or Parquet with prompt and output tokens per request, a vLLM server's log (debug level, --enable-log-requests
    --enable-log-outputs), or any trace format; `?from=..&to=..` slices it.
    """
    from harness.measure.plan.fitting import fit
    from harness.measure.plan.workload import with_options

    data, result = fit(with_options(file, {"skip_bad": skip_bad}), name=name, licence=licence)
    text = dump_yaml(data, sort_keys=False, default_flow_style=None, width=118, allow_unicode=True)
    if out is not None:
        out.write_text(redaction.known(text), encoding="utf-8")
    if as_json:
        click.echo(json.dumps({"preset": data, "reproduction": asdict(result)}, indent=2))
        return
    if out is None:
        click.echo(text, nl=False)
    for key, value in asdict(result).items():
        text = _plain(list(value) if isinstance(value, tuple) else value)
        click.echo(f"{key.replace('_', ' ')}: {text}", err=out is None)


@workloads.command("sample")
@click.argument("name")
@click.option("--n", "count", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@_json
def workloads_sample(name: str, count: int, seed: int, as_json: bool) -> None:
    """Draw a few requests: prompt and output tokens."""
    from harness.measure.plan.drawing import draw
    from harness.records import Load

    drawn, _ = draw(
        name,
        Load(concurrency=1),
        requests=count,
        duration_s=None,
        seed=seed,
        warmup_requests=0,
        context_limit_tokens=None,
    )
    rows = [(r.target_prompt_tokens, r.target_output_tokens) for r in drawn.requests]
    if as_json:
        click.echo(json.dumps([{"prompt_tokens": p, "output_tokens": o} for p, o in rows]))
        return
    click.echo("prompt_tokens output_tokens")
    for prompt_tokens, output_tokens in rows:
        click.echo(f"{prompt_tokens:13} {output_tokens:13}")


@click.command()
@click.argument("words", nargs=-1, metavar="[show] [PATTERN]")
@at_option
@_json
def prices(words: tuple[str, ...], at: datetime | None, as_json: bool) -> None:
    """Hosted models and instances whose name contains PATTERN, with USD per million tokens or per hour, as in force at a date.

    `harness prices show` is the same: offline and dated.
    """
    from harness.price.prices import catalogue

    pattern, *more = (words[1:] if words[:1] == ("show",) else words) or ("",)
    if more:
        raise ConfigError("prices of one PATTERN at a time", " ".join((pattern, *more)), "harness prices show h100")
    rows = catalogue(pattern, moment(at))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2, default=str))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, justify in (
        ("kind", "left"),
        ("name", "left"),
        ("USD", "right"),
        ("unit", "left"),
        ("as of", "left"),
        ("source", "left"),
    ):
        table.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(row.kind, row.name, row.usd, row.unit, row.dated, row.source)
    console().print(table)


@click.command()
@click.option("--require", type=click.Choice(["gpu"]), help="Only ask whether CUDA works here; exit code 3 if not.")
@click.option(
    "--within",
    type=FloatRange(0, 3600),
    default=0,
    show_default=True,
    help="With --require: ask again for so many seconds.",
)
@_json
def doctor(require: str | None, within: float, as_json: bool) -> None:
    """What this machine has, what is missing, and how to get it."""
    from harness.measure.nvidia_driver import wait_for_cuda
    from harness.measure.observe.doctor.machine import examine

    if require is not None:
        if problem := wait_for_cuda(within):
            what, _, advice = problem.partition(": ")
            raise TargetError("CUDA does not work on this machine", what, advice)
        click.echo("CUDA works")
        return
    lines = examine()
    if as_json:
        click.echo(json.dumps([asdict(line) for line in lines], indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    marks = {"ok": "[green]ok[/]", "missing": "[red]missing[/]", "warn": "[yellow]warn[/]"}
    for line in lines:
        table.add_row(marks[line.state], line.item, line.detail, line.how_to_get or "")
    console().print(table)
