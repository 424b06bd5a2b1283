"""What a phase is driven with and who watches it: all that a driver is given besides its target, whichever driver it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.measure.gate import Gate, Start
from harness.records import DriveProgress, Load, Phase, PlannedRequest, Prompt, RequestRecord


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a reply: of which request, when its first byte came, header names in lower case."""

    seq: int
    stamp_ns: int
    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """One phase of a run. `prompts`: those of `requests`, in their order, taken once. `scratch`: a folder for the driver's own
    files. `duration_s`: no new sends after it, what is in flight ends by itself; None: until the plan is done. `gate`: who is asked
    before each send. `on_head`: hears every reply's head, before its row (the SDK driver: of limits and places only). `start`: says when to begin; None: as soon as the workers stand. `paid`: whose money its gate takes,
    for whoever finds the drive killed (see measure/settle.py)."""

    requests: Sequence[PlannedRequest]
    prompts: Iterable[Prompt]
    load: Load
    phase: Phase
    run_id: str
    scratch: Path
    duration_s: float | None = None
    gate: Gate | None = None
    on_head: Callable[[Head], None] | None = None
    start: Start | None = None
    paid: Mapping[str, str] | None = None


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
