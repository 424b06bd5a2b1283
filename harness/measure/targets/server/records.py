"""One file per running server of ours, so that a later run can end a server whose harness is gone.

`CACHE/servers/<pid>.json`: pid, start_ticks, harness_pid, harness_start_ticks, log_path, host, boot_id, pid_namespace and
members (pid and start ticks of every process of the server, once it is up), and removal (the command that ends its container, or []).
"""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.base.files import write_whole
from harness.measure.targets.server import proc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REAP_GRACE_S = 5.0
_REMOVE_S = 60.0


def _where() -> dict[str, str]:
    """What makes a pid mean something: host, boot and pid namespace (a cache directory may be shared by several)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"host": platform.node(), "boot_id": boot, "pid_namespace": str(Path("/proc/self/ns/pid").readlink())}


def _save(path: Path, data: dict[str, Any]) -> None:
    write_whole(path, json.dumps(data, indent=1))


def record_path(folder: Path, pid: int) -> Path:
    """The file of the server whose first process is `pid`."""
    return folder / f"{pid}.json"


def write(folder: Path, pid: int, harness_pid: int, log_path: Path, removal: Sequence[str] = ()) -> Path:
    """Record a server that was just started; returns the file."""
    server, harness = proc.read(pid), proc.read(harness_pid)
    path = record_path(folder, pid)
    data = {
        "pid": pid,
        "start_ticks": server.start_ticks if server else 0,
        "harness_pid": harness_pid,
        "harness_start_ticks": harness.start_ticks if harness else 0,
        "log_path": str(log_path),
        **_where(),
        "members": [],
        "removal": list(removal),
    }
    _save(path, data)
    return path


def add_members(path: Path, members: Sequence[proc.Process]) -> None:
    """Note every process of the server, so that they can be told even after the first one is gone."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # the server is gone already, and its file with it
        return
    data["members"] = [[p.pid, p.start_ticks] for p in members]
    _save(path, data)


def _remaining(data: dict[str, Any]) -> list[proc.Process]:
    """Live processes that are surely this server's: its family while the first one lives, and those noted earlier.

    A session whose leader is gone is no proof: the number may have been another session's since.
    """
    noted = [p for pid, ticks in data["members"] if (p := proc.alive(pid, ticks))]
    leader = proc.alive(data["pid"], data["start_ticks"])
    return noted + (proc.family((leader.pid,)) if leader else [])


def remove(removal: Sequence[str]) -> None:
    """Run the command that ends a container. One that is gone already is none of its concern."""
    if removal:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(removal, capture_output=True, check=False, timeout=_REMOVE_S)


def reap_orphans(folder: Path, say: Callable[[str], None]) -> list[int]:
    """End every server whose harness is gone and forget its file; returns the first pid of each server ended.

    A pid that was given to another process since is told by its start time and left alone; so are records of other
    machines and of other pid namespaces.
    """
    ended: list[int] = []
    here = _where()
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            there = {key: data[key] for key in here}
            if there != here:
                if (there["host"], here["pid_namespace"]) == (here["host"], there["pid_namespace"]):
                    path.unlink(missing_ok=True)  # this machine before its last boot: nothing of it runs
                continue
            if proc.alive(data["harness_pid"], data["harness_start_ticks"]):
                continue
            left, removal = _remaining(data), data.get("removal") or ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"record of a server cannot be read, skipped: {path.name} ({type(error).__name__})")
            continue
        remove(removal)
        if left or removal:
            say(
                f"ending a server whose harness is gone: pid {data['pid']}, {len(left)} processes, log {data['log_path']}"
            )
            ended.append(data["pid"])
            if proc.end(partial(_remaining, data), _REAP_GRACE_S):
                continue
        path.unlink(missing_ok=True)
    return ended
