"""The window: where it begins and ends, and that its rates are right there."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analyse.columns import measured
from harness.analyse.summary import summarise
from harness.analyse.window import WHOLE_PHASE, find_window
from harness.records import Load, RequestRecord
from tests.analyse.run_builder import BASE_NS, closed_loop, failed, frame, ns, open_loop, request, run


def window_of(records, load):
    return find_window(measured(frame(records, RequestRecord)), load)


def test_closed_loop_window_runs_from_send_2c_to_last_send():
    """Closed loop: the edges are the stamps of send 2c and of the last send."""
    records = closed_loop(4, 40, stagger_s=0.003)
    window, rule = window_of(records, Load(concurrency=4))
    sends = sorted(r.sent_ns for r in records)
    assert (window.start_ns, window.end_ns) == (sends[7], sends[-1])
    assert window.rule == rule
    assert "send 8" in rule


@pytest.mark.parametrize("stagger_s", [0.0, 0.001, 0.004])
def test_synchronised_waves_give_the_exact_throughput(stagger_s):
    """Equal-length waves, together or spread out: tokens/s and requests/s are those of the server, to 1 %."""
    wave_s = 0.05 + 7 * 0.01 + 1e-4
    summary = summarise(run(closed_loop(16, 16 * 10, stagger_s=stagger_s), Load(concurrency=16)))
    assert summary.scalars["output_tps"] == pytest.approx(16 * 8 / wave_s, rel=0.01)
    assert summary.scalars["request_rps"] == pytest.approx(16 / wave_s, rel=0.01)
    assert summary.scalars["total_tps"] == pytest.approx(16 * (8 + 128) / wave_s, rel=0.01)


def test_three_waves_are_not_counted_as_more_than_one():
    """The shortest steady run, three waves, gives the rate of one whole wave, not of its spread ends."""
    wave_s = 0.05 + 7 * 0.01 + 1e-4
    summary = summarise(run(closed_loop(8, 24, stagger_s=0.002), Load(concurrency=8)))
    assert summary.scalars["request_rps"] == pytest.approx(8 / wave_s, rel=0.01)


def test_fewer_than_three_waves_start_at_the_first_send():
    """With 2c requests the first wave is inside, and the rule says so."""
    records = closed_loop(4, 8)
    window, rule = window_of(records, Load(concurrency=4))
    assert window.start_ns == min(r.sent_ns for r in records) - 1
    assert "fewer than 3 x 4" in rule


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_tiny_runs_get_the_whole_phase(count):
    """One wave or less: from first send to last token, said in the rule."""
    records = closed_loop(4, count)
    window, rule = window_of(records, Load(concurrency=4))
    assert rule.startswith(WHOLE_PHASE)
    assert window.end_ns == max(r.last_token_ns for r in records)
    assert window.seconds > 0


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


def test_open_loop_leaves_out_one_median_e2el():
    """Open loop, long enough: the start is the first send after one median E2EL, the end the last send."""
    records = open_loop(10, 100)  # E2EL 0.12 s
    window, _ = window_of(records, Load(rate_rps=10))
    assert window.start_ns == ns(0.2)
    assert window.end_ns == ns(9.9)
    assert window.drain_s == pytest.approx(0.120001, abs=1e-6)


def test_open_loop_too_short_for_a_ramp_starts_at_the_first_send():
    """Open loop shorter than ten E2ELs: the ramp is inside and the rule says so."""
    window, rule = window_of(open_loop(100, 60), Load(rate_rps=100))
    assert window.start_ns == BASE_NS
    assert "ramp included" in rule


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
