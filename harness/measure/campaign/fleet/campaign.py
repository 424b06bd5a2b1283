"""A campaign over a fleet: boxes are handed repetitions, their runs are fetched and stand where runs always stand.

The walk of a cell happens on its box and is the ordinary one; here is who runs what, what came of it, and what a lost box means. A
thread a box; what they share is changed under one lock.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import HarnessError, StoreError, TargetError
from harness.config.experiment import ExperimentSpec
from harness.judge.boxes import box_of, torn
from harness.measure.campaign import spread
from harness.measure.campaign.campaign import Campaign, say_money, serving
from harness.measure.campaign.course import Course, begin_course
from harness.measure.campaign.failure import record_failure
from harness.measure.campaign.fleet import parcel
from harness.measure.campaign.fleet.boxes import Box, Boxes, BoxLostError
from harness.measure.campaign.fleet.schedule import Resources, Schedule, suffices
from harness.measure.campaign.fleet.told import Told, error_of
from harness.measure.campaign.fleet.where import Find, find_on_ray, needs_of, shared
from harness.measure.campaign.fleet.work import Work
from harness.measure.campaign.forecast import key_of
from harness.measure.campaign.intent import Intent
from harness.measure.campaign.order import Step
from harness.measure.campaign.ran import Ran
from harness.measure.run import Display, Run, Stop
from harness.records import RunState
from harness.store.manifest import read_manifest

_LOOK_S = 2.0  # from one look for new boxes to the next


def over_fleet(
    spec: ExperimentSpec,
    out: Path,
    intent: Intent,
    display: Display,
    stop: Stop,
    find: Find = find_on_ray,
    *,
    here: Callable[[Campaign], None],
    stored: Callable[[Path], None] = lambda _: None,
) -> Ran:
    """Every cell of an experiment, stored, as `measure_campaign` says it: boxes have measured theirs when `here` measures what is no box's own.

    `stored` is called with each run that has come back, by the thread of its box. Raises ConfigError, TargetError, StoreError.
    """
    with find(spec, display.say) as boxes, begin_course(spec, out, intent, display) as (course, coming):
        parcel.sweep(out, course.file.campaign_id)
        course.say_order()
        say_money(display, coming)
        FleetCampaign(course, boxes, stop, stored, wait_lock=intent.wait_lock).run()
        course.done |= {run_dir.name.partition("_")[2] for run_dir in course.ran.run_dirs}
        course.todo = [step for step in shared(spec, course.todo) if step.block not in course.ran.dropped]
        if course.todo and not stop.asked:
            with serving(course, course.file.campaign_id) as campaign:
                here(campaign)
    return course.ran


class FleetCampaign:
    """The course of a campaign, run by boxes until it is over or stopped."""

    def __init__(
        self, course: Course, boxes: Boxes, stop: Stop, stored: Callable[[Path], None], *, wait_lock: bool
    ) -> None:
        self._course, self._boxes, self._stop, self._stored, self._wait_lock = course, boxes, stop, stored, wait_lock
        self._later = shared(course.spec, course.todo)
        homes = {
            manifest.cell.repetition: box
            for run_dir in course.ran.run_dirs
            if (box := box_of((manifest := read_manifest(run_dir)).environment)) is not None
        }
        own = [step for step in course.todo if step not in self._later]
        self._schedule = Schedule(own, needs_of(course.spec), homes)
        self._change = threading.Condition(threading.RLock())
        self._coming: dict[str, Resources] = {}  # boxes that something else still uses
        self._trouble: Exception | None = None
        self._no_time_from: int | None = None
        self._stranded_ns: int | None = None
        self._threads: list[threading.Thread] = []

    # ------------------------------------------------------------ the loop

    def run(self) -> None:
        """Until every cell is over, the user has stopped it, or nothing can be stored. Raises StoreError, and what was not foreseen."""
        with self._stop.while_driving():
            while not self._ended():
                for box in self._boxes.look():
                    self._welcome(box)
                self._give_up_stranded()
                with self._change:
                    self._change.wait(_LOOK_S)
            with self._change:
                self._change.notify_all()
            for thread in self._threads:
                thread.join()
        if self._trouble is not None:
            raise self._trouble
        self._course.ran.stopped = bool(self._stop.asked)
        for repetition, boxes in torn(read_manifest(run_dir) for run_dir in self._course.ran.run_dirs).items():
            self._say(
                f"repetition {repetition} is on several boxes ({', '.join(boxes)}): `harness compare` takes its sides for no pair"
            )

    def _ended(self) -> bool:
        with self._change:
            return self._schedule.over or (self._halts() and not self._schedule.busy)

    def _halts(self) -> bool:
        """Nothing more is handed out."""
        return bool(self._stop.asked) or self._trouble is not None

    def _welcome(self, box: Box) -> None:
        with self._change:
            self._coming[box.name] = box.resources
        thread = threading.Thread(target=self._serve, args=(box,), name=f"box-{box.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, box: Box) -> None:
        """A box from its coming to its end."""
        try:
            try:
                if not box.joins(self._ended):
                    return
                with self._change:
                    self._coming.pop(box.name, None)
                while (steps := self._next(box)) is not None:
                    self._measure(box, steps)
            except BoxLostError as lost:
                self._lose(box, lost)
        except Exception as error:  # raised where the campaign is
            with self._change:
                self._schedule.gave_back(box.name)
                self._trouble = self._trouble or error
        finally:
            box.close()
            with self._change:
                self._coming.pop(box.name, None)
                self._change.notify_all()

    def _next(self, box: Box) -> tuple[Step, ...] | None:
        """The box's next cells, waited for; None where there will be none."""
        with self._change:
            while not self._schedule.over and not self._halts():
                self._schedule.came(box.name, box.resources)  # again, where one of its name was lost meanwhile
                steps = self._schedule.take(box.name, self._may_begin)
                if self._no_time_from is not None:
                    self._course.drop_from(self._no_time_from)
                    self._schedule.drop_from(self._no_time_from)
                    self._no_time_from = None
                if steps:
                    return steps
                self._change.wait(_LOOK_S)
        return None

    def _may_begin(self, block: int) -> bool:
        """Whether a repetition may begin now: it is due, and fits into max_hours."""
        course = self._course
        due = spread.due_utc(course.spec, course.file.created_utc, block)
        steps = [step for step in course.todo if step.block == block]
        if self._no_time_from is not None and block >= self._no_time_from:
            return False
        if not course.fits_time(steps, course.since_begun_s() + spread.left_s(due) + course.seconds(steps)):
            self._no_time_from = block
            return False
        return spread.left_s(due) == 0

    # ------------------------------------------------------------ a part on a box

    def _measure(self, box: Box, steps: Sequence[Step]) -> None:
        """Hand over the steps, and take what comes back. Raises BoxLostError, StoreError."""
        course = self._course
        self._say(f"{box.name}: takes repetition {steps[0].block}: {', '.join(step.name for step in steps)}")
        cells = [(step.index, step.name) for step in steps]
        work = Work(
            course.spec.model_dump(mode="json"), course.file.campaign_id, course.file.created_utc, cells,
            box.facts, str(Path.cwd()), self._wait_lock,
        )  # fmt: skip
        by_name = {step.name: step for step in steps}
        told = Told(box.name, len(course.steps), by_name, self._say)
        for kind, value in box.run(work.text(), lambda: self._stop.asked if self._trouble is None else 1):
            if kind == "run":
                self._take(box, told, value)
            elif kind:
                told.tell(kind, value)
        with self._change:
            self._schedule.gave_back(box.name)

    def _take(self, box: Box, told: Told, value: dict[str, Any]) -> None:
        """Fetch a run and store it; the cell is over where it is finished. Raises BoxLostError, StoreError."""
        course, step = self._course, told.step
        run_dir = course.run_dir(step)
        try:
            with tempfile.TemporaryFile(dir=course.out) as packed:
                for chunk in box.fetch(value["path"], value["bytes"]):
                    packed.write(chunk)
                packed.seek(0)
                parcel.unpack(packed, run_dir)
        except OSError as error:
            raise StoreError(
                "a run of a box cannot be stored", f"{run_dir}: {error.strerror}", "free disk space"
            ) from error
        box.fetched()
        manifest = read_manifest(run_dir)
        with self._change:
            course.ran.run_dirs.append(run_dir)
            if value["error"] is not None:
                course.ran.failures.append((step.name, error_of(value["error"])))
            if manifest.state in (RunState.COMPLETE, RunState.FAILED):
                self._schedule.ended(box.name, step.name)
            waited_s = (manifest.environment.get("cool_down") or {}).get("waited_s")
            course.pace.saw_cell(step, told.seconds() - (waited_s or 0.0), waited_s)
            left = self._schedule.left
            left_s = course.seconds(left) / max(1, len(self._schedule.boxes)) + course.seconds(self._later)
            course.say_eta(len(left) + len(self._later), left_s)
        self._stored(run_dir)
        if manifest.plan_sha256 != course.sizes[key_of(step)].sha256:
            raise BoxLostError("it draws other plans than this machine", step.name, "install the same versions there")

    def _lose(self, box: Box, lost: BoxLostError) -> None:
        """Its cells wait for another box; one that ends boxes is over."""
        with self._change:
            given_back, ended = self._schedule.lost(box.name)
            if not self._halts():
                words = "; ".join(filter(None, (lost.what, lost.value, lost.advice)))
                names = ", ".join(step.name for step in given_back)
                self._say(f"{box.name}: out of the campaign: {words}" + (f"; given back: {names}" if names else ""))
            if ended is not None:
                advice = "look into the logs of the boxes; `--resume --failed` runs it again"
                self._fail(ended, TargetError("a cell was lost with its box, for the second time", box.name, advice))

    def _give_up_stranded(self) -> None:
        """Cells that no box can run, and none for so long, are failed runs."""
        assert self._course.spec.fleet is not None
        with self._change:
            if self._halts():
                return
            needs = self._schedule.needs
            stranded = [
                step
                for step in self._schedule.stranded()
                if not any(suffices(has, needs[step.cell.target]) for has in self._coming.values())
            ]
            now_ns = clock.monotonic_ns()
            self._stranded_ns = (self._stranded_ns or now_ns) if stranded else None
            wait_s = self._course.spec.fleet.wait_s
            if self._stranded_ns is None or now_ns - self._stranded_ns < wait_s * clock.NS:
                return
            self._schedule.give_up(stranded)
            here = "; ".join(f"{name} has {_words(has)}" for name, has in self._schedule.boxes.items())
            for step in stranded:
                value = f"{step.cell.target} needs {_words(needs[step.cell.target])}; {here or 'no box is left'}"
                advice = "start a box with it (ray start --resources), then `--resume --failed`"
                self._fail(step, TargetError(f"no box for the cell came within {wait_s:g} s", value, advice))

    def _fail(self, step: Step, error: HarnessError) -> None:
        """A run of a cell that no box could end, so that it says why. Raises StoreError."""
        course = self._course
        run_dir = course.run_dir(step)
        record_failure(
            Run(course.spec, step.cell, step.load, run_dir, course.file.campaign_id, course.display, self._stop),
            None,
            error,
        )
        course.ran.run_dirs.append(run_dir)
        course.ran.failures.append((step.name, error))
        self._stored(run_dir)
        self._say(f"failed: {step.name}: {'; '.join(str(error).splitlines())}")

    def _say(self, text: str) -> None:
        with self._change:
            self._course.display.say(text)


def _words(resources: Resources) -> str:
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in resources.items()) + "}"
