"""A cell against a hybrid: its router with what both sides tell, its two jobs, its warm-up of each side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from harness.base import clock
from harness.base.errors import ConfigError
from harness.config.experiment import ExperimentSpec
from harness.config.target import TargetSpec
from harness.measure.drive.hybrid import Dispatcher, SideDrive, SideGate, drive_both
from harness.measure.gate import CommonStart, Gates
from harness.measure.job import Job, Watcher
from harness.measure.observe.vllm_metrics import told, unfinished
from harness.measure.run import Run
from harness.measure.targets import Target
from harness.measure.targets.hybrid import HybridTarget
from harness.price.hosted import usd_by_lengths
from harness.price.hosted_api import api_of
from harness.records import DriveProgress, DriveReport, RequestRecord, ServerSample
from harness.routing.router import Router, SideFacts
from harness.routing.state import HOSTED, OWN

Sink = Callable[[str, list[Any]], None]


def heard_by(dispatcher: Dispatcher, store: Sink) -> Sink:
    """Telemetry on its way to the store; the server's rows are heard by the dispatcher too."""

    def sink(table: str, rows: list[Any]) -> None:
        store(table, rows)
        if table == "server":
            hear(dispatcher, rows)

    return sink


def hear(dispatcher: Dispatcher, rows: Sequence[ServerSample]) -> None:
    """One scrape of the own side's /metrics. KV usage: of several engines the fullest."""
    dispatcher.saw(OWN, unfinished(rows), told(rows, "waiting"), told(rows, "kv_cache_use", max))


def hosted_usd_of(spec: ExperimentSpec, hosted: TargetSpec) -> Callable[[int, int], float] | None:
    """Dollars of a request by (prompt, output tokens), nothing cached; None where no price is known. Raises ConfigError."""
    api = api_of(hosted, spec.cost.hosted)
    return None if api is None or api.ref is None else usd_by_lengths(api.price(api.ref, clock.utc_now()))


def dispatcher_of(run: Run, target: HybridTarget) -> Dispatcher:
    """The router of a run, with nothing learned yet. Raises ConfigError: rule cost without a price of the hosted side."""
    spec, hybrid = run.spec, run.target_spec
    own, hosted = target.sides
    assert hybrid.policy is not None
    hosted_spec = spec.sides_of(hybrid)[1]
    hosted_usd = hosted_usd_of(spec, hosted_spec)
    if hybrid.policy.rule == "cost" and hosted_usd is None:
        advice = f"give {hosted_spec.name!r} a price:"
        raise ConfigError("rule cost needs the hosted side's price", hybrid.name, advice)
    now = clock.utc_now()
    router = Router(
        hybrid.policy,
        SideFacts(own.info.name, kv_capacity_tokens(own)),
        SideFacts(hosted.info.name),
        {} if spec.slo is None else spec.slo.limits,
        spec.attainment,
        utc_s=now.hour * 3600 + now.minute * 60 + now.second,
    )
    return Dispatcher(router, hosted_usd or (lambda _prompt, _output: 0.0))


def kv_capacity_tokens(target: Target) -> int | None:
    """As its /metrics tell; None where they do not."""
    told = [target.info.cache_config.get(key, "") for key in ("num_gpu_blocks", "block_size")]
    return int(told[0]) * int(told[1]) if all(word.isdigit() for word in told) else None


def drive_sides(
    target: HybridTarget,
    dispatcher: Dispatcher,
    watcher: Watcher,
    job_to: Callable[[Target], Job],
    driver_of: Callable[[Target, Job], Callable[[Job, Watcher], DriveReport]],
    workers: int,
) -> DriveReport:
    """The measured phase: the plan to both sides, each request to one of them. `workers`: of each side."""
    start = CommonStart(len(target.sides))
    halves = []
    for which, side in zip((OWN, HOSTED), target.sides, strict=True):
        job, gate = job_to(side), SideGate(dispatcher, which)
        job = replace(job, gate=gate if job.gate is None else Gates(gate, job.gate), start=start)
        halves.append(SideDrive(side.info.name, job, driver_of(side, job)))
    return drive_both(halves, watcher, dispatcher.why, workers)


class WarmUpOfSide:
    """Watches the warm-up of one side: its rows say whose they are, and at the end the router learns from them."""

    def __init__(self, watcher: Watcher, name: str, dispatcher: Dispatcher) -> None:
        self._watcher, self._name, self._dispatcher = watcher, name, dispatcher
        self._rows: list[RequestRecord] = []

    def rows(self, rows: Sequence[RequestRecord]) -> None:
        told = [replace(row, served_by=self._name, routed_why="warm-up") for row in rows]
        self._rows += told
        self._watcher.rows(told)

    def progress(self, progress: DriveProgress) -> None:
        self._watcher.progress(progress)

    def should_stop(self) -> str | None:
        return self._watcher.should_stop()

    def ended(self) -> None:
        self._watcher.ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dispatcher.learn(self._name, self._rows)
