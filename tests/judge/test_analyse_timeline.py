"""What a summary shows beside its numbers: telemetry over time, each series its own column in its bins, and what the run stood on."""

from dataclasses import replace

import pytest

from harness.judge.summary import summarise
from harness.records import Load
from tests.judge.run_builder import BASE_NS, closed_loop, edges, gpu, host, run

C4 = Load(concurrency=4)
CLOSED = closed_loop(4, 400)  # 12 s in 120 bins


def series(**kw):
    return summarise(run(CLOSED, C4, **kw)).timeline.series


def known(values):
    return [value for value in values if value is not None]


def test_boards_of_a_machine():
    """Power is added up over the boards, their utilisation is averaged; each changes where it changed."""
    rows = [
        replace(r, sm_util_pct=20 if r.gpu_index else 60 if r.stamp_ns < BASE_NS + 6 * 10**9 else 80) for r in gpu(14)
    ]
    found = series(gpu_rows=rows)
    assert known(found["gpu_power_w"]) == [pytest.approx(300.0)] * 120
    busy = found["gpu_sm_util_pct"]
    assert set(known(busy[:55])) == {40.0}
    assert set(known(busy[65:])) == {50.0}


def test_a_silent_board_leaves_power_out():
    """Where one of two boards has no sample the sum is not known, and it is not that of the other."""
    gone = range(BASE_NS + 4 * 10**9, BASE_NS + 6 * 10**9)
    rows = [r for r in gpu(14) if not (r.gpu_index == 1 and r.stamp_ns in gone)]
    power = series(gpu_rows=rows)["gpu_power_w"]
    assert power[50] is None
    assert power[30] == power[70] == pytest.approx(300.0)


def test_processors_of_the_machine():
    """Each bin has the mean of its own samples, bins between two samples none."""
    rows = [replace(h, cpu_pct=10.0 if h.stamp_ns < BASE_NS + 6 * 10**9 else 90.0) for h in host(CLOSED)]
    busy = series(host_rows=rows)["host_cpu_pct"]
    assert set(known(busy[:55])) == {10.0}
    assert set(known(busy[65:])) == {90.0}
    assert None in busy


def test_no_series_of_what_was_not_observed():
    """Without telemetry only what the requests say is there; a server's waiting requests come from its own metric."""
    assert set(series(host_rows=None)) == {"output_tps", "in_flight"}
    waiting = [replace(s, metric="vllm:num_requests_waiting", edge="", value=7.0) for s in edges(CLOSED)[:1]]
    waiting = [replace(waiting[0], stamp_ns=BASE_NS + k * 10**9) for k in range(1, 12)]
    found = series(server=[*edges(CLOSED), *waiting])
    assert set(known(found["server_waiting"])) == {7.0}
    assert "server_running" not in found


def test_a_summary_says_what_the_run_stood_on():
    """Plan, config, seed, server and telemetry of the manifest stand beside the environment; what is not known is left out."""
    told = {
        "kind": "vllm",
        "model": "m",
        "server_version": "0.33",
        "max_model_len": 4096,
        "flags": {"a": 1},
        "checks": {},
    }
    found = summarise(
        run(CLOSED, C4, target=told, telemetry={"gpu": "ok"}, seed=7, plan_sha256="p", config_sha256="c")
    ).environment
    assert (found["plan_sha256"], found["config_sha256"], found["seed"]) == ("p", "c", 7)
    assert found["server"] == {"server_version": "0.33", "max_model_len": 4096, "flags": {"a": 1}}
    assert found["telemetry"] == {"gpu": "ok"}
