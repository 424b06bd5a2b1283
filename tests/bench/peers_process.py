"""One command with all its descendants: CPU, resident size and a time limit, and nothing of it left afterwards."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from harness.base import clock

SAMPLE_S = 0.2
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Spent:
    """`cpu_s`: user + system of the whole tree. `curve`: rows of (monotonic ns, CPU seconds of the tree until then)."""

    exit_status: int | None  # None: ended by us at the time limit
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    most_processes: int
    curve: np.ndarray

    def cpu_between(self, begin_ns: int, end_ns: int) -> float:
        """CPU seconds between two instants, between the samples by straight lines."""
        at = np.interp([begin_ns, end_ns], self.curve[:, 0], self.curve[:, 1])
        return float(at[1] - at[0])


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, so that their CPU is counted and none stays."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _tree(spared_pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.pid != spared_pid]


def _reap(child_pid: int, spared_pid: int) -> None:
    """Collect orphans that ended; the command itself and the spared process are others' to collect."""
    for process in psutil.Process().children():
        if process.pid not in (child_pid, spared_pid):
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def _end(spared_pid: int) -> None:
    for process in _tree(spared_pid):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Meter:
    """Sums over the tree; a process that ended keeps the CPU that was last seen."""

    def __init__(self) -> None:
        self.cpu: dict[tuple[int, float], float] = {}
        self.curve: list[tuple[int, float]] = [(clock.monotonic_ns(), 0.0)]
        self.peak_rss = self.most = 0

    def sample(self, spared_pid: int) -> None:
        rss = alive = 0
        for process in _tree(spared_pid):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied), process.oneshot():
                times = process.cpu_times()
                self.cpu[process.pid, process.create_time()] = times.user + times.system
                rss += process.memory_info().rss
                alive += 1
        self.peak_rss, self.most = max(self.peak_rss, rss), max(self.most, alive)
        self.curve.append((clock.monotonic_ns(), sum(self.cpu.values())))


def run(command: list[str], env: dict[str, str], folder: Path, timeout_s: float, spared_pid: int) -> Spent:
    """Run `command` in `folder`, its output in `stdout.txt` and `stderr.txt` there. Call `adopt_orphans` once before."""
    before, begin = _children_cpu_s(), clock.monotonic_ns()
    meter = _Meter()
    with (folder / "stdout.txt").open("w") as out, (folder / "stderr.txt").open("w") as err:
        child = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        status = None
        try:
            while clock.monotonic_ns() - begin < timeout_s * clock.NS:
                try:
                    status = child.wait(SAMPLE_S)
                    break
                except subprocess.TimeoutExpired:
                    meter.sample(spared_pid)
        finally:
            wall_s = (clock.monotonic_ns() - begin) / clock.NS
            _end(spared_pid)
            child.wait()
            while _tree(spared_pid):
                _reap(child.pid, spared_pid)
                _end(spared_pid)
                clock.sleep(0.02)
    cpu_s = _children_cpu_s() - before
    meter.curve.append((clock.monotonic_ns(), max(cpu_s, meter.curve[-1][1])))
    return Spent(status, wall_s, cpu_s, meter.peak_rss, meter.most, np.array(meter.curve, float))
