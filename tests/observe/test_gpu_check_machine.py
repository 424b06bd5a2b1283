"""`make gpu-check`: verdicts of the steps that need servers and a whole machine."""

import json

import pytest

from harness.config.experiment import load_experiment
from tests.bench.gpu_check import __main__ as gpu_check
from tests.bench.gpu_check import (
    experiments,
    kill_step,
    machine_steps,
    nvml_steps,
    server_steps,
)
from tests.bench.gpu_check.step import (
    Place,
)

MIB = 1 << 20


LOCKED = {
    "names": ["machine"],
    "gpu": False,
    "code": 3,
    "holder_pid": 77,
    "told": "held: pid 77, c",
    "after_kill": ["machine"],
}
KILLED = {
    "gone_s": 2.0, "left": [], "held_before_bytes": {"GPU-0": 0}, "held_during_bytes": {"GPU-0": 70_000 * MIB},
    "held_after_bytes": {"GPU-0": 5 * MIB}, "recover": 0, "rows": 40, "planned": 100,
}  # fmt: skip
POINT = {"kind": "tokens", "whole": 100, "requests": 100, "error_p99_s": 0.001}
CALIBRATED = {name: {"points": [POINT], "error_s": 0.005} for name in ("quiet", "busy")}
WARM = [
    {"target": "gpu", "concurrency": c, "verdict": "VALID", "reasons": [], "output_tps": float(c)}
    for c in (1, 64, 1024)
]
LADDER = {server_steps.FOUR: WARM, server_steps.TWICE: WARM}
TOLD = {name: {"attention_backend": f"{backend}, of [..]", "cuda_graphs": "captured in 9 s, 1.2 GiB"}
        for name, backend in server_steps._BACKENDS.items()}  # fmt: skip
KERNELS = {
    "runs": [{**WARM[0], "target": name, "checks": checks} for name, checks in TOLD.items()],
    "output_tps": {server_steps.WITH: 3000.0, server_steps.WITHOUT: 2800.0},
}
CLIENTS = {"medians": {name: {"output_tps": 1000.0, "ttft_ms": 50.0, "tpot_ms": 10.0} for name in
           (server_steps.OURS, server_steps.PLAIN, server_steps.THEIRS, server_steps.EAGER)}}  # fmt: skip
CAPACITY = {"state": "found", "why": "", "capacity_rps": 30.0, "low_rps": 29.0, "high_rps": 31.0, "ladder_rps": 60.0}


def changed(found, *path, to):
    """A copy with one value changed."""
    copy = json.loads(json.dumps(found))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return copy


MISSING = [
    {"item": name, "state": "missing", "detail": "d", "how_to_get": "h"} for name in ("chromium", "Python headers")
]
BOX = {"gpu": True, "codes": {"doctor": 0, "require": 0}, "lines": MISSING[:1]}

CASES = {
    "doctor ok": (machine_steps.check_doctor, BOX, ""),
    "doctor without headers": (machine_steps.check_doctor, BOX | {"lines": MISSING}, "Python headers: d (h)"),
    "doctor without CUDA": (machine_steps.check_doctor, changed(BOX, "codes", "require", to=3), "NVML has a board, and --require gpu ends with 3"),
    "doctor of a CPU": (machine_steps.check_doctor, changed(BOX, "gpu", to=False) | {"lines": MISSING}, "NVML has none, and --require gpu ends with 0"),
    "lock ok": (machine_steps.check_lock, LOCKED, ""),
    "lock not refused": (machine_steps.check_lock, changed(LOCKED, "code", to=0), "was not refused"),
    "lock of a machine on a GPU box": (machine_steps.check_lock, changed(LOCKED, "gpu", to=True), "locks are ['machine']"),
    "lock without a pid": (machine_steps.check_lock, changed(LOCKED, "told", to="held: pid 777"), "does not name the holder"),
    "lock outlives": (machine_steps.check_lock, changed(LOCKED, "after_kill", to=[]), "outlived its holder"),
    "kill ok": (kill_step.check_kill, KILLED, ""),
    "kill without boards": (kill_step.check_kill, KILLED | {f"held_{when}_bytes": {} for when in ("before", "during", "after")}, ""),
    "kill leaves memory": (kill_step.check_kill, changed(KILLED, "held_after_bytes", "GPU-0", to=9000 * MIB), "GPU-0 holds 9,000 MiB more"),
    "kill leaves processes": (kill_step.check_kill, changed(KILLED, "gone_s", to=None), "processes left 60 s after"),
    "kill of a server elsewhere": (kill_step.check_kill, changed(KILLED, "held_during_bytes", "GPU-0", to=0), "was it on them"),
    "kill loses rows": (kill_step.check_kill, changed(KILLED, "rows", to=0), "0 rows of the killed run"),
    "calibrate ok": (machine_steps.check_calibrate, CALIBRATED, ""),
    "calibrate loses": (machine_steps.check_calibrate, changed(CALIBRATED, "busy", "points", 0, "whole", to=98), "busy: 2 of 100 replies lost"),
    "calibrate wrong": (machine_steps.check_calibrate, changed(CALIBRATED, "quiet", "points", 0, "error_p99_s", to=0.02), "wrong by 20.0 ms"),
    "calibrate busy and late": (machine_steps.check_calibrate, changed(CALIBRATED, "busy", "points", 0, "error_p99_s", to=0.02), ""),
    "ladder ok": (server_steps.check_ladder, LADDER, ""),
    "ladder compiles": (
        server_steps.check_ladder,
        changed(changed(LADDER, server_steps.TWICE, 1, "verdict", to="UNKNOWN"), server_steps.TWICE, 1, "reasons", to=["unknown: compiled_in_window: x"]),
        "c64 is UNKNOWN: unknown: compiled_in_window",
    ),
    "ladder falls": (server_steps.check_ladder, changed(LADDER, server_steps.TWICE, 0, "output_tps", to=70.0), "c64: 64 tok/s, less than 70"),
    "ladder faster cold": (server_steps.check_ladder, changed(LADDER, server_steps.FOUR, 2, "output_tps", to=1200.0), "1,200 tok/s with 4 warm-ups"),
    "flashinfer ok": (server_steps.check_flashinfer, KERNELS, ""),
    "flashinfer not used": (
        server_steps.check_flashinfer,
        changed(KERNELS, "runs", 0, "checks", "attention_backend", to="FLASH_ATTN"),
        "flashinfer: attention backend FLASH_ATTN, asked for FLASHINFER",
    ),
    "flashinfer eager": (server_steps.check_flashinfer, changed(KERNELS, "runs", 1, "checks", "cuda_graphs", to="none: eager"), "CUDA graphs: none"),
    "flashinfer slow": (server_steps.check_flashinfer, changed(KERNELS, "output_tps", server_steps.WITH, to=1000.0), "1,000 tok/s, without 2,800"),
    "clients ok": (server_steps.check_clients, CLIENTS, ""),
    "clients apart": (server_steps.check_clients, changed(CLIENTS, "medians", server_steps.THEIRS, "output_tps", to=950.0), "ours is +5.3% off vllm"),
    "clients graphs slower": (server_steps.check_clients, changed(CLIENTS, "medians", server_steps.EAGER, "tpot_ms", to=9.0), "longer with CUDA graphs"),
    "capacity ok": (server_steps.check_capacity, CAPACITY, ""),
    "capacity undecided": (server_steps.check_capacity, changed(CAPACITY, "state", to="undecided"), "ended undecided"),
    "capacity above the ladder": (server_steps.check_capacity, changed(CAPACITY, "ladder_rps", to=20.0), "20.00 served at the top"),
}  # fmt: skip


@pytest.mark.parametrize(("check", "found", "words"), CASES.values(), ids=CASES.keys())
def test_verdicts(check, found, words):
    """A step whose figures are as expected has no complaint, and each other one has just its own."""
    wrong = check(found)
    assert len(wrong) == bool(words), wrong
    assert words in "".join(wrong)


class Written(Exception):
    """The experiment of a step, in place of running it."""


@pytest.mark.parametrize("name", ["flashinfer", "ladder", "capacity"])
def test_the_experiments_of_a_gpu_box(tmp_path, monkeypatch, name):
    """Each is quickstart-gpu's server and promise, requires the GPU's telemetry, and has the loads that its step names."""

    def caught(path, *_, **__):
        raise Written(path)

    monkeypatch.setattr(experiments, "harness_run", caught)
    measure = next(s.measure for s in server_steps.STEPS if s.name == name)
    with pytest.raises(Written) as told:
        measure(Place(tmp_path, None, say=lambda text: None))
    spec = load_experiment(told.value.args[0])
    given = experiments.base()
    assert {target.model for target in spec.targets} == {given["targets"][0]["model"]}
    assert all(given["targets"][0]["flags"].items() <= target.flags.items() for target in spec.targets)
    assert spec.slo.limits == {key: value for key, value in given["slo"].items() if key != "attainment"}
    assert spec.observe.gpu == "required"
    points = sorted(point.concurrency or 0 for load in spec.loads for point in load.points())
    assert points == {"flashinfer": [1, 64], "ladder": [1, 4, 16, 64, 256, 1024], "capacity": [0]}[name]


def test_the_steps_fit_into_their_time():
    """On a box with one H100 all steps are estimated at no more than the 45 minutes that they are given."""
    assert sum(s.minutes for s in gpu_check.STEPS) <= gpu_check.MINUTES
    assert len({s.name for s in gpu_check.STEPS}) == len(gpu_check.STEPS) == 13


def test_clock_event_reasons_are_named():
    """Every set bit is named, lowest first; an unknown one keeps its number."""
    assert nvml_steps.reason_names(0) == ()
    assert nvml_steps.reason_names(0x4 | 0x40) == ("sw_power_cap", "hw_thermal_slowdown")
    assert nvml_steps.reason_names(1 << 40 | 1) == ("gpu_idle", "0x10000000000")
