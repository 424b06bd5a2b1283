"""One cell: its plan, and a run of it against a target that is up. `pipeline.py` says which cells, and in which order."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.base import redaction
from harness.base.errors import ConfigError, HarnessError, InvalidRunError, TargetError
from harness.base.no_room import is_no_room, no_room
from harness.config.experiment import ExperimentSpec
from harness.config.load import CapacitySpec, LoadSpec
from harness.config.target import TargetSpec
from harness.judge.capacity import ProbeOrder
from harness.judge.rates import slo_of
from harness.measure import plan
from harness.measure.calibrate import calibration_limit
from harness.measure.campaign.provenance import facts_of_none, link_log, manifest_of, one_line, target_facts
from harness.measure.capacity_search import probe_by_run, search_capacity
from harness.measure.drive.driver import drive
from harness.measure.drive.refusals import IN_A_ROW, REFUSED, Refusals
from harness.measure.job import Job, Watcher
from harness.measure.observe.environment import collect
from harness.measure.observe.inventory import boards
from harness.measure.observe.sampler import Observers
from harness.measure.plan.prompts import prompts
from harness.measure.targets import Target
from harness.measure.targets.adopt import reset_prefix_cache
from harness.measure.targets.batch.engine import run_batch
from harness.measure.targets.server.jit_log import JitWatch
from harness.measure.warm_up import warm_up
from harness.records import (
    Cell,
    DriveProgress,
    DriveReport,
    Load,
    Phase,
    Plan,
    PlannedRequest,
    ProbeResult,
    RequestRecord,
    RunState,
)
from harness.store.capacity_file import write_capacity
from harness.store.parts import SCRATCH
from harness.store.writer import RunWriter

TRACEBACK = "traceback.txt"
_ONE_WORKER = 64  # connections of a warm-up that one process opens alone


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
    used_before: Mapping[str, int] = field(default_factory=dict)  # board's uuid -> bytes, before its server was started

    @property
    def target_spec(self) -> TargetSpec:
        return next(target for target in self.spec.targets if target.name == self.cell.target)


def draw_plan(
    spec: ExperimentSpec, cell: Cell, load_spec: LoadSpec, probe: Probe | None = None
) -> tuple[Plan, tuple[str, ...]]:
    """The cell's plan: a function of workload, load, repetition and seed, and not of the target, so that every
    target replays the same one; different cells send different prompts, so that none finds another's in the cache. Of a
    capacity search: the plan of its first probe."""
    if load_spec.capacity is not None:
        search = load_spec.capacity
        _, longest_s = search.lengths_s(search.start_rps, spec.attainment)
        load_spec = LoadSpec(rate=[search.start_rps], duration_s=longest_s)
        cell = replace(cell, load=load_spec.points()[0])
    requests = load_spec.requests
    if load_spec.requests_per_slot and cell.load.concurrency:
        requests = load_spec.requests_per_slot * cell.load.concurrency
    key = f"{spec.seed}|{cell.workload}|{cell.load.name}|{cell.repetition}{f'|probe {probe.index}' if probe else ''}"
    return plan.draw(
        cell.workload,
        cell.load,
        requests=requests,
        duration_s=load_spec.duration_s,
        seed=int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1,
        warmup_requests=spec.warmup_requests,
        context_limit_tokens=spec.context_limit_tokens,
    )


def run_cell(run: Run, target: Target, facts: Mapping[str, Any] | None = None) -> None:
    """One run: plan written, warm-up, measured phase between two edges of every telemetry source, stored.

    `facts` are added to the manifest's environment. A capacity search is many such runs.
    """
    if run.load_spec.capacity is not None:
        _search(run, run.load_spec.capacity, target, facts or {})
        return
    spec = run.spec
    drawn, notes = draw_plan(spec, run.cell, run.load_spec, run.probe)
    cell = replace(run.cell, load=drawn.load)  # a trace, or a preset's arrivals, bring their own rate
    _fits_context(drawn, target)
    told = target_facts(run.target_spec, target)
    manifest = manifest_of(spec, cell, told, run.run_dir, run.campaign_id, drawn, notes)
    facts = {**(facts or {}), **_emptied(run, target)}
    with RunWriter.create(run.run_dir, manifest) as writer:
        writer.write_plan(drawn)
        link_log(target.log_path, run.run_dir)
        with Observers(target.info, spec.observe, writer.add, run.target_spec, run.used_before) as observers:
            calibration = calibration_limit(spec.workers) if spec.driver == "wire" else None
            here = {"machine_boards": [board.name for board in boards()]}
            extra = {"plan_notes": list(notes), "calibration": calibration, **here, **(facts or {})}
            environment = collect(observers.gpu_static, extra)
            writer.update(environment=environment, telemetry=dict(observers.telemetry))
            _measure(run, target, drawn, writer, observers)
        writer.update(telemetry=dict(observers.telemetry))
        writer.finish(RunState.INTERRUPTED if run.stop.asked else RunState.COMPLETE)


def _emptied(run: Run, target: Target) -> dict[str, str]:
    """Empty the server's prefix cache where its target asks for it; what came of it, for the manifest."""
    if not run.target_spec.reset_prefix_cache:
        return {}
    came = reset_prefix_cache(target.endpoint)
    run.display.say(f"{target.info.name}: prefix cache reset: {came}")
    return {"reset_prefix_cache": came}


def _search(run: Run, spec: CapacitySpec, target: Target, facts: Mapping[str, Any]) -> None:
    """A capacity search: each probe is a run in a folder of its own, the result is capacity.json beside them."""
    slo = slo_of(run.spec.model_dump(mode="json"))
    drawn, notes = draw_plan(run.spec, run.cell, run.load_spec)
    told = target_facts(run.target_spec, target)
    manifest = manifest_of(run.spec, run.cell, told, run.run_dir, run.campaign_id, drawn, notes)

    def run_probe(
        order: ProbeOrder,
        load: LoadSpec,
        should_stop: Callable[[], str | None],
        on_rows: Callable[[Sequence[RequestRecord]], None],
    ) -> Path:
        cell = replace(run.cell, load=load.points()[0])
        run_dir = run.run_dir / f"{run.campaign_id}_{cell.name}_probe{order.index:02d}"
        run.display.say(f"probe {order.index}: {order.rate_rps:.3g} requests/s, {order.longest_s:.3g} s at most")
        probe = Probe(order.index, should_stop, on_rows)
        run_cell(replace(run, cell=cell, load_spec=load, run_dir=run_dir, probe=probe), target, facts)
        return run_dir

    def say(probe: ProbeResult) -> None:
        share = "-" if probe.attainment is None else f"{probe.attainment:.2%}"
        run.display.say(f"probe {probe.index}: {probe.verdict}, attainment {share} ({probe.stopped})")

    with RunWriter.create(run.run_dir, manifest) as writer:
        result = search_capacity(
            spec, run.spec.attainment, lambda order, watch: probe_by_run(order, watch, slo, run_probe), say,
            stopped=lambda: bool(run.stop.asked),
        )  # fmt: skip
        if not run.stop.asked:
            write_capacity(run.run_dir, result)
        writer.finish(RunState.INTERRUPTED if run.stop.asked else RunState.COMPLETE)


def record_traceback(run: Run, error: Exception) -> HarnessError:
    """What no line of ours foresaw: its traceback goes into the run directory, and it becomes an error of this one cell."""
    if isinstance(error, OSError) and is_no_room(error):
        return no_room("the run", Path(error.filename or run.run_dir), error)
    path = run.run_dir / TRACEBACK
    with suppress(OSError):
        path.write_text(redaction.text("".join(traceback.format_exception(error))))
    what = redaction.text(f"{type(error).__name__}: {error}")[:300]
    return InvalidRunError("the cell ended by an error that was not foreseen", what, f"report it, with {path}")


def record_failure(run: Run, log_path: Path | None, error: HarnessError) -> None:
    """A run directory for a cell that could not begin: the plan it had, the server's log, and why."""
    drawn, notes = draw_plan(run.spec, run.cell, run.load_spec)
    facts = facts_of_none(run.target_spec, error)
    manifest = manifest_of(
        run.spec, replace(run.cell, load=drawn.load), facts, run.run_dir, run.campaign_id, drawn, notes
    )
    writer = RunWriter.create(run.run_dir, manifest)
    writer.write_plan(drawn)
    link_log(log_path, run.run_dir)
    environment = collect([], {"plan_notes": list(notes)})
    writer.update(environment=environment)
    writer.finish(RunState.FAILED, one_line(error))


def _measure(run: Run, target: Target, drawn: Plan, writer: RunWriter, observers: Observers) -> None:
    """Warm-up in rounds, then the measured phase of a plan that is replayed as it was drawn. Raises TargetError, InvalidRunError."""
    reports: dict[str, Any] = {}
    watch = JitWatch(target.log_path)

    def one(phase: Phase, requests: Sequence[PlannedRequest], load: Load) -> DriveReport | None:
        if not requests or run.stop.asked:
            return None
        run.display.phase("warm-up" if phase is Phase.WARMUP else "measuring")
        if phase is Phase.MEASURE:
            observers.edge("start")
        refusals = Refusals()
        done = _drive_phase(run, target, phase, requests, load, writer, refusals, watch)
        if phase is Phase.MEASURE:
            observers.settle()
            observers.edge("end")
        reports[phase.value] = asdict(done)
        writer.update(drive=reports)
        _raise_if_dead(target, done)
        if done.stop_reason == REFUSED:
            raise TargetError(
                f"the target {target.info.name} refused {IN_A_ROW} requests in a row",
                refusals.last,
                f"look at the key, its rights and the account's balance; every reply is a row in {run.run_dir}",
            )
        return done

    made = warm_up(drawn, run.target_spec.kind, watch, lambda requests, load: one(Phase.WARMUP, requests, load))
    if made.rounds:
        reports[Phase.WARMUP.value] = made.report
    one(Phase.MEASURE, drawn.requests, drawn.load)
    watch.look()
    reports["compiling"] = {
        "rounds": made.rounds,
        "round_lines": made.jit_lines,
        "lines": watch.facts(),
        "count": watch.count,
    }
    writer.update(drive=reports)


def _drive_phase(
    run: Run,
    target: Target,
    phase: Phase,
    requests: Sequence[PlannedRequest],
    load: Load,
    writer: RunWriter,
    refusals: Refusals,
    watch: JitWatch,
) -> DriveReport:
    measured = phase is Phase.MEASURE
    scratch = run.run_dir / SCRATCH
    scratch.mkdir(exist_ok=True)
    job = Job(
        requests,
        prompts(requests, target.vocabulary, target.endpoint.api, target.endpoint.body),
        load,
        phase,
        run.run_dir.name,
        scratch,
        run.load_spec.duration_s if measured else None,
    )
    watcher = _PhaseWatcher(run, target, job, writer, refusals, watch, run.probe if measured else None)
    run.stop.driving = True
    try:
        report = _driver(run, target, job)(job, watcher)
    finally:
        run.stop.driving = False
    scratch.rmdir()
    return report


def _driver(run: Run, target: Target, job: Job) -> Callable[[Job, Watcher], DriveReport]:
    """The load generator of the run's target."""
    spec = run.spec
    if run.target_spec.kind == "offline":
        order, size = run.target_spec.batch_order, run.target_spec.batch_size
        return partial(run_batch, target=target, order=order, batch_size=size, say=run.display.say)
    many = job.phase is Phase.MEASURE or (job.load.concurrency or 0) > _ONE_WORKER
    return partial(
        drive,
        endpoint=target.endpoint,
        driver=spec.driver,
        workers=spec.workers if many else 1,
        timeouts=spec.timeouts.record(),
    )


@dataclass(frozen=True, slots=True)
class _PhaseWatcher:
    """Stores the rows of a phase and shows how it goes; ends it for its user, its target's death, refusals, or a probe that is clear."""

    run: Run
    target: Target
    job: Job
    writer: RunWriter
    refusals: Refusals
    jit: JitWatch
    probe: Probe | None

    def should_stop(self) -> str | None:
        return (
            self.run.stop.action()
            or ("target_died" if self.target.died() else None)
            or (REFUSED if self.refusals.enough else None)
            or (self.probe.should_stop() if self.probe else None)
        )

    def rows(self, rows: Sequence[RequestRecord]) -> None:
        self.writer.add("requests", rows)
        self.refusals.note(rows)
        if self.probe:
            self.probe.on_rows(rows)

    def progress(self, progress: DriveProgress) -> None:
        self.jit.look()
        ends_by_time = self.job.load.concurrency is not None  # an open loop's plan ends at its duration by itself
        self.run.display.progress(replace(progress, duration_s=self.job.duration_s if ends_by_time else None))

    def ended(self) -> None:
        self.writer.flush()


def _fits_context(drawn: Plan, target: Target) -> None:
    limit = target.info.max_model_len
    longest = max((r.target_prompt_tokens + r.target_output_tokens for r in drawn.requests), default=0)
    if limit is not None and longest > limit:
        raise ConfigError(
            "a planned request does not fit the model's context",
            f"{longest} prompt + output tokens planned, {target.info.model} takes {limit}",
            f"set context_limit_tokens: {limit} (longer ones are redrawn and counted) or raise the server's max-model-len",
        )


def _raise_if_dead(target: Target, report: DriveReport) -> None:
    reason = target.died()
    if reason is not None:
        raise TargetError(
            f"the server {target.info.name} died during the run",
            reason,
            "its log is server.log in the run directory; rows up to its death are stored",
        )
    if report.stop_reason == "worker_died":
        raise InvalidRunError(
            "a load-generator worker died", "; ".join(report.notes), "its requests are rows; the run is INVALID"
        )
