"""One cell against a target, its run directory where the user wants it: no campaign is recorded beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

from harness.base import clock
from harness.base.errors import ConfigError
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign import preflight
from harness.measure.campaign.board_room import check_room
from harness.measure.campaign.campaign import say_money
from harness.measure.campaign.forecast import forecast, key_of, size_of
from harness.measure.campaign.order import Step, cells_of
from harness.measure.campaign.ran import Ran
from harness.measure.cell_plan import draw_plan
from harness.measure.observe.boards import inventory
from harness.measure.run import Display, Run, Stop
from harness.measure.spending import Spending
from harness.measure.targets import Target, open_target


class OneRun:
    """The same steps as of a `Campaign`, for one cell; what fails is raised."""

    def __init__(self, spec: ExperimentSpec, run_dir: Path, display: Display) -> None:
        """Raises ConfigError where `spec` has more than one cell, and what a campaign's preflight raises."""
        (cell, load_spec), *more = cells_of(spec, spec.targets[0].name)
        if more or len(spec.targets) > 1:
            raise ConfigError("a run directory holds one cell", f"{1 + len(more)} asked for", "run it as an experiment")
        self._spec, self._run_dir, self._display = spec, run_dir, display
        self._step = Step(1, cell, load_spec)
        preflight.check_files(spec, [self._step])
        size = size_of(draw_plan(spec, cell, load_spec)[0])
        coming = forecast(spec, run_dir.parent, [self._step], {key_of(self._step): size}, None)
        preflight.check_disk(spec, run_dir, coming.disk_bytes)
        say_money(display, coming)
        self._open = ExitStack()
        self._spending = self._open.enter_context(closing(Spending(spec, f"{spec.experiment} {run_dir.name}")))
        for line in self._spending.warnings:
            display.say(line)
        self.ran = Ran(None, 1)

    def cells(self, stop: Stop) -> Iterator[Run]:
        """The one."""
        self._display.cell(1, 1, self._step.name)
        at = (self._run_dir, clock.utc_stamp(), self._display, stop)
        yield Run(
            self._spec,
            self._step.cell,
            self._step.load,
            *at,
            spending=self._spending,
            used_before=inventory.used_bytes(),
        )
        self.ran.stopped = bool(stop.asked)

    def serve(self, run: Run) -> tuple[Target, dict[str, Any]]:
        """Its target, up until the end; no facts. Raises TargetError, ConfigError."""
        spec = run.target_spec
        self._display.phase(f"target {spec.name}")
        check_room(spec, self._display.say)
        log_path = self._run_dir.parent / f"{run.campaign_id}_{spec.name}.log"
        return self._open.enter_context(open_target(spec, log_path, self._display.say)), {}

    def ended(self, run: Run) -> None:
        """Its run directory is there."""
        self.ran.run_dirs.append(run.run_dir)

    def failed(self, run: Run, cause: Exception) -> None:  # noqa: ARG002 - as a campaign's
        """Nobody else's cell depends on it: raised."""
        raise cause

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
