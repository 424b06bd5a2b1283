"""A campaign under way: its cells in their recorded order, each with its server up and its boards cool, each failure its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import HarnessError, RefusedError, StoreError
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign import ending, file, order, spread, stock
from harness.measure.campaign.claim import release
from harness.measure.campaign.cool_down import CoolDown, as_facts
from harness.measure.campaign.course import Course, begin_course, prepare
from harness.measure.campaign.failure import record_failure, record_traceback
from harness.measure.campaign.fleet.where import foresee_boxes
from harness.measure.campaign.forecast import Forecast, forecast
from harness.measure.campaign.intent import Intent
from harness.measure.campaign.order import Step
from harness.measure.campaign.ran import Ran
from harness.measure.campaign.server import Server
from harness.measure.observe.boards import inventory
from harness.measure.provenance import one_line
from harness.measure.run import Display, Run, Stop
from harness.measure.spending import Spending
from harness.measure.targets import Target
from harness.records import CostReport, RunSummary


def foresee(spec: ExperimentSpec, out: Path, intent: Intent = Intent()) -> Forecast:  # noqa: B008 - frozen
    """What a campaign would run, in order, with estimates; starts and writes nothing. Raises what it would raise first."""
    prepared = prepare(spec, out, intent)
    resumed_id = prepared.resumed.campaign_id if prepared.resumed else None
    coming = forecast(spec, out, prepared.todo, prepared.sizes, resumed_id)
    if spec.fleet is not None:
        coming = foresee_boxes(spec, out, prepared, coming)
    created_utc = prepared.resumed.created_utc if prepared.resumed else clock.utc_now().isoformat()
    to_come = list(dict.fromkeys(step.block for step in prepared.todo))
    return replace(coming, notes=coming.notes + spread.plan_words(spec, created_utc, to_come))


@contextmanager
def begin(spec: ExperimentSpec, out: Path, intent: Intent, display: Display) -> Iterator[Campaign]:
    """The campaign on this machine. Raises ConfigError, TargetError, StoreError."""
    with (
        begin_course(spec, out, intent, display) as (course, coming),
        serving(course, course.file.campaign_id) as campaign,
    ):
        course.say_order()
        say_money(display, coming)
        yield campaign


@contextmanager
def serving(course: Course, log_prefix: str, facts: Mapping[str, Any] | None = None) -> Iterator[Campaign]:
    """A course with what serves it on this machine, the last server ended after it. `facts`: of every run's environment.
    Raises ConfigError, StoreError, and TargetError where a server cannot be ended."""
    spec, display, campaign_id = course.spec, course.display, course.file.campaign_id
    used = {step.cell.target for step in course.steps}
    with (
        CoolDown(spec.cool_down) as cool,
        Server(
            spec, course.out / "server-logs", log_prefix, course.pace.saw_start, cool.server_is_up, display
        ) as server,
        closing(Spending(spec, f"{spec.experiment} {campaign_id}", used)) as spending,
    ):
        for line in spending.warnings:
            display.say(line)
        yield Campaign(course, cool, server, spending, facts or {})


class Campaign:
    """A course on this machine: `cells` gives what is left to run, and each is served, measured, and has `ended` or `failed`."""

    def __init__(
        self, course: Course, cool: CoolDown, server: Server, spending: Spending, facts: Mapping[str, Any]
    ) -> None:
        self._course, self._cool, self._server, self._spending, self._facts = course, cool, server, spending, facts
        self._display, self._used_before = course.display, inventory.used_bytes()
        self.ran = course.ran
        self._step = course.steps[0]
        self._step_ns = course.begun_ns
        self._pause_s: float | None = None

    def cells(self, stop: Stop) -> Iterator[Run]:
        """What is left to run, in order, until the user stops it; whole repetitions that do not fit into max_hours are left out."""
        course, todo = self._course, self._course.todo
        for block in order.blocks(todo):
            due = spread.due_utc(course.spec, course.file.created_utc, block[0].block)
            if not course.fits_time(block, course.since_begun_s() + spread.left_s(due) + course.seconds(block)):
                course.drop_from(block[0].block)
                break
            spread.wait(due, block[0].block, self._display.say)
            for step in block:
                if stop.asked:
                    break
                left = todo[todo.index(step) :]
                self._display.cell(step.index, len(course.steps), step.name)
                course.say_eta(len(left), course.seconds(left))
                yield self.run_of(step, stop)
        self.ran.stopped = bool(stop.asked)

    def run_of(self, step: Step, stop: Stop) -> Run:
        """The step begins: what it is run with."""
        self._step, self._step_ns = step, clock.monotonic_ns()
        course, run_dir = self._course, self._course.run_dir(step)
        return Run(
            course.spec, step.cell, step.load, run_dir, course.file.campaign_id, self._display, stop, used_before=self._used_before,
            spending=self._spending, attempt=stock.last_attempt(run_dir),
        )  # fmt: skip

    def serve(self, run: Run) -> tuple[Target, dict[str, Any]]:  # noqa: ARG002 - the step that `cells` gave last
        """The cell's server, up, with cool boards; facts of the pause for its manifest. Raises TargetError, ConfigError."""
        target = self._server.need(self._step)
        pause = self._cool.wait(self._display.say)
        self._pause_s = None if pause is None else pause.waited_s
        return target, {"cool_down": as_facts(pause), **self._facts}

    def ended(self, run: Run) -> None:
        """The run is stored; how long it took betters the estimates."""
        cell_s = (clock.monotonic_ns() - self._step_ns) / clock.NS - (self._pause_s or 0.0)
        self._course.pace.saw_cell(self._step, cell_s, self._pause_s)
        self.ran.run_dirs.append(run.run_dir)

    def failed(self, run: Run, cause: Exception) -> None:
        """Record the failure in the cell's run directory. A StoreError is raised: no row of the run may count, a resumption runs it again."""
        if isinstance(cause, StoreError):
            if run.run_dir.exists():
                stock.move_aside(run.run_dir.parent, run.run_dir)
            raise cause
        error = cause if isinstance(cause, HarnessError) else record_traceback(run, cause)
        if isinstance(cause, RefusedError):
            self._server.send_no_more(self._step, cause)
        if not run.run_dir.exists():
            record_failure(run, self._server.log_path, error, self._facts)
        self.ran.failures.append((self._step.name, error))
        self._display.say(f"failed: {self._step.name}: {one_line(error)}")
        self.ran.run_dirs.append(run.run_dir)


def say_money(display: Display, coming: Forecast) -> None:
    """What hosted APIs will bill, before the first request goes out."""
    if coming.hosted_usd is not None:
        requests = sum(cell.requests for cell in coming.cells if cell.usd is not None)
        display.say(
            f"hosted APIs: about ${coming.hosted_usd:,.2f} for {requests:,} requests, by list price, nothing cached"
        )
    for line in coming.unpriced:
        display.say(line)


def conclude(
    spec: ExperimentSpec,
    out: Path,
    ran: Ran,
    summaries: Sequence[RunSummary],
    costs: Sequence[CostReport],
    report: Path | None,
    exit_code: int,
) -> ending.Summary:
    """Close the campaign's file, unless it was interrupted, with its summary. Raises StoreError."""
    assert ran.campaign_id is not None
    summary = ending.summarise_campaign(
        spec.experiment,
        ran.campaign_id,
        "interrupted" if ran.stopped else "finished",
        ran.cells,
        ran.duration_s,
        summaries,
        costs,
        report=str(report) if report else None,
        dropped=ran.dropped,
        failures=[f"{name}: {one_line(error)}" for name, error in ran.failures],
        exit_code=exit_code,
    )
    campaign = file.read(file.path_of(out, ran.campaign_id))
    state = file.OPEN if ran.stopped else file.FINISHED
    campaign = replace(campaign, state=state, summary=asdict(summary))
    file.write(out, campaign)
    if state == file.FINISHED:
        release(out, campaign)
    return summary
