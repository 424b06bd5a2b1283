"""What one cell is run with: its spec and place, who is told of it, what stops it, and whether it is a probe."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.config.experiment import ExperimentSpec
from harness.config.load import LoadSpec
from harness.config.target import TargetSpec
from harness.measure.spending import Spending
from harness.records import Cell, DriveProgress, RequestRecord


class Display(Protocol):
    """What the main path tells its user while it works; `report.live.Live` and tests implement it."""

    def phase(self, name: str) -> None: ...
    def say(self, text: str) -> None: ...
    def cell(self, index: int, total: int, name: str) -> None: ...
    def progress(self, progress: DriveProgress) -> None: ...


@dataclass(slots=True)
class Stop:
    """What the user's signals ask for: once drains, twice aborts. Polled by the driver."""

    asked: int = 0
    driving: bool = False  # outside a measurement a signal ends the program at once

    def request(self) -> None:
        self.asked += 1

    @contextmanager
    def while_driving(self) -> Iterator[None]:
        """A signal in here is asked about by the driver."""
        self.driving = True
        try:
            yield
        finally:
            self.driving = False

    def action(self) -> str | None:
        return None if self.asked == 0 else "drain" if self.asked == 1 else "abort"


@dataclass(frozen=True, slots=True)
class Probe:
    """What makes a run a probe of a capacity search: it is watched, and stopped when it is clear."""

    index: int
    should_stop: Callable[[], str | None]
    on_rows: Callable[[Sequence[RequestRecord]], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What one cell is run with."""

    spec: ExperimentSpec
    cell: Cell
    load_spec: LoadSpec
    run_dir: Path
    campaign_id: str
    display: Display
    stop: Stop
    probe: Probe | None = None
    spending: Spending | None = None  # None: nothing is bounded
    salt: int = field(
        default_factory=lambda: secrets.randbits(53)
    )  # of the words of its prompts: no server has seen them
    attempt: Path | None = None  # the newest one before that was broken off, where it was put aside
    used_before: Mapping[str, int] = field(default_factory=dict)  # board's uuid -> bytes, before its server was started

    @property
    def target_spec(self) -> TargetSpec:
        return next(target for target in self.spec.targets if target.name == self.cell.target)

    @property
    def own_spec(self) -> TargetSpec:
        """The target whose server and boards are observed: of a hybrid its own side."""
        return self.spec.sides_of(self.target_spec)[0]

    @property
    def account_spec(self) -> TargetSpec:
        """The target whose account has limits and may refuse: of a hybrid its hosted side."""
        return self.spec.sides_of(self.target_spec)[-1]
