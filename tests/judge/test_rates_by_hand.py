"""Rates, throughput and goodput of a run against sums over its rows, and what is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.columns import measured
from harness.judge.metrics import good, per_request, slo_of
from harness.judge.rates import output_tokens, output_tps_whole, rates
from harness.records import Load, RequestRecord, Window
from tests.judge.run_builder import failed, frame, ns, open_loop, request


def rated(rows, window, load, slo):
    """The rates by sums over rows."""
    of = [r for r in rows if window.start_ns < (r.sent_ns or r.due_ns) <= window.end_ns]
    done = [r for r in of if r.outcome == "ok"]
    kept = [
        r
        for r in done
        if slo and r.first_token_ns is not None and (r.first_token_ns - r.sent_ns) / 1e9 <= slo["ttft_s"]
    ]
    per = window.offered_s

    def rate_of(name):
        stamps = [getattr(r, name) for r in of if getattr(r, name) is not None]
        before = [
            getattr(r, name)
            for r in rows
            if r.sent_ns is not None and r.sent_ns <= window.start_ns and getattr(r, name) is not None
        ]
        start = max(before) if before else min(stamps)
        return sum(s > start for s in stamps) / ((max(stamps) - start) / 1e9)

    output = sum(r.output_tokens if r.output_tokens is not None else r.counted_output_tokens for r in done)
    prompt = sum(r.prompt_tokens for r in done)
    return {
        "scheduled_rate_rps": rate_of("scheduled_ns"),
        "achieved_rate_rps": rate_of("sent_ns") if load.concurrency is None else sum(r.sent_ns is not None for r in of) / per,
        "request_rps": len(done) / per, "output_tps": output / per, "input_tps": prompt / per, "total_tps": (output + prompt) / per,
        "goodput_rps": len(kept) / per if slo else None,
        "goodput_tps": sum(r.output_tokens if r.output_tokens is not None else r.counted_output_tokens for r in kept) / per if slo else None,
        "attainment": len(kept) / len(of) if slo else None,
    }  # fmt: skip


def offered_rows():
    rows = [
        replace(r, prompt_tokens=100 + r.seq, output_tokens=None if r.seq % 5 == 0 else 8)
        for r in open_loop(10, 40, lag_s=0.003)
    ]
    rows[20] = failed(rows[20], "dropped", sent=False)
    rows[25] = replace(rows[25], outcome="truncated")
    return [
        replace(r, first_token_ns=r.first_token_ns + 10**9) if r.seq % 3 == 0 and r.first_token_ns else r for r in rows
    ]


@pytest.mark.parametrize("load", [Load(rate_rps=10.0), Load(concurrency=4)])
@pytest.mark.parametrize("slo", [{}, {"ttft_s": 0.06}])
@pytest.mark.parametrize("start", [0.503, 0.55, -1.0])
def test_all_rates_by_sums(load, slo, start):
    """Over the window's own seconds, of the requests offered in it; the two rates over the stamps themselves."""
    rows, window = offered_rows(), Window(ns(start), ns(3.703), "", 3.1, 0, 0)
    requests = measured(frame(rows, RequestRecord))
    found = rates(requests, per_request(requests), window, load, slo)
    spanned = max(r.last_token_ns for r in rows if r.outcome == "ok") - rows[0].sent_ns
    expected = {"offered_rate_rps": load.rate_rps, "output_tps_whole": None, **rated(rows, window, load, slo)}
    assert found == {name: None if v is None else pytest.approx(v, rel=1e-12) for name, v in expected.items()}
    known = measured(frame([r for r in rows if r.output_tokens is not None or r.outcome != "ok"], RequestRecord))
    kept = [r for r in rows if r.output_tokens is not None and r.outcome == "ok"]
    spanned = max(r.last_token_ns for r in kept) - min(r.sent_ns for r in rows if r.seq and r.sent_ns)
    assert output_tps_whole(known) == pytest.approx(8 * len(kept) / (spanned / 1e9))


def test_rates_that_are_not_known():
    """Nothing in the window; no window; a single stamp; tokens of one of the requests unknown."""
    requests, values = (
        measured(frame(offered_rows(), RequestRecord)),
        per_request(measured(frame(offered_rows(), RequestRecord))),
    )
    nothing = rates(requests, values, Window(ns(50), ns(60), "", 10.0, 0, 0), Load(rate_rps=10.0), {"ttft_s": 1.0})
    assert nothing == {
        "offered_rate_rps": 10.0, "output_tps_whole": None, "scheduled_rate_rps": None, "achieved_rate_rps": None, "request_rps": 0.0,
        "output_tps": 0.0, "input_tps": 0.0, "total_tps": 0.0, "goodput_rps": 0.0, "goodput_tps": 0.0, "attainment": None,
    }  # fmt: skip
    assert rates(requests, values, None, Load(concurrency=2), {}) == {
        "offered_rate_rps": None,
        "output_tps_whole": None,
    }
    single = measured(frame([request(0, 1.0, scheduled_s=1.0)], RequestRecord))
    window = Window(ns(0), ns(2), "", 2.0, 0, 0)
    alone = rates(single, per_request(single), window, Load(rate_rps=1.0), {})
    assert (alone["scheduled_rate_rps"], alone["achieved_rate_rps"], alone["request_rps"]) == (None, None, 0.5)
    for change, lost in (
        ({"prompt_tokens": None}, {"input_tps", "total_tps"}),
        ({"output_tokens": None, "counted_output_tokens": None}, {"output_tps", "total_tps", "goodput_tps"}),
    ):
        rows = measured(frame([request(0, 1.0), replace(request(1, 1.5), **change)], RequestRecord))
        found = rates(rows, per_request(rows), window, Load(concurrency=1), {"ttft_s": 1.0})
        assert {name for name, v in found.items() if v is None} - {
            "offered_rate_rps",
            "scheduled_rate_rps",
            "output_tps_whole",
        } == lost
    silent = measured(frame([replace(request(0, 1.0), output_tokens=None, counted_output_tokens=5)], RequestRecord))
    assert output_tokens(silent).tolist() == [5.0]
    assert output_tps_whole(silent) is None
    assert output_tps_whole(measured(frame([request(0, 1.0, ttft_s=0.0, tokens=1)], RequestRecord))) is None
    assert output_tps_whole(measured(frame([failed(request(0, 1.0))], RequestRecord))) is None


def test_a_promise_in_the_config():
    """The limits that are set, as numbers; attainment is none of them, nor is what is null."""
    limits = {"ttft_from_schedule_s": 2, "ttft_s": 1, "ttfvt_s": 3, "tpot_s": 0.05, "e2el_s": 9}
    assert slo_of({"slo": {**limits, "attainment": 0.99}}) == {name: float(v) for name, v in limits.items()}
    assert slo_of({"slo": {"ttft_s": None, "tpot_s": 0.05}}) == {"tpot_s": 0.05}
    assert slo_of({"slo": None}) == slo_of({}) == {}


def test_a_limit_from_the_schedule_in_a_closed_loop():
    """Held against the time since the slot was free, unless anything was scheduled; kept at its value."""
    rows = [replace(request(n, 1.0, ttft_s=0.25), due_ns=ns(1.0 - n * 0.25)) for n in range(3)]
    requests = measured(frame(rows, RequestRecord))
    assert good(requests, per_request(requests), {"ttft_from_schedule_s": 0.5}).tolist() == [True, True, False]
    scheduled = measured(frame([*rows, replace(rows[0], scheduled_ns=ns(0.75))], RequestRecord))
    assert good(scheduled, per_request(scheduled), {"ttft_from_schedule_s": 0.5}).tolist() == [
        False,
        False,
        False,
        True,
    ]
    assert good(requests, per_request(requests), {}).tolist() == [True] * 3
