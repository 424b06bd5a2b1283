"""A worker's time on its machine: its place in the scheduler, a timer that wakes it, and what the garbage collector took."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import Any, Self

from harness.base import clock

NICE = -10
_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_TFD_TIMER_ABSTIME = 1


def ask_priority() -> str:
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


def give_up_priority() -> None:
    """Be scheduled as everyone is."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("0")


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class WakeTimer:
    """Finer than epoll's milliseconds: Linux timerfd through ctypes (the os module has it only from 3.13). `fd` becomes readable at the last instant given to `arm`; `fd` is -1 where there is no timerfd."""

    def __init__(self) -> None:
        self.fd = -1
        if sys.platform != "linux":
            return
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            self._set = libc.timerfd_settime
            self.fd = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        except (OSError, AttributeError):
            return
        self._spec = _Itimerspec()
        self._pointer = ctypes.byref(self._spec)

    def arm(self, at_ns: int) -> None:
        """Wake at CLOCK_MONOTONIC `at_ns`; arming also clears an earlier wake-up that was not read."""
        self._spec.value.sec, self._spec.value.nsec = divmod(max(1, at_ns), 1_000_000_000)
        self._set(self.fd, _TFD_TIMER_ABSTIME, self._pointer, None)


class Pauses:
    """How long the garbage collector stopped this process, while it is entered (a context manager)."""

    def __init__(self) -> None:
        self.count = self.total_ns = self.longest_ns = self._began = 0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._step)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._step)

    def _step(self, phase: str, _info: dict[str, Any]) -> None:
        now = clock.monotonic_ns()
        if phase == "start":
            self._began = now
        elif self._began:
            self.count += 1
            self.total_ns += now - self._began
            self.longest_ns = max(self.longest_ns, now - self._began)

    def words(self) -> str:
        """In words, for the run's notes."""
        return (
            f"the garbage collector stopped it {self.count} times, {self.total_ns / 1e9:.3f} s in all, "
            f"{self.longest_ns / 1e6:.1f} ms at most"
        )
