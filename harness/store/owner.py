"""Which process owns a run directory, and whether it still lives (Linux /proc)."""

from __future__ import annotations

import os
from pathlib import Path

from harness.records import Manifest, RunState


def start_ticks(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot (/proc/<pid>/stat field 22); None if gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()  # the name may hold spaces and parentheses; field 3 comes first here
    return None if after_name[0] in {"Z", "X"} else int(after_name[19])


def owner() -> tuple[int, int]:
    """(owner_pid, owner_start_ticks) of this process, for a Manifest; ticks are 0 where there is no /proc."""
    return os.getpid(), start_ticks(os.getpid()) or 0


def goes_on(manifest: Manifest) -> bool:
    """True if the run says that it is running and its process lives."""
    return manifest.state == RunState.RUNNING and is_alive(manifest.owner_pid, manifest.owner_start_ticks)


def is_alive(pid: int, ticks: int) -> bool:
    """True if that very process, not a later one with its pid, is running."""
    return start_ticks(pid) == ticks
