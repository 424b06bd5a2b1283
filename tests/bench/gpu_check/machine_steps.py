"""Steps that a machine without a GPU takes too: doctor, the client's calibration beside busy cores, the lock."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from harness.measure import calibrate
from harness.measure.calibrate import Calibration
from harness.measure.observe.machine import cores
from tests.bench.gpu_check import experiments
from tests.bench.gpu_check.step import HARNESS, Figures, Place, Step, finish, last_lines, now_s, started

# ---------------------------------------------------------------- doctor


_SPARE = ("gcc", "chromium")  # tests want them, no measurement does


def _doctor(place: Place) -> Figures:
    folder = place.folder("doctor")
    codes = {
        "doctor": finish([*HARNESS, "doctor", "--json"], folder / "doctor.json", 300),
        "require": finish([*HARNESS, "doctor", "--require", "gpu"], folder / "require.log", 300),
    }
    lines = json.loads((folder / "doctor.json").read_text(encoding="utf-8"))
    bad = [line for line in lines if line["state"] != "ok"]
    items = ", ".join(dict.fromkeys(line["item"] for line in bad)) or "nothing"
    said = f"--require gpu: {last_lines(folder / 'require.log')}; missing or to be looked at: {items}"
    return {"said": said, "gpu": place.no_gpu is None, "codes": codes, "lines": lines}


def check_doctor(found: Mapping[str, Any]) -> list[str]:
    """It ends well, and CUDA works exactly where NVML has a board. On a GPU box nothing that is measured with may be missing."""
    wrong = [] if found["codes"]["doctor"] == 0 else [f"harness doctor ends with {found['codes']['doctor']}"]
    expected = 0 if found["gpu"] else 3
    if found["codes"]["require"] != expected:
        where = "NVML has a board" if found["gpu"] else "NVML has none"
        wrong.append(f"{where}, and --require gpu ends with {found['codes']['require']}, not {expected}")
    if found["gpu"]:
        missing = [line for line in found["lines"] if line["state"] == "missing" and line["item"] not in _SPARE]
        wrong += [f"{line['item']}: {line['detail']} ({line['how_to_get']})" for line in missing]
    return wrong


# ---------------------------------------------------------------- calibrate beside a busy machine

_BURN = (sys.executable, "-c", "while True: pass")


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(started(_BURN, stderr=subprocess.DEVNULL))
        yield


def _calibrate(place: Place) -> Figures:
    burning = max(1, (cores()["usable"] or 2) // 2)
    quiet = calibrate.calibrate(quick=True)
    with _busy(burning):
        busy = calibrate.calibrate(quick=True)
    found: Figures = {"burning": burning, "quiet": _calibration(quiet), "busy": _calibration(busy)}
    found["said"] = f"quiet: {_ceiling(found['quiet'])}; beside busy loops on {burning}: {_ceiling(found['busy'])}"
    return found


def _calibration(made: Calibration) -> Figures:
    names = ("kind", "streams", "offered_rps", "tokens_per_s", "error_p50_s", "error_p99_s", "whole", "requests")
    ceiling = next(one for one in made.ceilings if one.error_s == max(calibrate.LIMITS_S))
    return {
        "points": [{name: getattr(point, name) for name in names} for point in made.points],
        "tokens_per_s": ceiling.tokens_per_s,
        "requests_per_s": ceiling.requests_per_s,
        "error_s": ceiling.error_s,
        "load1": made.load1,
    }


def _ceiling(found: Mapping[str, Any]) -> str:
    shown = []
    for kind, value, unit in (
        ("tokens", found["tokens_per_s"], "tok/s"),
        ("requests", found["requests_per_s"], "requests/s"),
    ):
        measured = any(point["kind"] == kind for point in found["points"])
        shown.append(
            f"{value:,.0f} {unit}"
            if value
            else f"not even the first step of {kind}"
            if measured
            else f"no time for {kind}"
        )
    return f"below {found['error_s'] * 1e3:g} ms: {', '.join(shown)}"


def check_calibrate(found: Mapping[str, Any]) -> list[str]:
    """The lightest steps are right on a quiet machine, and a busy one loses no token of them, only precision."""
    wrong = []
    for name in ("quiet", "busy"):
        points = found[name]["points"]
        if not any(point["kind"] == "tokens" for point in points):
            wrong.append(f"{name}: not even the first step was measured")
        for kind in ("tokens", "requests"):  # those come second, and a busy machine may have no time left for them
            for point in [one for one in points if one["kind"] == kind][:1]:
                if point["whole"] < point["requests"]:
                    wrong.append(
                        f"{name}: {point['requests'] - point['whole']} of {point['requests']} replies lost at the lightest step of {kind}"
                    )
                elif name == "quiet" and point["error_p99_s"] > found[name]["error_s"]:
                    wrong.append(
                        f"quiet: the lightest step of {kind} is already wrong by {point['error_p99_s'] * 1e3:.1f} ms (p99)"
                    )
    return wrong


# ---------------------------------------------------------------- the lock

_HOLD = """
import sys
from harness.measure.campaign.lock import hold, lock_names
from harness.config.experiment import load_experiment
from pathlib import Path
names = lock_names(load_experiment(Path(sys.argv[1])).targets)
with hold(names, "gpu-check-holder", wait=False, say=print):
    print(" ".join(names), flush=True)
    sys.stdin.read()
"""


def _lock(place: Place) -> Figures:
    folder = place.folder("lock")
    path = experiments.write(
        place.on_cpu(), "lock", [experiments.target(place.on_cpu(), "server")], [{"concurrency": [1], "requests": 4}]
    )
    env = {"HARNESS_LOCK_DIR": str(folder / "locks")}  # another campaign of this machine is none of this step's affair
    hold = [sys.executable, "-c", _HOLD, str(path)]
    with started(hold, stdin=-1, stdout=-1, env=env) as holder:
        assert holder.stdout is not None
        names = holder.stdout.readline().split()
        begun_s, log = now_s(), folder / "second.log"
        code = finish([*HARNESS, "run", str(path), "--out", str(folder / "runs")], log, 120, env=env)
        refused_s, told = now_s() - begun_s, log.read_text(encoding="utf-8", errors="replace")
        holder.kill()
        holder.wait()
    with started(hold, stdin=-1, stdout=-1, env=env) as again:
        assert again.stdout is not None
        after = again.stdout.readline().split()
        assert again.stdin is not None
        again.stdin.close()
        again.wait()
    return {
        "said": f"held {', '.join(names)}; the second run ended with {code} after {refused_s:.1f} s; after kill -9 the lock was "
        + ("free" if after == names else "not free"),
        "names": names, "gpu": place.no_gpu is None, "code": code, "holder_pid": holder.pid, "told": told[-1000:], "after_kill": after,
    }  # fmt: skip


def check_lock(found: Mapping[str, Any]) -> list[str]:
    """One lock for each board (else the machine's), refused with exit 3 and the holder's pid, free when the holder was killed."""
    wrong = []
    kinds = {"gpu" if name.startswith("gpu-") else name for name in found["names"]}
    if kinds != ({"gpu"} if found["gpu"] else {"machine"}):
        wrong.append(f"locks are {found['names']}")
    if found["code"] != 3:
        wrong.append(f"a second run was not refused: exit {found['code']}")
    if not re.search(rf"\b{found['holder_pid']}\b", found["told"]):
        wrong.append(f"the refusal does not name the holder, pid {found['holder_pid']}: {found['told'][-200:]}")
    if found["after_kill"] != found["names"]:
        wrong.append("the lock outlived its holder")
    return wrong


FIRST = (
    Step(
        "doctor",
        "harness doctor, and harness doctor --require gpu",
        "CUDA works exactly where NVML has a board, and on a GPU box nothing is missing",
        0.3,
        (),
        _doctor,
        check_doctor,
    ),
)
CALIBRATE = Step(
    "calibrate",
    "harness calibrate --quick, on the machine as it is and beside busy loops on half of its cores",
    f"the lightest steps are right within {max(calibrate.LIMITS_S) * 1e3:g} ms on the quiet machine, and lose no token on the busy one",
    0.6,
    (),
    _calibrate,
    check_calibrate,
)
LAST = (
    Step(
        "lock",
        "harness run while another process holds the lock of the same boards, then again when that was killed",
        "refused with exit 3 and the holder's pid, free after kill -9",
        0.2,
        (),
        _lock,
        check_lock,
    ),
)
