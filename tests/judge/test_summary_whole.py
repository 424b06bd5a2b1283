"""A summary with every field, and the notes beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.judge.columns import measured
from harness.judge.metrics import distribution, distributions, per_request
from harness.judge.rates import rates
from harness.judge.summary import summarise
from harness.judge.telemetry import timeline, token_checks
from harness.judge.window import find_window
from harness.records import Cell, Load, RequestRecord, Verdict
from harness.records.metrics import METRICS
from tests.judge.run_builder import closed_loop, failed, frame, gpu, request, run

C4 = Load(concurrency=4)
CLOSED = [
    replace(
        r,
        cached_prompt_tokens=r.seq % 3 or None,
        reasoning_tokens=None if r.seq % 2 else 1,
        prompt_tokens=128 + r.seq % 4,
    )
    for r in closed_loop(4, 200)
]
GPU_ABSENT = "gpu telemetry absent: not recorded"


def test_the_summary_as_a_whole():
    """What the manifest says, what each part of the analysis says, and the usage of the window's requests."""
    cell = Cell("t", "fixed:128x8", C4, 3)
    data = run(
        CLOSED,
        C4,
        cell=cell,
        gpu_rows=gpu(8),
        slo={"ttft_s": 1.0},
        environment={"kernel": "6.1"},
        telemetry={"gpu": "ok"},
        seed=9,
    )
    data = replace(
        data,
        manifest=replace(
            data.manifest,
            plan_sha256="p",
            config_sha256="q",
            experiment="e",
            campaign_id="k",
            created_utc="u",
            run_id="r",
        ),
    )
    found = summarise(data)
    requests = measured(frame(CLOSED, RequestRecord))
    window, _ = find_window(requests, C4)
    values, population = per_request(requests), requests.sent.inside(window)
    assert (found.run_id, found.experiment, found.campaign_id, found.created_utc) == ("r", "e", "k", "u")
    assert (found.cell, found.state, found.model, found.target_kind, found.outcomes) == (
        cell,
        "complete",
        "m",
        "vllm",
        {"ok": 200},
    )
    assert (found.window, found.notes, found.startup, found.config) == (
        window,
        (),
        {"ready_s": 30.0},
        {"slo": {"ttft_s": 1.0}},
    )
    assert found.verdict == Verdict("INVALID", found.verdict.reasons)  # prompts of other lengths than planned, and hits
    assert {r.code for r in found.verdict.reasons} == {"prompt_length", "token_mismatch", "prefix_cache"}
    assert found.distributions == distributions(requests, values, window, population)
    assert found.tokens == token_checks(requests, data.server)
    assert found.timeline == timeline(requests, data.gpu, data.server, data.host)
    assert found.usage == tuple(
        (r.prompt_tokens, r.cached_prompt_tokens or 0, 8, r.reasoning_tokens or 0)
        for r in CLOSED
        if window.start_ns < r.sent_ns <= window.end_ns
    )
    expected = rates(requests, values, window, C4, {"ttft_s": 1.0})
    joules = 300 * window.seconds
    expected |= {
        "energy_j": joules,
        "energy_per_output_token_j": joules / (expected["output_tps"] * window.seconds),
        "harness_cpu_share": 0.01,
        **dict.fromkeys(
            ("capacity_rps", "round_trip_s", "preemptions", "kv_cache_use_max", "prefix_hit_share", "draft_acceptance")
        ),
    }
    assert list(found.scalars) == [m.name for m in METRICS.values() if m.per == "run"]
    assert found.scalars == {name: None if v is None else pytest.approx(v, rel=1e-4) for name, v in expected.items()}
    assert found.environment == {
        "kernel": "6.1", "plan_sha256": "p", "config_sha256": "q", "seed": 9, "server": {}, "telemetry": {"gpu": "ok"},
    }  # fmt: skip


def test_what_a_server_told_is_in_the_environment():
    """All that identifies it and is not empty; nothing of a target that told nothing."""
    told = {
        "server_version": "1",
        "max_model_len": 2,
        "flags": {"a": 1},
        "cache_config": {"b": 2},
        "checks": {"c": "d"},
        "vocabulary": {"words": 3},
    }
    found = summarise(run(CLOSED, C4, target={**told, "kind": "hosted", "model": "m", "url": "x"})).environment
    assert found["server"] == told
    bare = summarise(run(CLOSED, C4, target={}))
    assert (bare.model, bare.target_kind, bare.startup, bare.environment["server"]) == ("", "", {}, {})


def test_a_run_without_a_window():
    """No rate but those of the whole, empty distributions, the reason first among the notes."""
    rows = [failed(r) for r in closed_loop(4, 8)]
    found = summarise(run(rows, C4, host_rows=None, server=None, kind="hosted"))
    assert found.window is None
    assert found.notes[0] == "no window: no request of the measured phase succeeded"
    assert found.notes[1:] == (
        GPU_ABSENT,
        "server telemetry absent: not recorded",
        "host telemetry absent: not recorded",
    )
    assert set(found.scalars.values()) == {None}
    assert found.distributions == {name: distribution(name, np.zeros(0)) for name in found.distributions}
    assert set(found.distributions) == {m.name for m in METRICS.values() if m.per != "run"}
    assert found.outcomes == {"http_error": 8}
    mixed = summarise(
        run(
            [replace(r, outcome=o) for r, o in zip(closed_loop(4, 4), ("ok", "reset", "ok", "dropped"), strict=True)],
            C4,
        )
    )
    assert list(mixed.outcomes.items()) == [("dropped", 1), ("ok", 2), ("reset", 1)]


def notes(rows=CLOSED, load=C4, **kw):
    return summarise(run(rows, load, **kw)).notes


def test_notes_on_telemetry():
    """Each table that is absent or empty with why; energy only where there were boards."""
    assert notes(gpu_rows=[], server=[], host_rows=[], telemetry={"gpu": "a", "server": "b", "host": "c"}) == tuple(
        f"{kind} telemetry absent: {why}" for kind, why in (("gpu", "a"), ("server", "b"), ("host", "c"))
    )
    assert notes(gpu_rows=gpu(8, energy_mj=None)) == ("GPU energy unknown: GPU 0 has no energy counter",)
    assert notes(gpu_rows=gpu(8)) == ()


def test_notes_on_requests():
    """Short replies under a TPOT limit, a schedule in a closed loop, chunks of what did not succeed; each only where it holds."""
    short = [replace(r, output_tokens=1 if r.seq % 4 == 0 else 2) for r in CLOSED]
    assert [n for n in notes(short, slo={"tpot_s": 1.0}) if n != GPU_ABSENT] == [
        "50 replies of fewer than 2 tokens have no TPOT: under the TPOT limit they count as not good"
    ]
    assert notes(short, slo={"ttft_s": 1.0}) == notes(slo={"tpot_s": 1.0}) == (GPU_ABSENT,)
    lost = [replace(r, outcome="truncated") if r.seq < 4 else r for r in short]
    found = notes(lost, slo={"tpot_s": 1.0, "ttft_from_schedule_s": 1.0})
    assert [n.split()[0] for n in found] == ["49", "closed", "32", "gpu"]
    scheduled = [request(i, i / 10, scheduled_s=i / 10) for i in range(100)]
    assert notes(scheduled, Load(rate_rps=10), slo={"ttft_from_schedule_s": 1.0}) == (GPU_ABSENT,)


def test_usage_is_there_for_all_or_not_at_all():
    """One request of the window without its prompt or output tokens: no usage; one outside of it does no harm."""
    for column in ("prompt_tokens", "output_tokens"):
        assert summarise(run([replace(r, **{column: None}) if r.seq == 100 else r for r in CLOSED], C4)).usage == ()
        assert len(summarise(run([replace(r, **{column: None}) if r.seq < 8 else r for r in CLOSED], C4)).usage) > 150


def test_energy_of_no_tokens():
    """Tokens that are not known, or none: joules, and none a token."""
    rows = [replace(r, output_tokens=None, counted_output_tokens=None) for r in CLOSED]
    for given in (rows, [replace(r, output_tokens=0) for r in CLOSED]):
        scalars = summarise(run(given, C4, gpu_rows=gpu(8))).scalars
        assert scalars["energy_j"] > 0
        assert scalars["energy_per_output_token_j"] is None
