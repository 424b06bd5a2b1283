"""Every reason fires where it should, and nothing fires on a clean run."""

import re
from dataclasses import replace

import pytest

from harness.judge.summary import summarise
from harness.records import Load
from tests.judge.run_builder import closed_loop, edges, failed, gpu, host, open_loop, run
from tests.judge.validity_values import C4, CLOSED, OPEN, R10, codes, each, verdict


@pytest.mark.parametrize(("records", "load"), [(CLOSED, C4), (OPEN, R10)])
def test_a_clean_run_is_valid_without_reasons(records, load):
    """Nothing wrong: VALID and not even a warning, GPU or not."""
    assert verdict(records, load).state == "VALID"
    assert verdict(records, load).reasons == ()
    assert verdict(records, load, gpu_rows=gpu(22)).reasons == ()


@pytest.mark.parametrize("state", ["interrupted", "failed", "running"])
def test_unfinished_runs_are_invalid(state):
    """A run that did not complete is INVALID and the error is in the message."""
    v = verdict(state=state, error="killed by signal 9")
    assert codes(v) == {"run_not_complete": "invalid"}
    assert "killed by signal 9" in v.reasons[0].message


@pytest.mark.parametrize(("why", "code"), [("worker_died", "worker_died"), ("target_died", "target_died")])
def test_a_death_is_invalid(why, code):
    """A worker or the server that died makes the run INVALID."""
    assert codes(verdict(drive={"stop_reason": why})) == {code: "invalid"}


def test_missing_rows_are_invalid():
    """Planned 400, recorded 399 though the driver says done: INVALID. After a timed stop fewer rows are right."""
    whole = run(CLOSED, C4)
    short = replace(run(CLOSED[:-1], C4), plan=whole.plan)
    assert codes(summarise(short).verdict) == {"rows_missing": "invalid"}
    timed = replace(run(CLOSED[:-1], C4, drive={"stop_reason": "duration"}), plan=whole.plan)
    assert summarise(timed).verdict.state == "VALID"


def test_no_ok_request_is_invalid():
    """Nothing succeeded: INVALID, with what was seen."""
    v = verdict([failed(r, "connect_error", sent=False) for r in CLOSED])
    assert v.state == "INVALID"
    assert codes(v)["no_ok_requests"] == "invalid"
    assert "400 connect_error" in next(r for r in v.reasons if r.code == "no_ok_requests").message


def test_chat_sessions_are_only_warned_of_other_prompt_lengths():
    """Real replies in a chat's later turns are counted anew by template and tokenizer: a warning there, INVALID elsewhere."""
    off = [replace(r, prompt_tokens=r.target_prompt_tokens + 3) for r in CLOSED]
    data = run(off, C4)
    assert codes(summarise(data).verdict)["prompt_length"] == "invalid"
    plan = data.plan.assign(after_seq=[None, *range(len(data.plan) - 1)])
    chat = replace(data.manifest, target={**data.manifest.target, "api": "chat"})
    assert codes(summarise(replace(data, plan=plan, manifest=chat)).verdict)["prompt_length"] == "warning"


def test_a_run_that_never_began_says_only_why():
    """A server that did not start: one reason, the recorded error."""
    v = verdict([], state="failed", error="the server did not start: unknown flag")
    assert "no_ok_requests" not in codes(v)
    assert codes(v)["run_not_complete"] == "invalid"


def test_more_than_one_percent_failed_is_invalid():
    """2 % failed is INVALID, 0.5 % is not."""
    assert codes(verdict([failed(r) if r.seq % 50 == 0 else r for r in CLOSED]))["too_many_failures"] == "invalid"
    assert verdict([failed(r) if r.seq % 200 == 0 else r for r in CLOSED]).state == "VALID"


def test_cancelled_at_the_end_of_a_timed_run_did_not_fail():
    """Requests that we cut off when the time was up are not failures; the same in another run are."""
    cut = CLOSED[:-8] + [failed(r, "cancelled") for r in CLOSED[-8:]]
    assert verdict(cut, drive={"stop_reason": "duration"}).state == "VALID"
    assert "too_many_failures" in codes(verdict(cut))


def test_dropped_requests_count_as_failures():
    """A request that could not be sent when due is a failure."""
    dropped = [failed(r, "dropped", sent=False) if r.seq % 25 == 3 else r for r in OPEN]
    assert codes(verdict(dropped, R10))["too_many_failures"] == "invalid"


def test_output_length_other_than_forced():
    """2 % of another length: INVALID on vLLM, a warning on an API that cannot be forced; 0.5 % is nothing."""
    off = each(CLOSED, 0.02, target_output_tokens=9)
    assert codes(verdict(off)) == {"output_length": "invalid"}
    assert codes(verdict(off, kind="hosted")) == {"output_length": "warning"}
    assert verdict(each(CLOSED, 0.005, target_output_tokens=9)).reasons == ()


def test_prompt_length_other_than_planned():
    """2 % of prompts of another length by usage: INVALID where the words were verified, else a warning; 0.5 % nothing."""
    off = each(CLOSED, 0.02, target_prompt_tokens=130)
    rows = edges(CLOSED)
    assert codes(verdict(off, server=rows)) == {"prompt_length": "invalid"}
    assert codes(verdict(off, kind="hosted")) == {"prompt_length": "warning"}
    told = {
        "kind": "adopt",
        "checks": {"vocabulary": "unverified, token counts are estimates: /tokenize answers HTTP 404"},
    }
    assert codes(verdict(off, server=rows, target=told)) == {"prompt_length": "warning"}
    told = {"kind": "hosted", "checks": {"vocabulary": "/tokenize"}}
    assert codes(verdict(off, target=told)) == {"prompt_length": "invalid"}
    assert verdict(each(CLOSED, 0.005, target_prompt_tokens=130), server=rows).reasons == ()


def test_chunks_and_usage_must_agree_request_by_request():
    """One token too many in one reply and one too few in another: the sums agree, the run is INVALID all the same."""
    off = [*CLOSED]
    off[100] = replace(off[100], counted_output_tokens=9)
    off[101] = replace(off[101], counted_output_tokens=7)
    assert codes(verdict(off)) == {"token_mismatch": "invalid"}
    assert codes(verdict(off, kind="hosted", server=None)) == {"token_mismatch": "warning"}


@pytest.mark.parametrize("extra", [{"prompt_extra": 1}, {"output_extra": -1}])
def test_server_counters_must_agree_to_the_token(extra):
    """One token more or less than usage on a server of ours: INVALID."""
    assert codes(verdict(server=edges(CLOSED, **extra))) == {"token_mismatch": "invalid"}


def test_foreign_traffic_on_an_adopted_server():
    """More on the counters of a server that others may use: UNKNOWN, said as such. Less can not be explained: INVALID."""
    assert codes(verdict(server=edges(CLOSED, output_extra=100), kind="adopt")) == {"foreign_traffic": "unknown"}
    assert codes(verdict(server=edges(CLOSED, output_extra=-100), kind="adopt")) == {"token_mismatch": "invalid"}
    assert verdict(kind="adopt").reasons == ()


def test_tokens_of_failed_requests_may_be_on_the_counters():
    """The server counts what it did for a request that failed: up to what was asked for that is no mismatch, beyond it is."""
    one_failed = [failed(r) if r.seq == 7 else r for r in CLOSED]
    assert verdict(one_failed, server=edges(one_failed, prompt_extra=128, output_extra=8)).reasons == ()
    assert codes(verdict(one_failed, server=edges(one_failed, output_extra=9))) == {"token_mismatch": "invalid"}


def test_send_lag_above_the_limit_is_invalid():
    """p99 lag 6 ms at 200/s (limit 5 ms): INVALID; the same at 10/s (limit 10 ms) is not."""
    assert codes(verdict(open_loop(200, 2000, lag_s=0.006), Load(rate_rps=200))) == {"send_lag": "invalid"}
    assert verdict(open_loop(10, 200, lag_s=0.006), R10).reasons == ()


def test_achieved_rate_below_the_schedule_is_invalid():
    """A client that falls behind by 5 % of the time: INVALID by rate; 1 % is not."""

    def slow(factor):
        return [replace(r, sent_ns=r.sent_ns + round(i * 1e8 * factor)) for i, r in enumerate(OPEN)]

    assert codes(verdict(slow(0.05), R10))["achieved_below_scheduled"] == "invalid"
    assert "achieved_below_scheduled" not in codes(verdict(slow(0.01), R10))


def test_a_stepped_clock_is_invalid_only_for_kernel_stamps():
    """2 ms step: INVALID with kernel stamps, a warning with monotonic ones; 0.5 ms is slew."""
    assert codes(verdict(drive={"largest_clock_step_ns": 2_000_000})) == {"clock_stepped": "invalid"}
    assert codes(verdict(drive={"largest_clock_step_ns": 2_000_000, "stamp_source": "user"})) == {
        "clock_stepped": "warning"
    }
    assert verdict(drive={"largest_clock_step_ns": 500_000}).reasons == ()


def test_merged_reads_are_a_warning():
    """More than 1 % merged reads: VALID with a warning that the tail is an upper bound."""
    v = verdict(each(CLOSED, 0.5, merged_reads=1))
    assert codes(v) == {"merged_reads": "warning"}
    assert v.state == "VALID"
    assert verdict(each(CLOSED, 0.05, merged_reads=1)).reasons == ()


def test_missing_usage_is_unknown():
    """One ok request without usage: tokens are not known for the run."""
    off = [*CLOSED]
    off[100] = replace(off[100], output_tokens=None)
    v = verdict(off)
    assert v.state == "UNKNOWN"
    assert codes(v)["usage_missing"] == "unknown"


def test_missing_server_counters_are_unknown_for_a_server_with_metrics():
    """vLLM without scrapes: UNKNOWN with why; a hosted API has none and needs none."""
    v = verdict(server=None, telemetry={"server": "HTTP 404"})
    assert codes(v) == {"server_counters_missing": "unknown"}
    assert "HTTP 404" in v.reasons[0].message
    assert verdict(server=None, kind="hosted").reasons == ()


def test_too_few_requests_and_too_short_a_window():
    """Nine requests over four slots: UNKNOWN for both reasons, not INVALID."""
    v = verdict(closed_loop(4, 9))
    assert codes(v) == {"too_few_requests": "unknown", "window_too_short": "unknown"}
    assert v.state == "UNKNOWN"


def test_two_requests_are_unknown():
    """A run of two requests: whole phase, UNKNOWN, no crash."""
    v = verdict(closed_loop(4, 2))
    assert v.state == "UNKNOWN"
    assert "whole phase" in next(r.message for r in v.reasons if r.code == "window_too_short")


def test_no_window_is_unknown():
    """A reply in no time leaves no window: UNKNOWN with that reason."""
    assert codes(verdict(closed_loop(1, 1, ttft_s=0.0, tokens=1)))["no_window"] == "unknown"


def queued(rate, capacity, count):
    """Open loop before a server that answers one request after another."""
    records, free = [], 0.0
    for r in open_loop(rate, count):
        start = max(r.seq / rate, free)
        free = start + 1 / capacity
        shift = round((start - r.seq / rate) * 1e9)
        stamps = tuple(c + shift for c in r.chunk_ns)
        records.append(
            replace(r, chunk_ns=stamps, first_token_ns=stamps[0], last_token_ns=stamps[-1], ended_ns=stamps[-1] + 1000)
        )
    return records


def test_a_growing_queue_is_unknown():
    """Offered 10/s to a server that does 7/s: UNKNOWN, offered above capacity; at 9.9/s of 10 nothing."""
    assert codes(verdict(queued(10, 7, 200), R10)) == {"queue_growing": "unknown"}
    assert verdict(queued(9.9, 10, 200), Load(rate_rps=9.9)).reasons == ()


def test_a_full_closed_loop_is_no_growing_queue():
    """In a closed loop rising TTFT is not called a growing queue."""
    rising = [replace(r, first_token_ns=r.sent_ns + 10**6 * (r.seq + 1)) for r in CLOSED]
    assert "queue_growing" not in codes(verdict(rising))


def test_worst_reason_decides_and_comes_first():
    """INVALID over UNKNOWN over warning, in that order; every reason has words and advice."""
    v = verdict(each(CLOSED, 0.5, merged_reads=1), server=None, state="failed")
    assert [r.severity for r in v.reasons] == ["invalid", "unknown", "warning"]
    assert v.state == "INVALID"
    assert all(r.message and r.advice for r in v.reasons)


def test_unplanned_prefix_cache_hits_are_invalid():
    """Unique prompts of which the server had half cached: INVALID; what the chat template explains is not a hit."""
    half = [replace(r, cached_prompt_tokens=r.prompt_tokens // 2) for r in CLOSED]
    assert codes(verdict(half)) == {"prefix_cache": "invalid"}
    template = CLOSED[0].prompt_tokens // 2
    assert verdict(half, target={"vocabulary": {"prompt_overhead_tokens": template}}).state == "VALID"


def test_other_work_on_the_machine_is_doubt():
    """Two cores, 90 % busy, of which harness and server used 50.5 %: UNKNOWN without a GPU, a warning with one."""
    busy = [replace(h, cpu_pct=90.0) for h in host(CLOSED)]
    cores = {"cores": {"logical": 2}}
    assert codes(verdict(host_rows=busy, environment=cores)) == {"foreign_cpu": "unknown"}
    assert codes(verdict(host_rows=busy, environment=cores, gpu_rows=gpu(22))) == {"foreign_cpu": "warning"}
    alone = [replace(h, cpu_pct=55.0) for h in host(CLOSED)]
    assert verdict(host_rows=alone, environment=cores).state == "VALID"


def test_a_short_open_loop_is_not_called_growing_for_three_requests():
    """25 requests of which the last 3 are slow: a stable queue does that, the run is not in doubt for it."""
    records = open_loop(1, 25)
    slow = [
        replace(
            r,
            last_token_ns=r.last_token_ns + 10**10,
            ended_ns=r.ended_ns + 10**10,
            first_token_ns=r.first_token_ns + 2 * 10**9,
        )
        for r in records[-3:]
    ]
    assert "queue_growing" not in codes(verdict([*records[:-3], *slow], Load(rate_rps=1)))


@pytest.mark.parametrize(
    ("ceilings", "expected"),
    [
        ([(0.001, 20.0, True), (0.005, 30.0, True)], "invalid"),
        ([(0.001, 20.0, True), (0.005, 1e6, True)], "warning"),
        ([(0.001, 20.0, False), (0.005, 30.0, False)], None),  # the calibration never found its end
        ([(0.001, 1e6, True), (0.005, 1e6, True)], None),
        ([(0.001, 1e6, True), (0.005, None, True)], "invalid"),  # not even the lightest step was measured well
    ],
)
def test_load_beyond_the_calibrated_ceiling(ceilings, expected):
    """Above the 5 ms ceiling the client was the bottleneck: INVALID. Above the 1 ms one: a warning. No calibration: nothing."""
    rest = {"requests_per_s": 1e6, "requests_bounded": True}
    shown = [{"error_s": e, "tokens_per_s": t, "tokens_bounded": b} | rest for e, t, b in ceilings]
    calibration = {
        "made_utc": "2026-11-24T12:00:00+00:00",
        "workers": 1,
        "load1": 0.0,
        "quick": False,
        "ceilings": shown,
    }
    v = verdict(environment={"calibration": calibration})
    assert codes(v) == ({} if expected is None else {"client_bottleneck": expected})
    if expected is not None:
        step = next(c for c in shown[::-1] if c["tokens_per_s"] is None or c["tokens_per_s"] < 1e6)
        said = f"where an error below {step['error_s'] * 1000:g} ms was shown up to {step['tokens_per_s'] or 0:,.0f} (1 worker(s), "
        assert said in v.reasons[0].message
        chunks = int(re.search(r": ([\d,]+) chunks/s in the window", v.reasons[0].message)[1].replace(",", ""))
        assert chunks == pytest.approx(summarise(run(CLOSED, C4)).scalars["output_tps"], rel=0.05)
    assert codes(verdict(environment={"calibration": None})) == {}


@pytest.mark.parametrize("flag", ["load_format", "--load-format"])
def test_dummy_weights_are_a_warning(flag):
    """Random weights: VALID, and said that the speed is real and the text is not; a model's own weights are silent."""
    v = verdict(target={"flags": {flag: "dummy"}})
    assert (v.state, codes(v)) == ("VALID", {"dummy_weights": "warning"})
    assert verdict(target={"flags": {flag: "auto"}}).reasons == ()
