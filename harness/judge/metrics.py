"""The metrics of requests and chunks by their formulas in records.metrics.METRICS, which of them keep a promise, and their distributions.

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
from dataclasses import replace
from typing import Any

import numpy as np

from harness.judge.columns import NS, BoolArray, FloatArray, GapArray, IntArray, Requests
from harness.records import Distribution, Window
from harness.records.metrics import METRICS

MIN_BEYOND = 5
_SUMMED_AT_ONCE = 1 << 20
SLO_METRICS = ("ttft_from_schedule_s", "ttft_s", "ttfvt_s", "tpot_s", "e2el_s")
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


def per_request(requests: Requests, round_trip_s: float | None = None) -> dict[str, FloatArray]:
    """Every metric with `per == "request"`, one entry a request, NaN where undefined; formulas as in metrics.METRICS.

    Not restricted to ok requests, except E2EL, which is undefined for the others. `round_trip_s`: of the way there, where it is known.
    """
    ttft = requests.first_token.minus(requests.sent)
    e2el = requests.last_token.minus(requests.sent)
    return {
        "send_lag_s": requests.sent.minus(requests.scheduled),
        "ttft_s": ttft,
        "ttft_less_path_s": ttft - (np.nan if round_trip_s is None else round_trip_s),
        "ttft_from_schedule_s": requests.first_token.minus(requests.scheduled),
        "ttfvt_s": requests.first_visible.minus(requests.sent),
        "tpot_s": _tpot(requests),
        "e2el_s": np.where(requests.ok, e2el, np.nan),
        "prompt_tokens": requests.prompt.floats(),
        "output_tokens": requests.output.floats(),
    }


def _keeps_reasoning(requests: Requests) -> BoolArray:
    """Replies of which the dialect says that their reasoning did not stream, or only a summary of it: where reasoning_tokens is null,
    nobody knows how many of the output tokens did."""
    told: BoolArray = requests.reasoning_hidden.present & (requests.reasoning_hidden.data == 1)
    return told


def _hidden(requests: Requests) -> IntArray:
    """Output tokens that usage counts and the stream did not carry: the reasoning of a reply no chunk of which held any.

    Rows stored before `reasoning_chunks` was: hidden where the other tokens suffice for the chunks, of which each holds one at least,
    unless the chunks themselves tell their tokens. Reasoning beyond the output tokens is counted beside them, so that none of these is
    hidden.
    """
    reasoning, seen, chunks = requests.reasoning, requests.reasoning_chunks, requests.chunks
    others = requests.output.data - reasoning.data
    hides = np.where(seen.present, (seen.data == 0) & (others > 0), ~chunks.exact & (others >= chunks.count))
    return np.where(requests.output.present & reasoning.present & hides, reasoning.data, 0)


def _tpot(requests: Requests) -> FloatArray:
    """Seconds per streamed output token after the first chunk; NaN with fewer than 2 of them, or none after that chunk.

    Running usage counts hidden tokens into the chunk that comes after them.
    """
    chunks, hidden = requests.chunks, _hidden(requests)
    first_chunk = np.ones(requests.count)
    exact = chunks.exact & (chunks.count > 0)
    first_chunk[exact] = chunks.first_tokens[exact]
    streamed = requests.output.data - hidden
    after = streamed - np.where(first_chunk > hidden, first_chunk - hidden, first_chunk)
    tpot = np.full(requests.count, np.nan)
    span = requests.last_token.minus(requests.first_token)
    known = requests.output.present & (requests.reasoning.present | ~_keeps_reasoning(requests))
    np.divide(span, after, out=tpot, where=known & (streamed >= 2) & (after > 0))
    return tpot


def slo_of(config: Mapping[str, Any]) -> dict[str, float]:
    """The SLO's limits that are set: metric -> seconds. Empty where the experiment promises nothing."""
    slo = config.get("slo") or {}
    return {name: float(slo[name]) for name in SLO_METRICS if slo.get(name) is not None}


def good(requests: Requests, values: Mapping[str, FloatArray], slo: Mapping[str, float]) -> BoolArray:
    """Requests that are ok and meet every limit of the SLO.

    A metric that is null meets no limit: a reply of one token has no TPOT and is not good under a TPOT SLO, whatever its
    TTFT. In a closed loop nothing is scheduled; there a limit on TTFT from schedule is held against first token - due_ns,
    the time since the slot became free, which is never shorter than TTFT.
    """
    met = requests.ok.copy()
    for name, limit in slo.items():
        with np.errstate(invalid="ignore"):
            met &= held(requests, values, name) <= limit
    return met


def held(requests: Requests, values: Mapping[str, FloatArray], name: str) -> FloatArray:
    """What a promise's limit on the metric `name` is held against, a value a request."""
    if name == "ttft_from_schedule_s" and requests.is_closed:
        return requests.first_token.minus(requests.due)
    return values[name]


def chunk_gaps(requests: Requests, window: Window) -> tuple[GapArray, bool]:
    """Gaps between neighbouring chunks of one ok request whose later stamp is in the window, in whole nanoseconds (of 4 bytes where they
    fit), and whether every chunk of those requests held exactly one token (then the gaps are ITL as well as ICL)."""
    chunks = requests.chunks
    gaps: GapArray = np.empty(chunks.total, np.int32)
    filled, one_each = 0, True
    for piece in chunks.pieces():
        later = piece.stamp_ns
        use = ~piece.is_first & requests.ok[piece.row] & (later > window.start_ns) & (later <= window.end_ns)
        found = piece.gap_ns[use]
        if found.dtype != gaps.dtype:
            gaps = gaps.astype(np.int64, copy=False)
        gaps[filled : filled + len(found)] = found
        filled += len(found)
        if one_each and len(found):
            row, low = piece.row - piece.row[0], piece.row[0]
            used = np.zeros(row[-1] + 1, np.bool_)
            used[row[use]] = True
            exact = chunks.exact[low : low + len(used)][used]
            one_each = bool(exact.all()) and bool((piece.tokens[used[row]] == 1).all())
    return gaps[:filled], one_each and chunks.total > 1


def gap_distribution(metric: str, gaps_ns: GapArray) -> Distribution:
    """`distribution` of these gaps in seconds, to the last bit, without a copy of them as floats. Leaves them in another order."""
    n = len(gaps_ns)
    if not n:
        return distribution(metric, np.zeros(0))
    mean = _sum_s(gaps_ns) / n
    supported = [p for p in (0.5, 0.9, 0.95, 0.99) if n >= min_count(p)]
    at = {p: (n - 1) * p for p in supported}
    below = {p: math.floor(place) for p, place in at.items()}
    if supported:
        gaps_ns.partition(sorted({k for low in below.values() for k in (low, low + 1)}))
    of = {p: _between(gaps_ns[low] / NS, gaps_ns[low + 1] / NS, at[p] - low) for p, low in below.items()}
    most = float(gaps_ns.max() / NS)
    return Distribution(
        metric, METRICS[metric].unit, n, mean, of.get(0.5), of.get(0.9), of.get(0.95), of.get(0.99), most
    )


def _between(low: float, high: float, share: float) -> float:
    """As NumPy interpolates: from the nearer end."""
    step = high - low
    return float(low + step * share if share < 0.5 else high - step * (1 - share))


def _sum_s(gaps_ns: GapArray) -> float:
    """Sum of the gaps in seconds in the order in which NumPy adds an array of so many floats: halves of a multiple of 8, down to what is
    converted at once."""
    n = len(gaps_ns)
    if n <= _SUMMED_AT_ONCE:
        return float((gaps_ns / NS).sum())
    half = n // 2 - (n // 2) % 8
    return _sum_s(gaps_ns[:half]) + _sum_s(gaps_ns[half:])


def distributions(
    requests: Requests, values: Mapping[str, FloatArray], window: Window | None, population: BoolArray
) -> dict[str, Distribution]:
    """Every per-request and per-chunk metric over `population` (ok requests sent in the window); chunks by their stamps."""
    each = {name: distribution(name, column[population]) for name, column in values.items()}
    gaps: GapArray = np.zeros(0, np.int32)
    one_each = False
    if window is not None:
        gaps, one_each = chunk_gaps(requests, window)
    each["icl_s"] = gap_distribution("icl_s", gaps)
    each["itl_s"] = replace(each["icl_s"], metric="itl_s") if one_each else distribution("itl_s", np.zeros(0))
    return {name: each[name] for name in NAMES}
