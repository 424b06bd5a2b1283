"""The phases of a run: warm-up in rounds, of each side where there are two, then the measured phase of the plan as it was drawn.

Each is prepared (prompts, gates), driven, watched, and its report kept for the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from harness.base.errors import ConfigError, InvalidRunError, TargetError
from harness.config.target import replica_name
from harness.measure.calibrate import calibration_limit
from harness.measure.drive.driver import drive
from harness.measure.drive.heads import Heads
from harness.measure.drive.hybrid import Dispatcher
from harness.measure.drive.pacing import Pacing, account_of
from harness.measure.gate import Gate, Gates
from harness.measure.hybrid import WarmUpOfSide, drive_sides
from harness.measure.job import Job, Watcher
from harness.measure.nodes.drive_nodes import drive_nodes
from harness.measure.nodes.kept import SENT_FROM
from harness.measure.nodes.muster import Nodes
from harness.measure.nodes.senders import senders, together
from harness.measure.nodes.share import StartAt
from harness.measure.observe.sampler import Observers
from harness.measure.plan.prompts import prompts
from harness.measure.refusals import IN_A_ROW, REFUSED, Refusals
from harness.measure.run import Probe, Run
from harness.measure.spending import RunSpending
from harness.measure.targets import Target
from harness.measure.targets.batch.engine import run_batch
from harness.measure.targets.hybrid import HybridTarget, sides_of
from harness.measure.targets.server.jit_log import JitWatch
from harness.measure.warm_up import WarmUp, warm_up
from harness.records import DriveProgress, DriveReport, Load, Phase, Plan, PlannedRequest, RequestRecord
from harness.store.parcels import records
from harness.store.parts import SCRATCH
from harness.store.writer import RunWriter

_ONE_WORKER = 64  # connections of a warm-up that one process opens alone


@dataclass(slots=True)
class Phases:
    """The phases of one run against a target that is up. `dispatcher`: of a hybrid. `heads`: what replies of the account that has limits
    said of them. `reports`: by phase and subject, as the manifest's `drive` has them."""

    run: Run
    target: Target
    plan: Plan
    writer: RunWriter
    observers: Observers
    dispatcher: Dispatcher | None
    heads: Heads = field(init=False)
    money: RunSpending = field(init=False)
    refusals: Refusals = field(init=False)
    jit: JitWatch = field(init=False)
    nodes: Nodes | None = None  # that send the measured phase; None: this machine does
    reports: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        run = self.run
        replicas = [replica_name(url) for url in run.target_spec.replicas]
        self.heads = Heads(account_of(self.account.endpoint), self.writer.add, replicas)
        self.money = RunSpending(run.spending, run.run_dir, self.plan.load.concurrency)
        self.refusals = Refusals(at_once=run.target_spec.kind in ("hosted", "hybrid"))
        self.jit = JitWatch(self.target.log_path)

    @property
    def account(self) -> Target:
        """The side whose account has limits: of a hybrid the hosted one."""
        return sides_of(self.target)[-1]

    def measure(self) -> None:
        """Both phases. Raises ConfigError, TargetError, InvalidRunError."""
        with senders(self.run.spec, self.target.endpoint, self.plan, self.run.display.say) as self.nodes:
            self.writer.update(environment={**self.writer.manifest.environment, "calibration": self._calibration()})
            if self.nodes is not None:
                self.note(
                    SENT_FROM,
                    {"mark": self.nodes.mark, "nodes": list(self.nodes.crew.names), "workers": self.nodes.workers},
                )
            self._both()

    def _calibration(self) -> dict[str, Any] | None:
        """What the load generators were shown to measure, where they are ours and `harness calibrate` was run."""
        if self.nodes is not None:
            return together([said["calibration"] for said in self.nodes.described])
        return calibration_limit(self.run.spec.workers) if self.run.spec.driver == "wire" else None

    def _both(self) -> None:
        warmed = self._warm_up()
        self._phase(Phase.MEASURE, self.plan.requests, self.plan.load, self.target)
        self.jit.look()
        compiling = {"rounds": warmed.rounds, "round_lines": warmed.jit_lines}
        self.note("compiling", compiling | {"lines": self.jit.facts(), "count": self.jit.count})

    def note(self, name: str, report: Any) -> None:
        """Into the manifest's `drive`."""
        self.reports[name] = report
        self.writer.update(drive=self.reports)

    def _warm_up(self) -> WarmUp:
        """The hosted side first; what it came to at the own one, or the only one."""

        def warm(side: Target, requests: Sequence[PlannedRequest], load: Load) -> DriveReport | None:
            return self._phase(Phase.WARMUP, requests, load, side)

        own, *others = sides_of(self.target)
        for other in others:
            warm_up(self.plan, other.info.kind, JitWatch(None), partial(warm, other))
        warmed = warm_up(self.plan, own.info.kind, self.jit, partial(warm, own))
        if warmed.rounds:
            self.reports[Phase.WARMUP.value] = warmed.report
        return warmed

    def _phase(
        self, phase: Phase, requests: Sequence[PlannedRequest], load: Load, target: Target
    ) -> DriveReport | None:
        """One drive to `target`, the run's or a side of it; None where there is nothing to send, or no more to be sent."""
        if not requests or self.run.stop.asked or self.money.stopped_by:
            return None
        measured = phase is Phase.MEASURE
        self.run.display.phase("measuring" if measured else "warm-up")
        watcher = _PhaseWatcher(self, phase, load, self._pacing())
        if measured:
            self.observers.edge("start")
        report = self._drive(requests, target, watcher)
        if self.money.stopped_by:
            report = replace(report, notes=(*report.notes, self.money.words))
        if measured:
            self.observers.settle()
            self.observers.edge("end")
        self.note(phase.value, asdict(report))
        watcher.raise_if_lost(report)
        return report

    def _pacing(self) -> Pacing | None:
        """The gate that keeps a phase to its account's limits, where the target is paced."""
        limits, endpoint = self.run.account_spec.limits, self.account.endpoint
        if limits is None or not limits.pace:
            return None
        settled = endpoint.api == "messages" if limits.settled is None else limits.settled
        return Pacing(account_of(endpoint), limits, settled)

    def _drive(self, requests: Sequence[PlannedRequest], target: Target, watcher: _PhaseWatcher) -> DriveReport:
        run = self.run
        scratch = run.run_dir / SCRATCH
        scratch.mkdir(exist_ok=True)
        job_to = partial(self._job, requests, watcher)
        with run.stop.while_driving():
            if self.dispatcher is None:
                report = self._driver(target, job := job_to(target))(job, watcher)
            elif isinstance(target, HybridTarget):
                report = drive_sides(target, self.dispatcher, watcher, job_to, self._driver, run.spec.workers)
            else:
                with WarmUpOfSide(watcher, target.info.name, self.dispatcher) as listening:
                    report = self._driver(target, job := job_to(target))(job, listening)
        scratch.rmdir()
        return report

    def _job(self, requests: Sequence[PlannedRequest], watcher: _PhaseWatcher, side: Target) -> Job:
        """The phase as a driver to `side` gets it, with the prompts and gates of that side."""
        run, phase = self.run, watcher.phase
        texts = prompts(requests, side.vocabulary, side.endpoint.api, side.endpoint.body)
        duration_s = run.load_spec.duration_s if phase is Phase.MEASURE else None
        job = Job(requests, texts, watcher.load, phase, run.run_dir.name, run.run_dir / SCRATCH, duration_s)
        share = run.spec.share
        if share is not None and share.start_at is not None and phase is Phase.MEASURE:
            job = replace(job, start=StartAt(share.start_at, lambda: bool(run.stop.asked), run.display.say))
        gates: list[Gate] = []
        if side.endpoint == self.account.endpoint:
            job = replace(job, on_head=self.heads.take)
            gates += [watcher.pacing] if watcher.pacing is not None else []
        if (bounded := self.money.gate(side.info.name, side.endpoint)) is not None:
            gates.append(bounded)
            job = replace(job, paid=bounded.told(side.info.name))
        return replace(job, gate=None if not gates else gates[0] if len(gates) == 1 else Gates(*gates))

    def _driver(self, target: Target, job: Job) -> Callable[[Job, Watcher], DriveReport]:
        """The load generator of the run's target."""
        spec, target_spec = self.run.spec, self.run.target_spec
        if target_spec.kind == "offline":
            order, size = target_spec.batch_order, target_spec.batch_size
            return partial(run_batch, target=target, order=order, batch_size=size, say=self.run.display.say)
        if self.nodes is not None and job.phase is Phase.MEASURE:
            return partial(self._from_nodes, self.nodes, target)
        many = job.phase is Phase.MEASURE or (job.load.concurrency or 0) > _ONE_WORKER
        return partial(
            drive,
            endpoint=target.endpoint,
            driver=spec.driver,
            workers=spec.workers if many else 1,
            timeouts=spec.timeouts.record(),
        )

    def _from_nodes(self, nodes: Nodes, target: Target, job: Job, watcher: Watcher) -> DriveReport:
        assert isinstance(watcher, _PhaseWatcher)
        if job.gate is not None:
            advice = "take the cap away (max_usd), or send from this machine: load_generators: {on: local}"
            raise ConfigError("what is bounded before each send is sent from this machine", target.info.name, advice)
        spec = self.run.spec
        return drive_nodes(
            job, watcher, nodes, target.endpoint, target.vocabulary,
            driver=spec.driver, timeouts=spec.timeouts.record(),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _PhaseWatcher:
    """Stores the rows of a phase and shows how it goes; ends it for its user, its target's death, refusals, or a probe that is clear."""

    of: Phases
    phase: Phase
    load: Load
    pacing: Pacing | None

    @property
    def probe(self) -> Probe | None:
        return self.of.run.probe if self.phase is Phase.MEASURE else None

    def should_stop(self) -> str | None:
        return (
            self.of.run.stop.action()
            or ("target_died" if self.of.target.ends_run() else None)
            or (REFUSED if self.of.refusals.enough else None)
            or ("drain" if self.of.money.stopped_by else None)  # the other side of a hybrid, too
            or (self.probe.should_stop() if self.probe else None)
        )

    def rows(self, rows: Sequence[RequestRecord]) -> None:
        if self.pacing is not None:
            rows = [replace(row, released_ns=self.pacing.released_ns.get(row.seq)) for row in rows]
        if self.of.run.target_spec.replicas:
            rows = [replace(row, served_by=self._replica(row)) for row in rows]
        self.of.writer.add("requests", rows)
        self.of.refusals.note(rows)
        if self.probe:
            self.probe.on_rows(rows)

    def table(self, table: Any) -> None:
        """Rows that nodes sent, as a table."""
        self.of.writer.add_ready("requests", table)
        self.of.refusals.note(records(table, most=2 * IN_A_ROW, failed_first=True, lists=False))
        if self.probe:
            self.probe.on_rows(records(table))

    def _replica(self, row: RequestRecord) -> str | None:
        """Ours by the worker that had it alone; a router's, where its reply said which."""
        replicas = self.of.target.endpoint.replicas
        return replica_name(replicas[row.worker % len(replicas)]) if replicas else self.of.heads.served_by(row.seq)

    def progress(self, progress: DriveProgress) -> None:
        self.of.jit.look()
        # an open loop's plan ends by itself
        closed_s = self.of.run.load_spec.duration_s if self.load.is_closed else None
        self.of.run.display.progress(replace(progress, duration_s=closed_s if self.phase is Phase.MEASURE else None))

    def ended(self) -> None:
        self.of.writer.flush()

    def raise_if_lost(self, report: DriveReport) -> None:
        """Raises TargetError where the server died or refuses everything, InvalidRunError where a worker died."""
        target, run = self.of.target, self.of.run
        if (reason := target.ends_run()) is not None:
            advice = "its log is server.log in the run directory; rows up to its death are stored"
            raise TargetError(f"the server {target.info.name} died during the run", reason, advice)
        if report.stop_reason == "worker_died":
            advice = "its requests are rows; the run is INVALID"
            raise InvalidRunError("a load-generator worker died", "; ".join(report.notes), advice)
        if report.stop_reason == REFUSED:
            raise self.of.refusals.error(run.account_spec, run.run_dir)
