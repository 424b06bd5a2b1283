"""A worker's place in the scheduler: before the parsing parent and all batch work, where the system lets it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NICE = -10


def ask() -> str:
    """Ask for it: a read that waits for a core merges chunks. The loop sleeps whenever nothing is to be read, so this takes
    no time from anyone for long.

    Returns what was obtained, in words: real-time, nice -10, or none."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
        return "real-time"
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        with contextlib.suppress(OSError):  # where the scheduler groups by session, nice is the group's
            Path("/proc/self/autogroup").write_text(str(NICE))
        return f"nice {NICE}"
    return "none"


def give_up() -> None:
    """Be scheduled as everyone is."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("0")
