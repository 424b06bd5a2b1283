"""A campaign under way: its cells in their recorded order, each with its server up and its boards cool, each failure its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import HarnessError, RefusedError, StoreError, TargetError
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign import ending, file, order, preflight, spread, stock
from harness.measure.campaign.claim import Claim, claim, release, wanted
from harness.measure.campaign.cool_down import CoolDown, as_facts
from harness.measure.campaign.failure import record_failure, record_traceback
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
from harness.measure.campaign.server import Server
from harness.measure.cell import draw_plan
from harness.measure.observe.boards import inventory
from harness.measure.provenance import one_line
from harness.measure.run import Display, Run, Stop
from harness.measure.spending import Spending
from harness.measure.targets import Target
from harness.records import CostReport, RunSummary


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is known before anything starts; `todo` are the steps without a finished run."""

    resumed: file.Campaign | None
    steps: tuple[Step, ...]
    todo: tuple[Step, ...]
    sizes: dict[Key, PlanSize]


def _prepare(spec: ExperimentSpec, out: Path, intent: Intent) -> _Prepared:
    """Find the cells and draw every plan once, whatever the target; writes nothing. Raises ConfigError and StoreError."""
    resumed, steps = wanted(spec, out, intent)
    preflight.check_prices(spec)
    sizes: dict[Key, PlanSize] = {}
    for step in steps:
        if key_of(step) not in sizes:
            sizes[key_of(step)] = size_of(draw_plan(spec, step.cell, step.load)[0])
    done = stock.finished(out, resumed.campaign_id, resumed.order, again=intent.failed) if resumed else frozenset()
    return _Prepared(resumed, steps, tuple(step for step in steps if step.name not in done), sizes)


def foresee(spec: ExperimentSpec, out: Path, intent: Intent = Intent()) -> Forecast:  # noqa: B008 - frozen
    """What a campaign would run, in order, with estimates; starts and writes nothing. Raises what it would raise first."""
    prepared = _prepare(spec, out, intent)
    resumed_id = prepared.resumed.campaign_id if prepared.resumed else None
    coming = forecast(spec, out, prepared.todo, prepared.sizes, resumed_id)
    created_utc = prepared.resumed.created_utc if prepared.resumed else clock.utc_now().isoformat()
    to_come = list(dict.fromkeys(step.block for step in prepared.todo))
    return replace(coming, notes=coming.notes + spread.plan_words(spec, created_utc, to_come))


@contextmanager
def begin(spec: ExperimentSpec, out: Path, intent: Intent, display: Display) -> Iterator[Campaign]:
    """The campaign, with room for it looked at, its locks taken and its file written. Raises ConfigError, TargetError, StoreError."""
    begun_ns = clock.monotonic_ns()
    prepared = _prepare(spec, out, intent)
    pace = Pace(out, longest_cool_down_s(spec))
    coming = forecast(spec, out, prepared.todo, prepared.sizes, None)
    preflight.check_disk(spec, out, coming.disk_bytes)
    preflight.check_files(spec, prepared.todo)
    if prepared.resumed is None:
        preflight.check_time(spec, pace.seconds(order.blocks(prepared.steps)[0], prepared.sizes, spec))
    with claim(spec, out, intent, prepared.resumed, prepared.steps, display.say) as claimed:
        campaign_id = claimed.campaign.campaign_id
        log_folder = out / "server-logs"
        with (
            CoolDown(spec.cool_down) as cool,
            Server(spec, log_folder, campaign_id, pace.saw_start, cool.server_is_up, display) as server,
            closing(Spending(spec, f"{spec.experiment} {campaign_id}")) as spending,
        ):
            campaign = Campaign(
                spec, out, display, prepared.steps, prepared.sizes, claimed, pace, cool, server, begun_ns, spending
            )
            for line in spending.warnings:
                display.say(line)
            campaign.say_order()
            say_money(display, coming)
            yield campaign
        campaign.ran.duration_s = (clock.monotonic_ns() - begun_ns) / clock.NS


class Campaign:
    """What `begin` began: `cells` gives what is left to run, and each is served, measured, and has `ended` or `failed`."""

    def __init__(
        self,
        spec: ExperimentSpec,
        out: Path,
        display: Display,
        steps: Sequence[Step],
        sizes: Mapping[Key, PlanSize],
        claimed: Claim,
        pace: Pace,
        cool: CoolDown,
        server: Server,
        begun_ns: int,
        spending: Spending,
    ) -> None:
        self._spec, self._out, self._display, self._steps, self._sizes = spec, out, display, steps, sizes
        self._file, self._done = claimed.campaign, claimed.done
        self._pace, self._cool, self._server, self._begun_ns = pace, cool, server, begun_ns
        self._used_before, self._spending = inventory.used_bytes(), spending
        self.ran = Ran(self._file.campaign_id, len(steps), dropped=self._file.dropped_repetitions)
        self.ran.run_dirs = [self._run_dir(step) for step in steps if step.name in self._done]
        self.ran.failures = [
            (run_dir.name.partition("_")[2], TargetError("failed in an earlier attempt", why))
            for run_dir in self.ran.run_dirs
            if (why := stock.failure(run_dir)) is not None
        ]
        self._todo = [step for step in steps if step.name not in self._done and step.block not in self.ran.dropped]
        self._step = steps[0]
        self._step_ns = begun_ns
        self._pause_s: float | None = None

    def say_order(self) -> None:
        """Which cells will run, a line a visit."""
        say, left, total = self._display.say, len(self._todo), len(self._steps)
        say(f"campaign {self._file.campaign_id}: {left} of {total} cells to run, in this order:")
        for visit in order.visits(self._todo):
            say(f"  repetition {visit[0].block}: {', '.join(step.name for step in visit)}")

    def cells(self, stop: Stop) -> Iterator[Run]:
        """What is left to run, in order, until the user stops it; whole repetitions that do not fit into max_hours are left out."""
        total = len(self._steps)
        for block in order.blocks(self._todo):
            due = spread.due_utc(self._spec, self._file.created_utc, block[0].block)
            until_s = (clock.monotonic_ns() - self._begun_ns) / clock.NS + spread.left_s(due)
            if not self._fits_time(block, until_s + self._pace.seconds(block, self._sizes, self._spec)):
                self._drop_from(block)
                break
            spread.wait(due, block[0].block, self._display.say)
            for step in block:
                if stop.asked:
                    break
                left = self._todo[self._todo.index(step) :]
                self._display.cell(step.index, total, step.name)
                self._display.say(_eta(total - len(left), total, self._pace.seconds(left, self._sizes, self._spec)))
                self._step, self._step_ns = step, clock.monotonic_ns()
                yield Run(
                    self._spec, step.cell, step.load, self._run_dir(step), self._file.campaign_id, self._display, stop,
                    spending=self._spending, used_before=self._used_before,
                )  # fmt: skip
        self.ran.stopped = bool(stop.asked)

    def serve(self, run: Run) -> tuple[Target, dict[str, Any]]:  # noqa: ARG002 - the step that `cells` gave last
        """The cell's server, up, with cool boards; facts of the pause for its manifest. Raises TargetError, ConfigError."""
        target = self._server.need(self._step)
        pause = self._cool.wait(self._display.say)
        self._pause_s = None if pause is None else pause.waited_s
        return target, {"cool_down": as_facts(pause)}

    def ended(self, run: Run) -> None:
        """The run is stored; how long it took betters the estimates."""
        cell_s = (clock.monotonic_ns() - self._step_ns) / clock.NS - (self._pause_s or 0.0)
        self._pace.saw_cell(self._step, cell_s, self._pause_s)
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
            record_failure(run, self._server.log_path, error)
        self.ran.failures.append((self._step.name, error))
        self._display.say(f"failed: {self._step.name}: {one_line(error)}")
        self.ran.run_dirs.append(run.run_dir)

    def _run_dir(self, step: Step) -> Path:
        return stock.run_dir(self._out, self._file.campaign_id, step.name)

    def _fits_time(self, block: Sequence[Step], until_s: float) -> bool:
        """Whether a repetition may begin. The first may (`check_time` was asked before), and one that has begun is finished: a part
        of one would favour some cells."""
        limit_h, first = self._spec.max_hours, self._steps[0].block
        if limit_h is None or until_s <= limit_h * 3600 or block[0].block == first:
            return True
        return any(step.name in self._done for step in self._steps if step.block == block[0].block)

    def _drop_from(self, block: Sequence[Step]) -> None:
        self.ran.dropped = tuple(sorted({step.block for step in self._todo if step.block >= block[0].block}))
        file.write(self._out, replace(self._file, dropped_repetitions=self.ran.dropped))
        self._display.say(f"max_hours: left out are the repetitions {', '.join(map(str, self.ran.dropped))}")


def say_money(display: Display, coming: Forecast) -> None:
    """What hosted APIs will bill, before the first request goes out."""
    if coming.hosted_usd is not None:
        requests = sum(cell.requests for cell in coming.cells if cell.usd is not None)
        display.say(
            f"hosted APIs: about ${coming.hosted_usd:,.2f} for {requests:,} requests, by list price, nothing cached"
        )
    for line in coming.unpriced:
        display.say(line)


def _eta(done: int, total: int, left_s: float) -> str:
    end = (clock.utc_now() + timedelta(seconds=left_s)).strftime("%H:%M")
    return f"{done} of {total} cells done, about {ending.duration(left_s)} left, ends about {end} UTC"


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
