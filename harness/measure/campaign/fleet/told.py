"""What a box tells of its part while it runs: lines with its name for who watches, and its errors as ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.base import clock, errors
from harness.base.errors import HarnessError, TargetError
from harness.measure.campaign.order import Step

_PROGRESS_S = 10.0  # a line of progress a box


class Told:
    """What a box says of its part, as lines with its name."""

    def __init__(self, box: str, total: int, steps: dict[str, Step], say: Callable[[str], None]) -> None:
        self._box, self._total, self._steps, self._say = box, total, steps, say
        self.step = next(iter(steps.values()))
        self._since_ns = self._shown_ns = clock.monotonic_ns()

    def seconds(self) -> float:
        """Since its cell began."""
        return (clock.monotonic_ns() - self._since_ns) / clock.NS

    def tell(self, kind: str, value: Any) -> None:
        where = f"{self._box}: [cell {self.step.index}/{self._total}]"
        now_ns = clock.monotonic_ns()
        match kind:
            case "cell":
                self.step, self._since_ns = self._steps[value], now_ns
                self._say(f"{self._box}: cell {self.step.index}/{self._total} {value}")
            case "progress" if now_ns - self._shown_ns >= _PROGRESS_S * clock.NS:
                self._shown_ns = now_ns
                of = "" if value["duration_s"] is not None else f"/{value['total']:,}"
                self._say(
                    f"{where} {value['done']:,}{of} requests, {value['failed']:,} failed, {value['elapsed_s']:.0f} s"
                )
            case "phase":
                self._shown_ns = now_ns
                self._say(f"{where} {value}")
            case "say":
                self._say(f"{self._box}: {value}")


def error_of(told: Sequence[str]) -> HarnessError:
    """An error of a box as ours."""
    name, what, value, advice = told
    kind = getattr(errors, name, TargetError)
    return kind(what, value, advice) if issubclass(kind, HarnessError) else TargetError(what, value, advice)
