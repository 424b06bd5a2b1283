"""How many requests of a run would be good under another limit on the time to the first token."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """Of the requests offered in the window, `metric` (ttft_s or ttft_from_schedule_s) of those that keep the rest of the promise.

    `times_s`: ascending, of requests that are ok and within `rest` (metric -> limit in s: the promise's other limits). `offered`: all of
    them, whatever became of them.
    """

    metric: str
    rest: Mapping[str, float]
    offered: int
    times_s: Sequence[float] = field(repr=False)

    def good(self, limit_s: float) -> int:
        """How many would be good if the first token were promised within `limit_s`."""
        return bisect_right(self.times_s, limit_s)

    def attainment(self, limit_s: float) -> float | None:
        """Share of the offered requests that would be good; None where none was offered."""
        return self.good(limit_s) / self.offered if self.offered else None
