"""THE MAIN PATH, top to bottom: config -> cells -> plan -> drive (+ observe) -> store -> analyse -> cost -> report.

This is the only module that knows every stage. The online half (`run_experiment`) and the offline half (`analyse`,
`cost`, `report`) meet only in the files of a run directory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from harness import __version__, clock, plan
from harness.analyse.summary import summarise
from harness.calibrate import calibration_limit
from harness.config import CostSpec, ExperimentSpec, HardwareSpec, LoadSpec, TargetSpec
from harness.cost.prices import declared, instance_price
from harness.cost.report import cost_run
from harness.drive.driver import drive
from harness.errors import ConfigError, InvalidRunError, StoreError, TargetError
from harness.observe.environment import collect
from harness.observe.sampler import Observers
from harness.plan.prompts import prompts
from harness.records import (
    SCHEMA_VERSION,
    Cell,
    CostReport,
    DriveProgress,
    DriveReport,
    Hardware,
    Load,
    Manifest,
    Phase,
    Plan,
    PlannedRequest,
    RequestRecord,
    RunState,
    RunSummary,
)
from harness.report import document
from harness.store.reader import find_runs, read_run
from harness.store.writer import RunWriter, write_plan
from harness.targets import Target, open_target


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


# ---------------------------------------------------------------- online half


def cells_of(spec: ExperimentSpec, target: str) -> list[tuple[Cell, LoadSpec]]:
    """Every cell of one target, in the order they run: repetitions outermost, so that drift meets all cells alike."""
    return [
        (Cell(target, workload, load, repetition), load_spec)
        for repetition in range(1, spec.repetitions + 1)
        for workload in spec.workloads
        for load_spec in spec.loads
        for load in load_spec.points()
    ]


def draw_plan(
    spec: ExperimentSpec, cell: Cell, load_spec: LoadSpec, *, closed_sessions: bool = False
) -> tuple[Plan, tuple[str, ...]]:
    """The cell's plan: a function of workload, load, repetition and seed, and not of the target, so that every
    target replays the same one; different cells send different prompts, so that none finds another's in the cache."""
    requests = load_spec.requests
    if load_spec.requests_per_slot and cell.load.concurrency:
        requests = load_spec.requests_per_slot * cell.load.concurrency
    key = f"{spec.seed}|{cell.workload}|{cell.load.name}|{cell.repetition}"
    return plan.draw(
        cell.workload,
        cell.load,
        requests=requests,
        duration_s=load_spec.duration_s,
        seed=int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1,
        warmup_requests=spec.warmup_requests,
        context_limit_tokens=spec.context_limit_tokens,
        closed_sessions=closed_sessions,
    )


def run_experiment(
    spec: ExperimentSpec, out: Path, display: Display, stop: Stop, *, single_run: bool = False
) -> list[Path]:
    """Run every cell of an experiment and return the run directories, whatever their state.

    `out` is the experiment's directory, or with `single_run` the run directory itself. Raises the stage's
    HarnessError after the run that met it was stored; a Ctrl-C ends with the runs made so far.
    """
    campaign_id = clock.utc_stamp()
    for cell, load_spec in cells_of(spec, spec.targets[0].name):  # a plan that cannot be drawn fails before any start
        draw_plan(spec, cell, load_spec)
    done: list[Path] = []
    for target_spec in spec.targets:
        cells = cells_of(spec, target_spec.name)
        display.phase(f"target {target_spec.name}")
        with open_target(target_spec, _log_path(out, campaign_id, target_spec, single_run), display.say) as target:
            for index, (cell, load_spec) in enumerate(cells, 1):
                if stop.asked:
                    return done
                display.cell(index, len(cells), cell.name)
                run_dir = out if single_run else out / f"{campaign_id}_{cell.name}"
                done.append(run_dir)
                run_cell(spec, target_spec, cell, load_spec, target, run_dir, campaign_id, display, stop)
    return done


def _log_path(out: Path, campaign_id: str, target: TargetSpec, single_run: bool) -> Path:
    folder = out.parent if single_run else out / "server-logs"
    return folder / f"{campaign_id}_{target.name}.log"


def run_cell(
    spec: ExperimentSpec,
    target_spec: TargetSpec,
    cell: Cell,
    load_spec: LoadSpec,
    target: Target,
    run_dir: Path,
    campaign_id: str,
    display: Display,
    stop: Stop,
) -> None:
    """One run: plan written, warm-up, measured phase between two edges of every telemetry source, stored."""
    drawn, notes = draw_plan(spec, cell, load_spec)
    cell = replace(cell, load=drawn.load)  # a trace, or a preset's arrivals, bring their own rate
    _fits_context(drawn, target)
    manifest = _manifest(spec, target_spec, cell, target, run_dir, campaign_id, drawn, notes)
    with RunWriter.create(run_dir, manifest) as writer:
        writer.write_plan(drawn)
        _link_log(target, run_dir)
        with Observers(target.info, spec.observe, writer.add) as observers:
            calibration = calibration_limit(spec.workers) if spec.driver == "wire" else None
            environment = collect(observers.gpu_static, {"plan_notes": list(notes), "calibration": calibration})
            writer.update(environment=environment, telemetry=dict(observers.telemetry))
            phases = (Phase.WARMUP, drawn.warmup, _warmup_load(cell.load)), (Phase.MEASURE, drawn.requests, cell.load)
            reports: dict[str, Any] = {}
            for phase, requests, load in phases:
                if not requests or stop.asked:
                    continue
                display.phase("warm-up" if phase is Phase.WARMUP else "measuring")
                if phase is Phase.MEASURE:
                    observers.edge("start")
                report = _drive_phase(
                    spec, target, phase, requests, load, load_spec, run_dir, writer.add, display, stop
                )
                if phase is Phase.MEASURE:
                    observers.settle()
                    observers.edge("end")
                reports[phase.value] = asdict(report)
                writer.update(drive=reports)
                _raise_if_dead(target, report)
        writer.update(telemetry=dict(observers.telemetry))
        writer.finish(RunState.INTERRUPTED if stop.asked else RunState.COMPLETE)


def _drive_phase(
    spec: ExperimentSpec,
    target: Target,
    phase: Phase,
    requests: Sequence[PlannedRequest],
    load: Load,
    load_spec: LoadSpec,
    run_dir: Path,
    add: Callable[[str, Sequence[Any]], None],
    display: Display,
    stop: Stop,
) -> DriveReport:
    def should_stop() -> str | None:
        return stop.action() or ("target_died" if target.died() else None)

    def on_rows(rows: Sequence[RequestRecord]) -> None:
        add("requests", rows)

    duration_s = load_spec.duration_s if phase is Phase.MEASURE else None
    ends_by_time = duration_s if load.concurrency else None  # an open loop's plan ends at its duration by itself

    def on_progress(progress: DriveProgress) -> None:
        display.progress(replace(progress, duration_s=ends_by_time))

    scratch = run_dir / "scratch"
    scratch.mkdir(exist_ok=True)
    stop.driving = True
    report = drive(
        requests,
        prompts(requests, target.vocabulary, target.endpoint.api),
        load,
        target.endpoint,
        phase=phase,
        run_id=run_dir.name,
        driver=spec.driver,
        workers=spec.workers if phase is Phase.MEASURE else 1,
        timeouts=spec.timeouts.record(),
        duration_s=duration_s,
        scratch=scratch,
        on_rows=on_rows,
        on_progress=on_progress,
        should_stop=should_stop,
        on_start=lambda _: None,
    )
    stop.driving = False
    scratch.rmdir()
    return report


def write_plans(spec: ExperimentSpec, out: Path) -> list[dict[str, Any]]:
    """Draw and write plan.parquet of every cell (in a folder a cell, unless there is only one); sends nothing.

    Returns one row a plan: path, requests, sha256, notes. The plans do not depend on the target, so one target's do.
    """
    cells = cells_of(spec, spec.targets[0].name)
    written = []
    for cell, load_spec in cells:
        drawn, notes = draw_plan(spec, cell, load_spec, closed_sessions=True)
        folder = out if len(cells) == 1 else out / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        write_plan(folder, drawn)
        path = folder / "plan.parquet"
        written.append(
            {"path": str(path), "requests": len(drawn.requests), "sha256": drawn.sha256, "notes": list(notes)}
        )
    return written


def _warmup_load(load: Load) -> Load:
    """Warm-up is a closed loop at the cell's concurrency (at most 8): it fills caches and graphs, it is not measured."""
    return Load(concurrency=min(load.concurrency or 4, 8))


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


def _link_log(target: Target, run_dir: Path) -> None:
    """The server's log is one file a server; each of its runs links it, so that it is there even after a kill."""
    if target.log_path is not None and target.log_path.exists():
        try:
            os.link(target.log_path, run_dir / "server.log")
        except OSError:
            (run_dir / "server.log").symlink_to(target.log_path.resolve())


def _manifest(
    spec: ExperimentSpec,
    target_spec: TargetSpec,
    cell: Cell,
    target: Target,
    run_dir: Path,
    campaign_id: str,
    drawn: Plan,
    notes: Sequence[str],
) -> Manifest:
    config = spec.model_dump(mode="json")
    vocabulary = target.vocabulary
    info = asdict(target.info) | {
        "api": target.endpoint.api,
        "vllm_extensions": target.endpoint.vllm_extensions,
        "vocabulary": {
            "source": vocabulary.source,
            "words": len(vocabulary.words),
            "verified": vocabulary.prompt_overhead_tokens is not None and vocabulary.token_ids is not None,
            "prompt_overhead_tokens": vocabulary.prompt_overhead_tokens,
        },
        "hardware": target_spec.model_dump(mode="json")["hardware"],
    }
    return Manifest(
        schema_version=SCHEMA_VERSION,
        run_id=run_dir.name,
        experiment=spec.experiment,
        campaign_id=campaign_id,
        cell=cell,
        state=RunState.RUNNING,
        created_utc=clock.utc_now().isoformat(timespec="seconds"),
        owner_pid=os.getpid(),
        owner_start_ticks=0,  # the writer fills it in
        harness_version=__version__,
        config=config,
        config_sha256=hashlib.sha256(spec.model_dump_json().encode()).hexdigest(),
        plan_sha256=drawn.sha256,
        seed=drawn.seed,
        environment={"plan_notes": list(notes)},
        target=info,
        drive={},
        telemetry={},
        row_counts={},
        error=None,
    )


# ---------------------------------------------------------------- offline half


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the offline half makes of a run or experiment directory; `problems` are runs that could not be read."""

    directory: Path
    summaries: tuple[RunSummary, ...]
    problems: tuple[str, ...]


def analyse(directory: Path, campaign: str | None = None) -> Analysis:
    """Summarise a run, or the runs of an experiment's newest campaign (`campaign`: another one's id, or "all").

    Raises StoreError where there is no readable run.
    """
    problems: list[str] = []
    summaries: list[RunSummary] = []
    for path in _of_campaign(find_runs(directory), campaign):
        try:
            summaries.append(summarise(read_run(path)))
        except StoreError as error:
            problems.append(f"{path.name}: {error.what}: {error.value}")
    if not summaries:
        raise StoreError(
            "no run to analyse", directory, "; ".join(problems) or "give a run directory or an experiment's directory"
        )
    return Analysis(directory, tuple(summaries), tuple(problems))


def _of_campaign(runs: Sequence[Path], campaign: str | None) -> list[Path]:
    if campaign == "all" or len(runs) < 2:
        return list(runs)
    wanted = campaign or max(path.name.split("_", 1)[0] for path in runs)
    chosen = [path for path in runs if path.name.split("_", 1)[0] == wanted]
    if not chosen:
        known = ", ".join(sorted({path.name.split("_", 1)[0] for path in runs})[-5:])
        raise StoreError("no such campaign", wanted, f"the newest here: {known}")
    return chosen


def cost(
    analysis: Analysis,
    overrides: CostSpec | None = None,
    hardware: Hardware | None = None,
    *,
    allow_invalid: bool = False,
) -> list[CostReport]:
    """Price every run that may be priced: what its config declares, unless `overrides` or `hardware` say otherwise.

    An INVALID run is left out unless asked for by `allow_invalid`; if all are INVALID, InvalidRunError.
    """
    reports: list[CostReport] = []
    refused: list[InvalidRunError] = []
    for summary in analysis.summaries:
        spec = overrides or CostSpec.model_validate(summary.config.get("cost", {}))
        try:
            reports.append(cost_run(summary, hardware or declared_hardware(summary), spec, allow_invalid=allow_invalid))
        except InvalidRunError as error:
            refused.append(error)
    if refused and not reports:
        raise refused[0]
    return reports


def declared_hardware(summary: RunSummary) -> Hardware | None:
    """The hardware price that the run's config declares for its target, None if it declares none.

    It is either written out, or the name of an instance in configs/prices/instances.csv.
    """
    for target in summary.config.get("targets", []):
        if target["name"] == summary.cell.target and (found := target.get("hardware")):
            return instance_price(found) if isinstance(found, str) else declared(HardwareSpec.model_validate(found))
    return None


def report(
    directory: Path, analysis: Analysis, costs: Sequence[CostReport], *, allow_invalid: bool = False
) -> dict[str, Path]:
    """Write derived/report.md, .html and the rest under `directory`; all of it can be made again from the raw files."""
    summaries = list(analysis.summaries)
    title = summaries[0].experiment if summaries else directory.name
    return document.write(directory / "derived", title, summaries, list(costs), allow_invalid=allow_invalid)
