"""Runs what can run of a published table through the main path, and compares it; or compares runs made before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.base import clock
from harness.base.errors import ConfigError, HarnessError, InvalidRunError, StoreError, TargetError
from harness.config.experiment import ExperimentSpec
from harness.config.published import PublishedTable, Row
from harness.judge.runs import analyse
from harness.measure.campaign.campaign import conclude
from harness.measure.campaign.ran import Ran
from harness.measure.reproduce.compare import compare_row, load_text, row_of
from harness.measure.reproduce.obstacles import Machine, obstacles
from harness.measure.run import Stop
from harness.records import RunSummary
from harness.records.published import ComparedRow, ComparedTable

Measure = Callable[[ExperimentSpec], Ran]  # the program's way to measure an experiment into the table's directory

_SECOND_S = 1.1  # a campaign is named by the second it starts in: two must not share one


@dataclass(slots=True)
class _Group:
    """What the rows of one experiment came to: their runs, and the error that ended it early."""

    runs: Sequence[RunSummary] = ()
    problems: Sequence[str] = ()
    error: str = ""
    exit_code: int = 0


def place_models(table: PublishedTable, places: Mapping[str, str]) -> PublishedTable:
    """The table with the user's own places of its models. Raises ConfigError for a target that it does not have."""
    if unknown := sorted(set(places) - set(table.targets)):
        raise ConfigError(
            "the table has no such target", ", ".join(unknown), f"its targets: {', '.join(table.targets)}"
        )
    moved = {name: table.targets[name].model_copy(update={"model": model}) for name, model in places.items()}
    return table.model_copy(update={"targets": {**table.targets, **moved}})


def dry_run(table: PublishedTable, machine: Machine) -> ComparedTable:
    """What would run here and what would not, and why; starts nothing."""
    rows = []
    for row in table.rows:
        reasons = obstacles(table.targets[row.target], row, machine)
        rows.append(row_of(table, row, "skipped" if reasons else "would_run", reasons))
    able = [row for row, compared in zip(table.rows, rows, strict=True) if compared.state == "would_run"]
    timed = [row.load.duration_s for row in able]
    seconds = None if any(s is None for s in timed) else sum(s or 0.0 for s in timed) * table.repetitions
    return replace(_compared(table, machine, rows), dry_run=True, seconds=seconds)


def reproduce(
    table: PublishedTable, out: Path, measure: Measure, stop: Stop, machine: Machine
) -> tuple[ComparedTable, int]:
    """Run every row that can run here, by `measure` into `out`, and compare it; rows that cannot are named with their reasons.

    Rows of one target and workload are one experiment: one server. An experiment that fails does not keep the others
    from running. Returns the table and the exit code: of the first failure, else 7 if a row has INVALID runs only, else 3
    if a row failed or none could be measured, else 0.
    """
    blocked = {row.name: obstacles(table.targets[row.target], row, machine) for row in table.rows}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in table.rows:
        if not blocked[row.name]:
            groups.setdefault((row.target, row.workload), []).append(row)
    measured: dict[str, ComparedRow] = {}
    problems: list[str] = []
    code = 0
    for index, rows in enumerate(groups.values()):
        if stop.asked:
            break
        if index:
            clock.sleep(_SECOND_S)
        group = _run_group(table.experiment(rows), out, measure)
        problems += group.problems
        code = code or group.exit_code
        for row in rows:
            runs = [run for run in group.runs if _is_cell(run, row)]
            if runs or group.error or not stop.asked:
                reasons = [group.error] if group.error else [] if runs else ["no run of this cell was stored"]
                measured[row.name] = compare_row(table, row, runs, reasons)
    compared = [measured.get(row.name) or _not_run(table, row, blocked[row.name]) for row in table.rows]
    return _compared(table, machine, compared, problems), code or _exit_code(compared)


def compare_with(table: PublishedTable, results: Path, machine: Machine) -> tuple[ComparedTable, int]:
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
            rows.append(row_of(table, row, "not_run", [why]))
    return _compared(table, machine, rows, analysis.problems), _exit_code(rows)


def _run_group(spec: ExperimentSpec, out: Path, measure: Measure) -> _Group:
    """One experiment, read back from its directory: a failure keeps the runs before it."""
    group, ran, begun = _Group(), None, clock.utc_stamp()
    try:
        ran = measure(spec)
    except HarnessError as error:
        group.error = " / ".join(part for part in (error.what, error.value, error.advice) if part)
        group.exit_code = error.exit_code
    try:
        analysis = analyse(out, ran.campaign_id if ran else None)
        group.runs = [
            run for run in analysis.summaries if run.campaign_id >= begun
        ]  # an earlier campaign's: this one has none
        group.problems = analysis.problems if group.runs else ()
    except StoreError as error:
        group.problems = [f"{error.what}: {error.value}: {error.advice}"] if ran and ran.run_dirs else ()
    if ran is not None:
        worst = ran.worst()
        group.exit_code = worst.exit_code if worst else 0
        conclude(spec, out, ran, group.runs, [], None, group.exit_code)
    return group


def _is_cell(run: RunSummary, row: Row) -> bool:
    """Whether a run is of the row's workload and load; a trace's or batch's own rate was filled in by the plan."""
    stated, load = row.load.points()[0], run.cell.load
    same = stated.concurrency == load.concurrency and stated.arrivals == load.arrivals
    return run.cell.workload == row.workload and same and (stated.rate_rps is None or stated.rate_rps == load.rate_rps)


def _is_model(run: RunSummary, model: str) -> bool:
    short = model.removeprefix("embedded:").rstrip("/").rpartition("/")[2]
    return run.model.rpartition("/")[2] == short


def _not_run(table: PublishedTable, row: Row, reasons: Sequence[str]) -> ComparedRow:
    if reasons:
        return row_of(table, row, "skipped", reasons)
    return row_of(table, row, "not_run", ["interrupted before this row's turn"])


def _exit_code(rows: Sequence[ComparedRow]) -> int:
    if any(row.state == "invalid" for row in rows):
        return InvalidRunError.exit_code
    failed = any(row.state == "failed" for row in rows)
    some = any(row.state in ("measured", "unknown") for row in rows)
    return TargetError.exit_code if failed or not some else 0


def _compared(
    table: PublishedTable,
    machine: Machine,
    rows: Sequence[ComparedRow],
    problems: Sequence[str] = (),
) -> ComparedTable:
    return ComparedTable(
        table=table.table,
        title=table.title,
        source=table.source.name,
        url=table.source.url,
        date=table.source.date,
        source_note=table.source.note,
        machine=machine.words,
        rows=tuple(rows),
        problems=tuple(problems),
    )
