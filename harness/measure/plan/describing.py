"""A workload in numbers, for `harness workloads show`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from harness.measure.plan.arrivals import Process, arrivals, burstiness
from harness.measure.plan.drafts import MEASURED, of_lengths, of_trace
from harness.measure.plan.preset import Preset
from harness.measure.plan.sessions import of_sessions
from harness.measure.plan.streams import I64, Purpose
from harness.measure.plan.traces.reading import Trace, read_trace, spread_ticks
from harness.measure.plan.workload import read_workload

_ROWS = 100_000
_LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_BINS = 16


def _column(tokens: I64) -> dict[str, Any]:
    quantiles = np.quantile(tokens, _LEVELS, method="inverted_cdf")
    return {
        "mean": float(np.mean(tokens)),
        "min": int(np.min(tokens)),
        "max": int(np.max(tokens)),
        "quantiles": {f"p{round(level * 100)}": int(q) for level, q in zip(_LEVELS, quantiles, strict=True)},
    }


def histogram(tokens: I64) -> list[tuple[int, int, int]]:
    """(from, to, requests) in at most 16 bins whose edges grow geometrically from the least length to the greatest; `to`
    is not in the bin, except in the last."""
    low, high = int(tokens.min()), int(tokens.max())
    edges = sorted({round(low * (high / low) ** (i / _BINS)) for i in range(_BINS + 1)})
    if len(edges) == 1:
        return [(low, high, len(tokens))]
    counts, _ = np.histogram(tokens, bins=edges)
    return [(a, b, n) for a, b, n in zip(edges, edges[1:], counts.tolist(), strict=False)]


def _arrivals(preset: Preset | None, trace: Trace | None) -> dict[str, Any] | None:
    """Burstiness of what `--arrivals preset` would plan (or of a trace's own times), beside the source's figures."""
    if trace is not None and trace.time_ns is not None:
        times, notes = spread_ticks(trace, 0)
        return {"process": "trace", "note": "; ".join(notes) or None, "burstiness": asdict(burstiness(times))}
    if preset is None:
        return None
    process, source = preset.process(), preset.arrivals
    if process.kind == "batch":
        return {"process": "batch", "note": source.note}
    planned = _sampled(process, source.mean_rate_rps or 1.0)
    kind = (
        "poisson with the rates of the source's 10 s bins"
        if source.requests_per_10s_bin
        else source.process or "poisson"
    )
    return {
        "process": kind,
        "source_mean_rate_rps": source.mean_rate_rps,
        "source_interarrival_cv": source.interarrival_cv,
        "note": source.note,
        "burstiness": asdict(burstiness(planned)),
    }


def _sampled(process: Process, rate_rps: float) -> I64:
    return arrivals(process, rate_rps, 0, 20_000, None)


def describe(workload: str) -> dict[str, Any]:
    """From a sample of 100,000 with seed 0, or from the whole of a trace; plain JSON values.

    Keys: workload, description, rows, prompt_tokens and output_tokens (each mean, min, max, quantiles), histogram (of
    each: from, to, requests), arrivals (process, burstiness; null where there are none), prefix, assumptions, check
    (the source's own figures), notes, source, licence, cite (null for short forms). Raises ConfigError.
    """
    source = read_workload(workload)
    preset, trace = source.preset, None
    if source.trace is not None:
        trace = read_trace(source.trace, source.options, seed=0, wanted=None, context_limit_tokens=None)
        draft, description = of_trace(trace), f"{trace.layout.name} trace"
    elif preset is not None and preset.sessions is not None:
        draft, description = of_sessions(preset.sessions, 0, _ROWS, None, Purpose.SESSIONS), preset.description
    elif source.lengths is not None:
        draft = of_lengths(source.lengths, 0, _ROWS, None, MEASURED)
        description = (
            preset.description
            if preset
            else "; ".join(source.histograms.notes if source.histograms else ()) or "short form"
        )
    else:
        raise AssertionError(workload)
    prefix = preset.prefix.model_dump(include={"block_tokens", "token_hit_ratio_unlimited_cache"}) \
        if preset and preset.prefix else None  # fmt: skip
    return {
        "workload": workload,
        "description": description,
        "rows": len(draft.prompt),
        "prompt_tokens": _column(draft.prompt),
        "output_tokens": _column(draft.output),
        "histogram": {"prompt_tokens": histogram(draft.prompt), "output_tokens": histogram(draft.output)},
        "arrivals": _arrivals(preset, trace),
        "prefix": prefix,
        "assumptions": preset.assumptions if preset else None,
        "check": preset.check if preset else {},
        "notes": list(draft.notes),
        "source": preset.source.model_dump() if preset else None,
        "licence": preset.source.licence if preset else None,
        "cite": preset.source.cite if preset else None,
    }
