"""Per-request and per-chunk metrics, and their distributions.

A percentile is given only where at least `MIN_BEYOND` observations are expected beyond it: n >= 5 / (1 - p), that is
10 for p50, 50 for p90, 100 for p95, 500 for p99. The number of observations above the true percentile is binomial
(n, 1 - p), about Poisson with mean n(1 - p). With 5 expected, the sample reaches beyond the true percentile with
probability 1 - e^-5 = 99.3 %, and the distribution-free 95 % confidence interval between two order statistics (David and
Nagaraja, Order Statistics, 7.1) exists inside the sample: its upper end needs p^n <= 2.5 %, n(1 - p) >= 3.7. With 1
expected (n = 100 for p99) the sample maximum is below the true p99 in 37 % of runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from harness.judge.columns import BoolArray, FloatArray, IntArray, Requests
from harness.records import Distribution, Window
from harness.records.metrics import METRICS

MIN_BEYOND = 5
NAMES = tuple(m.name for m in METRICS.values() if m.per in {"request", "chunk"})


def min_count(p: float) -> int:
    """The smallest count for which the percentile `p` (0..1) is given."""
    return math.ceil(round(MIN_BEYOND / (1 - p), 6))


def distribution(metric: str, values: FloatArray) -> Distribution:
    """Of the values that are not NaN; linear interpolation between order statistics."""
    seen = values[~np.isnan(values)]
    n = len(seen)
    unit = METRICS[metric].unit
    if not n:
        return Distribution(metric, unit, 0, None, None, None, None, None, None)
    supported = [p for p in (0.5, 0.9, 0.95, 0.99) if n >= min_count(p)]
    at = dict(zip(supported, np.quantile(seen, supported).tolist(), strict=True)) if supported else {}
    mean, maximum = float(seen.mean()), float(seen.max())
    return Distribution(metric, unit, n, mean, at.get(0.5), at.get(0.9), at.get(0.95), at.get(0.99), maximum)


def per_request(requests: Requests) -> dict[str, FloatArray]:
    """Every metric with `per == "request"`, one entry a request, NaN where undefined; formulas as in metrics.METRICS.

    Not restricted to ok requests, except E2EL, which is undefined for the others.
    """
    e2el = requests.last_token.minus(requests.sent)
    return {
        "send_lag_s": requests.sent.minus(requests.scheduled),
        "ttft_s": requests.first_token.minus(requests.sent),
        "ttft_from_schedule_s": requests.first_token.minus(requests.scheduled),
        "ttfvt_s": requests.first_visible.minus(requests.sent),
        "tpot_s": _tpot(requests),
        "e2el_s": np.where(requests.ok, e2el, np.nan),
        "prompt_tokens": requests.prompt.floats(),
        "output_tokens": requests.output.floats(),
    }


def _hidden(requests: Requests) -> IntArray:
    """metrics.hidden_tokens over arrays."""
    reasoning, seen, chunks = requests.reasoning, requests.reasoning_chunks, requests.chunks
    others = requests.output.data - reasoning.data
    hides = np.where(seen.present, (seen.data == 0) & (others > 0), ~chunks.exact & (others >= chunks.count))
    return np.where(requests.output.present & reasoning.present & hides, reasoning.data, 0)


def _tpot(requests: Requests) -> FloatArray:
    """metrics.tpot_s over arrays."""
    chunks, hidden = requests.chunks, _hidden(requests)
    first_chunk = np.ones(requests.count)
    told = chunks.exact & (chunks.count > 0)
    first_chunk[told] = chunks.tokens[chunks.first[told]]
    streamed = requests.output.data - hidden
    after = streamed - np.where(first_chunk > hidden, first_chunk - hidden, first_chunk)
    tpot = np.full(requests.count, np.nan)
    span = requests.last_token.minus(requests.first_token)
    np.divide(span, after, out=tpot, where=requests.output.present & (streamed >= 2) & (after > 0))
    return tpot


def chunk_gaps(requests: Requests, window: Window) -> tuple[FloatArray, bool]:
    """Gaps between neighbouring chunks of one ok request whose later stamp is in the window, in seconds, and whether
    every chunk of those requests held exactly one token (then the gaps are ITL as well as ICL)."""
    chunks = requests.chunks
    if len(chunks.stamp_ns) < 2:
        return np.zeros(0), False
    same = (chunks.row[1:] == chunks.row[:-1]) & requests.ok[chunks.row[1:]]
    later = chunks.stamp_ns[1:]
    use = same & (later > window.start_ns) & (later <= window.end_ns)
    rows = np.zeros(requests.count, dtype=np.bool_)
    rows[chunks.row[1:][use]] = True
    one_each = bool(chunks.exact[rows].all()) and bool((chunks.tokens[rows[chunks.row]] == 1).all())
    return np.diff(chunks.stamp_ns)[use] / 1e9, one_each


def distributions(
    requests: Requests, values: Mapping[str, FloatArray], window: Window | None, population: BoolArray
) -> dict[str, Distribution]:
    """Every per-request and per-chunk metric over `population` (ok requests sent in the window); chunks by their stamps."""
    found = {name: distribution(name, column[population]) for name, column in values.items()}
    gaps, one_each = chunk_gaps(requests, window) if window is not None else (np.zeros(0), False)
    found["icl_s"] = distribution("icl_s", gaps)
    found["itl_s"] = distribution("itl_s", gaps if one_each else np.zeros(0))
    return {name: found[name] for name in NAMES}
