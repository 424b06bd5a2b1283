"""`harness cost memory | instances`: what fits on which GPU, and the cheapest machines for a rate of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from harness.base import clock
from harness.base.errors import ConfigError
from harness.cli.numbers import Float, FloatRange
from harness.cli.results import as_json_option, at_option, emit, moment
from harness.cli.results import console as terminal

if TYPE_CHECKING:
    from harness.config.model.shape import ModelShape

GB = 10**9


def _pairs(words: Sequence[str], what: str) -> dict[str, str]:
    """NAME=NUMBER words; the number is checked where it is used."""
    pairs = {}
    for word in words:
        name, equals, value = word.rpartition("=")
        if not equals or not name:
            raise ConfigError(f"{what} is NAME=NUMBER", word, "e.g. aws/g5.12xlarge=3.2")
        pairs[name] = value
    return pairs


@click.command("memory")
@click.argument("model")
@click.option("--context", "context_tokens", type=int, help="Tokens of a sequence  [default: the model's longest]")
@click.option("--kv-dtype", default="auto", show_default=True)
@click.option("--weight-dtype", help="Another than the model's own: bfloat16, fp8, int4 ..")
@click.option("--gpu-memory-gb", type=Float(), help="Only this GPU (decimal GB), instead of all in the price table.")
@click.option("--tensor-parallel", type=int, default=1, show_default=True)
@click.option("--memory-share", type=Float(), default=0.9, show_default=True, help="vLLM's --gpu-memory-utilization.")
@click.option(
    "--kv-cache-gb", type=Float(), help="Predict the blocks that vLLM makes of this cache (decimal GB per GPU)."
)
@click.option("--block-tokens", type=int, default=16, show_default=True)
@as_json_option
def memory_command(
    model: str,
    context_tokens: int | None,
    kv_dtype: str,
    weight_dtype: str | None,
    gpu_memory_gb: float | None,
    tensor_parallel: int,
    memory_share: float,
    kv_cache_gb: float | None,
    block_tokens: int,
    as_json: bool,
) -> None:
    """Weights, KV cache per token and how many sequences fit. MODEL: a name of configs/models, or a config.json."""
    from harness.config.model import memory
    from harness.config.model.shape import load_model
    from harness.price.prices import instances

    shape = load_model(model)
    context = context_tokens or shape.max_tokens
    kv_token = memory.kv_bytes_per_token(shape, kv_dtype, tensor_parallel)
    room: dict[str, Any] = {
        "context_tokens": context,
        "tensor_parallel": tensor_parallel,
        "memory_share": memory_share,
        "kv_dtype": kv_dtype,
        "weight_dtype": weight_dtype,
        "block_tokens": block_tokens,
    }
    if gpu_memory_gb is not None:
        sizes = {f"{gpu_memory_gb:g} GB": gpu_memory_gb}
    else:
        rows = instances(clock.utc_now())
        known = {row.gpu_model: float(row.gpu_mem_gb_each) for row in rows if row.gpu_mem_gb_each is not None}
        sizes = dict(sorted(known.items(), key=lambda item: item[1]))
    fits: dict[str, Any] = {gpu: memory.fit(shape, gb * GB, **room) for gpu, gb in sizes.items()}
    blocks = None
    if kv_cache_gb is not None:
        blocks = memory.predict_kv_blocks(
            shape, int(kv_cache_gb * GB), block_tokens, kv_dtype, tensor_parallel=tensor_parallel, max_model_len=context
        )
    document: dict[str, Any] = {
        "model": shape.name,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "weight_bytes": memory.weight_bytes(shape, weight_dtype),
        "kv_bytes_per_token_per_gpu": kv_token,
        "sequence_kv_bytes_per_gpu": memory.sequence_kv_bytes(
            shape, context, kv_dtype=kv_dtype, tensor_parallel=tensor_parallel, block_tokens=block_tokens
        ),
        "fits": fits,
        "kv_blocks": blocks,
    }
    if as_json:
        emit({**document, **{k: v for k, v in room.items() if v is not None}})
        return
    _show_memory(shape, document, tensor_parallel, context)


def _show_memory(shape: ModelShape, document: Mapping[str, Any], tensor_parallel: int, context: int) -> None:
    """What `memory` found, as a sentence, a table of GPUs and a sentence on vLLM's blocks."""
    kv_token, blocks = document["kv_bytes_per_token_per_gpu"], document["kv_blocks"]
    click.echo(
        f"{shape.name}: weights {document['weight_bytes'] / GB:.1f} GB, KV cache {kv_token:,} bytes per token and GPU, "
        f"{document['sequence_kv_bytes_per_gpu'] / GB:.2f} GB for a sequence of {context:,} tokens"
        + (f" ({shape.window_layers} of {shape.layers} layers keep {shape.window:,} only)" if shape.window else "")
        + (
            f" ({shape.state_layers} of {shape.layers} layers keep a state, whatever its length)"
            if shape.state_layers
            else ""
        )
        + "."
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in (f"{tensor_parallel} x GPU", "for KV, GB", f"sequences of {context:,}", "KV tokens"):
        table.add_column(heading, justify="left" if "GPU" in heading else "right")
    for gpu, fit in document["fits"].items():
        row = (f"{fit.kv_per_gpu / GB:.1f}", f"{fit.sequences:,}", f"{fit.kv_tokens:,}")
        table.add_row(gpu, *(row if fit.kv_per_gpu else ("does not fit", "-", "-")))
    terminal().print(table)
    if blocks is not None:
        click.echo(
            f"vLLM makes {blocks.num_blocks:,} blocks of it: {blocks.size_tokens:,} tokens, {blocks.max_concurrency:.2f} sequences at once."
        )


@click.command("instances")
@click.option("--rps", required=True, type=Float(), help="Peak requests/s to serve.")
@click.option("--model", help="For memory fit and estimates: a name of configs/models, or a config.json.")
@click.option("--prompt-tokens", type=int, help="With --model: tokens of a request, for estimates.")
@click.option("--output-tokens", type=int)
@click.option("--tpot-ms", type=Float(), help="Longest mean time per output token, for estimates.")
@click.option("--kv-dtype", default="auto", show_default=True)
@click.option("--weight-dtype")
@click.option(
    "--measured", multiple=True, metavar="NAME=RPS", help="Measured requests/s of a whole instance at the SLO."
)
@click.option(
    "--commitment", multiple=True, metavar="NAME=USD", help="A committed price per hour that you were offered."
)
@click.option("--spot", is_flag=True, help="Spot too, in mixes, above the steady share.")
@click.option("--interruptions-per-hour", type=FloatRange(0, 1_000_000), default=0.05, show_default=True)
@click.option("--lost-hours", type=FloatRange(0, 1_000_000), default=0.25, show_default=True)
@click.option(
    "--steady", type=Float(), default=0.5, show_default=True, help="Share of the rate that spot may not carry."
)
@click.option("--provider")
@click.option("--headroom", type=Float(), default=0.7, show_default=True)
@click.option("--spares", type=int, default=1, show_default=True, help="Machines of the largest type that may be lost.")
@click.option("--at-most", multiple=True, metavar="NAME=N", help="How many of an instance are to be had.")
@click.option("--top", type=click.IntRange(min=1), default=8, show_default=True)
@at_option
@as_json_option
def instances_command(
    rps: float,
    model: str | None,
    prompt_tokens: int | None,
    output_tokens: int | None,
    tpot_ms: float | None,
    kv_dtype: str,
    weight_dtype: str | None,
    measured: tuple[str, ...],
    commitment: tuple[str, ...],
    spot: bool,
    interruptions_per_hour: float,
    lost_hours: float,
    steady: float,
    provider: str | None,
    headroom: float,
    spares: int,
    at_most: tuple[str, ...],
    top: int,
    at: datetime | None,
    as_json: bool,
) -> None:
    """The cheapest fleet from the price table: measured capacities where there are some, marked estimates elsewhere."""
    from harness.base.quantities import whole
    from harness.config.model.shape import load_model
    from harness.planner import instances
    from harness.planner.roofline import Shape
    from harness.price.prices import instances as price_table

    shape = None
    if model is not None:
        if prompt_tokens is None or output_tokens is None:
            raise ConfigError("estimates need the shape of a request", model, "add --prompt-tokens and --output-tokens")
        shape = Shape(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            tpot_s=None if tpot_ms is None else tpot_ms / 1000,
            kv_dtype=kv_dtype,
            weight_dtype=weight_dtype,
        )
    options, rejected = instances.candidates(
        measured=_pairs(measured, "--measured"),
        model=None if model is None else load_model(model),
        shape=shape,
        spot=instances.Spot(interruptions_per_hour=interruptions_per_hour, lost_hours=lost_hours) if spot else None,
        commitments=_pairs(commitment, "--commitment"),
        provider=provider,
        table=price_table(priced_at := moment(at)),
    )
    if not options:
        raise ConfigError(
            "no machine can serve this", f"{len(rejected)} left out", "give --measured or another --model"
        )
    limits = {name: whole(n, f"--at-most {name}") for name, n in _pairs(at_most, "--at-most").items()}
    singles = instances.single_type(options, rps, headroom=headroom, spares=spares, at_most=limits)
    mix = instances.cheapest_mix(options, rps, headroom=headroom, spares=spares, steady=steady, at_most=limits)
    if as_json:
        emit(
            {
                "single_type": singles[:top],
                "mix": mix,
                "left_out": rejected,
                "warnings": _stale(mix, singles[:top], priced_at),
            }
        )
        return
    _print_choices(mix, singles[:top], rps, priced_at)
    click.echo(f"{len(rejected)} rows of the price table are left out; --json gives each one's reason.")


def _stale(mix: Any, singles: Any, at: datetime) -> list[str]:
    """Prices of the fleets shown that want looking up again."""
    from harness.price.prices import staleness

    shown = [c for choice in (mix, *singles) for c, _ in choice.machines]
    warnings = [
        staleness(f"{c.name} ({c.purchase})", c.as_of, at, c.stale_after_days) for c in shown if c.as_of != "given"
    ]
    return list(dict.fromkeys(warning for warning in warnings if warning is not None))


def _print_choices(mix: Any, singles: Any, rps: float, at: datetime) -> None:
    from harness.price.prices import age_words

    guessed = any(c.basis == "estimate" for c, _ in mix.machines)
    names = " + ".join(f"{n} x {c.name} ({c.purchase})" for c, n in mix.machines)
    click.echo(
        f"Cheapest for {rps:g} requests/s: {names}, ${mix.usd_per_hour:.4g}/h, ${mix.usd_per_month:,.0f}/month."
        + (" Its capacity is an ESTIMATE nobody measured: measure it before you sign." if guessed else "")
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("n", "instance", "rps each", "$/h", "$/1k req", "used", "price of"):
        table.add_column(heading, justify="left" if heading == "instance" else "right", no_wrap=True)
    for choice in singles:
        for c, n in choice.machines:
            mark = "~" if c.basis == "estimate" else ""
            kind = "" if c.purchase == "on-demand" else f" ({c.purchase})"
            row = (f"{mark}{c.rps:.3g}", f"{choice.usd_per_hour:.2f}", f"{choice.usd_per_1000_requests:.4f}")
            table.add_row(
                str(n),
                c.name + kind,
                *row,
                f"{choice.utilisation:.0%}",
                "given" if c.as_of == "given" else f"{c.as_of}, {age_words(c.as_of, at, c.stale_after_days)}",
            )
    terminal().print(table)
    for warning in _stale(mix, (), at):
        click.echo(f"warning: {warning}")
    if any(c.basis == "estimate" for choice in singles for c, _ in choice.machines):
        click.echo("~ a roofline estimate, not a measurement: harness run measures one.")
