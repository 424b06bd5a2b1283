"""One cell: its plan, and a run of it against a target that is up. `pipeline.py` says which cells, and in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.base.errors import ConfigError, InvalidRunError, TargetError
from harness.config.experiment import ExperimentSpec
from harness.config.load import LoadSpec
from harness.config.target import TargetSpec
from harness.measure import plan as plans
from harness.measure.calibrate import calibration_limit
from harness.measure.drive.driver import drive
from harness.measure.drive.heads import Heads
from harness.measure.drive.hybrid import Dispatcher
from harness.measure.drive.network import NetworkSource
from harness.measure.drive.pacing import Pacing, account_of
from harness.measure.gate import Gate, Gates
from harness.measure.hybrid import Ear, WarmUpOfSide, dispatcher_of, drive_sides
from harness.measure.job import REFUSED, Job, Refusals, Watcher
from harness.measure.observe.boards.inventory import boards
from harness.measure.observe.environment import collect
from harness.measure.observe.sampler import Observers
from harness.measure.plan.prompts import prompts
from harness.measure.provenance import link_log, manifest_of, target_facts
from harness.measure.spending import RunSpending, Spending
from harness.measure.targets import Target
from harness.measure.targets.adopt import reset_prefix_cache
from harness.measure.targets.batch.engine import run_batch
from harness.measure.targets.hybrid import HybridTarget, sides_of
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
    RequestRecord,
    RunState,
)
from harness.store.parts import SCRATCH
from harness.store.writer import RunWriter

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
    used_before: Mapping[str, int] = field(default_factory=dict)  # board's uuid -> bytes, before its server was started

    @property
    def target_spec(self) -> TargetSpec:
        return next(target for target in self.spec.targets if target.name == self.cell.target)

    @property
    def own_spec(self) -> TargetSpec:
        """The target whose server and boards are observed: of a hybrid its own side."""
        return self.spec.sides_of(self.target_spec)[0]


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
    return plans.draw(
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

    `facts` are added to the manifest's environment. Raises ConfigError, TargetError, InvalidRunError, StoreError.
    """
    spec = run.spec
    plan, notes = draw_plan(spec, run.cell, run.load_spec, run.probe)
    _fits_context(plan, target)
    _fits_account(plan, run.spec.sides_of(run.target_spec)[-1])
    facts = {**(facts or {}), **_emptied(run, target)}
    cell = replace(run.cell, load=plan.load)  # a trace, or a preset's arrivals, bring their own rate
    up = target_facts(run.own_spec, target)
    manifest = manifest_of(spec, cell, up, run.run_dir, run.campaign_id, plan, notes)
    with RunWriter.create(run.run_dir, manifest) as writer:
        writer.write_plan(plan)
        link_log(target.log_path, run.run_dir)
        more = _network(run, target)
        ear = Ear(writer.add)
        with Observers(sides_of(target)[0].info, spec.observe, ear, run.own_spec, run.used_before, more) as observers:
            calibration = calibration_limit(spec.workers) if spec.driver == "wire" else None
            here = {"machine_boards": [board.name for board in boards()]}
            extra = {"plan_notes": list(notes), "calibration": calibration, **here, **facts}
            environment = collect(observers.gpu_static, extra)
            writer.update(environment=environment, telemetry=dict(observers.telemetry))
            if isinstance(target, HybridTarget):
                ear.dispatcher = dispatcher_of(spec, run.target_spec, *target.sides)
            heads = Heads(account_of(sides_of(target)[-1].endpoint), writer.add)
            _measure_within(run, target, plan, writer, observers, heads, ear.dispatcher)
        writer.update(telemetry={**observers.telemetry, **({"places": there} if (there := heads.places()) else {})})
        writer.finish(RunState.INTERRUPTED if run.stop.asked else RunState.COMPLETE)


def _emptied(run: Run, target: Target) -> dict[str, str]:
    """Empty the server's prefix cache where its target asks for it; what came of it, for the manifest."""
    if not run.own_spec.reset_prefix_cache:
        return {}
    came = reset_prefix_cache(target.endpoint)
    run.display.say(f"{target.info.name}: prefix cache reset: {came}")
    return {"reset_prefix_cache": came}


def _network(run: Run, target: Target) -> dict[str, tuple[NetworkSource, float]]:
    """The way to a target at a URL; none leads to a server of ours."""
    observe = run.spec.observe
    hosted = sides_of(target)[-1]
    if hosted.info.kind not in ("adopt", "hosted") or observe.network == "off":
        return {}
    return {"network": (NetworkSource(hosted.endpoint), 1 / observe.network_s)}


def _measure_within(
    run: Run,
    target: Target,
    plan: Plan,
    writer: RunWriter,
    observers: Observers,
    heads: Heads,
    dispatcher: Dispatcher | None,
) -> None:
    """`_measure`, and what of its money was not spent goes back. Raises StoreError too: a ledger that cannot be written."""
    money = RunSpending(run.spending, run.run_dir.name, plan.load.concurrency)
    reports: dict[str, Any] = {}
    try:
        _measure(run, target, plan, writer, observers, heads, dispatcher, money, reports)
    finally:
        money.close()
        if money.gates:
            reports["spending"] = money.facts()
            writer.update(drive=reports)
            run.display.say(money.words)
    if money.stopped_by and not reports.get(Phase.MEASURE.value, {}).get("reads"):
        advice = "raise max_usd (or --max-usd), or wait for another day: `harness spend` shows what counts"
        raise ConfigError(f"nothing could be sent within the cap of the {money.stopped_by}", money.words, advice)


def _measure(
    run: Run,
    target: Target,
    plan: Plan,
    writer: RunWriter,
    observers: Observers,
    heads: Heads,
    dispatcher: Dispatcher | None,
    money: RunSpending,
    reports: dict[str, Any],
) -> None:
    """Warm-up in rounds, of each side where there are two, then the measured phase of a plan that is replayed as it was drawn. Raises
    TargetError, InvalidRunError."""
    jit = JitWatch(target.log_path)
    refusals = Refusals(at_once=run.target_spec.kind in ("hosted", "hybrid"))

    def phase(kind: Phase, requests: Sequence[PlannedRequest], load: Load, of: Target) -> DriveReport | None:
        if not requests or run.stop.asked or money.stopped_by:
            return None
        measured = kind is Phase.MEASURE
        run.display.phase("measuring" if measured else "warm-up")
        watcher = _PhaseWatcher(run, target, kind, load, writer, jit, refusals, heads, _pacing(run, target), money)
        if measured:
            observers.edge("start")
        report = _drive(run, of, requests, watcher, dispatcher)
        if money.stopped_by:
            report = replace(report, notes=(*report.notes, money.words))
        if measured:
            observers.settle()
            observers.edge("end")
        reports[kind.value] = asdict(report)
        writer.update(drive=reports)
        watcher.raise_if_lost(report)
        return report

    def warm(of: Target, requests: Sequence[PlannedRequest], load: Load) -> DriveReport | None:
        return phase(Phase.WARMUP, requests, load, of)

    own, *others = sides_of(target)
    for other in others:
        warm_up(plan, other.info.kind, JitWatch(None), partial(warm, other))
    warmed = warm_up(plan, own.info.kind, jit, partial(warm, own))
    if warmed.rounds:
        reports[Phase.WARMUP.value] = warmed.report
    phase(Phase.MEASURE, plan.requests, plan.load, target)
    jit.look()
    reports["compiling"] = {
        "rounds": warmed.rounds,
        "round_lines": warmed.jit_lines,
        "lines": jit.facts(),
        "count": jit.count,
    }
    writer.update(drive=reports)


def _pacing(run: Run, target: Target) -> Pacing | None:
    """The gate that keeps a phase to its account's limits, where the target is paced."""
    limits, endpoint = run.spec.sides_of(run.target_spec)[-1].limits, sides_of(target)[-1].endpoint
    if limits is None or not limits.pace:
        return None
    settled = endpoint.api == "messages" if limits.settled is None else limits.settled
    return Pacing(account_of(endpoint), limits, settled)


def _drive(
    run: Run,
    target: Target,
    requests: Sequence[PlannedRequest],
    watcher: _PhaseWatcher,
    dispatcher: Dispatcher | None,
) -> DriveReport:
    scratch = run.run_dir / SCRATCH
    scratch.mkdir(exist_ok=True)
    duration_s = run.load_spec.duration_s if watcher.phase is Phase.MEASURE else None

    def job_to(side: Target) -> Job:
        texts = prompts(requests, side.vocabulary, side.endpoint.api, side.endpoint.body)
        job = Job(requests, texts, watcher.load, watcher.phase, run.run_dir.name, scratch, duration_s)
        gates: list[Gate] = []
        if side.endpoint == sides_of(watcher.target)[-1].endpoint:  # its account is the one that has limits
            job = replace(job, on_head=watcher.heads.take)
            gates += [watcher.pacing] if watcher.pacing is not None else []
        if (bounded := watcher.money.gate(side.info.name, side.endpoint)) is not None:
            gates.append(bounded)
        return replace(job, gate=None if not gates else gates[0] if len(gates) == 1 else Gates(*gates))

    with run.stop.while_driving():
        if dispatcher is None:
            report = _driver(run, target, job := job_to(target))(job, watcher)
        elif isinstance(target, HybridTarget):
            driver_of = partial(_driver, run)
            report = drive_sides(target, dispatcher, watcher, job_to, driver_of, run.spec.workers)
        else:
            with WarmUpOfSide(watcher, target.info.name, dispatcher) as listening:
                report = _driver(run, target, job := job_to(target))(job, listening)
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
    phase: Phase
    load: Load
    writer: RunWriter
    jit: JitWatch
    refusals: Refusals
    heads: Heads
    pacing: Pacing | None
    money: RunSpending

    @property
    def probe(self) -> Probe | None:
        return self.run.probe if self.phase is Phase.MEASURE else None

    def should_stop(self) -> str | None:
        return (
            self.run.stop.action()
            or ("target_died" if self.target.ends_run() else None)
            or (REFUSED if self.refusals.enough else None)
            or ("drain" if self.money.stopped_by else None)  # the other side of a hybrid, too
            or (self.probe.should_stop() if self.probe else None)
        )

    def rows(self, rows: Sequence[RequestRecord]) -> None:
        if self.pacing is not None:
            rows = [replace(row, released_ns=self.pacing.released_ns.get(row.seq)) for row in rows]
        self.writer.add("requests", rows)
        self.refusals.note(rows)
        if self.probe:
            self.probe.on_rows(rows)

    def progress(self, progress: DriveProgress) -> None:
        self.jit.look()
        # an open loop's plan ends by itself
        closed_s = self.run.load_spec.duration_s if self.load.is_closed else None
        self.run.display.progress(replace(progress, duration_s=closed_s if self.phase is Phase.MEASURE else None))

    def ended(self) -> None:
        self.writer.flush()

    def raise_if_lost(self, report: DriveReport) -> None:
        """Raises TargetError where the server died or refuses everything, InvalidRunError where a worker died."""
        name = self.target.info.name
        if (reason := self.target.ends_run()) is not None:
            advice = "its log is server.log in the run directory; rows up to its death are stored"
            raise TargetError(f"the server {name} died during the run", reason, advice)
        if report.stop_reason == "worker_died":
            advice = "its requests are rows; the run is INVALID"
            raise InvalidRunError("a load-generator worker died", "; ".join(report.notes), advice)
        if report.stop_reason == REFUSED:
            raise self.refusals.error(self.run.spec.sides_of(self.run.target_spec)[-1], self.run.run_dir)


def _fits_account(drawn: Plan, spec: TargetSpec) -> None:
    """Raises ConfigError where a request alone is more than a minute's tokens: it could never be sent."""
    limits = spec.limits
    if limits is None:
        return
    for name, most, taken in (
        ("tpm", limits.tpm, lambda r: r.target_prompt_tokens + r.target_output_tokens),
        ("input_tpm", limits.input_tpm, lambda r: r.target_prompt_tokens),
        ("output_tpm", limits.output_tpm, lambda r: r.target_output_tokens),
    ):
        largest = max(map(taken, drawn.requests), default=0)
        if most is not None and largest > most:
            raise ConfigError(
                "a planned request is more than the account's limit of a minute",
                f"{largest:,} tokens planned, {name} is {most:,}",
                f"shorten the workload, or correct {name} of target {spec.name!r}",
            )


def _fits_context(drawn: Plan, target: Target) -> None:
    limit = target.info.max_model_len
    longest = max((r.target_prompt_tokens + r.target_output_tokens for r in drawn.requests), default=0)
    if limit is not None and longest > limit:
        raise ConfigError(
            "a planned request does not fit the model's context",
            f"{longest} prompt + output tokens planned, {target.info.model} takes {limit}",
            f"set context_limit_tokens: {limit} (longer ones are redrawn and counted) or raise the server's max-model-len",
        )
