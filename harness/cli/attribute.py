"""`harness cost attribute`: which part of a machine's cost is input's and which output's, from a server's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from harness.base.documents import exists
from harness.base.errors import ConfigError, StoreError
from harness.cli.numbers import FloatRange
from harness.cli.results import as_json_option, campaign_option, emit
from harness.cli.results import console as terminal

if TYPE_CHECKING:
    from harness.records import Analysis


@dataclass(frozen=True, slots=True)
class _Source:
    """A stretch of a server's log and what was served in it; usage empty for a log without its run."""

    shape: str
    log: Path
    between: tuple[datetime, datetime] | None
    usage: tuple[tuple[int, ...], ...]
    seconds: float | None


def _local(stamp_ns: int, anchors: Sequence[Sequence[int]]) -> datetime:
    """CLOCK_MONOTONIC of the run's machine as its local time, which vLLM's log stamps are in."""
    _, offset, _ = min(anchors, key=lambda a: abs(a[0] - stamp_ns))
    return datetime.fromtimestamp((stamp_ns + offset) / 1e9)  # noqa: DTZ006 (the log has no zone either)


def _of_runs(analysis: Analysis) -> list[_Source]:
    """The logs of runs."""
    from harness.judge.runs import run_paths
    from harness.store.manifest import read_manifest

    paths = run_paths(analysis)
    sources, without = [], analysis.directory
    for s in analysis.summaries:
        path = paths[s.run_id]
        drive = read_manifest(path).drive.get("measure")
        if drive is None or not (path / "server.log").exists():
            without = path
            continue
        between = tuple(_local(drive[k], drive["anchors"]) for k in ("started_ns", "ended_ns"))
        seconds = None if s.window is None else s.window.offered_s
        shape = f"{s.cell.workload} {s.cell.load.name}"
        sources.append(_Source(shape, path / "server.log", (between[0], between[1]), s.usage, seconds))
    if not sources:
        raise StoreError(
            "run has no server log", without, "only servers that the harness starts itself have one; or give the log"
        )
    return sources


def _of_file(path: Path) -> _Source:
    if not (exists(path) and path.is_file()):
        raise ConfigError("no such log or run directory", path, "a server.log, or the directory of a run or experiment")
    return _Source(path.stem, path, None, (), None)


def _black_box(analyses: Sequence[Analysis], usd_per_hour: Decimal) -> tuple[Any, Mapping[str, str]]:
    """The fit over shapes at their capacity (None where fewer than 5 have one), and what is left out with its reason."""
    from harness.judge.runs import searched
    from harness.planner.attribution.black_box import at_capacity, fit_shapes

    summaries = [s for analysis in analyses for s in analysis.summaries]
    known = at_capacity(summaries, usd_per_hour, searched([c for analysis in analyses for c in analysis.capacities]))
    return (fit_shapes(known.shapes) if len(known.shapes) >= 5 else None), known.left_out


@click.command("attribute")
@click.argument("sources", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--usd-per-hour", type=FloatRange(min=0), help="Price of the machine  [default: the run's, else 1.00]")
@click.option("--kv-cache-tokens", type=click.IntRange(min=1), help="Size of the KV cache, if the log does not say.")
@campaign_option
@as_json_option
def attribute(
    sources: tuple[Path, ...],
    usd_per_hour: float | None,
    kv_cache_tokens: int | None,
    campaign: str | None,
    as_json: bool,
) -> None:
    """Split a paid hour between input and output tokens: SOURCES are run or experiment directories, or server logs.

    The server must log its steps: flags enable-logging-iteration-details, and best no-async-scheduling.
    """
    from harness.judge.runs import analyse
    from harness.planner.attribution.split import Traffic, cached_share_of_kv, fit_steps, split_paid, step_shares
    from harness.planner.attribution.step_log import parse, together

    analyses = {path: analyse(path, campaign) for path in sources if exists(path) and path.is_dir()}
    stretches = [s for path in sources for s in (_of_runs(analyses[path]) if path in analyses else [_of_file(path)])]
    parts = []
    for s in stretches:
        with s.log.open(encoding="utf-8", errors="replace") as lines:
            parts.append(parse(lines, s.shape, kv_cache_tokens=kv_cache_tokens, between=s.between))
    steps = together(parts)
    fit = fit_steps(steps)
    usage = tuple(u for s in stretches for u in s.usage)
    shares = step_shares(fit, steps, cached_share_of_kv(usage))
    price = Decimal(repr(usd_per_hour)) if usd_per_hour is not None else _declared(list(analyses.values()))
    seconds = sum(s.seconds or 0.0 for s in stretches)
    splits = []
    if usage and seconds:  # what an hour at the runs' load serves
        hour = 3600 / seconds
        tokens = [sum(u[0] - u[1] for u in usage), sum(u[1] for u in usage), sum(u[2] for u in usage)]
        splits = [split_paid(price, s, Traffic(*(round(t * hour) for t in tokens))) for s in shares]
    shapes, left_out = _black_box(list(analyses.values()), price)
    if as_json:
        document = {"usd_per_hour": price, "fit": fit, "shares": shares, "splits": splits}
        emit({**document, "black_box": shapes, "black_box_left_out": left_out})
        return
    _render(terminal(), fit, shares, splits, shapes, left_out)
    if shapes is not None:
        mean = [shapes.input_share(u[0], u[2]) for u in usage]
        click.echo(
            f"input's share by the black box, mean over requests: {sum(mean) / len(mean):.1%}; by the steps: direct "
            f"{shares[0].input_share:.1%}, between {shares[1].input_share:.1%} and {shares[2].input_share:.1%}"
        )


def _declared(analyses: Sequence[Analysis]) -> Decimal:
    from harness.price.machine_price import declared_hardware

    for analysis in analyses:
        hardware = declared_hardware(analysis.summaries[0])
        if hardware is not None:
            return Decimal(hardware.usd_per_hour)
    return Decimal(1)


def _render(console: Console, fit: Any, shares: Any, splits: Any, shapes: Any, left_out: Mapping[str, str]) -> None:
    r2 = "not defined" if fit.r2 is None else f"{fit.r2:.4f}"
    click.echo(
        f"step regression over {fit.rows:,} rows ({fit.timed_by}), R^2 {r2}, {fit.unexplained:.1%} of the time unexplained:\n"
        f"  {fit.t0_s * 1e3:.3f} ms a step + {fit.prefill_s * 1e6:.2f} us a prefill token + {fit.decode_s * 1e6:.2f} us a decode "
        f"sequence + {fit.kv_s * 1e9:.2f} ns a KV token"
    )
    click.echo(
        "mean residual by decode sequences in a step: "
        + ", ".join(f"{k}: {v:+.1%}" for k, v in fit.residual_by_load.items())
    )
    if fit.left_out_error:
        click.echo(
            "each shape predicted from the others: "
            + ", ".join(f"{k}: {v:+.1%}" for k, v in fit.left_out_error.items())
        )
    table = Table(title="The split of one paid hour", title_justify="left")
    for name in (
        "convention",
        "input",
        "cached input",
        "output",
        "$/M input",
        "$/M cached",
        "$/M output",
        "output:input",
    ):
        table.add_column(name, justify="left" if name == "convention" else "right")
    for n, s in enumerate(shares):
        row = [s.convention, *(f"{v:.1%}" for v in (s.input_share, s.cached_share, s.output_share))]
        split = splits[n] if splits else None
        units = (None,) * 4 if split is None else (split.input_usd_per_million, split.cached_usd_per_million, split.output_usd_per_million, split.price_ratio)  # fmt: skip
        table.add_row(*row, *("-" if v is None else f"{v:.4g}" for v in units))
    console.print(table)
    if shapes is None:
        click.echo("black box over shapes: needs 6 or more input x output shapes whose capacity is known")
    else:
        click.echo(
            f"black box over {len(shapes.error)} shapes, each at its capacity: $/request = {shapes.alpha:.3g} i + {shapes.beta:.3g} o + {shapes.gamma:.3g} o (i + o/2) "
            f"+ {shapes.delta:.3g} i^2/2; left out: "
            + ", ".join(f"{k}: {v:+.0%}" for k, v in shapes.left_out_error.items())
        )
    for name, reason in left_out.items():
        click.echo(f"left out of the black box: {name}: {reason}")
    for warning in (*fit.warnings, *(shapes.warnings if shapes else ())):
        click.echo(f"warning: {warning}")
    click.echo(
        "A joint cost: every split is a convention; the two incremental ones bound them. They must never be added up."
    )
