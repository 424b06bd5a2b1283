"""What several load generators say of one phase, added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.records import DriveReport


def sums_of(reports: Sequence[DriveReport]) -> dict[str, Any]:
    """The fields of a DriveReport that are sums, or the worst, of several; of none: zeros, and stamps of user space."""

    def known(name: str) -> list[Any]:
        return [value for report in reports if (value := getattr(report, name)) is not None]

    parsed = known("parse_cpu_s")
    return {
        **{name: sum(known(name)) for name in ("workers", "reads", "merged_reads", "cpu_s", "late_sends")},
        **{name: max(known(name), default=None) for name in ("loop_lag_max_s", "largest_read_bytes")},
        "parse_cpu_s": sum(parsed) if parsed else None,
        "largest_clock_step_ns": max(known("largest_clock_step_ns"), key=abs, default=0),
        "stamp_source": "kernel" if set(known("stamp_source")) == {"kernel"} else "user",
    }
