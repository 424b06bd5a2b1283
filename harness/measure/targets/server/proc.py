"""Processes as /proc tells them, and how to end a set of them for certain. Linux only."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.base import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_POLL_S = 0.05
_KILL_WAIT_S = 60.0  # a process in uninterruptible sleep (a driver call, memory to give back) takes its time to die


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `pid` and `start_ticks` together name it for ever, `pid` alone is reused."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    state: str
    start_ticks: int

    @property
    def dead(self) -> bool:
        return self.state in "ZX"


def read(pid: int) -> Process | None:
    """The process with this pid now, zombies included; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in brackets and may hold spaces and brackets itself; field 3 follows the last one.
    fields = text.rpartition(")")[2].split()
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[0], int(fields[19]))


def alive(pid: int, start_ticks: int) -> Process | None:
    """The process if it is still the very one that started at `start_ticks`, and not a zombie."""
    now = read(pid)
    return now if now and now.start_ticks == start_ticks and not now.dead else None


def everything() -> list[Process]:
    """Every process that this one can see."""
    processes = (read(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [p for p in processes if p]


def family(roots: Iterable[int]) -> list[Process]:
    """Live processes whose pid, group or session is in `roots`, and all their descendants."""
    everyone = everything()
    wanted = set(roots)
    inside = {p.pid for p in everyone if wanted & {p.pid, p.pgid, p.sid}}
    while more := {p.pid for p in everyone if p.ppid in inside} - inside:
        inside |= more
    return [p for p in everyone if p.pid in inside and not p.dead]


def send(process: Process, sig: signal.Signals) -> None:
    """Signal exactly this process, not one that has its pid since."""
    if alive(process.pid, process.start_ticks):
        try:
            os.kill(process.pid, sig)
        except (ProcessLookupError, PermissionError):
            return


def end(find: Callable[[], list[Process]], grace_s: float) -> list[Process]:
    """SIGTERM to all that `find` sees, SIGKILL to what is left after `grace_s`; returns what outlived even that.

    `find` is asked again in every round, and what it saw once is followed to its end: a child that is being born
    meanwhile, or that loses its parent and so its place in the family, does not slip through.
    """
    seen: dict[tuple[int, int], Process] = {}

    def left() -> list[Process]:
        new = [p for p in find() if (p.pid, p.start_ticks) not in seen]
        seen.update({(p.pid, p.start_ticks): p for p in new})
        return [p for p in seen.values() if alive(p.pid, p.start_ticks)]

    for p in left():
        send(p, signal.SIGTERM)
    deadline = clock.monotonic_ns() + int(grace_s * clock.NS)
    while left() and clock.monotonic_ns() < deadline:
        clock.sleep(_POLL_S)
    deadline = clock.monotonic_ns() + int(_KILL_WAIT_S * clock.NS)
    while (remaining := left()) and clock.monotonic_ns() < deadline:
        for p in remaining:
            send(p, signal.SIGKILL)
        clock.sleep(_POLL_S)
    return remaining  # not another look: what is born after the last one was sent no signal, so it has outlived none
