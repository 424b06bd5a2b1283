"""`make gpu-check`: its steps that ask NVML, against a C library under NVML's name, and their verdicts."""

import subprocess

import pytest

from harness.base import clock
from harness.records import GpuSample
from tests.bench.gpu_check import (
    cool_down_step,
    namespace_step,
    nvml_steps,
)
from tests.bench.gpu_check.step import (
    in_namespace,
)

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
