"""The command itself, and what each thing that it does takes: `python -m tests.bench.monitor_stages FILE WORDS ..` is `harness WORDS ..`.

The month is one on its last day, and a day is merged whatever hour it is. FILE gets a line of JSON for each stage that is over: its name, when it
ended, the most memory that was resident meanwhile (to the page: the kernel's own mark, set back as each begins), the CPU time of its thread, and the
most that a process of it had that has ended. What goes on beside a stage is in its memory.
"""

from __future__ import annotations

import functools
import json
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import cli
from harness.base.clock import DAY_NS
from harness.monitor import live, watch, window
from harness.store import hour_rows, readings

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
BETWEEN = "between"
MONTH_DAYS = 30  # as on its last day


class Stages:
    """Stages as they end. Several may be under way at once."""

    def __init__(self, path: str) -> None:
        self._file, self._lock = open(path, "w"), threading.Lock()  # noqa: SIM115 - as long as the process
        self._peaks: dict[int, int] = {}
        self._count = 0

    def _mark(self) -> int:
        """The highest mark since the last look, for all that is under way."""
        kib = int(re.search(r"VmHWM:\s+(\d+)", STATUS.read_text())[1])  # type: ignore[index]
        RESET.write_text("5")
        self._peaks = {one: max(peak, kib) for one, peak in self._peaks.items()}
        return kib

    def _say(self, name: str, kib: int, cpu_s: float) -> None:
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        words = {"stage": name, "at_s": time.time(), "mib": kib / 1024, "cpu_s": cpu_s, "child_mib": child}
        self._file.write(json.dumps(words) + "\n")
        self._file.flush()

    def end(self) -> None:
        """What was resident since the last stage."""
        self._say(BETWEEN, self._mark(), 0.0)

    def of(self, owner: Any, attribute: str, name: str | Callable[..., str]) -> None:
        """Take the time and memory of each call of `owner.attribute`; `name`: of its arguments, or the same each time."""
        inner = getattr(owner, attribute)

        @functools.wraps(inner)
        def outer(*words: Any, **more: Any) -> Any:
            with self._lock:
                kib = self._mark()
                if not self._peaks:
                    self._say(BETWEEN, kib, 0.0)
                self._count += 1
                mine = self._count
                self._peaks[mine] = 0
            began_s = time.thread_time()
            try:
                return inner(*words, **more)
            finally:
                with self._lock:
                    self._mark()
                    self._say(
                        name if isinstance(name, str) else name(*words, **more),
                        self._peaks.pop(mine),
                        time.thread_time() - began_s,
                    )

        setattr(owner, attribute, outer)


def main() -> None:
    stages = Stages(sys.argv[1])
    del sys.argv[1]
    stages.of(watch.Watch, "sum_what_was_left", "start: hours left")
    stages.of(live, "_recent", "start: the last hour")
    stages.of(watch.Watch, "_resume", "start: own last rows")
    stages.of(watch.Watch, "_write", "a minute stored")
    stages.of(readings, "compact_own", "a quarter merged")
    stages.of(readings, "compact", "a day merged")
    stages.of(window, "roll_up", "an hour summed")
    stages.of(hour_rows, "compact_hours", "a day's hours merged")
    stages.of(window, "roll_day", "a day summed")
    stages.of(live.Figures, "made", lambda _, window_name, *__: f"figures of {window_name}")
    stages.of(live.Figures, "_measure", "capacities read")
    watch.DAY_KEPT_NS = 0
    live._month_ns = lambda now_ns: now_ns - now_ns % DAY_NS - MONTH_DAYS * DAY_NS
    try:
        cli.main()
    finally:
        stages.end()


if __name__ == "__main__":
    main()
