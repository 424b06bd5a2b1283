"""The only module that reads time.

Every `_ns` in a record is on CLOCK_MONOTONIC of this machine. Kernel receive stamps come on CLOCK_REALTIME; an
`Anchor` says how far the two clocks were apart at one instant, and a list of anchors taken through a run maps
one to the other and shows a clock that was stepped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

NS = 1_000_000_000
MINUTE_NS, HOUR_NS, DAY_NS = 60 * NS, 3600 * NS, 86_400 * NS

monotonic_ns = time.monotonic_ns
sleep = time.sleep


@dataclass(frozen=True, slots=True)
class Anchor:
    """One reading of both clocks: `offset_ns` = CLOCK_REALTIME - CLOCK_MONOTONIC, good to `error_ns`."""

    monotonic_ns: int
    offset_ns: int
    error_ns: int


def anchor(tries: int = 5) -> Anchor:
    """Read CLOCK_REALTIME between two reads of CLOCK_MONOTONIC, `tries` times, and keep the tightest bracket."""
    best: Anchor | None = None
    for _ in range(tries):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        middle = (before + after) // 2
        reading = Anchor(middle, wall - middle, (after - before + 1) // 2)
        if best is None or reading.error_ns < best.error_ns:
            best = reading
    assert best is not None
    return best


def largest_step_ns(anchors: Sequence[Anchor]) -> int:
    """The largest change of offset between neighbouring anchors: slewing is microseconds, a step is not."""
    return max((abs(b.offset_ns - a.offset_ns) for a, b in zip(anchors, anchors[1:], strict=False)), default=0)


def utc_now() -> datetime:
    """The wall clock, for names and provenance; never for durations."""
    return datetime.now(UTC)


def utc_of(ns: int) -> datetime:
    """The UTC time of a stamp in ns since the epoch, to the microsecond."""
    return datetime.fromtimestamp(ns // NS, UTC) + timedelta(microseconds=ns % NS // 1000)


def utc_stamp() -> str:
    """`20261124T113000Z`: sortable, safe in a file name."""
    return utc_now().strftime("%Y%m%dT%H%M%SZ")


def boot_id() -> str:
    """Names this start of the machine, since when the monotonic clock runs; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def process_cpu_s() -> float:
    """CPU seconds (user + system) of this process so far."""
    return time.process_time()


def core_wait_s() -> float | None:
    """Seconds that this thread was ready to run and had no core, so far (Linux: schedstat); None where it is not known."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) / NS
    except (OSError, IndexError, ValueError):
        return None


class SteadyUtc:
    """The wall clock that never goes back, for stamps whose order counts: where it is set back it runs at half its speed until it is caught
    up with; where it is set forward it is followed at once."""

    def __init__(self, not_before_ns: int = 0) -> None:
        self._last_ns, self._at_ns = not_before_ns, monotonic_ns()
        self.stepped_ns = 0  # the largest step back that was met

    def now_ns(self, wall_ns: int | None = None, elapsed_to_ns: int | None = None) -> int:
        """Nanoseconds since the epoch, greater than any given before. `wall_ns`, `elapsed_to_ns`: both clocks as read, default now."""
        wall = time.time_ns() if wall_ns is None else wall_ns
        now = monotonic_ns() if elapsed_to_ns is None else elapsed_to_ns
        elapsed, self._at_ns = max(now - self._at_ns, 0), now
        slow = self._last_ns + max(elapsed // 2, 1)
        self.stepped_ns = max(self.stepped_ns, slow - wall)
        self._last_ns = max(wall, slow)
        return self._last_ns
