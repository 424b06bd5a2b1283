"""Every reason with its code, severity, the numbers in its words, and advice; and when each is silent."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.judge.summary import summarise
from harness.judge.validity import invalid, unknown, warning
from harness.records import Load, Reason
from tests.judge.run_builder import closed_loop, edges, failed, gpu, host, open_loop, run

C4, R10 = Load(concurrency=4), Load(rate_rps=10)
CLOSED = closed_loop(4, 400)  # 12 s: 3,200 output tokens, 51,200 prompt tokens, 3,600 reads
OPEN = open_loop(10, 200)
SILENT = edges(CLOSED)  # counters of a server that did what was planned


def reasons(records=CLOSED, load=C4, **kw):
    return summarise(run(records, load, **kw)).verdict.reasons


def told(found):
    """(code, severity, numbers) of each; none may be without words."""
    assert all(r.message and r.advice and "None" not in r.message + r.advice for r in found)
    return [(r.code, r.severity, re.findall(r"\d[\d.,]*\d%?|\d%?", r.message)) for r in found]


def changed(count, records=CLOSED, **changes):
    return [replace(r, **changes) if 100 <= r.seq < 100 + count else r for r in records]


def lost(count, records=CLOSED, outcome="http_error"):
    return [failed(r, outcome) if 100 <= r.seq < 100 + count else r for r in records]


LAZY = [replace(h, cpu_pct=90.0) for h in host(CLOSED, harness_per_s=0.001, server_per_s=0.099)]
BUSY = [replace(h, cpu_pct=91.5) for h in host(CLOSED)]
CASES = {
    "state": ({"state": "interrupted"}, [("run_not_complete", "invalid", [])]),
    "error": ({"state": "failed", "error": "signal 9"}, [("run_not_complete", "invalid", ["9"])]),
    "worker": ({"drive": {"stop_reason": "worker_died"}}, [("worker_died", "invalid", [])]),
    "target": ({"drive": {"stop_reason": "target_died"}}, [("target_died", "invalid", [])]),
    "other end": ({"drive": {"stop_reason": "sigint"}}, []),
    "failures": ({"records": lost(10)}, [("too_many_failures", "invalid", ["2.5%", "400", "10", "1%"])]),
    "failures beside cancelled ones": (
        {"records": lost(5, lost(20, outcome="cancelled")[:100] + lost(20, outcome="cancelled")[100:]), "drive": {"stop_reason": "duration"}},
        [("too_many_failures", "invalid", ["1.2%", "400", "5", "1%"])],
    ),
    "clock": ({"drive": {"largest_clock_step_ns": 2_500_000}}, [("clock_stepped", "invalid", ["2.5"])]),
    "clock of user stamps": ({"drive": {"largest_clock_step_ns": 2_500_000, "stamp_source": "user"}}, [("clock_stepped", "warning", ["2.5"])]),
    "clock not told": ({"drive": {"largest_clock_step_ns": None}}, []),
    "merged": ({"records": changed(40, merged_reads=2)}, [("merged_reads", "warning", ["80", "3600"])]),
    "output length": ({"records": changed(7, target_output_tokens=9)}, [("output_length", "invalid", ["7", "400"])]),
    "output length of a batch": ({"records": changed(7, target_output_tokens=9), "kind": "offline"}, [("output_length", "invalid", ["7", "400"])]),
    "output length of an adopted one": ({"records": changed(7, target_output_tokens=9), "kind": "adopt"}, [("output_length", "invalid", ["7", "400"])]),
    "output length elsewhere": ({"records": changed(7, target_output_tokens=9), "kind": "hosted"}, [("output_length", "warning", ["7", "400"])]),
    "prompt length": ({"records": changed(6, target_prompt_tokens=130), "server": SILENT}, [("prompt_length", "invalid", ["6", "400"])]),
    "prompt length elsewhere": ({"records": changed(6, target_prompt_tokens=130), "kind": "hosted"}, [("prompt_length", "warning", ["6", "400"])]),
    "prompt length unverified": (
        {"records": changed(6, target_prompt_tokens=130), "server": SILENT, "target": {"kind": "vllm", "checks": {"vocabulary": "unverified: 404"}}},
        [("prompt_length", "warning", ["6", "400"])],
    ),
    "prompt tokens": ({"server": edges(CLOSED, prompt_extra=7)}, [("token_mismatch", "invalid", ["51200", "51207"])]),
    "output tokens": ({"server": edges(CLOSED, output_extra=-7)}, [("token_mismatch", "invalid", ["3200", "3193"])]),
    "foreign output": ({"server": edges(CLOSED, output_extra=7), "kind": "adopt"}, [("foreign_traffic", "unknown", ["3200", "3207", "7"])]),
    "fewer than usage": ({"server": edges(CLOSED, output_extra=-7), "kind": "adopt"}, [("token_mismatch", "invalid", ["3200", "3193"])]),
    "counters of another": ({"server": edges(CLOSED, output_extra=7), "kind": "hosted"}, []),
    "of failed requests": ({"records": lost(2), "server": edges(lost(2), prompt_extra=256, output_extra=16)}, []),
    "of more than failed requests": (
        {"records": lost(2), "server": edges(lost(2), prompt_extra=257)},
        [("token_mismatch", "invalid", ["50944", "51201"])],
    ),
    "less than usage beside failed requests": (
        {"records": lost(2), "server": edges(lost(2), prompt_extra=-1)},
        [("token_mismatch", "invalid", ["50944", "50943"])],
    ),
    "chunks": ({"records": changed(3, counted_output_tokens=9)}, [("token_mismatch", "invalid", ["3", "400"])]),
    "chunks elsewhere": ({"records": changed(3, counted_output_tokens=9), "kind": "hosted"}, [("token_mismatch", "warning", ["3", "400"])]),
    "chunks of failed ones": ({"records": changed(3, counted_output_tokens=9, outcome="truncated"), "server": None, "kind": "hosted"}, []),
    "no usage of prompts": ({"records": changed(3, prompt_tokens=None), "kind": "hosted"}, [("usage_missing", "unknown", ["3", "400"])]),
    "no usage of output": ({"records": changed(3, output_tokens=None), "kind": "hosted"}, [("usage_missing", "unknown", ["3", "400"])]),
    "no counters": ({"server": None, "telemetry": {"server": "HTTP 404"}}, [("server_counters_missing", "unknown", ["404"])]),
    "one counter": ({"server": SILENT[:4]}, [("server_counters_missing", "unknown", [])]),
    "no counters of an adopted one": ({"server": None, "kind": "adopt"}, [("server_counters_missing", "unknown", [])]),
    "no counters, and nobody said where": ({"server": None, "target": {"kind": "adopt"}}, []),
    "no counters of a batch": ({"server": None, "kind": "offline"}, []),
    "harness": ({"host_rows": host(CLOSED, harness_per_s=0.1)}, [("harness_cpu", "warning", ["10.0%", "5%"])]),
    "others": ({"host_rows": BUSY, "environment": {"cores": {"logical": 2}}}, [("foreign_cpu", "unknown", ["41%", "10%"])]),
    "others beside a GPU": ({"host_rows": BUSY, "environment": {"cores": {"logical": 2}}, "gpu_rows": gpu(14)}, [("foreign_cpu", "warning", ["41%", "10%"])]),
    "others of one core": ({"host_rows": LAZY, "environment": {"cores": {"logical": 1}}}, [("foreign_cpu", "unknown", ["80%", "10%"])]),
    "others of unknown cores": ({"host_rows": LAZY, "environment": {}}, []),
    "others of no cores": ({"host_rows": LAZY, "environment": {"cores": None}}, []),
    "no host": ({"host_rows": None, "telemetry": {"host": "error 5"}}, [("host_telemetry_missing", "warning", ["5"])]),
    "no host of a batch": ({"host_rows": [], "kind": "offline"}, [("host_telemetry_missing", "warning", [])]),
    "no host of an adopted one": ({"host_rows": None, "kind": "adopt"}, []),
    "heat": ({"gpu_rows": gpu(14, throttle_reasons=0x40)}, [("gpu_throttled", "unknown", ["100.0%"])]),
    "power": ({"gpu_rows": gpu(14, throttle_reasons=0x05)}, [("gpu_power_capped", "warning", ["100.0%"])]),
    "both": ({"gpu_rows": gpu(14, throttle_reasons=0x0C), "environment": {"gpus": [{"index": i, "sm_clock_limit_mhz": 2000} for i in range(2)]}}, [("gpu_throttled", "invalid", ["100.0%", "0", "25.0%", "1,500", "2,000", "3%"])]),
    "clocks not told": ({"gpu_rows": gpu(14, throttle_reasons=None)}, []),
    "processes": ({"gpu_rows": gpu(14, other_process_count=3)}, [("other_gpu_processes", "invalid", ["3"])]),
    "processes beside a batch": ({"gpu_rows": gpu(14, other_process_count=3), "kind": "offline"}, [("other_gpu_processes", "invalid", ["3"])]),
    "processes elsewhere": ({"gpu_rows": gpu(14, other_process_count=3), "kind": "adopt"}, [("other_gpu_processes", "warning", ["3"])]),
    "boards": ({"gpu_rows": gpu(14, error="code 7")}, [("gpu_board_failed", "unknown", ["0", "1", "7"])]),
    "no samples inside": ({"gpu_rows": [replace(r, throttle_reasons=0x40, other_process_count=3, error="x", stamp_ns=r.stamp_ns - 10**12) for r in gpu(14)]}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_reason(name):
    """Code, severity and numbers of all reasons of the run."""
    given, expected = CASES[name]
    assert told(reasons(**given)) == expected


def test_a_third_of_the_boards_samples():
    """Shares are of the samples that say; of a process the most counts, wherever it was."""
    rows = gpu(14)
    thirds = [
        replace(r, throttle_reasons=(0x40, 0, None)[i // 2 % 3], other_process_count=(0, 2, None)[i // 2 % 3])
        for i, r in enumerate(rows)
    ]
    window = summarise(run(CLOSED, C4)).window
    known = [
        r.throttle_reasons
        for r in thirds
        if window.start_ns < r.stamp_ns <= window.end_ns and r.throttle_reasons is not None
    ]
    share = f"{sum(bits > 0 for bits in known) / len(known):.1%}"
    assert told(reasons(gpu_rows=thirds)) == [
        ("other_gpu_processes", "invalid", ["2"]),
        ("gpu_throttled", "warning", [share, "0", "0.0%", "1,500", "1,500"]),
    ]


@pytest.mark.parametrize(("bit", "code"), [(0x08, "gpu_throttled"), (0x04, "gpu_power_capped")])
def test_one_sample_of_a_hundred_is_no_slowed_board(bit, code):
    """1 % is allowed, of 99 that say one is too many; a sample that says nothing is none of them."""
    window = summarise(run(CLOSED, C4)).window
    rows = [r for r in gpu(14) if window.start_ns < r.stamp_ns <= window.end_ns]
    for known, expected in ((100, []), (99, [code])):
        said = [replace(r, throttle_reasons=(bit if k == 7 else 0) if k < known else None) for k, r in enumerate(rows)]
        assert [code for code, _, _ in told(reasons(gpu_rows=said)) if code.startswith("gpu")] == expected


def test_rows_that_are_missing():
    """400 planned, 399 recorded."""
    short = replace(run(CLOSED[:-1], C4), plan=run(CLOSED, C4).plan)
    assert told(summarise(short).verdict.reasons) == [("rows_missing", "invalid", ["400", "399"])]
    assert told(summarise(replace(short, plan=None)).verdict.reasons) == []


def test_a_run_in_which_nothing_succeeded():
    """How many of each outcome; none at all is said too; a run that failed to begin says only why."""
    mixed = [failed(r, "reset" if r.seq % 4 else "http_error") for r in CLOSED]
    found = told(reasons(mixed))
    assert found == [
        ("no_ok_requests", "invalid", ["100", "300"]),
        ("too_many_failures", "invalid", ["100.0%", "400", "100", "300", "1%"]),
    ]
    words = {r.code: r.message for r in reasons(mixed)}
    assert "100 http_error, 300 reset" in words["no_ok_requests"]
    assert "100 http_error, 300 reset" in words["too_many_failures"]
    assert told(reasons([], host_rows=[]))[0] == ("no_ok_requests", "invalid", [])
    alone = {code: numbers for code, _, numbers in told(reasons([failed(CLOSED[0])]))}
    assert alone["too_many_failures"] == ["100.0%", "1", "1", "1%"]
    assert [code for code, _, _ in told(reasons([], state="failed", host_rows=None, kind="hosted"))] == [
        "run_not_complete"
    ]


def test_a_late_client():
    """p99 lag and its limit in ms; both rates and their ratio."""
    late = [replace(r, sent_ns=r.sent_ns + 25_000_000) for r in OPEN]
    assert told(reasons(late, R10)) == [("send_lag", "invalid", ["99", "25.0", "10.0"])]
    slow = [replace(r, sent_ns=r.sent_ns + r.seq * 5_000_000) for r in OPEN]
    found = {code: (severity, numbers) for code, severity, numbers in told(reasons(slow, R10))}
    assert found["achieved_below_scheduled"] == ("invalid", ["9.52", "10", "95.2%"])
    unscheduled = [replace(r, scheduled_ns=None) for r in late]
    assert told(reasons(unscheduled, R10)) == []


def test_windows_that_are_none_or_short():
    """Seconds and requests that were, and that are needed."""
    at_once = closed_loop(1, 1, ttft_s=0.0, tokens=1)
    assert [r for r in told(reasons(at_once, Load(concurrency=1))) if r[0] == "no_window"] == [
        ("no_window", "unknown", ["0"])
    ]
    short = open_loop(10, 30)
    found = {code: (severity, numbers) for code, severity, numbers in told(reasons(short, R10))}
    assert found == {"window_too_short": ("unknown", ["2.50", "5"])}
    few = open_loop(1, 12)
    assert told(reasons(few, Load(rate_rps=1))) == [("too_few_requests", "unknown", ["9", "10"])]
    advice = summarise(run(few, Load(rate_rps=1))).window.advice
    assert [r.advice for r in reasons(few, Load(rate_rps=1))] == [advice]
    assert [r.advice for r in reasons(short, R10)] == [summarise(run(short, R10)).window.advice]
    lacking = summarise(run(closed_loop(4, 10), C4))
    (whole,) = [r for r in lacking.verdict.reasons if r.code == "window_too_short"]
    assert (whole.severity, whole.message, whole.advice) == ("unknown", lacking.window.rule, lacking.window.advice)
    batch = summarise(run(closed_loop(4, 200), Load(concurrency=200), kind="offline"))
    assert batch.window.lacking is not None
    assert batch.verdict.reasons == ()


def test_the_client_was_the_bottleneck():
    """The load, the error and the rate at which it was shown, of the widest limit; workers and date of the calibration."""
    window = summarise(run(CLOSED, C4)).window
    chunks = sum(window.start_ns < stamp <= window.end_ns for r in CLOSED for stamp in r.chunk_ns) / window.seconds
    sent = summarise(run(CLOSED, C4)).scalars["achieved_rate_rps"]

    def found(*ceilings):
        rows = [
            dict(
                zip(("error_s", "tokens_per_s", "tokens_bounded", "requests_per_s", "requests_bounded"), c, strict=True)
            )
            for c in ceilings
        ]
        said = reasons(environment={"calibration": {"made_utc": "2026", "workers": 3, "ceilings": rows}})
        return [(code, severity, numbers) for code, severity, numbers in told(said)]

    tokens, requests = f"{chunks:,.0f}", f"{sent:,.0f}"
    assert found((0.001, 20.0, True, 1e9, True), (0.005, 30.0, True, 1e9, True)) == [
        ("client_bottleneck", "invalid", [tokens, "5", "30", "3", "2026"])
    ]
    assert found((0.001, 20.0, True, 1e9, True), (0.005, 1e6, True, 1e9, True)) == [
        ("client_bottleneck", "warning", [tokens, "1", "20", "3", "2026"])
    ]
    assert found((0.005, 1e9, True, 10.0, True)) == [
        ("client_bottleneck", "invalid", [requests, "5", "10", "3", "2026"])
    ]
    assert found((0.005, 20.0, False, 10.0, True)) == [
        ("client_bottleneck", "invalid", [requests, "5", "10", "3", "2026"])
    ]
    assert found((0.005, 20.0, False, 10.0, False)) == []
    assert found((0.005, None, True, 1e9, True)) == [("client_bottleneck", "invalid", [tokens, "5", "0", "3", "2026"])]
    assert found((0.005, 1e9, True, None, True)) == [
        ("client_bottleneck", "invalid", [requests, "5", "0", "3", "2026"])
    ]


def test_reasons_of_each_severity():
    """What they are made of."""
    assert [make("c", "m", "a") for make in (invalid, unknown, warning)] == [
        Reason("c", s, "m", "a") for s in ("invalid", "unknown", "warning")
    ]


def test_a_session_over_chat_counts_its_replies_anew():
    """A warning with both counts; over completions, or without later turns, INVALID."""
    off = changed(6, target_prompt_tokens=130)
    later = run(off, C4, server=SILENT)
    later = replace(later, plan=later.plan.assign(after_seq=[None, *range(len(later.plan) - 1)]))

    def of(data, api):
        target = {**data.manifest.target, "api": api}
        return told(summarise(replace(data, manifest=replace(data.manifest, target=target))).verdict.reasons)

    assert of(later, "chat") == [("prompt_length", "warning", ["6", "400"])]
    assert of(later, "completions") == [("prompt_length", "invalid", ["6", "400"])]
    assert of(run(off, C4, server=SILENT), "chat") == [("prompt_length", "invalid", ["6", "400"])]
    assert of(replace(later, plan=None), "chat") == [("prompt_length", "invalid", ["6", "400"])]


def test_samples_outside_the_window_say_nothing():
    """A window's own samples are those after its start and up to its end."""
    window = summarise(run(OPEN, R10)).window
    for stamp, inside in (
        (window.start_ns, False),
        (window.start_ns + 1, True),
        (window.end_ns, True),
        (window.end_ns + 1, False),
    ):
        rows = gpu(22)
        rows[0] = replace(rows[0], stamp_ns=stamp, other_process_count=1)
        assert [code for code, _, _ in told(reasons(OPEN, R10, gpu_rows=rows))] == (
            ["other_gpu_processes"] if inside else []
        )


def test_overruns_have_an_advice_of_their_own():
    """Where most of what failed went on beyond the tokens asked for, no longer limit and no lower load would help; half is not most."""
    for overruns, advised in ((6, "max_tokens"), (5, "timeouts")):
        records = lost(10 - overruns, lost(10, outcome="overrun"), outcome="reset")
        (reason,) = (r for r in reasons(records) if r.code == "too_many_failures")
        assert f"{overruns} overrun" in reason.message
        assert advised in reason.advice
