"""Every limit of the verdict at its value, where nothing is said, and one step beyond it, where the reason stands."""

from dataclasses import replace

import numpy as np
import pytest

from harness.judge.capacity.probe import replies
from harness.judge.columns import measured
from harness.judge.metrics import good, per_request
from harness.judge.summary import summarise
from harness.records import Load, RequestRecord, ServerSample
from tests.judge.run_builder import BASE_NS, closed_loop, edges, failed, frame, gpu, host, open_loop, run

C4, R10 = Load(concurrency=4), Load(rate_rps=10)
CLOSED = closed_loop(4, 400)  # 12 s, 400 x 128 prompt tokens
OPEN = open_loop(10, 200)  # 20 s
FAST = open_loop(200, 2000)


def codes(records=CLOSED, load=C4, **kw):
    return {r.code: r.severity for r in summarise(run(records, load, **kw)).verdict.reasons}


def first(count, records=CLOSED, **changes):
    """The first `count` of the records changed, from the 100th on."""
    return [replace(r, **changes) if 100 <= i < 100 + count else r for i, r in enumerate(records)]


def late(records, seconds, which=lambda seq: True, outcome="ok"):
    return [
        replace(r, sent_ns=r.sent_ns + round(seconds * 1e9), outcome=outcome) if which(r.seq) else r for r in records
    ]


def test_failures():
    """4 of 400 may fail, 5 may not."""
    assert codes([failed(r) if r.seq < 104 and r.seq >= 100 else r for r in CLOSED]) == {}
    assert codes([failed(r) if r.seq < 105 and r.seq >= 100 else r for r in CLOSED]) == {"too_many_failures": "invalid"}


def test_send_lag():
    """5 ms is allowed where the mean gap is 5 ms, and one microsecond more is not."""
    assert codes(late(FAST, 0.005), Load(rate_rps=200)) == {}
    assert codes(late(FAST, 0.005001), Load(rate_rps=200)) == {"send_lag": "invalid"}


def test_send_lag_where_sends_are_far_apart():
    """A tenth of the mean gap is allowed where that is more: 10 ms at 10 a second."""
    assert codes(late(OPEN, 0.00999), R10) == {}
    assert codes(late(OPEN, 0.01001), R10) == {"send_lag": "invalid"}


def test_send_lag_is_its_99th_percentile():
    """Every 200th request late by 20 ms is nothing, every 50th is too much."""
    assert codes(late(FAST, 0.02, lambda seq: seq % 200 == 7), Load(rate_rps=200)) == {}
    assert codes(late(FAST, 0.02, lambda seq: seq % 50 == 7), Load(rate_rps=200)) == {"send_lag": "invalid"}


def test_send_lag_of_requests_that_failed_counts():
    """A client that is late is late, whatever the server then answers."""
    found = codes(late(FAST, 0.02, lambda seq: seq % 50 == 7, outcome="http_error"), Load(rate_rps=200))
    assert found["send_lag"] == "invalid"


def test_achieved_rate():
    """98 % of the scheduled rate is enough, 97.9 % is not."""

    def stretched(share):
        return [replace(r, sent_ns=r.sent_ns + round((1 / share - 1) * r.seq * 1e8)) for r in OPEN]

    assert "achieved_below_scheduled" not in codes(stretched(0.9801), R10)
    assert codes(stretched(0.979), R10)["achieved_below_scheduled"] == "invalid"


def test_clock_steps():
    """A millisecond between two anchors is slewing, a nanosecond more is a step; the largest counts."""
    assert codes(drive={"largest_clock_step_ns": 1_000_000}) == {}
    assert codes(drive={"largest_clock_step_ns": 1_000_001}) == {"clock_stepped": "invalid"}


def test_merged_reads():
    """36 of 3,600 reads may hold several chunks, 37 may not."""
    assert codes(first(36, merged_reads=1)) == {}
    assert codes(first(37, merged_reads=1)) == {"merged_reads": "warning"}


@pytest.mark.parametrize("column", ["target_output_tokens", "target_prompt_tokens"])
def test_lengths(column):
    """4 of 400 may have another length than asked for, 5 may not."""
    code = column.removeprefix("target_").replace("_tokens", "_length")
    assert codes(first(4, **{column: 130}), server=edges(CLOSED)) == {}
    assert codes(first(5, **{column: 130}), server=edges(CLOSED)) == {code: "invalid"}


def test_cache_hits_by_usage():
    """512 of 51,200 prompt tokens may come from the cache, 513 may not."""
    whole = first(4, cached_prompt_tokens=128)
    assert codes(whole) == {}
    assert codes([*whole[:-1], replace(whole[-1], cached_prompt_tokens=1)]) == {"prefix_cache": "invalid"}


def test_cache_hits_by_the_servers_counters():
    """The same where usage does not say; the template's tokens of every request are no hits there either."""
    silent = [replace(r, cached_prompt_tokens=None) for r in CLOSED]

    def found(hits, **kw):
        rises = {"hits": hits, "queries": 51_200}
        rows = [
            ServerSample(stamp, edge, f"vllm:prefix_cache_{name}_total", "{}", 70.0 + rise * (edge == "end"))
            for name, rise in rises.items()
            for stamp, edge in ((BASE_NS - 10**6, "start"), (CLOSED[-1].ended_ns + 10**6, "end"))
        ]
        return codes(silent, server=[*edges(CLOSED), *rows], **kw)

    assert found(512) == {}
    assert found(513) == {"prefix_cache": "invalid"}
    template = {"target": {"kind": "vllm", "vocabulary": {"prompt_overhead_tokens": 3}}}
    assert found(512 + 3 * 400, **template) == {}
    assert found(513 + 3 * 400, **template) == {"prefix_cache": "invalid"}


def test_cpu_of_the_harness():
    """4.99 % of the server's CPU time is nothing, 5.01 % a warning."""
    assert codes(host_rows=host(CLOSED, harness_per_s=0.0499)) == {}
    assert codes(host_rows=host(CLOSED, harness_per_s=0.0501)) == {"harness_cpu": "warning"}


def test_cpu_of_others():
    """Two cores, half of them the server's and 0.5 % ours: 9.9 % of others is nothing, 10.1 % is doubt."""
    cores = {"cores": {"logical": 2}}

    def busy(pct):
        return [replace(h, cpu_pct=pct) for h in host(CLOSED)]

    assert codes(host_rows=busy(60.4), environment=cores) == {}
    assert codes(host_rows=busy(60.6), environment=cores) == {"foreign_cpu": "unknown"}


@pytest.mark.parametrize(
    ("bit", "code", "severity"), [(0x40, "gpu_throttled", "warning"), (0x04, "gpu_power_capped", "warning")]
)
def test_samples_of_slowed_boards(bit, code, severity):
    """1 % of the window's samples may show it, one sample more may not."""
    window = summarise(run(OPEN, R10)).window
    rows = gpu(22)
    inside = [i for i, r in enumerate(rows) if window.start_ns < r.stamp_ns <= window.end_ns]
    allowed = len(inside) // 100
    assert allowed >= 2

    def found(count):
        held = set(inside[50 : 50 + count])
        slowed = [replace(r, throttle_reasons=bit) if i in held else r for i, r in enumerate(rows)]
        return codes(OPEN, R10, gpu_rows=slowed)

    assert found(allowed) == {}
    assert found(allowed + 1) == {code: severity}


@pytest.mark.parametrize(
    ("held", "held_mhz", "severity"),
    [(0.2, 1276, "warning"), (0.2, 1274, "invalid"), (1.0, 1456, "warning"), (1.0, 1454, "invalid")],
    ids=["a fifth below 15 % slower", "a fifth above it", "all below 3 % slower", "all above it"],
)
def test_a_throttled_run_is_judged_by_the_clock_that_was_lost(held, held_mhz, severity):
    """1,500 MHz without, of one board of two: 3 % of the clock over the window may be lost, above it the run is INVALID."""
    window = summarise(run(OPEN, R10)).window
    rows = gpu(22)
    inside = [i for i, r in enumerate(rows) if window.start_ns < r.stamp_ns <= window.end_ns and r.gpu_index == 0]
    slow = set(inside[: round(held * len(inside))])
    assert len(slow) == pytest.approx(held * len(inside))
    slowed = [replace(r, throttle_reasons=0x40, sm_clock_mhz=held_mhz) if i in slow else r for i, r in enumerate(rows)]
    assert codes(OPEN, R10, gpu_rows=slowed) == {"gpu_throttled": severity}


@pytest.mark.parametrize("of", ["tokens_per_s", "requests_per_s"])
def test_the_calibrated_ceiling(of):
    """A load equal to what was shown is within it; a load a millionth above it is not."""
    summary = summarise(run(CLOSED, C4))
    window = summary.window
    stamps = np.concatenate([r.chunk_ns for r in CLOSED])
    chunks = int(((stamps > window.start_ns) & (stamps <= window.end_ns)).sum())
    load = {"tokens_per_s": chunks / window.seconds, "requests_per_s": summary.scalars["achieved_rate_rps"]}[of]

    def found(limit):
        ceiling = {"error_s": 0.005, "tokens_per_s": 1e9, "tokens_bounded": True, "requests_per_s": 1e9}
        ceiling |= {"requests_bounded": True, of: limit}
        calibration = {"made_utc": "x", "workers": 1, "ceilings": [ceiling]}
        return codes(environment={"calibration": calibration})

    assert found(load) == {}
    assert found(load * (1 - 1e-6)) == {"client_bottleneck": "invalid"}


@pytest.mark.parametrize("metric", ["ttft_from_schedule_s", "ttft_s", "tpot_s", "e2el_s"])
def test_a_failed_request_within_its_limit_is_not_good(metric):
    """Half of the replies were cut and kept quick stamps: attainment is half, for the analysis and for a capacity probe."""
    slo = {metric: 1.0}
    records = [replace(r, outcome="truncated") if r.seq % 2 else r for r in OPEN]
    summary = summarise(run(records, R10, slo=slo))
    assert summary.scalars["attainment"] == pytest.approx(0.5, abs=0.01)
    assert summary.scalars["goodput_rps"] == pytest.approx(5, rel=0.03)
    assert [reply.good for reply in replies(records[:4], slo)] == [True, False, True, False]


@pytest.mark.parametrize(
    ("metric", "value"),
    [("ttft_from_schedule_s", 0.0625), ("ttft_s", 0.0625), ("tpot_s", 0.0078125), ("e2el_s", 0.125)],
)
def test_a_promise_is_kept_at_its_limit(metric, value):
    """The limit itself is good, a hundredth of a microsecond less is not; for the analysis and for a capacity probe."""
    record = open_loop(10, 1, ttft_s=0.0625, gap_s=0.0078125, tokens=9)[0]
    requests = measured(frame([record], RequestRecord))
    for limit, kept in ((value, True), (value - 1e-8, False)):
        assert good(requests, per_request(requests), {metric: limit}).tolist() == [kept]
        assert replies([record], {metric: limit})[0].good is kept
