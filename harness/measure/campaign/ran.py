"""What came of measuring cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.base.errors import HarnessError, TargetError


@dataclass(slots=True)
class Ran:
    """`run_dirs`: every finished run of the campaign, those of earlier attempts too. `failures`: (cell, error), of earlier
    attempts too. `campaign_id` is None for a single run. `dropped`: repetitions left out."""

    campaign_id: str | None
    cells: int
    run_dirs: list[Path] = field(default_factory=list)
    failures: list[tuple[str, HarnessError]] = field(default_factory=list)
    dropped: tuple[int, ...] = ()
    duration_s: float = 0.0
    stopped: bool = False

    def worst(self) -> HarnessError | None:
        """The failures as one error, a target's before others; None if there was none."""
        if not self.failures:
            return None
        name, error = min(self.failures, key=lambda failure: not isinstance(failure[1], TargetError))
        if self.cells == 1:
            return error
        what = f"{len(self.failures)} of {self.cells} cells failed; {name}: {error.what}"
        return type(error)(what, error.value, error.advice)
