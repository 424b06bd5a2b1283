"""`harness run` and `harness plan`: the online half."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from harness.base import clock
from harness.base.errors import INTERRUPTED, ConfigError, StoreError
from harness.cli.numbers import FloatRange
from harness.cli.results import console, finish, show_outcome
from harness.cli.shape import shape_options, spec_of
from harness.cli.signals import signals
from harness.measure.campaign.intent import NEWEST, Intent

if TYPE_CHECKING:
    from harness.measure.campaign.forecast import Forecast
    from harness.store.upload import Upload

_GIB = 2**30


@click.command()
@shape_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run directory (with --url), or experiment directory (with CONFIG)."
)
@click.option(
    "--results",
    default="results",
    show_default=True,
    metavar="DIR|URL",
    help="Where experiment directories stand; s3://bucket/nightly and its like: written here, uploaded after each run.",
)
@click.option(
    "--on",
    metavar="CLUSTER",
    help="Where the load comes from: local, ray (RAY_ADDRESS), HOST:PORT of a Ray cluster's head, or ray://HOST:PORT  [default: local, or the config's]",
)
@click.option(
    "--nodes", type=click.IntRange(min=1), help="With --on: so many of its nodes send  [default: 1, or the config's]"
)
@click.option("--repetitions", type=click.IntRange(min=1), help="Repetitions of CONFIG  [default: the config's]")
@click.option("--only", multiple=True, metavar="GLOB", help="Cells with such a name, e.g. '*_c16_*'; may be repeated.")
@click.option("--max-hours", type=FloatRange(min=0, min_open=True), help="Leave out whole repetitions that do not fit.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value=NEWEST,
    metavar="[CAMPAIGN_ID]",
    help="Go on with a campaign that was broken off  [default: the newest such]",
)
@click.option(
    "--failed", is_flag=True, help="With --resume: run its failed cells again too, if it is finished as well."
)
@click.option("--wait-lock", is_flag=True, help="Wait while another campaign has the GPU, or this machine's server.")
@click.option(
    "--dry-run", is_flag=True, help="Show the cells in order, with time, hosted dollars and disk; run nothing."
)
@click.option(
    "--max-usd",
    metavar="DOLLARS",
    help="The most that hosted targets may cost in this campaign; it drains when it is reached  [default: the config's max_usd]",
)
@click.option("--allow-invalid", is_flag=True, help="Price INVALID runs too; every page then says so.")
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on stdout.")
def run(
    out: Path | None,
    results: str,
    only: tuple[str, ...],
    resume: str | None,
    failed: bool,
    wait_lock: bool,
    dry_run: bool,
    max_usd: str | None,
    allow_invalid: bool,
    as_json: bool,
    **words: Any,
) -> int:
    """Run an experiment: CONFIG (a file, or the name of one that comes with the harness; `quickstart` is chosen for this machine),
    or one cell against --url."""
    from harness import pipeline
    from harness.cli.max_usd import agreed, capped
    from harness.measure.campaign.campaign import foresee
    from harness.measure.run import Stop
    from harness.report.live import Live
    from harness.store.elsewhere import fetch_campaign

    if words["config"] is None and resume not in (None, NEWEST):  # `run --resume CONFIG`
        words["config"], resume = Path(str(resume)), NEWEST
    if words["config"] is None and not (words["url"] or words["preset"]):
        raise ConfigError("nothing to run", "neither CONFIG, --url nor --preset was given", "harness run quickstart")
    if failed and resume is None:
        raise ConfigError("--failed goes with --resume", "--failed", "add --resume [CAMPAIGN_ID], or leave it out")
    single = words["config"] is None
    if single and (only or resume or words["repetitions"] or words["max_hours"]):
        given = "--only, --resume, --repetitions or --max-hours"
        raise ConfigError("one cell against --url is no campaign", given, "write an experiment file")
    spec = capped(spec_of(words), max_usd)
    here, url = _places(results, out)
    directory = out or here / spec.experiment
    if single and out is None:
        directory /= f"{clock.utc_stamp()}_adhoc"
    if url is not None and resume is not None:
        fetch_campaign(url, spec.experiment, None if resume == NEWEST else resume, finished_too=failed)
    intent = Intent(only, resume, wait_lock, failed)
    if dry_run:
        _show_forecast(foresee(spec, directory, intent), as_json=as_json)
        return 0
    spec = agreed(spec, lambda: foresee(spec, directory, intent))
    stop = Stop()
    with signals(stop):  # the report too: a second Ctrl-C that comes after a quick drain must not lose it
        if single:
            with Live() as live, _upload(url, here, live.say) as upload:
                ran = pipeline.measure_one(spec, directory, live, stop, upload)
            code = finish(directory, None, allow_invalid=allow_invalid, as_json=as_json) if ran.run_dirs else 0
        else:
            with Live() as live, _upload(url, here, live.say) as upload:
                outcome = pipeline.run_campaign(
                    spec, directory, live, stop, intent,
                    history=None if out else url or here, allow_invalid=allow_invalid, upload=upload,
                )  # fmt: skip
            code = show_outcome(outcome, allow_invalid=allow_invalid, as_json=as_json)
            if (worst := outcome.ran.worst()) is not None and not stop.asked:
                raise worst
        if upload is not None and upload.pending:
            what = f"{len(upload.pending)} not uploaded to {url}"
            raise StoreError(what, next(iter(upload.pending.values())), f"harness upload {here} {url}")
    return INTERRUPTED if stop.asked else code


def _places(results: str, out: Path | None) -> tuple[Path, str | None]:
    """Where runs are written on this machine, and the URL that they go to, if any. Raises ConfigError."""
    from harness.store.elsewhere import is_url, open_mirror

    if out is not None and is_url(str(out).replace(":/", "://", 1)):  # a path has one slash left of two
        raise ConfigError(
            "--out is a directory of this machine", out, "give the URL as --results; runs are uploaded there"
        )
    if not is_url(results):
        return Path(results), None
    if out is not None:
        raise ConfigError(
            "--out and a URL as --results", f"{out}, {results}", "leave --out out: --results URL has its own layout"
        )
    return open_mirror(results).here, results


@contextmanager
def _upload(url: str | None, here: Path, say: Callable[[str], None]) -> Iterator[Upload | None]:
    """To the URL, its locks held until the end; None where results stay here."""
    from harness.store.upload import Upload

    if url is None:
        yield None
        return
    with Upload(url, here, say) as upload:
        say(f"results go to {url}, written in {here}")
        yield upload


@click.command("plan")
@shape_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory for plan.parquet (one a cell, for a CONFIG with several).",
)
@click.option("--json", "as_json", is_flag=True)
def plan_command(out: Path, as_json: bool, **words: Any) -> None:
    """Draw and write the plan of what `run` would send; sends nothing."""
    from harness import pipeline

    spec = spec_of(words)
    written = pipeline.write_plans(spec, out)
    if as_json:
        click.echo(json.dumps(written, indent=2))
        return
    for row in written:
        click.echo(f"{row['path']}: {row['requests']} requests, sha256 {row['sha256']}")
        for note in row["notes"]:
            click.echo(f"  {note}")


def _show_forecast(forecast: Forecast, *, as_json: bool) -> None:
    """The cells in order with time, dollars and disk, and their sums."""
    from harness.measure.campaign.ending import duration

    if as_json:
        click.echo(json.dumps(asdict(forecast), indent=2, default=str))
        return
    hosted, fleet = forecast.hosted_usd is not None, any(cell.box for cell in forecast.cells)
    more = (["hosted $", "at worst $"] if hosted else []) + (["box"] if fleet else [])
    table = Table("#", "cell", "about", "from", "requests", "disk", *more, box=None)
    for cell in forecast.cells:
        money = [f"{usd:.4f}" if usd is not None else "" for usd in (cell.usd, cell.worst_usd)] if hosted else []
        money += [cell.box or ""] if fleet else []
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
        click.echo(f"hosted APIs: about ${forecast.hosted_usd:.2f}, at worst ${forecast.worst_usd:.2f}")
        for formula in forecast.formulas:
            click.echo(f"  {formula}")
    for note in forecast.notes:
        click.echo(f"note: {note}")
