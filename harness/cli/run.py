"""`harness run` and `harness plan`: the online half."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import click

from harness import clock
from harness.cli.offline import declared_on_command_line, finish, price_ref
from harness.config import ExperimentSpec, load_experiment, parse_experiment
from harness.errors import ConfigError

INTERRUPTED = 130


def _shape_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The words that `run` and `plan` share."""
    for option in reversed(
        (
            click.argument("config", required=False, type=click.Path(path_type=Path)),
            click.option("--url", help="An OpenAI-compatible server that is already running: http://HOST:PORT/v1"),
            click.option("--model", help="Model name at the URL; with CONFIG, replaces the config's model."),
            click.option(
                "--workload",
                help="Preset, preset or trace file, fixed:PROMPTxOUTPUT or uniform:LO-HIxLO-HI.",
            ),
            click.option("--concurrency", type=click.IntRange(min=1), help="Closed loop with N requests in flight."),
            click.option(
                "--rate", type=click.FloatRange(min=0, min_open=True), help="Open loop at R requests a second."
            ),
            click.option(
                "--arrivals",
                default="poisson",
                show_default=True,
                help="poisson, constant, gamma:SHAPE, onoff:ON_S:OFF_S, diurnal:NAME, ramp, step:A,B,.., trace[:SPEEDUP], "
                "batch or preset (the last three need no --rate).",
            ),
            click.option(
                "--from", "from_s", type=click.FloatRange(min=0), help="Trace: leave out what is before SECONDS."
            ),
            click.option("--to", "to_s", type=click.FloatRange(min=0, min_open=True), help="Trace: stop at SECONDS."),
            click.option("--limit", type=click.IntRange(min=1), help="Trace: keep N rows at most."),
            click.option(
                "--sample",
                type=click.FloatRange(min=0, max=1, min_open=True),
                help="Trace: keep this share of the sessions, whole.",
            ),
            click.option("--skip-bad", is_flag=True, help="Trace: count bad rows instead of stopping at the first."),
            click.option(
                "--over-context",
                type=click.Choice(["drop", "truncate"]),
                help="Trace: what becomes of rows above --context-limit  [default: drop]",
            ),
            click.option("--requests", type=click.IntRange(min=1), help="How many requests to measure."),
            click.option(
                "--duration", "duration_s", type=click.FloatRange(min=0, min_open=True), help="Seconds of sending."
            ),
            click.option("--seed", type=click.IntRange(min=0), help="Seed of the plan  [default: 1, or the config's]"),
            click.option(
                "--warmup", type=click.IntRange(min=0), help="Warm-up requests  [default: 4, or the config's]"
            ),
            click.option(
                "--context-limit", type=click.IntRange(min=2), help="Redraw requests longer than this many tokens."
            ),
            click.option("--api", type=click.Choice(["completions", "chat"]), default="completions", show_default=True),
            click.option(
                "--kind",
                type=click.Choice(["adopt", "hosted"]),
                help="[default: hosted with --api-key-env, else adopt]",
            ),
            click.option("--api-key-env", help="Environment variable that holds the API key."),
            click.option("--ca-file", type=click.Path(exists=True), help="Certificates to trust besides the system's."),
            click.option("--driver", type=click.Choice(["wire", "sdk"]), help="[default: wire, or the config's]"),
            click.option("--workers", type=click.IntRange(min=1), help="Load-generator processes  [default: 1]"),
            click.option(
                "--usd-per-hour", type=click.FloatRange(min=0), help="Price of the measured machine, per paid hour."
            ),
            click.option(
                "--utilisation", type=click.FloatRange(min=0, max=1, min_open=True), help="Served load / paid capacity."
            ),
            click.option(
                "--hosted-price", multiple=True, metavar="PROVIDER/MODEL", help="Price the same tokens there too."
            ),
        )
    ):
        command = option(command)
    return command


_TRACE_WORDS = {  # workload option -> parameter of the command
    "from": "from_s",
    "to": "to_s",
    "limit": "limit",
    "sample": "sample",
    "skip_bad": "skip_bad",
    "context": "over_context",
}


def _spec(words: dict[str, Any]) -> ExperimentSpec:
    """The experiment that the words of `run` or `plan` describe."""
    config: Path | None = words["config"]
    if config and (given := [key for key, word in _TRACE_WORDS.items() if words[word]]):
        advice = "write the workload as FILE?from=60&to=120&limit=1000"
        raise ConfigError("a config's traces are sliced in the config", ", ".join(given), advice)
    spec = load_experiment(config) if config else _ad_hoc(words)
    changes: dict[str, Any] = {
        key: words[word]
        for key, word in (
            ("seed", "seed"),
            ("warmup_requests", "warmup"),
            ("driver", "driver"),
            ("workers", "workers"),
            ("context_limit_tokens", "context_limit"),
        )
        if words[word] is not None
    }
    data = spec.model_dump(mode="json") | changes
    if config:
        for target in data["targets"]:
            if words["model"]:
                target["model"] = words["model"]
            if words["url"]:
                target |= {"kind": "adopt", "url": words["url"], "flags": {}, "env": {}, "port": None}
                target["model"] = words["model"] or target["model"].removeprefix("embedded:")
    if words["usd_per_hour"] is not None:
        hardware = declared_on_command_line(words["usd_per_hour"])
        for target in data["targets"]:
            target["hardware"] = {**asdict(hardware), "usd_per_hour": words["usd_per_hour"]}
    if words["utilisation"] is not None:
        data["cost"]["utilisation"] = words["utilisation"]
    if words["hosted_price"]:
        data["cost"]["hosted"] = [price_ref(text).model_dump(mode="json") for text in words["hosted_price"]]
    return parse_experiment(data, str(config or "command line"))


def _ad_hoc(words: dict[str, Any]) -> ExperimentSpec:
    """One target, one workload, one load, from the command line alone."""
    from harness.plan import with_options

    if not words["workload"]:
        raise ConfigError(
            "no workload",
            "neither CONFIG nor --workload was given",
            "e.g. --workload fixed:128x32 --concurrency 4 --requests 32",
        )
    process = words["arrivals"].partition(":")[0]
    timed = process in ("trace", "batch", "preset") and words["concurrency"] is None
    if (words["concurrency"] is None) == (words["rate"] is None) and not timed:
        raise ConfigError(
            "a load is either closed or open",
            "give exactly one of --concurrency and --rate",
            "e.g. --concurrency 8 --requests 64, or --rate 2 --duration 60",
        )
    if (words["requests"] is None) == (words["duration_s"] is None) and not (
        process == "trace" and words["requests"] is None
    ):
        raise ConfigError(
            "how much to send is not clear",
            "give exactly one of --requests and --duration",
            "e.g. --requests 64, or --duration 60",
        )
    kind = words["kind"] or ("hosted" if words["api_key_env"] else "adopt")
    load = {"arrivals": words["arrivals"], "requests": words["requests"], "duration_s": words["duration_s"]}
    if words["concurrency"] or words["rate"]:
        load |= {"concurrency": [words["concurrency"]]} if words["concurrency"] else {"rate": [words["rate"]]}
    target = {
        "name": "url",
        "kind": kind,
        "url": words["url"] or "http://127.0.0.1:8000/v1",
        "model": words["model"] or "default",
    }
    target |= {"api": words["api"], "api_key_env": words["api_key_env"], "ca_file": words["ca_file"]}
    workload = with_options(words["workload"], {key: words[word] for key, word in _TRACE_WORDS.items()})
    data = {"experiment": "adhoc", "targets": [target], "workloads": [workload], "loads": [load]}
    return parse_experiment(data, "command line")


@contextmanager
def _signals(stop: Any) -> Iterator[None]:
    """Ctrl-C once drains, twice (or SIGTERM) aborts; outside a measurement it ends at once. Cleaning up is not interrupted."""

    def handle(signum: int, _frame: FrameType | None) -> None:
        first = stop.asked == 0
        stop.request()
        if signum == signal.SIGTERM:
            stop.request()
        if (first and not stop.driving) or stop.asked > 2:
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, signal.SIG_IGN)
            raise KeyboardInterrupt
        click.echo("draining: Ctrl-C again aborts" if stop.asked == 1 else "aborting", err=True)

    before = {name: signal.signal(name, handle) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@click.command()
@_shape_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run directory (with --url), or experiment directory (with CONFIG)."
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Where experiment directories stand.",
)
@click.option("--allow-invalid", is_flag=True, help="Price INVALID runs too; every page then says so.")
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on stdout.")
def run(out: Path | None, results: Path, allow_invalid: bool, as_json: bool, **words: Any) -> int:
    """Run an experiment: CONFIG, or one cell against --url."""
    from harness import pipeline
    from harness.report.live import Live

    if words["config"] is None and not words["url"]:
        raise ConfigError(
            "nothing to run", "neither CONFIG nor --url was given", "harness run configs/experiments/quickstart.yaml"
        )
    spec = _spec(words)
    single = words["config"] is None
    directory = out or (
        results / spec.experiment / f"{clock.utc_stamp()}_adhoc" if single else results / spec.experiment
    )
    stop = pipeline.Stop()
    with _signals(stop):  # the report too: a second Ctrl-C that comes after a quick drain must not lose it
        with Live() as live:
            done = pipeline.run_experiment(spec, directory, live, stop, single_run=single)
        campaign = done[-1].name.split("_", 1)[0] if done and not single else None
        code = finish(directory, campaign, allow_invalid=allow_invalid, as_json=as_json) if done else 0
    return INTERRUPTED if stop.asked else code


@click.command("plan")
@_shape_options
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

    spec = _spec(words)
    written = pipeline.write_plans(spec, out)
    if as_json:
        click.echo(json.dumps(written, indent=2))
        return
    for row in written:
        click.echo(f"{row['path']}: {row['requests']} requests, sha256 {row['sha256']}")
        for note in row["notes"]:
            click.echo(f"  {note}")
