"""The window: where it begins and ends, and that its rates are right there."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.judge.columns import measured
from harness.judge.summary import summarise
from harness.judge.window import find_window, settling_ns
from harness.records import Load, RequestRecord
from tests.judge.run_builder import BASE_NS, closed_loop, failed, frame, ns, open_loop, request, run


def window_of(records, load):
    return find_window(measured(frame(records, RequestRecord)), load)


def test_closed_loop_counts_from_send_2c_to_one_settling_time_before_the_end():
    """Closed loop: send 2c ends the ramp; what counts is a multiple of c, and ends where the last of it was served under full load."""
    records = closed_loop(4, 43, stagger_s=0.003)
    window, rule = window_of(records, Load(concurrency=4))
    sends = sorted(r.sent_ns for r in records)
    assert (window.start_ns, window.end_ns) == (sends[7], sends[39])
    assert window.rule == rule
    assert "32 requests sent after the first 8 and before the last 3" in rule
    assert window.lacking is None


@pytest.mark.parametrize("stagger_s", [0.0, 0.001, 0.004])
@pytest.mark.parametrize("count", [16 * 10, 16 * 10 + 1, 16 * 10 + 15, 16 * 5 + 7])
def test_synchronised_waves_give_the_exact_throughput(stagger_s, count):
    """Equal-length waves, together or spread out, wherever the run ends in one: tokens/s and requests/s are the server's, to 0.2 %."""
    wave_s = 0.05 + 7 * 0.01 + 1e-4
    summary = summarise(run(closed_loop(16, count, stagger_s=stagger_s), Load(concurrency=16)))
    assert summary.window.lacking is None
    assert summary.scalars["output_tps"] == pytest.approx(16 * 8 / wave_s, rel=2e-3)
    assert summary.scalars["request_rps"] == pytest.approx(16 / wave_s, rel=2e-3)
    assert summary.scalars["total_tps"] == pytest.approx(16 * (8 + 128) / wave_s, rel=2e-3)


def test_four_waves_are_the_shortest_steady_run():
    """Two waves of ramp, one that counts, one that keeps the load whole: 4c requests give the rate of the wave, hardly more than 3c none."""
    wave_s = 0.05 + 7 * 0.01 + 1e-4
    summary = summarise(run(closed_loop(8, 32, stagger_s=0.002), Load(concurrency=8)))
    assert summary.scalars["request_rps"] == pytest.approx(8 / wave_s, rel=2e-3)
    assert summary.window.lacking is None
    assert window_of(closed_loop(8, 26, stagger_s=0.002), Load(concurrency=8))[0].lacking == "window_too_short"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 9, 15])
def test_runs_without_a_steady_part_get_the_whole_phase_and_what_would_suffice(count):
    """Fewer than four waves: from first send to last token, said in the rule; the requests advised do give a steady part."""
    records = closed_loop(4, count)
    window, rule = window_of(records, Load(concurrency=4))
    assert rule.startswith("whole phase")
    assert (window.start_ns, window.end_ns) == (BASE_NS - 1, max(r.last_token_ns for r in records))
    assert window.lacking == "window_too_short"
    if count > 4:  # before, no slot was ever refilled: there is no rate to advise with
        enough = int(re.search(r"(\d+) requests", window.advice)[1])
        assert summarise(run(closed_loop(4, enough), Load(concurrency=4))).verdict.state == "VALID"


def test_settling_time_of_known_distributions():
    """Equal durations: 95 % of one; exponential ones: ln 20 = 3.0 times their mean."""
    assert settling_ns(np.full(7, 1_000_000_000)) == 950_000_000
    drawn = np.random.default_rng(1).exponential(1e9, 200_000).astype(np.int64)
    assert settling_ns(drawn) == pytest.approx(math.log(20) * 1e9, rel=0.02)


def test_a_session_is_one_load_from_its_first_turn_to_its_last_reply():
    """Turns of sessions that last 6 s: the ramp is of the sessions' length, not of a turn's 0.12 s, and what follows the last one's start is drain."""
    records = [
        replace(request(n * 3 + turn, n * 0.5 + turn * 3), session_id=n) for n in range(100) for turn in range(3)
    ]
    window, _ = window_of(records, Load(rate_rps=2))
    assert window.ramp_s == pytest.approx(5.82, abs=0.5)
    assert window.end_ns <= ns(99 * 0.5 - 5.8)


def test_slots_of_two_workers_that_run_dry_apart_are_drain_from_the_first():
    """Half the slots have no more requests from 2 s on: what is sent later is not counted."""
    records = closed_loop(4, 200)
    early = [r for r in records if r.seq % 2 == 0 or r.sent_ns < ns(2)]
    window, _ = window_of(early, Load(concurrency=4))
    assert window.end_ns < ns(2)


def test_no_ok_request_gives_no_window_but_a_reason():
    """All failed: None, with the reason."""
    assert window_of([failed(r) for r in closed_loop(2, 8)], Load(concurrency=2)) == (
        None,
        "no request of the measured phase succeeded",
    )


def test_nothing_sent_gives_no_window_but_a_reason():
    """No row of the measured phase: None, with the reason."""
    assert window_of([], Load(concurrency=2)) == (None, "no request of the measured phase was sent")
    assert window_of([request(-1, 0, phase="warmup")], Load(concurrency=2))[0] is None


def test_one_token_at_once_gives_no_window():
    """A reply in the instant of its send lasts no time: None, not a division by zero."""
    window, rule = window_of([request(0, 0, ttft_s=0, tokens=1)], Load(concurrency=1))
    assert window is None
    assert "lasted" in rule


def test_open_loop_counts_between_two_settling_times():
    """Open loop: from the first send after one settling time to the last one before another; sends in gaps."""
    records = open_loop(10, 100)  # E2EL 0.12 s
    window, _ = window_of(records, Load(rate_rps=10))
    assert (window.start_ns, window.end_ns) == (ns(0.2), ns(9.7))
    assert window.offered_s == pytest.approx(9.5)
    assert window.ramp_s == pytest.approx(0.2, abs=1e-9)
    assert window.drain_s == pytest.approx(0.320001, abs=1e-6)


def test_an_open_loops_time_is_that_between_its_sends():
    """Irregular sends and replies of every length: rates are over the window's own seconds, to the nanosecond."""
    rng = np.random.default_rng(2)
    at = np.cumsum(rng.exponential(0.1, 300))
    records = [
        request(i, t, scheduled_s=t, tokens=int(n))
        for i, (t, n) in enumerate(zip(at, rng.integers(2, 60, 300), strict=True))
    ]
    window, _ = window_of(records, Load(rate_rps=10))
    assert window.lacking is None
    assert window.offered_s == window.seconds


def test_open_loop_without_room_between_is_no_steady_part():
    """Open loop of five settling times less a little: whole phase, said, with the seconds that would suffice, which do."""
    window, rule = window_of(open_loop(20, 400, gap_s=0.6), Load(rate_rps=20))  # E2EL 4.25 s in 20 s
    assert rule.startswith("whole phase")
    assert window.lacking == "window_too_short"
    seconds = int(re.search(r"last (\d+) s", window.advice)[1])
    assert 20 < seconds < 30
    assert window_of(open_loop(20, 20 * seconds, gap_s=0.6), Load(rate_rps=20))[0].lacking is None


@pytest.mark.parametrize(("count", "lacking"), [(96, None), (95, "window_too_short")])
def test_an_open_loop_counts_three_settling_times_at_least(count, lacking):
    """Replies of just 2 s settle in 1.9 s: sends over 9.5 s leave 5.7 s between two of those, which is enough; 0.1 s less is not."""
    records = [request(n, n / 10, ttft_s=1.3, gap_s=0.1, scheduled_s=n / 10) for n in range(count)]
    window, _ = window_of([replace(r, ended_ns=r.last_token_ns) for r in records], Load(rate_rps=10))
    assert window.lacking == lacking
    if lacking is None:
        assert (window.start_ns, window.end_ns) == (ns(1.9), ns(7.6))


def test_a_closed_loop_counts_one_settling_time_at_least():
    """One slot, replies of 2 s: of five, two fill the slot, two count and one keeps it busy; of three none is left to count."""
    records = closed_loop(1, 5, ttft_s=1.3, gap_s=0.1)
    window, _ = window_of(records, Load(concurrency=1))
    assert window.lacking is None
    assert (window.start_ns, window.end_ns) == (records[1].sent_ns, records[3].sent_ns)
    assert window.ramp_s == pytest.approx(2.0001)
    assert window.drain_s == pytest.approx(2.0001 + 2.0 + 1e-6, abs=1e-7)
    assert window_of(closed_loop(1, 3, ttft_s=1.3, gap_s=0.1), Load(concurrency=1))[0].lacking == "window_too_short"


@pytest.mark.parametrize(
    ("records", "load", "seconds", "requests"),
    [
        # settling 1.9 s: 1.3 x (1.9 + 3 x 1.9 + 1.9), at 21 sends in 2 s
        (open_loop(10, 21, ttft_s=1.3, gap_s=0.1), Load(rate_rps=10), 12.35, 12.35 * 10.5),
        # 0.114 s: 1.3 x (0.114 + 5 s of counters + 0.114), at 101 sends in 1 s
        (open_loop(100, 101), Load(rate_rps=100), 6.7964, 6.7964 * 101),
        # 0.114 s: 1.3 x (0.114 + 10 requests + 0.114), at 5 sends in 4 s
        (open_loop(1, 5), Load(rate_rps=1), 1.3 * (0.228 + 8), 1.3 * (0.228 + 8) * 1.25),
        # one slot, 1.9 s: 1.3 x (1.9 + 10 requests + 1.9), at 3 sends in 4.0002 s, and one request for the slot
        (closed_loop(1, 3, ttft_s=1.3, gap_s=0.1), Load(concurrency=1), 1.3 * (2 * 4.0002 / 3 + 40.002 / 3 + 1.9), 1.3 * (12 + 1.9 * 3 / 4.0002) + 1),
    ],
)  # fmt: skip
def test_what_is_advised_is_a_third_more_than_the_parts_of_a_run(records, load, seconds, requests):
    """By hand: room times build-up (of a closed loop two refills at least), what must count, and drain."""
    window, _ = window_of(records, load)
    assert window.advice == f"let it last {math.ceil(seconds)} s or {math.ceil(requests)} requests"


def test_a_burst_has_no_rate_to_advise_with():
    """All sent at once: more requests, over time."""
    window, _ = window_of([request(n, 0) for n in range(4)], Load(concurrency=4))
    assert (window.lacking, window.advice) == ("window_too_short", "send more requests, over time")
    assert (window.ramp_s, window.drain_s) == (0.0, pytest.approx(1e-6))


def test_what_ends_after_the_last_token_is_drain():
    """A request that fails 2 s after the last token of the others: 2 s of drain, of the whole phase too."""
    records = open_loop(10, 4)
    late = replace(failed(request(4, 0.4, scheduled_s=0.4)), ended_ns=records[-1].last_token_ns + 2 * 10**9)
    window, _ = window_of([*records, late], Load(rate_rps=10))
    assert window.lacking == "window_too_short"
    assert window.end_ns == records[-1].last_token_ns
    assert window.drain_s == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("rate", "count", "reasons"),
    [(10, 55, set()), (10, 54, {"window_too_short"}), (1, 13, set()), (1, 12, {"too_few_requests"})],
)
def test_five_seconds_and_ten_requests_are_enough(rate, count, reasons):
    """A window of 5.0 s is long enough for the telemetry and one of 10 requests has a median; 4.9 s, or 9 requests, are UNKNOWN."""
    summary = summarise(run(open_loop(rate, count), Load(rate_rps=rate)))
    assert {reason.code for reason in summary.verdict.reasons} == reasons
    assert summary.verdict.state == ("UNKNOWN" if reasons else "VALID")


def test_scheduled_and_achieved_rate_agree_when_the_client_is_punctual():
    """Both rates are of the same requests: no off-by-one between them, however few."""
    for count in (10, 11, 40):
        scalars = summarise(run(open_loop(10, count), Load(rate_rps=10))).scalars
        assert scalars["achieved_rate_rps"] == pytest.approx(scalars["scheduled_rate_rps"], rel=1e-9)
        assert scalars["achieved_rate_rps"] == pytest.approx(10, rel=1e-9)


def test_the_rates_agree_for_irregular_arrivals():
    """Bursty arrivals, sent on time: the scheduled rate is that of the requests in the window, not of the whole plan."""
    at = [0.0]
    for i in range(60):
        at.append(at[-1] + (0.02 if i % 7 else 0.9))
    records = [request(i, t, scheduled_s=t) for i, t in enumerate(at)]
    scalars = summarise(run(records, Load(rate_rps=5))).scalars
    assert scalars["scheduled_rate_rps"] == pytest.approx(scalars["achieved_rate_rps"], rel=1e-9)


def test_window_ignores_warm_up():
    """Warm-up requests move no edge."""
    records = closed_loop(4, 40)
    warm = [replace(request(-i, -5 + i, phase="warmup")) for i in range(1, 4)]
    assert window_of(warm + records, Load(concurrency=4)) == window_of(records, Load(concurrency=4))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 30),
    concurrency=st.one_of(st.none(), st.integers(1, 12)),
    tokens=st.integers(1, 4),
    bad=st.sets(st.integers(0, 29)),
    slo=st.sampled_from([None, {"tpot_s": 0.02}, {"ttft_from_schedule_s": 0.1}]),
)
def test_no_run_is_too_odd_to_summarise(count, concurrency, tokens, bad, slo):
    """Any mix of few requests and failures gives a summary with a verdict and never raises or divides by zero."""
    records = (
        open_loop(10, count, tokens=tokens) if concurrency is None else closed_loop(concurrency, count, tokens=tokens)
    )
    records = [failed(r, sent=r.seq % 2 == 0) if r.seq in bad else r for r in records]
    load = Load(rate_rps=10) if concurrency is None else Load(concurrency=concurrency)
    summary = summarise(run(records, load, slo=slo))
    assert summary.verdict.state in {"VALID", "INVALID", "UNKNOWN"}
    assert sum(summary.outcomes.values()) == count
    for value in summary.scalars.values():
        assert value is None or value >= 0
    if summary.scalars["goodput_rps"] is not None:
        assert summary.scalars["goodput_rps"] <= summary.scalars["request_rps"]
        assert summary.scalars["goodput_tps"] <= summary.scalars["output_tps"]
