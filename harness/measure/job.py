"""What a phase is driven with, and who watches it: every driver takes these two, `drive.driver.drive` and `targets.batch.engine.run_batch` alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.records import DriveProgress, Load, Phase, PlannedRequest, Prompt, RequestRecord


@dataclass(frozen=True, slots=True)
class Job:
    """One phase of a run. `prompts`: those of `requests`, in their order, taken once. `scratch`: a folder for the driver's own
    files. `duration_s`: no new sends after it, what is in flight ends by itself; None: until the plan is done."""

    requests: Sequence[PlannedRequest]
    prompts: Iterable[Prompt]
    load: Load
    phase: Phase
    run_id: str
    scratch: Path
    duration_s: float | None = None


class Watcher(Protocol):
    """Who watches a phase while it is driven; every call comes from the thread that drives."""

    def rows(self, rows: Sequence[RequestRecord], /) -> None:
        """Rows of requests that ended, each once."""

    def progress(self, progress: DriveProgress, /) -> None:
        """A few times a second; from `drive` first when its workers stand and nothing was sent."""

    def should_stop(self) -> str | None:
        """Asked ten times a second or more: "drain" ends sending, "abort" (or any other word, which then is the stop_reason)
        also cancels what is in flight."""

    def ended(self) -> None:
        """Once, after the last row: until it returns, the driver keeps what it received."""
