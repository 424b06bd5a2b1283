"""The one server that is up during a campaign, if any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

from harness.base import clock
from harness.base.errors import ConfigError, RefusedError, TargetError
from harness.config.experiment import ExperimentSpec
from harness.config.target import TargetSpec
from harness.measure.campaign.board_room import check_room
from harness.measure.campaign.flags import DIFFERS, read_back
from harness.measure.campaign.order import Step, server_key
from harness.measure.targets import Target, open_target
from harness.measure.targets.hybrid import open_both
from harness.records import TargetInfo

_RESTARTS = 1  # in one block: a server that dies again would die in every cell
_ASK_AGAIN_S = 1.0


class _Display(Protocol):
    def phase(self, name: str) -> None: ...
    def say(self, text: str) -> None: ...


class Server:
    """Opened for the first cell of a visit, closed when another one's turn comes; opened once more in a block if it died.

    Of every start `started(target_name, seconds)` and then `is_up(info, gpus declared)` are told.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        log_folder: Path,
        prefix: str,
        started: Callable[[str, float], None],
        is_up: Callable[[TargetInfo, Sequence[str]], None],
        display: _Display,
    ) -> None:
        self._spec, self._started, self._is_up = spec, started, is_up
        self._say, self._phase = display.say, display.phase
        self._log_folder, self._prefix = log_folder, prefix
        self._targets = {target.name: target for target in spec.targets}
        self._key: tuple[str, int] | None = None
        self._block = 0
        self._deaths = 0
        self._refused: TargetError | ConfigError | None = None
        self._refused_for_good: dict[str, RefusedError] = {}  # by target's name
        self._target: Target | None = None
        self.log_path: Path | None = None  # of the last start, also of one that failed

    def need(self, step: Step) -> Target:
        """The step's target, up. Raises TargetError or ConfigError, for every later cell of the visit again without another try."""
        key = server_key(self._spec, step)
        if key != self._key:
            self.close()
        if (key, step.block) != (self._key, self._block):
            self._key, self._block, self._deaths, self._refused = key, step.block, 0, None
        if (refused := self._refused_for_good.get(step.cell.target) or self._refused) is not None:
            raise refused
        if self._target is not None and (why := self._target.died()):
            self.close()
            self._deaths += 1
            if self._deaths > _RESTARTS:
                advice = "its log is server.log in the run directory"
                self._refused = TargetError(f"the server {step.cell.target} died again", why, advice)
                raise self._refused
            self._say(f"{step.cell.target}: the server died; starting it once more")
        if self._target is None:
            try:
                self._target = self._open(step)
            except (TargetError, ConfigError) as error:
                self._refused = error
                if isinstance(error, RefusedError):
                    self.send_no_more(step, error)
                raise
        return self._target

    def send_no_more(self, step: Step, error: RefusedError) -> None:
        """The step's target refuses whatever is sent: no cell of the campaign asks it again."""
        self._refused_for_good[step.cell.target] = error

    def _open(self, step: Step) -> Target:
        begun_ns = clock.monotonic_ns()
        self._phase(f"target {step.cell.target}")
        self.log_path = _free(self._log_folder, f"{self._prefix}_{step.cell.target}_rep{step.block}")
        target = self._reach(self._targets[step.cell.target], self.log_path)
        self._started(step.cell.target, (clock.monotonic_ns() - begun_ns) / clock.NS)
        self._is_up(target.info, self._spec.sides_of(self._targets[step.cell.target])[0].gpus)
        seen = read_back(target.info.flags, target.log_path)
        for flag, words in seen.items():
            if words.endswith(DIFFERS):
                self._say(f"warning: {step.cell.target}: {flag}: {words}")
        return replace(target, info=replace(target.info, checks={**target.info.checks, **seen}))

    def _reach(self, spec: TargetSpec, log_path: Path) -> Target:
        """Open the target; one that is only asked what it is, is asked twice: a lost connection must not cost its cells."""
        if spec.kind == "hybrid":
            return open_both(spec, self._spec.sides_of(spec), lambda side: self._reach(side, log_path))
        check_room(spec, self._say)
        try:
            return open_target(spec, log_path, self._say)
        except TargetError as error:
            if spec.kind not in ("adopt", "hosted") or isinstance(error, RefusedError):
                raise
            self._say(f"{spec.name}: no good answer; asking once more")
            clock.sleep(_ASK_AGAIN_S)
            return open_target(spec, log_path, self._say)

    def close(self) -> None:
        """End the server if one is up. Raises TargetError if it cannot be ended."""
        target, self._target = self._target, None
        if target is not None:
            target.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free(folder: Path, stem: str) -> Path:
    """A log file that is not there yet: runs hold links to earlier ones."""
    number = 1
    while (path := folder / f"{stem}{'' if number == 1 else f'.{number}'}.log").exists():
        number += 1
    return path
