"""Runs what can run of a published table through the main path, and compares it; or compares runs made before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import pipeline
from harness.base import clock
from harness.base.errors import ConfigError, HarnessError, InvalidRunError, StoreError, TargetError
from harness.config.experiment import ExperimentSpec
from harness.judge.runs import analyse
from harness.measure.campaign.campaign import conclude
from harness.measure.cell import Display, Stop
from harness.records import RunSummary
from harness.reproduce.compare import ComparedRow, Reproduced, compare_row, load_text, unmeasured_row
from harness.reproduce.fits import Machine, obstacles, with_models
from harness.reproduce.table import PublishedTable, Row
from harness.store.reader import find_runs

GB = 10**9
_SECOND_S = 1.1  # a campaign is named by the second it starts in: two must not share one


@dataclass(slots=True)
class _Found:
    """What a group of rows came to: its runs, and the error that ended it early."""

    summaries: list[RunSummary] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    failed: str = ""
    exit_code: int = 0


def place_models(table: PublishedTable, given: Mapping[str, str]) -> PublishedTable:
    """The table with the user's own places of its models. Raises ConfigError for a target that it does not have."""
    if unknown := sorted(set(given) - set(table.targets)):
        raise ConfigError(
            "the table has no such target", ", ".join(unknown), f"its targets: {', '.join(table.targets)}"
        )
    return table.model_copy(update={"targets": with_models(table.targets, given)})


def dry_run(table: PublishedTable, machine: Machine) -> Reproduced:
    """What would run here and what would not, and why; starts nothing."""
    rows = []
    for row in table.rows:
        reasons = obstacles(table.targets[row.target], row, machine)
        rows.append(unmeasured_row(table, row, "skipped" if reasons else "would_run", reasons))
    able = [row for row, done in zip(table.rows, rows, strict=True) if done.state == "would_run"]
    timed = [row.load.duration_s for row in able]
    seconds = None if any(s is None for s in timed) else sum(s or 0.0 for s in timed) * table.repetitions
    return replace(_reproduced(table, machine, rows), dry_run=True, seconds=seconds)


def reproduce(
    table: PublishedTable, out: Path, display: Display, stop: Stop, machine: Machine
) -> tuple[Reproduced, int]:
    """Run every row that can run here and compare it; rows that cannot are named with their reasons.

    Rows of one target and workload are one experiment: one server. An experiment that fails does not keep the others
    from running. Returns the table and the exit code: of the first failure, else 7 if a row has INVALID runs only, else 3
    if a row failed or none could be measured, else 0.
    """
    blocked = {row.name: obstacles(table.targets[row.target], row, machine) for row in table.rows}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in table.rows:
        if not blocked[row.name]:
            groups.setdefault((row.target, row.workload), []).append(row)
    done: dict[str, ComparedRow] = {}
    problems: list[str] = []
    code = 0
    for index, rows in enumerate(groups.values()):
        if stop.asked:
            break
        if index:
            clock.sleep(_SECOND_S)
        found = _run_group(table.experiment(rows), out, display, stop)
        problems += found.problems
        code = code or found.exit_code
        for row in rows:
            runs = [run for run in found.summaries if _is_cell(run, row)]
            if not runs and stop.asked and not found.failed:
                continue
            reasons = [found.failed] if found.failed else [] if runs else ["no run of this cell was stored"]
            done[row.name] = compare_row(table, row, runs, reasons)
    rows_out = [done.get(row.name) or _not_done(table, row, blocked[row.name]) for row in table.rows]
    return _reproduced(table, machine, rows_out, problems), code or _exit_code(rows_out)


def compare_with(table: PublishedTable, results: Path, machine: Machine) -> tuple[Reproduced, int]:
    """Compare with runs made before, of any experiment: the newest campaign that holds a row's cell is taken.

    A cell is found by workload, load and model. Raises StoreError where `results` holds no readable run.
    """
    analysis = analyse(results, "all")
    rows = []
    for row in table.rows:
        target = table.targets[row.target]
        runs = [run for run in analysis.summaries if _is_cell(run, row) and _is_model(run, target.model)]
        newest = max((run.campaign_id for run in runs), default=None)
        runs = [run for run in runs if run.campaign_id == newest]
        if runs:
            rows.append(compare_row(table, row, runs))
        else:
            why = f"no run of {target.model}, {row.workload}, {load_text(row)} in {results}"
            rows.append(unmeasured_row(table, row, "not_run", [why]))
    return _reproduced(table, machine, rows, analysis.problems), _exit_code(rows)


def _run_group(spec: ExperimentSpec, out: Path, display: Display, stop: Stop) -> _Found:
    """One experiment: its new run directories, read back. Run directories are found on disk, so that a failure keeps those before it."""
    before = set(_runs_in(out))
    found = _Found()
    ran = None
    try:
        ran = pipeline.measure_campaign(spec, out, display, stop)
    except HarnessError as error:
        found.failed = " / ".join(part for part in (error.what, error.value, error.advice) if part)
        found.exit_code = error.exit_code
    for path in _runs_in(out):
        if path in before:
            continue
        try:
            analysis = analyse(path)
        except StoreError as error:
            found.problems.append(f"{path.name}: {error.what}: {error.value}")
            continue
        found.summaries += analysis.summaries
    if ran is not None:
        worst = ran.worst()
        found.exit_code = worst.exit_code if worst else 0
        conclude(spec, out, ran, found.summaries, [], None, found.exit_code)
    return found


def _runs_in(out: Path) -> list[Path]:
    try:
        return find_runs(out)
    except StoreError:  # nothing was run here yet
        return []


def _is_cell(run: RunSummary, row: Row) -> bool:
    """Whether a run is of the row's workload and load; a trace's or batch's own rate was filled in by the plan."""
    asked, ran = row.load.points()[0], run.cell.load
    same = asked.concurrency == ran.concurrency and asked.arrivals == ran.arrivals
    return run.cell.workload == row.workload and same and (asked.rate_rps is None or asked.rate_rps == ran.rate_rps)


def _is_model(run: RunSummary, model: str) -> bool:
    short = model.removeprefix("embedded:").rstrip("/").rpartition("/")[2]
    return run.model.rpartition("/")[2] == short


def _not_done(table: PublishedTable, row: Row, reasons: Sequence[str]) -> ComparedRow:
    if reasons:
        return unmeasured_row(table, row, "skipped", reasons)
    return unmeasured_row(table, row, "not_run", ["interrupted before this row's turn"])


def _exit_code(rows: Sequence[ComparedRow]) -> int:
    if any(row.state == "invalid" for row in rows):
        return InvalidRunError.exit_code
    failed = any(row.state == "failed" for row in rows)
    some = any(row.state in ("measured", "unknown") for row in rows)
    return TargetError.exit_code if failed or not some else 0


def _reproduced(
    table: PublishedTable,
    machine: Machine,
    rows: Sequence[ComparedRow],
    problems: Sequence[str] = (),
) -> Reproduced:
    gpus = ", ".join(machine.gpu_names) or f"no GPU ({machine.no_gpu_because})"
    return Reproduced(
        table=table.table,
        title=table.title,
        source=table.source.name,
        url=table.source.url,
        date=table.source.date,
        source_note=table.source.note,
        machine=f"{gpus}, {machine.memory_bytes / GB:.1f} GB of memory, vLLM {'installed' if machine.vllm else 'not installed'}",
        rows=tuple(rows),
        problems=tuple(problems),
    )
