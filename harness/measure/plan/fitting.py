"""A user's own log -> a preset of quantiles that can be shared, and how well it reproduces the log.

Nothing of the log but quantiles, counts and a rate goes into the preset: no text, no names, no times of single requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import Burstiness, arrivals, burstiness
from harness.measure.plan.drafts import MEASURED, Draft, of_lengths
from harness.measure.plan.lengths import Joint
from harness.measure.plan.prefixes import reuse
from harness.measure.plan.preset import Preset
from harness.measure.plan.streams import F64, I64
from harness.measure.plan.traces.reading import Trace, read_trace, spread_ticks
from harness.measure.plan.workload import read_workload

PROMPT_LEVELS = (
    *(0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85),
    *(0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0),
)
OUTPUT_LEVELS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_BIN_ROWS = 100  # a bin of the prompt's rank holds at least so many rows
_LEAST_ROWS = 20
_RATE_BINS = (20, 8_640)  # of 10 s: at least, at most (a day)
_TAIL_POWERS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
_MOST_DRAWN = 100_000
_COUPLING_ROWS, _COUPLING_STEPS = 10_000, 9


@dataclass(frozen=True, slots=True)
class Reproduction:
    """How a sample of the preset compares with the log. KS: greatest distance of the two distribution functions; rank
    correlation: Spearman's, of prompt and output; burstiness None where the log has no times."""

    rows: int
    drawn: int
    prompt_ks: float
    output_ks: float
    log_rank_correlation: float
    rank_correlation: float
    log_mean_tokens: tuple[float, float]
    mean_tokens: tuple[float, float]
    log_burstiness: Burstiness | None
    burstiness: Burstiness | None


def fit(
    log: str, *, name: str, licence: str, cite: str | None = None, seed: int = 1
) -> tuple[dict[str, Any], Reproduction]:
    """(preset as plain YAML values, how well it reproduces the log). `log`: a trace file, with options after a `?`.

    Raises ConfigError for a file that is no trace, or with fewer than 20 rows.
    """
    source = read_workload(log)
    if source.trace is None:
        raise ConfigError(
            "only a trace file can be fitted",
            log,
            "give a CSV, JSONL or Parquet file with prompt and output tokens, or a vLLM server's log",
        )
    trace = read_trace(source.trace, source.options, seed=seed, wanted=None, context_limit_tokens=None)
    if len(trace.prompt) < _LEAST_ROWS:
        raise ConfigError("too few rows to fit", f"{len(trace.prompt)} rows", f"at least {_LEAST_ROWS} are needed")
    data: dict[str, Any] = {
        "description": f"{name}: quantiles of {len(trace.prompt):,} requests",
        **_tables(trace.prompt, trace.output),
        "check": _check(trace.prompt, trace.output),
    }
    if bound := [note.removeprefix("trace: ") for note in trace.notes if "max_tokens" in note]:
        data["assumptions"] = bound[0]
    if trace.pairs is not None and trace.layout.block_tokens is not None:
        data["prefix"] = _prefix(trace, source.options.block or trace.layout.block_tokens)
    times = None if trace.time_ns is None else spread_ticks(trace, seed)[0]
    data["arrivals"] = {"note": "no times in the log"} if times is None else _arrivals(times)
    data["source"] = {"name": name, "repository": "own log", "licence": licence} | ({"cite": cite} if cite else {})
    preset, draft = _best_tail(data, trace, seed)
    if preset.prefix is not None:
        data["prefix"]["rank_coupling"] = _coupled(preset, seed)
    return data, _compare(trace, times, draft, preset, seed)


def _tables(prompt: I64, output: I64) -> dict[str, Any]:
    order = np.argsort(prompt, kind="stable")
    bins = max(1, min(10, len(prompt) // _BIN_ROWS))
    edges = [round(i / bins, 6) for i in range(bins + 1)]
    parts = np.array_split(output[order], bins)
    return {
        "prompt_quantile_levels": list(PROMPT_LEVELS),
        "prompt_tokens": _quantiles(prompt, PROMPT_LEVELS),
        "output_given_prompt_quantile_levels": list(OUTPUT_LEVELS),
        "output_tail_power": 1.0,
        "output_tokens_by_prompt_bin": [
            {"prompt_rank": [low, high], "output_tokens": _quantiles(part, OUTPUT_LEVELS)}
            for low, high, part in zip(edges, edges[1:], parts, strict=False)
        ],
    }


def _quantiles(tokens: I64, levels: tuple[float, ...]) -> list[int]:
    tokens_at: list[int] = np.quantile(tokens, levels, method="inverted_cdf").astype(np.int64).tolist()
    return tokens_at


def _check(prompt: I64, output: I64) -> dict[str, Any]:
    return {
        "rows": len(prompt),
        "prompt_mean": round(float(prompt.mean()), 1),
        "output_mean": round(float(output.mean()), 1),
        "prompt_p50_p90_p99": _quantiles(prompt, (0.5, 0.9, 0.99)),
        "output_p50_p90_p99": _quantiles(output, (0.5, 0.9, 0.99)),
    }


def _prefix(trace: Trace, block_tokens: int) -> dict[str, Any]:
    """Cached share of each prompt as quantiles; how it depends on the prompt's length is left to `_coupled`."""
    shared = np.array([sum(pairs[1::2]) for pairs in trace.pairs or ()])
    return {
        "block_tokens": block_tokens,
        "token_hit_ratio_unlimited_cache": round(float(shared.sum() / trace.prompt.sum()), 3),
        "cached_fraction_quantile_levels": list(OUTPUT_LEVELS),
        "cached_fraction": [round(float(q), 3) for q in np.quantile(shared / trace.prompt, OUTPUT_LEVELS)],
    }


def _coupled(preset: Preset, seed: int) -> float:
    """The `rank_coupling` with which prompts drawn from the preset share what the log's did, by bisection: the more the
    long prompts have the large shares, the more tokens are shared."""
    assert preset.prefix is not None
    lengths = preset.lengths()
    assert isinstance(lengths, Joint)
    draft = of_lengths(lengths, seed, _COUPLING_ROWS, None, MEASURED)
    assert draft.rank is not None
    low, high = -1.0, 1.0
    for _ in range(_COUPLING_STEPS):
        middle = (low + high) / 2
        spec = preset.prefix.model_copy(update={"rank_coupling": middle})
        shared = sum(sum(pairs[1::2]) for pairs in reuse(spec, draft.prompt, draft.rank, seed))
        if shared / int(draft.prompt.sum()) < spec.token_hit_ratio_unlimited_cache:
            low = middle
        else:
            high = middle
    return round((low + high) / 2, 3)


def _arrivals(times: I64) -> dict[str, Any]:
    bursts = burstiness(times)
    if bursts.mean_rate_rps is None or bursts.gap_cv is None:
        return {"process": "batch", "note": "all requests of the log have one time"}
    spec: dict[str, Any] = {
        "process": "poisson",
        "mean_rate_rps": float(f"{bursts.mean_rate_rps:.6g}"),
        "interarrival_cv": round(bursts.gap_cv, 3),
    }
    bins = np.bincount((times - times[0]) // 10_000_000_000)[:-1]  # the last bin is not whole
    if len(bins) >= _RATE_BINS[0]:
        spec["requests_per_10s_bin"] = bins[: _RATE_BINS[1]].tolist()
        if len(bins) > _RATE_BINS[1]:
            spec["note"] = "the bins are those of the log's first day"
    return spec


def _best_tail(data: dict[str, Any], trace: Trace, seed: int) -> tuple[Preset, Draft]:
    """Sets `output_tail_power` to the one whose sample comes nearest to the log's mean and p99 of the output."""
    best: tuple[float, float, Draft] | None = None
    wanted = float(trace.output.mean()), float(np.quantile(trace.output, 0.99))
    for power in _TAIL_POWERS:
        lengths = Preset.model_validate(data | {"output_tail_power": power}).lengths()
        assert isinstance(lengths, Joint)
        draft = of_lengths(lengths, seed, min(len(trace.prompt), _MOST_DRAWN), None, MEASURED)
        moments = float(draft.output.mean()), float(np.quantile(draft.output, 0.99))
        error = sum(abs(a / b - 1) for a, b in zip(moments, wanted, strict=True))
        if best is None or error < best[0]:
            best = error, power, draft
    assert best is not None
    data["output_tail_power"] = best[1]
    return Preset.model_validate(data), best[2]


def _compare(trace: Trace, times: I64 | None, draft: Draft, preset: Preset, seed: int) -> Reproduction:
    planned = None
    if times is not None and (rate := preset.arrivals.mean_rate_rps) is not None:
        planned = burstiness(arrivals(preset.process(), rate, seed, min(len(times), 1_000_000), None))
    return Reproduction(
        len(trace.prompt),
        len(draft.prompt),
        ks_distance(trace.prompt, draft.prompt),
        ks_distance(trace.output, draft.output),
        rank_correlation(trace.prompt, trace.output),
        rank_correlation(draft.prompt, draft.output),
        (float(trace.prompt.mean()), float(trace.output.mean())),
        (float(draft.prompt.mean()), float(draft.output.mean())),
        None if times is None else burstiness(times),
        planned,
    )


def ks_distance(one: I64, other: I64) -> float:
    """Two-sample Kolmogorov-Smirnov statistic."""
    places = np.unique(np.concatenate((one, other)))
    first = np.searchsorted(np.sort(one), places, side="right") / len(one)
    second = np.searchsorted(np.sort(other), places, side="right") / len(other)
    return float(np.abs(first - second).max())


def rank_correlation(one: I64, other: I64) -> float:
    """Spearman's rho, ties at their mean rank; 0 where one of the two does not vary."""

    def ranks(values: I64) -> F64:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        mean_rank: F64 = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
        return mean_rank

    a, b = ranks(one), ranks(other)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
