"""The words that `run` and `plan` share, and the experiment that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.base.documents import exists
from harness.base.errors import ConfigError
from harness.cli.machine_price import price_options, set_price
from harness.cli.numbers import FloatRange
from harness.cli.results import price_ref

if TYPE_CHECKING:
    from harness.cli.quickstart import Choice
    from harness.config.experiment import ExperimentSpec, SloSpec
    from harness.config.share import ShareSpec


_WHAT = (
    click.argument("config", required=False, type=click.Path(path_type=Path)),
    click.option("--url", help="An OpenAI-compatible server that is already running: http://HOST:PORT/v1"),
    click.option(
        "--preset", help="A hosted API by its preset's name or file (harness targets list), in place of --url."
    ),
    click.option("--model", help="Model name at the URL; with CONFIG, replaces the config's model."),
    click.option(
        "--workload",
        help="Preset, preset or trace file, fixed:PROMPTxOUTPUT or uniform:LO-HIxLO-HI. Of a trace, what part: "
        "FILE?from=S&to=S&limit=ROWS&sample=SHARE&skip_bad=1&context=drop|truncate.",
    ),
    click.option("--concurrency", type=click.IntRange(min=1), help="Closed loop with N requests in flight."),
    click.option("--rate", type=FloatRange(min=0, min_open=True), help="Open loop at R requests a second."),
    click.option(
        "--arrivals",
        default="poisson",
        show_default=True,
        help="poisson, constant, gamma:SHAPE, onoff:ON_S:OFF_S, diurnal:NAME, ramp, step:A,B,.., trace[:SPEEDUP], "
        "batch or preset (the last three need no --rate).",
    ),
)
_TRACE = (  # the same words as in FILE?from=60&to=120, which is what help shows
    click.option("--from", "from_s", type=FloatRange(min=0), hidden=True),
    click.option("--to", "to_s", type=FloatRange(min=0, min_open=True), hidden=True),
    click.option("--limit", type=click.IntRange(min=1), hidden=True),
    click.option("--sample", type=FloatRange(min=0, max=1, min_open=True), hidden=True),
    click.option("--skip-bad", is_flag=True, hidden=True),
    click.option("--over-context", type=click.Choice(["drop", "truncate"]), hidden=True),
)
_SIZE = (
    click.option("--requests", type=click.IntRange(min=1), help="How many requests to measure."),
    click.option("--duration", "duration_s", type=FloatRange(min=0, min_open=True), help="Seconds of sending."),
    click.option("--seed", type=click.IntRange(min=0), help="Seed of the plan  [default: 1, or the config's]"),
    click.option(
        "--warmup",
        type=click.IntRange(min=0),
        help="Warm-up requests at least; a vLLM server gets 2 a slot and more  [default: 4, or the config's]",
    ),
    click.option("--context-limit", type=click.IntRange(min=2), help="Redraw requests longer than this many tokens."),
    click.option(
        "--share",
        metavar="INDEX/SHARES",
        help="With --url: send this share of the plan, as one of several load generators without Ray: 0/8 to 7/8.",
    ),
    click.option("--start-at", metavar="UTC", help="With --share: begin to send then, e.g. 2026-11-27T01:30:00Z."),
)
_HOW = (
    click.option(
        "--api",
        type=click.Choice(["completions", "chat", "responses", "messages"]),
        help="[default: completions, or the preset's]",
    ),
    click.option(
        "--body",
        type=click.Choice(["exact", "plain"]),
        help="plain: text prompts, no min_tokens, usage only at the end, as other tools ask a vLLM server "
        "[default: exact, or the config's]",
    ),
    click.option(
        "--kind",
        type=click.Choice(["adopt", "hosted"]),
        help="[default: hosted with --preset or a key, else adopt]",
    ),
    click.option("--api-key-env", help="Environment variable that holds the API key."),
    click.option("--api-key-file", help="File with the key alone, which nobody else may read."),
    click.option("--ca-file", type=click.Path(exists=True), help="Certificates to trust besides the system's."),
    click.option("--driver", type=click.Choice(["wire", "sdk"]), help="[default: wire, or the config's]"),
    click.option("--workers", type=click.IntRange(min=1), help="Load-generator processes  [default: 1]"),
    click.option(
        "--slo",
        metavar="METRIC=SECONDS,..",
        help="The promise: ttft_from_schedule_s=0.5,tpot_s=0.05,attainment=0.99; replaces the config's.",
    ),
    price_options,
    click.option("--utilisation", type=FloatRange(min=0, max=1, min_open=True), help="Served load / paid capacity."),
    click.option("--hosted-price", multiple=True, metavar="PROVIDER/MODEL", help="Price the same tokens there too."),
)


def shape_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The words that `run` and `plan` share."""
    for option in reversed((*_WHAT, *_TRACE, *_SIZE, *_HOW)):
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


def parse_slo(text: str) -> SloSpec:
    """`ttft_from_schedule_s=0.5,tpot_s=0.05,attainment=0.99` -> the promise. Raises ConfigError."""
    from pydantic import ValidationError

    from harness.base.bounds import config_error
    from harness.config.experiment import SloSpec

    example = "e.g. ttft_from_schedule_s=0.5,tpot_s=0.05,attainment=0.99"
    given: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name in given:
            raise ConfigError("--slo: twice the same key" if equals else "--slo: not KEY=SECONDS", part, example)
        try:
            given[name] = float(value)
        except ValueError:
            raise ConfigError("--slo: not a number", part, f"seconds, or a share for attainment, {example}") from None
    try:
        slo = SloSpec.model_validate(given)
    except ValidationError as error:
        raise config_error("--slo", error, SloSpec) from None
    if not slo.limits:
        raise ConfigError(
            "--slo: a promise needs a limit", text, f"one of {', '.join(SloSpec.model_fields)}, {example}"
        )
    return slo


def _say(text: str) -> None:
    click.echo(text, err=True)


_NOT_OURS: dict[str, Any] = {  # what a config says of a server that we would start, or of this machine's boards
    "flags": {}, "env": {}, "port": None, "python": None, "image": None, "container": None, "gpus": [],
}  # fmt: skip


def spec_of(words: dict[str, Any]) -> ExperimentSpec:
    """The experiment that the words of `run` or `plan` describe."""
    from harness.config.experiment import load_experiment, parse_experiment

    config: Path | None = words["config"]
    if config and (given := [key for key, word in _TRACE_WORDS.items() if words[word]]):
        advice = "write the workload as FILE?from=60&to=120&limit=1000"
        raise ConfigError("a config's traces are sliced in the config", ", ".join(given), advice)
    if config and (given := [word for word in ("preset", "api_key_file") if words[word]]):
        raise ConfigError(
            "a config says itself where its targets are", f"--{given[0].replace('_', '-')}", "write it into the config"
        )
    choice = _chosen(config, words) if config else None
    spec = load_experiment(choice.config) if choice else _ad_hoc(words)
    changes: dict[str, Any] = {
        key: words[word]
        for key, word in (
            ("seed", "seed"),
            ("warmup_requests", "warmup"),
            ("driver", "driver"),
            ("workers", "workers"),
            ("context_limit_tokens", "context_limit"),
            ("repetitions", "repetitions"),
            ("max_hours", "max_hours"),
        )
        if words.get(word) is not None
    }
    data = spec.model_dump(mode="json") | changes
    if generators := {key: words[key] for key in ("on", "nodes") if words.get(key) is not None}:
        data["load_generators"] = data.get("load_generators", {}) | generators
    if choice:
        for target in data["targets"]:
            priced = (target.get("price") or {}).get("model")
            if choice.model and priced and target["model"].endswith(priced):  # the price of the model, not another's
                target["price"]["model"] = choice.model.removeprefix(target["model"].removesuffix(priced))
            target["model"] = choice.model or target["model"]
            target["flags"] |= choice.flags
            if words["url"]:
                target |= {"kind": "adopt", "url": words["url"], **_NOT_OURS}
                target["model"] = words["model"] or target["model"].removeprefix("embedded:")
    if words.get("body") is not None:
        for target in data["targets"]:
            if not choice or target["kind"] in ("vllm", "adopt"):
                target["body"] = words["body"]
    if words["share"] is not None or words["start_at"] is not None:
        data["share"] = _share(words).model_dump(mode="json")
    set_price(data, words, _say)
    if words["slo"] is not None:
        data["slo"] = parse_slo(words["slo"]).model_dump(mode="json")
    if words["utilisation"] is not None:
        data["cost"]["utilisation"] = words["utilisation"]
    if words["hosted_price"]:
        data["cost"]["hosted"] = [price_ref(text).model_dump(mode="json") for text in words["hosted_price"]]
    return parse_experiment(data, str(config or "command line"))


def _share(words: Mapping[str, Any]) -> ShareSpec:
    """The share of --share and --start-at. Raises ConfigError: also for a price, since the server's hours are not the share's."""
    from harness.config.share import parse_share

    if words["share"] is None:
        raise ConfigError(
            "--start-at goes with --share", words["start_at"], "add --share INDEX/SHARES, or leave it out"
        )
    if words["config"] is not None:
        raise ConfigError(
            "a share is of one cell", str(words["config"]), "give --url, --workload and a load in its place"
        )
    if words["usd_per_hour"] is not None or words["instance"] is not None:
        raise ConfigError(
            "a share has no price: the machine's hours are those of all shares",
            f"--share {words['share']} with --usd-per-hour or --instance",
            "leave the price out",
        )
    return parse_share(words["share"], words["start_at"])


def _chosen(config: Path, words: Mapping[str, Any]) -> Choice:
    """The experiment that CONFIG means: a file, the name of one that comes with the harness, or `quickstart`, chosen for this machine.

    Raises ConfigError for a name that is none."""
    from harness.base.errors import nearest
    from harness.cli import quickstart

    named = not config.suffix and len(config.parts) == 1 and not (exists(config) and config.is_file())
    if named and config.name == quickstart.NAME:
        priced = words["usd_per_hour"] is not None or words["instance"] is not None
        choice = quickstart.choose(words["url"], words["model"], priced=priced)
        for note in choice.notes:
            _say(f"note: {note}")
        return choice
    if not named:
        return quickstart.Choice(config, words["model"])
    known = {path.stem: path for path in quickstart.experiment(quickstart.NAME).parent.glob("*.yaml")}
    if config.name not in known:
        have = f"give a file, or one of {', '.join(sorted(known))}"
        raise ConfigError("no such experiment, and no such file", config.name, nearest(config.name, known, have))
    return quickstart.Choice(known[config.name], words["model"])


def _ad_hoc(words: dict[str, Any]) -> ExperimentSpec:
    """One target, one workload, one load, from the command line alone."""
    from harness.config.experiment import parse_experiment
    from harness.measure.plan.workload import with_options

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
    load = {"arrivals": words["arrivals"], "requests": words["requests"], "duration_s": words["duration_s"]}
    if words["concurrency"] or words["rate"]:
        load |= {"concurrency": [words["concurrency"]]} if words["concurrency"] else {"rate": [words["rate"]]}
    workload = with_options(words["workload"], {key: words[word] for key, word in _TRACE_WORDS.items()})
    data = {"experiment": "adhoc", "targets": [_target(words)], "workloads": [workload], "loads": [load]}
    return parse_experiment(data, "command line")


def _target(words: dict[str, Any]) -> dict[str, Any]:
    """The one target of the command line. Raises ConfigError for a preset without a model."""
    key = {word: words[word] for word in ("api_key_env", "api_key_file") if words[word]}
    given = {word: words[word] for word in ("api", "kind", "url", "ca_file") if words[word]} | key
    if words["preset"]:
        if not words["model"]:
            raise ConfigError("a preset is of an API, not of a model", words["preset"], "add --model NAME")
        return {"name": "url", "preset": words["preset"], "model": words["model"]} | given
    usual = {
        "kind": "hosted" if key else "adopt",
        "url": "http://127.0.0.1:8000/v1",
        "model": words["model"] or "default",
    }
    return {"name": "url"} | usual | given
