"""What telemetry says, against the same sums by plain loops: counters, CPU shares, and every bin of the timeline."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from harness.judge.columns import measured
from harness.judge.telemetry import foreign_cpu_share, harness_cpu_share, phase_edges, timeline, token_checks
from harness.records import GpuSample, HostSample, RequestRecord, ServerSample, Timeline, TokenCheck
from tests.judge.run_builder import BASE_NS, failed, frame, ns, request

# 120 s from the first send to the last end: bins of a second, whose edges and middles are stamps of some
ROWS = [
    request(0, 0.0, ttft_s=1.0, gap_s=0.5, tokens=9),
    replace(request(1, 0.5, ttft_s=2.5, gap_s=1.0, tokens=4), chunk_tokens=(2, 3, 1, 4), output_tokens=10),
    replace(request(2, 10.0, ttft_s=0.25, gap_s=7.0, tokens=5), chunk_tokens=None, output_tokens=10),
    replace(request(3, 20.0, ttft_s=1.0, tokens=3), chunk_tokens=None, output_tokens=None),
    replace(request(4, 30.5, ttft_s=1.0, tokens=3), outcome="truncated"),
    replace(failed(request(5, 40.0), sent=False), ended_ns=ns(41.0)),
    replace(request(6, 100.0, ttft_s=20.0, tokens=1), ended_ns=ns(120.0)),
    request(-1, -9.0, phase="warmup"),
]
REQUESTS = measured(frame(ROWS, RequestRecord))


def sample(seconds, metric, value, edge=None, labels="{}"):
    return ServerSample(ns(seconds), edge, metric, labels, value)


def host_row(seconds, busy, ours=None, servers=None):
    return HostSample(ns(seconds), busy, 1.0, 1, 1, ours, 1, servers, 1)


def gpu_row(seconds, index, milliwatts, busy, uuid=None):
    return GpuSample(ns(seconds), index, uuid or f"GPU-{index}", milliwatts, None, busy, 0, 1, 1, 1, 1, 0, 1, 0, None)


def bins(pairs):
    """Mean of the (second, value) in each (k, k + 1]; None where there is none."""
    found = [[value for at, value in pairs if k < at <= k + 1] for k in range(120)]
    return tuple(pytest.approx(fmean(values)) if values else None for values in found)


def test_the_timeline_as_a_whole():
    """Each series in its bins: tokens of ok requests, requests at the middles, means of samples, boards added up."""
    host = [(0.0, 99.0), (0.5, 10.0), (1.0, 20.0), (1.5, 40.0), (120.0, 60.0), (120.5, 99.0), (7.5, None)]
    running = [(0.5, 3.0), (1.0, 5.0), (2.5, 8.0)]
    power = {0: [(0.5, 100_000), (0.75, 200_000), (1.5, 300_000)], 1: [(0.6, 50_000), (2.5, 70_000)]}
    server = [sample(at, "vllm:num_requests_running", v, labels=f'{{"e": {e}}}') for at, v in running for e in (0, 1)]
    server += [sample(2.5, "vllm:num_requests_waiting", 9.0), sample(2.5, "vllm:other", 1e6)]
    gpu = [gpu_row(at, index, w, 10 * index + 5) for index, rows in power.items() for at, w in rows]
    gpu.append(gpu_row(0.7, 0, 900_000, None, "MIG-2"))  # a slice reports its board's power: the first one's counts
    found = timeline(
        REQUESTS, frame(gpu, GpuSample), frame(server, ServerSample), frame([host_row(*h) for h in host], HostSample)
    )

    tokens = (
        [(1.0 + k * 0.5, 1.0) for k in range(9)]
        + [(3.0, 2), (4.0, 3), (5.0, 1), (6.0, 4)]
        + [(10.25 + k * 7, 2.0) for k in range(5)]
        + [(120.0, 1.0)]
    )
    spans = [((r.sent_ns - BASE_NS) / 1e9, (r.ended_ns - BASE_NS) / 1e9) for r in ROWS[:7] if r.sent_ns is not None]
    middles = [k + 0.5 for k in range(120)]
    flat = [(at, 10.0 * index + 5) for index, rows in power.items() for at, _ in rows]
    assert found == Timeline(
        tuple(pytest.approx(at) for at in middles),
        {
            "output_tps": tuple(pytest.approx(sum(n for at, n in tokens if k < at <= k + 1)) for k in range(120)),
            "in_flight": tuple(
                float(sum(a <= at for a, _ in spans) - sum(b <= at for _, b in spans)) for at in middles
            ),
            "host_cpu_pct": bins([pair for pair in host if pair[1] is not None]),
            "gpu_power_w": (pytest.approx(200.0), *(None,) * 119),
            "gpu_sm_util_pct": bins(flat),
            "server_running": bins([(at, 2 * v) for at, v in running]),
            "server_waiting": bins([(2.5, 9.0)]),
        },
    )
    assert max(found.series["in_flight"]) == 2.0


def test_what_was_never_observed_is_no_series():
    """Empty tables, and tables of nulls."""
    nothing = timeline(REQUESTS, frame([], GpuSample), frame([], ServerSample), frame([], HostSample))
    assert set(nothing.series) == {"output_tps", "in_flight"}
    nulls = timeline(
        REQUESTS, frame([gpu_row(5, 0, None, None)], GpuSample), None, frame([host_row(5, None)], HostSample)
    )
    assert set(nulls.series) == {"output_tps", "in_flight"}


def test_a_phase_shorter_than_its_bins_has_no_timeline():
    """120 ns are just enough; nothing sent, or nothing ended, has neither edges nor a timeline."""
    for length, there in ((120, True), (119, False)):
        rows = measured(frame([replace(request(0, 0.0), ended_ns=BASE_NS + length)], RequestRecord))
        assert (timeline(rows, None, None, None) is not None) == there
    unsent = measured(frame([failed(request(0, 0.0), sent=False)], RequestRecord))
    unended = measured(frame([replace(request(0, 0.0), ended_ns=None)], RequestRecord))
    for rows in (unsent, unended):
        assert phase_edges(rows) is timeline(rows, None, None, None) is None
    assert phase_edges(REQUESTS) == (ns(0), ns(120))


def test_tokens_are_counted_three_ways():
    """Of ok requests: planned, in chunks, by usage, by the server's counters of either kind; unknown where one does not say."""
    rows = [
        replace(
            request(n, n),
            target_prompt_tokens=100 + n,
            target_output_tokens=10 + n,
            counted_output_tokens=n,
            output_tokens=20 + n,
        )
        for n in range(3)
    ]
    rows.append(replace(failed(request(3, 3)), target_prompt_tokens=5000))
    counters = [
        sample(at, f"vllm:{name}_tokens_total", at * by, edge)
        for name, by in (("prompt", 3), ("generation", 5))
        for at, edge in ((1, "start"), (9, "end"))
    ]
    assert token_checks(measured(frame(rows, RequestRecord)), frame(counters, ServerSample)) == (
        TokenCheck("prompt", 303, None, 384, 24),
        TokenCheck("output", 33, 3, 63, 40),
    )
    silent = [
        replace(rows[0], prompt_tokens=None),
        replace(rows[1], counted_output_tokens=None),
        replace(rows[2], output_tokens=None),
    ]
    assert token_checks(measured(frame(silent, RequestRecord)), None) == (
        TokenCheck("prompt", 303, None, None, None),
        TokenCheck("output", 33, None, None, None),
    )
    nothing = measured(frame(rows[3:], RequestRecord))
    assert token_checks(nothing, None) == (
        TokenCheck("prompt", 0, None, None, None),
        TokenCheck("output", 0, None, None, None),
    )


PHASE = measured(frame([replace(request(0, 0.0), ended_ns=ns(10.0))], RequestRecord))


def host_of(*rows):
    return frame([host_row(*row) for row in rows], HostSample)


def test_cpu_shares_of_the_phase():
    """CPU seconds between first send and last end, interpolated; over the server's, and what is left of the machine's."""
    # ours: 1 at -1 s, 2 at 4 s, 7 at 9 s, 9 at 11 s: at 0 s 1.2, at 10 s 8; the server's: at 0 s 12, at 10 s 28
    host = host_of(
        (-1, 90.0, 1.0, 10.0), (4, 50.0, 2.0, 20.0), (7, None, None, None), (9, 70.0, 7.0, 26.0), (11, 10.0, 9.0, 30.0)
    )
    assert harness_cpu_share(host, PHASE) == pytest.approx(6.8 / 16)
    assert foreign_cpu_share(host, PHASE, 4) == pytest.approx(0.6 - (6.8 + 16) / 40)
    assert foreign_cpu_share(host, PHASE, 3) == 0.0
    assert foreign_cpu_share(host, PHASE, 1) == 0.0


def test_samples_at_the_edges_of_the_phase():
    """One at the first send is outside, one at the last end is inside."""
    host = host_of((0, 90.0, 0.0, 0.0), (5, 50.0, 0.5, 1.0), (10, 70.0, 1.0, 2.0))
    assert foreign_cpu_share(host, PHASE, 1) == pytest.approx(0.6 - 0.3)
    assert harness_cpu_share(host, PHASE) == 0.5


def test_cpu_shares_that_are_not_known():
    """No host, no phase, no cores, one sample, a server that is not ours or did nothing, no sample of the machine inside."""
    good = [(-1, 50.0, 0.0, 0.0), (11, 50.0, 1.0, 2.0), (5, 50.0, None, None)]
    unsent = measured(frame([failed(request(0, 0.0), sent=False)], RequestRecord))
    assert harness_cpu_share(host_of(*good), PHASE) == 0.5
    assert foreign_cpu_share(host_of(*good), PHASE, 1) is not None
    for host, requests in (
        (None, PHASE),
        (host_of(*good), unsent),
        (host_of(good[0], good[2]), PHASE),
        (host_of((-1, 5.0, 0.0, None), (11, 5.0, 1.0, None)), PHASE),
    ):
        assert harness_cpu_share(host, requests) is foreign_cpu_share(host, requests, 1) is None
    assert harness_cpu_share(host_of((-1, 5.0, 0.0, 3.0), (11, 5.0, 1.0, 3.0)), PHASE) is None
    assert foreign_cpu_share(host_of(*good), PHASE, 0) is None
    assert foreign_cpu_share(host_of(good[0], good[1], (5, None, None, None)), PHASE, 1) is None
    at_once = measured(frame([replace(request(0, 5.0), ended_ns=ns(5.0))], RequestRecord))
    assert foreign_cpu_share(host_of(*good), at_once, 1) is None
