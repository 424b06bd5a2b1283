"""What the telemetry tables say about a run: server counters, CPU shares, the timeline."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.judge.columns import FloatArray, IntArray, Requests, floats, ints
from harness.judge.server_state import rise, timeline_series
from harness.records import Timeline, TokenCheck

BINS = 120


def token_checks(requests: Requests, server: Any | None, version: str | None = None) -> tuple[TokenCheck, TokenCheck]:
    """Prompt and output tokens of the measured phase's ok requests, counted three ways (the server's count is of all)."""
    ok = requests.ok

    def total(column: Any) -> int | None:
        return int(column.data[ok].sum()) if ok.any() and column.present[ok].all() else None

    def counted(meaning: str) -> int | None:
        risen = rise(server, meaning, version)
        return None if risen is None else round(risen)

    return (
        TokenCheck(
            "prompt",
            int(requests.target_prompt.data[ok].sum()),
            None,
            total(requests.prompt),
            counted("prompt_tokens"),
        ),
        TokenCheck(
            "output",
            int(requests.target_output.data[ok].sum()),
            total(requests.counted),
            total(requests.output),
            counted("output_tokens"),
        ),
    )


def phase_edges(requests: Requests) -> tuple[int, int] | None:
    """First send and last end of the measured phase, ns; None if nothing was sent or nothing ended."""
    sent, ended = requests.sent, requests.ended
    if not sent.present.any() or not ended.present.any():
        return None
    return int(sent.data[sent.present].min()), int(ended.data[ended.present].max())


def harness_cpu_share(host: Any | None, requests: Requests) -> float | None:
    """CPU seconds of the harness / of the server over the measured phase; None if the server is not ours."""
    used = _cpu_used(host, requests)
    return used[0] / used[1] if used is not None and used[1] > 0 else None


def _cpu_used(host: Any | None, requests: Requests) -> tuple[float, float] | None:
    """CPU seconds of (harness, server) over the measured phase, from the cumulative columns; None if either is absent."""
    edges = phase_edges(requests)
    if host is None or edges is None:
        return None
    stamps = ints(host, "stamp_ns").data
    used = []
    for name in ("harness_cpu_s", "server_cpu_s"):
        cumulative = floats(host, name)
        seen = ~np.isnan(cumulative)
        if seen.sum() < 2:
            return None
        at, values = stamps[seen], cumulative[seen]
        low, high = np.interp([edges[0] - at[0], edges[1] - at[0]], at - at[0], values)
        used.append(float(high - low))
    return used[0], used[1]


def foreign_cpu_share(host: Any | None, requests: Requests, cores: int) -> float | None:
    """Share of the machine's CPU time over the measured phase that neither harness nor server used.

    None where host telemetry, the server's processes or the number of cores are not known.
    """
    used, edges = _cpu_used(host, requests), phase_edges(requests)
    if used is None or edges is None or cores < 1:
        return None
    inside = (ints(host, "stamp_ns").data > edges[0]) & (ints(host, "stamp_ns").data <= edges[1])
    busy = floats(host, "cpu_pct")[inside]
    busy = busy[~np.isnan(busy)]
    whole_s = cores * (edges[1] - edges[0]) / 1e9
    if not len(busy) or whole_s <= 0:
        return None
    return max(0.0, float(busy.mean()) / 100 - sum(used) / whole_s)


def _binned(stamps: IntArray, values: FloatArray, edges: IntArray) -> tuple[float | None, ...]:
    """Mean of the values in each bin, None in a bin without any."""
    seen = ~np.isnan(values) & (stamps > edges[0]) & (stamps <= edges[-1])
    bins = np.searchsorted(edges, stamps[seen], side="left") - 1
    total = np.bincount(bins, weights=values[seen], minlength=len(edges) - 1)
    count = np.bincount(bins, minlength=len(edges) - 1)
    return tuple(float(t) / int(c) if c else None for t, c in zip(total, count, strict=True))


def _gpu_power(gpu: Any, edges: IntArray) -> tuple[float | None, ...]:
    """Watts: the boards' means of each bin, added up; None in a bin where a board is silent."""
    boards = []
    for _, rows in gpu.groupby("gpu_index", sort=True):
        one = rows[rows["gpu_uuid"] == rows["gpu_uuid"].iloc[0]]
        boards.append(_binned(ints(one, "stamp_ns").data, floats(one, "power_mw") / 1e3, edges))
    return tuple(None if None in at else sum(w for w in at if w is not None) for at in zip(*boards, strict=True))


def timeline(
    requests: Requests, gpu: Any | None, server: Any | None, host: Any | None, version: str | None = None
) -> Timeline | None:
    """`BINS` even bins over the measured phase; each time is a bin's middle, in seconds from the first send.

    output_tps is the rate of the bin, in_flight the number at its middle, the others means of the samples inside.
    """
    phase = phase_edges(requests)
    if phase is None or phase[1] - phase[0] < BINS:
        return None
    edges = np.linspace(0, phase[1] - phase[0], BINS + 1).astype(np.int64) + phase[0]
    middle = (edges[:-1] + edges[1:]) // 2
    tokens = np.zeros(BINS)
    for piece in requests.chunks.pieces():
        known = (
            requests.ok[piece.row]
            & ~np.isnan(piece.tokens)
            & (piece.stamp_ns > edges[0])
            & (piece.stamp_ns <= edges[-1])
        )
        bins = np.searchsorted(edges, piece.stamp_ns[known], side="left") - 1
        np.add.at(tokens, bins, piece.tokens[known])
    both = requests.sent.present & requests.ended.present
    started, ended = np.sort(requests.sent.data[both]), np.sort(requests.ended.data[both])
    in_flight = np.searchsorted(started, middle, side="right") - np.searchsorted(ended, middle, side="right")
    series: dict[str, tuple[float | None, ...]] = {
        "output_tps": tuple((tokens / (np.diff(edges) / 1e9)).tolist()),
        "in_flight": tuple(in_flight.astype(float).tolist()),
    }
    if host is not None and len(host):
        series["host_cpu_pct"] = _binned(ints(host, "stamp_ns").data, floats(host, "cpu_pct"), edges)
    if gpu is not None and len(gpu):
        series["gpu_power_w"] = _gpu_power(gpu, edges)
        series["gpu_sm_util_pct"] = _binned(ints(gpu, "stamp_ns").data, floats(gpu, "sm_util_pct"), edges)
    series |= timeline_series(server, version, lambda stamps, values: _binned(stamps, values, edges))
    observed = {name: s for name, s in series.items() if any(v is not None for v in s)}
    return Timeline(tuple(((middle - phase[0]) / 1e9).tolist()), observed)
