"""How long calls take, by name, in little memory: what a sampler's own questions cost the driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from harness.base import clock

_KEPT_BITS = 6  # of a duration: a class is at most 1/32 of its value wide


class CallTimes:
    """Durations of calls. Not for use from two threads at once."""

    def __init__(self) -> None:
        self._seen: dict[str, Counter[int]] = {}
        self._longest_ns: dict[str, int] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time what happens inside, a call that fails too."""
        begun_ns = clock.monotonic_ns()
        try:
            yield
        finally:
            self.add(name, clock.monotonic_ns() - begun_ns)

    def add(self, name: str, took_ns: int) -> None:
        shift = max(0, took_ns.bit_length() - _KEPT_BITS)
        self._seen.setdefault(name, Counter())[took_ns >> shift << shift] += 1
        self._longest_ns[name] = max(took_ns, self._longest_ns.get(name, 0))

    def facts(self) -> dict[str, dict[str, float]]:
        """Name -> count, p50_us (3 % too low at most) and max_us."""
        return {
            name: {
                "count": seen.total(),
                "p50_us": _middle(seen) / 1e3,
                "max_us": self._longest_ns[name] / 1e3,
            }
            for name, seen in sorted(self._seen.items())
        }


def _middle(seen: Counter[int]) -> int:
    left = (seen.total() + 1) // 2
    for took_ns, count in sorted(seen.items()):
        left -= count
        if left <= 0:
            return took_ns
    raise ValueError("no call was timed")
