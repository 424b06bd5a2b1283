"""A wake-up finer than epoll's milliseconds: Linux timerfd through ctypes (the os module has it only from 3.13)."""

from __future__ import annotations

import ctypes
import os
import sys

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class WakeTimer:
    """`fd` becomes readable at the last instant given to `arm`; `fd` is -1 where there is no timerfd."""

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

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
