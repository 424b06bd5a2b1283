"""Whom NVML shows to a process in a pid namespace of its own, as every container is, and what the harness makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from tests.bench.gpu_check.matmul import matmul
from tests.bench.gpu_check.step import ROOT, Figures, Place, Step, StepError, in_namespace

_LISTING = """
import json
from harness.measure.observe import machine
from harness.measure.observe.boards import nvml
gpus = nvml.open_gpus()
gpus.sees_all_processes = machine.sees_all_processes()
rows = gpus.sample((1,))
held = {pid for unit in gpus._boards for one in (unit, *unit.slices) for pid in one.ask_or_none("processes") or ()}
print(json.dumps({"sees_all": gpus.sees_all_processes, "pids": sorted(held), "others": [r.other_process_count for r in rows],
    "counts": [r.process_count for r in rows], "used_bytes": [r.mem_used_bytes for r in rows]}))
"""


def listed(before: Sequence[str] = ()) -> Figures:
    """What a fresh process says of the boards' processes; `before`: words that give it a namespace."""
    words = [*before, sys.executable, "-c", _LISTING]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    if done.returncode:
        raise StepError(f"no list of processes: {done.stderr.strip()[-300:]}")
    found: Figures = json.loads(done.stdout)
    return found


def _namespaces(place: Place) -> Figures:
    found: Figures = {}
    with matmul(place, "namespaces") as load:
        load.go()
        found["load_pid"] = load.pid
        found["here"], found["inside"] = listed(), listed(in_namespace())
        load.stop()
    with matmul(place, "namespaces", tuple(in_namespace())) as load:
        load.go()
        ours = {child.pid for child in psutil.Process().children(recursive=True)}
        found["load_inside"] = {"pid_inside": load.pid, "tree_here": sorted(ours), "here": listed()}
        load.stop()
    found["said"] = (
        f"matmul of this namespace: {_shown(found['here'])} here, {_shown(found['inside'])} inside another; "
        f"matmul of another namespace: {_shown(found['load_inside']['here'])} here"
    )
    return found


def _shown(listing: Mapping[str, Any]) -> str:
    return f"{len(listing['pids'])} listed"


def check_namespaces(found: Mapping[str, Any]) -> list[str]:
    """A namespace shows its own processes and its children's, and the harness never says 0 others where it cannot know."""
    wrong = []
    if found["load_pid"] not in found["here"]["pids"]:
        wrong.append(f"NVML does not list our own matmul ({found['load_pid']}): {found['here']['pids']}")
    if found["inside"]["sees_all"]:
        wrong.append("a process in a namespace of its own believes that it sees all processes")
    if found["inside"]["pids"]:
        wrong.append(
            f"inside a namespace NVML lists {found['inside']['pids']}: processes of outside were expected to be hidden"
        )
    elif 0 in found["inside"]["others"]:
        wrong.append("inside a namespace 0 other processes were told, with a matmul outside on the board")
    within = found["load_inside"]
    if not set(within["tree_here"]) & set(within["here"]["pids"]):
        wrong.append(f"a matmul in a child namespace is not listed with its pid of here: {within['here']['pids']}")
    return wrong


STEPS = (
    Step(
        "namespaces",
        "NVML's process lists here and inside a pid namespace, with a matmul in either",
        "own and child namespaces are listed, outside ones hidden, and hidden ones are told as unknown and not as 0",
        0.8,
        ("gpu", "torch", "root"),
        _namespaces,
        check_namespaces,
    ),
)
