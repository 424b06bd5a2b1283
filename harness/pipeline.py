"""THE MAIN PATH, top to bottom: config -> cells -> plan -> drive (+ observe) -> store -> analyse -> cost -> report.

This is the only module that knows every stage. The online half stands here: `run_experiment` takes the cells of a campaign in
their order, `run_cell` measures one. What a campaign needs around its cells is in `harness/measure/campaign/`. The offline half
(`analyse`, `cost`, `report`) is `harness/judge/runs.py`; the two halves meet only in the files of a run directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import ConfigError, HarnessError, StoreError, TargetError
from harness.config.experiment import ExperimentSpec
from harness.judge.runs import Analysis, analyse
from harness.measure.campaign import ending, file, order, preflight, stock
from harness.measure.campaign.board_room import check_room
from harness.measure.campaign.claim import claim, release, wanted
from harness.measure.campaign.cool_down import CoolDown, as_facts
from harness.measure.campaign.ending import Summary
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
from harness.measure.campaign.order import Step, cells_of
from harness.measure.campaign.provenance import one_line
from harness.measure.campaign.server import Server
from harness.measure.cell import Display, Run, Stop, draw_plan, record_failure, record_traceback, run_cell
from harness.measure.observe import before_start
from harness.measure.targets import open_target
from harness.records import CostReport
from harness.store.writer import write_plan

__all__ = [
    "Analysis", "Display", "Intent", "Ran", "Stop", "analyse", "conclude", "foresee", "run_cell", "run_experiment", "write_plans",
]  # fmt: skip


@dataclass(slots=True)
class Ran:
    """What `run_experiment` did. `run_dirs`: every finished run of the campaign, those of earlier attempts too.
    `failures`: (cell, error), of earlier attempts too. `campaign_id` is None for a single run. `dropped`: repetitions left out."""

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


# ---------------------------------------------------------------- a campaign


def run_experiment(
    spec: ExperimentSpec,
    out: Path,
    display: Display,
    stop: Stop,
    *,
    single_run: bool = False,
    intent: Intent = Intent(),  # noqa: B008 - frozen
) -> Ran:
    """Run every cell of an experiment in its recorded order. A cell that fails is a run that says so; the others go on.

    `out` is the experiment's directory. With `single_run` it is the run directory itself: nothing is recorded beside it, and
    the first HarnessError is raised. A campaign raises ConfigError or TargetError (a lock is held) before it starts, and
    StoreError at any time; after that, a Ctrl-C or a kill it can be resumed, until `conclude` has closed it.
    """
    if single_run:
        return _run_single(spec, out, display, stop)
    begun_ns = clock.monotonic_ns()
    prepared = _prepare(spec, out, intent)
    steps, sizes, pace = prepared.steps, prepared.sizes, Pace(out, longest_cool_down_s(spec))
    coming = forecast(spec, out, prepared.todo, sizes, None)
    preflight.check_disk(spec, out, coming.disk_bytes)
    preflight.check_files(spec, prepared.todo)
    if prepared.found is None:
        preflight.check_time(spec, pace.seconds(order.blocks(steps)[0], sizes, spec))
    with claim(spec, out, intent, prepared.found, steps, display.say) as claimed:
        campaign, done = claimed.campaign, claimed.done
        ran = Ran(campaign.campaign_id, len(steps), dropped=campaign.dropped_repetitions)
        ran.run_dirs = [stock.run_dir(out, campaign.campaign_id, step.name) for step in steps if step.name in done]
        ran.failures = [
            (run_dir.name.partition("_")[2], TargetError("failed in an earlier attempt", why))
            for run_dir in ran.run_dirs
            if (why := stock.failure(run_dir)) is not None
        ]
        todo = [step for step in steps if step.name not in done and step.block not in ran.dropped]
        _say_order(display, campaign.campaign_id, todo, len(steps))
        _say_money(display, coming)
        used_before = before_start.used_bytes()
        with (
            CoolDown(spec.cool_down) as cool,
            Server(
                spec, out / "server-logs", campaign.campaign_id, pace.saw_start, cool.server_is_up, display
            ) as server,
        ):
            for block in order.blocks(todo):
                spent_s = (clock.monotonic_ns() - begun_ns) / clock.NS
                if not _fits_time(spec, spent_s + pace.seconds(block, sizes, spec), block, steps, done):
                    ran.dropped = tuple(sorted({step.block for step in todo if step.block >= block[0].block}))
                    file.write(out, replace(campaign, dropped_repetitions=ran.dropped))
                    display.say(f"max_hours: left out are the repetitions {', '.join(map(str, ran.dropped))}")
                    break
                for step in block:
                    if stop.asked:
                        break
                    left = todo[todo.index(step) :]
                    display.cell(step.index, len(steps), step.name)
                    display.say(_eta(len(steps) - len(left), len(steps), pace.seconds(left, sizes, spec)))
                    run_dir = stock.run_dir(out, campaign.campaign_id, step.name)
                    at = (run_dir, campaign.campaign_id, display, stop)
                    run = Run(spec, step.cell, step.load, *at, used_before=used_before)
                    _run_step(run, step, server, cool, ran, pace)
        ran.stopped = bool(stop.asked)
        ran.duration_s = (clock.monotonic_ns() - begun_ns) / clock.NS
    return ran


def _run_single(spec: ExperimentSpec, run_dir: Path, display: Display, stop: Stop) -> Ran:
    target_spec = spec.targets[0]
    (cell, load_spec), *more = cells_of(spec, target_spec.name)
    if more or len(spec.targets) > 1:
        raise ConfigError("a run directory holds one cell", f"{1 + len(more)} asked for", "run it as an experiment")
    campaign_id = clock.utc_stamp()
    step = Step(1, cell, load_spec)
    preflight.check_files(spec, [step])
    coming = forecast(spec, run_dir.parent, [step], {key_of(step): size_of(draw_plan(spec, cell, load_spec)[0])}, None)
    preflight.check_disk(spec, run_dir, coming.disk_bytes)
    _say_money(display, coming)
    ran = Ran(None, 1)
    display.phase(f"target {target_spec.name}")
    log_path = run_dir.parent / f"{campaign_id}_{target_spec.name}.log"
    used_before = before_start.used_bytes()
    check_room(target_spec, display.say)
    with open_target(target_spec, log_path, display.say) as target:
        if not stop.asked:
            display.cell(1, 1, cell.name)
            ran.run_dirs.append(run_dir)
            run = Run(spec, cell, load_spec, run_dir, campaign_id, display, stop, used_before=used_before)
            run_cell(run, target)
    ran.stopped = bool(stop.asked)
    return ran


def _run_step(run: Run, step: Step, server: Server, cool: CoolDown, ran: Ran, pace: Pace) -> None:
    """One cell with its server and the pause before it; a failure is recorded in the cell's run directory."""
    begun_ns = clock.monotonic_ns()
    try:
        target = server.need(step)
        pause = cool.wait(run.display.say)
        run_cell(run, target, {"cool_down": as_facts(pause)})
        pause_s = None if pause is None else pause.waited_s
        pace.saw_cell(step, (clock.monotonic_ns() - begun_ns) / clock.NS - (pause_s or 0.0), pause_s)
    except StoreError:  # no row of it may count: the cell is run again by a resumption
        if run.run_dir.exists():
            stock.move_aside(run.run_dir.parent, run.run_dir)
        raise
    except Exception as cause:
        error = cause if isinstance(cause, HarnessError) else record_traceback(run, cause)
        if not run.run_dir.exists():
            record_failure(run, server.log_path, error)
        ran.failures.append((step.name, error))
        run.display.say(f"failed: {step.name}: {one_line(error)}")
    ran.run_dirs.append(run.run_dir)


def _fits_time(
    spec: ExperimentSpec, until_s: float, block: Sequence[Step], steps: Sequence[Step], done: frozenset[str]
) -> bool:
    """Whether a repetition may begin. The first may (`check_time` was asked before), and one that has begun is finished: a part of
    one would favour some cells."""
    if spec.max_hours is None or until_s <= spec.max_hours * 3600 or block[0].block == steps[0].block:
        return True
    return any(step.name in done for step in steps if step.block == block[0].block)


def _say_order(display: Display, campaign_id: str, todo: Sequence[Step], total: int) -> None:
    display.say(f"campaign {campaign_id}: {len(todo)} of {total} cells to run, in this order:")
    for visit in order.visits(todo):
        display.say(f"  repetition {visit[0].block}: {', '.join(step.name for step in visit)}")


def _say_money(display: Display, coming: Forecast) -> None:
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


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is known before anything starts; `todo` are the steps without a finished run."""

    found: file.Campaign | None
    steps: tuple[Step, ...]
    todo: tuple[Step, ...]
    sizes: dict[Key, PlanSize]


def _prepare(spec: ExperimentSpec, out: Path, intent: Intent) -> _Prepared:
    """Find the cells and draw every plan once, whatever the target; writes nothing. Raises ConfigError and StoreError."""
    found, steps = wanted(spec, out, intent)
    preflight.check_prices(spec)
    sizes: dict[Key, PlanSize] = {}
    for step in steps:
        if key_of(step) not in sizes:
            sizes[key_of(step)] = size_of(draw_plan(spec, step.cell, step.load)[0])
    done = stock.finished(out, found.campaign_id, found.order, again=intent.failed) if found else frozenset()
    return _Prepared(found, steps, tuple(step for step in steps if step.name not in done), sizes)


def foresee(spec: ExperimentSpec, out: Path, intent: Intent = Intent()) -> Forecast:  # noqa: B008 - frozen
    """What `run_experiment` would run, in order, with estimates; starts and writes nothing. Raises what it would raise first."""
    prepared = _prepare(spec, out, intent)
    return forecast(spec, out, prepared.todo, prepared.sizes, prepared.found.campaign_id if prepared.found else None)


def conclude(
    spec: ExperimentSpec,
    out: Path,
    ran: Ran,
    analysis: Analysis | None,
    costs: Sequence[CostReport],
    report_path: Path | None,
    exit_code: int,
) -> Summary:
    """Close the campaign's file, unless it was interrupted, with its summary. Raises StoreError."""
    assert ran.campaign_id is not None
    summary = ending.summarise_campaign(
        spec.experiment,
        ran.campaign_id,
        "interrupted" if ran.stopped else "finished",
        ran.cells,
        ran.duration_s,
        analysis.summaries if analysis else (),
        costs,
        report=str(report_path) if report_path else None,
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


# ---------------------------------------------------------------- plans alone


def write_plans(spec: ExperimentSpec, out: Path) -> list[dict[str, Any]]:
    """Draw and write plan.parquet of every cell (in a folder a cell, unless there is only one); sends nothing.

    Returns one row a plan: path, requests, sha256, notes. The plans do not depend on the target, so one target's do.
    """
    cells = cells_of(spec, spec.targets[0].name)
    written = []
    for cell, load_spec in cells:
        drawn, notes = draw_plan(spec, cell, load_spec)
        folder = out if len(cells) == 1 else out / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        write_plan(folder, drawn)
        path = folder / "plan.parquet"
        written.append(
            {"path": str(path), "requests": len(drawn.requests), "sha256": drawn.sha256, "notes": list(notes)}
        )
    return written
