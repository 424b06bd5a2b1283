"""How long the garbage collector stopped this process."""

from __future__ import annotations

import gc
from typing import Any, Self

from harness.base import clock


class Pauses:
    """Counts while it is entered (a context manager)."""

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

    def said(self) -> str:
        """In words, for the run's notes."""
        return (
            f"the garbage collector stopped it {self.count} times, {self.total_ns / 1e9:.3f} s in all, "
            f"{self.longest_ns / 1e6:.1f} ms at most"
        )
