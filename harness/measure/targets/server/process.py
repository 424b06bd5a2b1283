"""A server of ours as the harness holds it: started under a guard, watched, ended with all its processes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from harness.base import clock, redaction
from harness.base.errors import TargetError
from harness.measure.targets.server import proc, records, vllm_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.measure.targets.container import Container

_GUARD_GRACE_S = 2.0  # what a server gets between SIGTERM and SIGKILL when nobody waits for it any more
_CLOSE_GRACE_S = 15.0
_GUARD_EXIT_S = 15.0
_ASK_AGAIN_NS = 2 * clock.NS  # an engine takes tens of milliseconds to tell a pid


class ServerProcess:
    """One running server: its first process `pid`, everything that it started, and the guard above them. With a `container` the
    first process is its engine's command, and the server's own are those of the container."""

    def __init__(
        self, guard: subprocess.Popen[str], pid: int, folder: Path, log_path: Path, container: Container | None = None
    ) -> None:
        first = proc.read(pid)
        self._guard = guard
        self._start_ticks = first.start_ticks if first else -1
        self._record = records.record_path(folder, pid)
        self._members: dict[tuple[int, int], proc.Process] = {}
        self._closed = False
        self._inside: proc.Process | None = None
        self._asked_ns: int | None = None
        self.container = container
        self.pid = pid
        self.log_path = log_path

    @property
    def alive(self) -> bool:
        """Whether the server's first process runs."""
        return proc.alive(self.pid, self._start_ticks) is not None

    def processes(self) -> list[proc.Process]:
        """Every live process of the server, the guard not counted."""
        if self._guard.poll() is None:
            return [p for p in proc.family((self._guard.pid, *self._contained())) if p.pid != self._guard.pid]
        # Without its guard a server has been killed; what it left is told by what was seen before.
        left = [p for p in self._members.values() if proc.alive(p.pid, p.start_ticks)]
        return proc.family([p.pid for p in left]) if left else []

    def _contained(self) -> tuple[int, ...]:
        """The container's first process, asked for now and then until it is known."""
        if self.container is None:
            return ()
        if self._inside is None and (self._asked_ns is None or clock.monotonic_ns() - self._asked_ns > _ASK_AGAIN_NS):
            self._inside = proc.read(pid) if (pid := self.container.pid()) else None
            self._asked_ns = clock.monotonic_ns()
        return (self._inside.pid,) if self._inside and proc.alive(self._inside.pid, self._inside.start_ticks) else ()

    def log(self) -> str:
        """The log, with all that the server has printed by now."""
        guard = self._guard
        if guard.stdin and guard.stdout and guard.poll() is None:
            with contextlib.suppress(OSError, ValueError):  # it ends just now, and has written all then
                guard.stdin.write("\n")
                guard.stdin.flush()
                if select.select([guard.stdout], [], [], _GUARD_EXIT_S)[0]:
                    guard.stdout.readline()
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def note_members(self, *, ask: bool = False) -> tuple[int, ...]:
        """Remember the server's processes, here and in its record; returns their pids, the first process first. `ask`: a container's
        engine is asked for them, however lately it said that there are none yet."""
        if ask:
            self._asked_ns = None
        now = self.processes()
        if new := [p for p in now if (p.pid, p.start_ticks) not in self._members]:
            self._members.update({(p.pid, p.start_ticks): p for p in new})
            records.add_members(self._record, list(self._members.values()))
        return tuple(sorted((p.pid for p in now), key=lambda pid: (pid != self.pid, pid)))

    def exit_status(self) -> str:
        """How a server that is not alive ended, in words."""
        try:
            code = self._guard.wait(_GUARD_EXIT_S)
        except subprocess.TimeoutExpired:
            return "ended, status not known"
        if code < 0:
            return f"its guard process was ended by {signal.Signals(-code).name}"
        if code > 128:
            try:
                return f"ended by {signal.Signals(code - 128).name}"
            except ValueError:
                pass
        return f"exit status {code}"

    def died(self) -> str | None:
        """Why the server is gone, in one line; None while it lives."""
        if self.alive:
            return None
        if self._closed:
            return "the server was closed"
        return f"{self.exit_status()}; {vllm_log.cause(self.log_path)}"

    def close(self) -> None:
        """SIGTERM to every process of the server, SIGKILL to what is left after 15 s. May be called again.

        Raises TargetError if a process outlives SIGKILL (one that hangs in a driver call).
        """
        if self._closed:
            return
        self.note_members()
        if self.container is not None:
            self.container.end()
        left = proc.end(self.processes, _CLOSE_GRACE_S)
        try:
            self._guard.wait(_GUARD_EXIT_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        states = {p.pid: p.state for p in (*left, *self.processes())}  # the newest look counts
        if states:
            pids = ", ".join(f"{pid} (state {state})" for pid, state in states.items())
            raise TargetError(
                "processes of the server outlived SIGKILL", f"pids {pids}", "look at them with ps and dmesg"
            )
        self._closed = True
        self._record.unlink(missing_ok=True)


def spawn(
    command: Sequence[str],
    env: Mapping[str, str],
    folder: Path,
    log_path: Path,
    container: Container | None = None,
) -> ServerProcess:
    """Start `command` in a session of its own, both outputs to `log_path`, without secrets; its record goes to `folder`. `container`: what
    the command runs.

    Raises TargetError if it cannot be started.
    """
    redaction.learn_data([dict(env), list(command)])
    options = [str(os.getpid()), str(_GUARD_GRACE_S), str(folder), str(log_path)]
    options.append(json.dumps(container.removal if container else []))
    with log_path.open("wb") as log:
        guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness.measure.targets.server.guard", *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=dict(env),
            start_new_session=True,  # Ctrl-C in the terminal is for the harness, which then closes in order
        )
    try:
        assert guard.stdin
        assert guard.stdout
        with contextlib.suppress(BrokenPipeError):  # a guard that is gone says nothing below
            guard.stdin.write(json.dumps(redaction.learned()) + "\n")
            guard.stdin.flush()
        line = guard.stdout.readline().strip()
    except BaseException:
        guard.terminate()
        raise
    if not line.isdigit():
        guard.wait()
        raise TargetError("the server could not be started", " ".join(command[:4]), vllm_log.cause(log_path))
    return ServerProcess(guard, int(line), folder, log_path, container)
