"""A campaign's course, on one machine or many: its cells in their recorded order, what is left of them, what fits into the time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from harness.base import clock
from harness.base.errors import TargetError
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign import ending, file, order, preflight, stock
from harness.measure.campaign.claim import Claim, claim, wanted
from harness.measure.campaign.forecast import (
    Forecast,
    Key,
    Pace,
    PlanSize,
    forecast,
    key_of,
    longest_cool_down_s,
    size_of,
)
from harness.measure.campaign.intent import Intent
from harness.measure.campaign.order import Step
from harness.measure.campaign.ran import Ran
from harness.measure.cell_plan import draw_plan
from harness.measure.run import Display


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before anything starts; `todo` are the steps without a finished run."""

    resumed: file.Campaign | None
    steps: tuple[Step, ...]
    todo: tuple[Step, ...]
    sizes: dict[Key, PlanSize]


def prepare(spec: ExperimentSpec, out: Path, intent: Intent) -> Prepared:
    """Find the cells and draw every plan once, whatever the target; writes nothing. Raises ConfigError and StoreError."""
    resumed, steps = wanted(spec, out, intent)
    preflight.check_prices(spec)
    sizes = sizes_of(spec, steps)
    done = stock.finished(out, resumed.campaign_id, resumed.order, again=intent.failed) if resumed else frozenset()
    return Prepared(resumed, steps, tuple(step for step in steps if step.name not in done), sizes)


def sizes_of(spec: ExperimentSpec, steps: Sequence[Step]) -> dict[Key, PlanSize]:
    """What the plans of these steps hold, each drawn once."""
    sizes: dict[Key, PlanSize] = {}
    for step in steps:
        if key_of(step) not in sizes:
            sizes[key_of(step)] = size_of(draw_plan(spec, step.cell, step.load)[0])
    return sizes


@contextmanager
def begin_course(
    spec: ExperimentSpec, out: Path, intent: Intent, display: Display
) -> Iterator[tuple[Course, Forecast]]:
    """Room for the campaign looked at, its locks taken and its file written. Raises ConfigError, TargetError, StoreError."""
    begun_ns = clock.monotonic_ns()
    prepared = prepare(spec, out, intent)
    pace = Pace(out, longest_cool_down_s(spec))
    coming = forecast(spec, out, prepared.todo, prepared.sizes, None)
    preflight.check_disk(spec, out, coming.disk_bytes)
    preflight.check_files(spec, prepared.todo)
    if prepared.resumed is None:
        preflight.check_time(spec, pace.seconds(order.blocks(prepared.steps)[0], prepared.sizes, spec))
    with claim(spec, out, intent, prepared.resumed, prepared.steps, display.say) as claimed:
        course = Course(spec, out, display, prepared.steps, prepared.sizes, claimed, pace, begun_ns)
        yield course, coming
        course.ran.duration_s = (clock.monotonic_ns() - begun_ns) / clock.NS


class Course:
    """The steps of a campaign that is claimed. `todo`: those without a finished run. `ran`: what came of all of them."""

    def __init__(
        self,
        spec: ExperimentSpec,
        out: Path,
        display: Display,
        steps: Sequence[Step],
        sizes: Mapping[Key, PlanSize],
        claimed: Claim,
        pace: Pace,
        begun_ns: int,
    ) -> None:
        self.spec, self.out, self.display, self.steps, self.sizes = spec, out, display, steps, sizes
        self.file, self.done, self.pace, self.begun_ns = claimed.campaign, claimed.done, pace, begun_ns
        self.ran = Ran(self.file.campaign_id, len(steps), dropped=self.file.dropped_repetitions)
        self.ran.run_dirs = [self.run_dir(step) for step in steps if step.name in self.done]
        self.ran.failures = [
            (run_dir.name.partition("_")[2], TargetError("failed in an earlier attempt", why))
            for run_dir in self.ran.run_dirs
            if (why := stock.failure(run_dir)) is not None
        ]
        self.todo = [step for step in steps if step.name not in self.done and step.block not in self.ran.dropped]

    def run_dir(self, step: Step) -> Path:
        return stock.run_dir(self.out, self.file.campaign_id, step.name)

    def say_order(self) -> None:
        """Which cells will run, a line a visit."""
        say, left, total = self.display.say, len(self.todo), len(self.steps)
        say(f"campaign {self.file.campaign_id}: {left} of {total} cells to run, in this order:")
        for visit in order.visits(self.todo):
            say(f"  repetition {visit[0].block}: {', '.join(step.name for step in visit)}")

    def since_begun_s(self) -> float:
        return (clock.monotonic_ns() - self.begun_ns) / clock.NS

    def fits_time(self, block: Sequence[Step], until_s: float) -> bool:
        """Whether a repetition may begin. The first may (`check_time` was asked before), and one that has begun is finished: a part
        of one would favour some cells."""
        limit_h, first = self.spec.max_hours, self.steps[0].block
        if limit_h is None or until_s <= limit_h * 3600 or block[0].block == first:
            return True
        return any(step.name in self.done for step in self.steps if step.block == block[0].block)

    def drop_from(self, block: int) -> None:
        """Leave out this repetition and those after it. Raises StoreError."""
        self.ran.dropped = tuple(sorted({step.block for step in self.todo if step.block >= block}))
        file.write(self.out, replace(self.file, dropped_repetitions=self.ran.dropped))
        self.display.say(f"max_hours: left out are the repetitions {', '.join(map(str, self.ran.dropped))}")

    def seconds(self, steps: Sequence[Step]) -> float:
        """What these steps will take on one machine, server starts and pauses included."""
        return self.pace.seconds(steps, self.sizes, self.spec)

    def say_eta(self, left: int, left_s: float) -> None:
        total = len(self.steps)
        end = (clock.utc_now() + timedelta(seconds=left_s)).strftime("%H:%M")
        self.display.say(
            f"{total - left} of {total} cells done, about {ending.duration(left_s)} left, ends about {end} UTC"
        )
