"""THE PROGRAM, top to bottom: config -> cells -> plan -> serve -> drive + observe -> store -> judge -> price -> report -> history -> notify.

The two halves meet only in the files of run directories: what measures writes them, and everything after reads them again, so
that `results_of` makes of an old directory what `run_campaign` made of it on its night.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.errors import INTERRUPTED, ConfigError, HarnessError, InvalidRunError, StoreError
from harness.config.experiment import ExperimentSpec
from harness.judge.runs import analyse
from harness.measure.campaign import ending
from harness.measure.campaign.campaign import Campaign, begin, conclude
from harness.measure.campaign.fleet.campaign import over_fleet
from harness.measure.campaign.fleet.part import Part, Voice, Work, begin_part
from harness.measure.campaign.intent import Intent
from harness.measure.campaign.one_run import OneRun
from harness.measure.campaign.order import cells_of
from harness.measure.campaign.ran import Ran
from harness.measure.capacity_search import search_cell
from harness.measure.cell import draw_plan, run_cell
from harness.measure.run import Display, Stop
from harness.price.run_cost import price_runs
from harness.records import Analysis, CostReport, Hardware
from harness.report.run.document import write_report
from harness.store.history import index_campaign
from harness.store.writer import write_plan


@dataclass(frozen=True, slots=True)
class Results:
    """What run directories came to. `files`: the report's, by kind."""

    analysis: Analysis
    costs: Sequence[CostReport]
    files: dict[str, Path]

    @property
    def exit_code(self) -> int:
        """7 where a run is INVALID, else 0."""
        return InvalidRunError.exit_code if any(s.verdict.state == "INVALID" for s in self.analysis.summaries) else 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A campaign that was run: `results` is None where not one cell came to a run; `summary` is its last line."""

    ran: Ran
    results: Results | None
    summary: ending.Summary


def run_campaign(
    spec: ExperimentSpec,
    out: Path,
    display: Display,
    stop: Stop,
    intent: Intent = Intent(),  # noqa: B008 - frozen
    *,
    history: Path | None = None,
    allow_invalid: bool = False,
) -> Outcome:
    """Everything that `harness run CONFIG` does, from its cells to whoever wants to be told of their end.

    `out`: the experiment's directory. `history`: the directory of all results, None to leave it as it is. Raises what
    `measure_campaign` raises, after telling of it, and StoreError.
    """
    try:
        ran = measure_campaign(spec, out, display, stop, intent)
    except HarnessError as error:
        ending.notify(spec.notify, ending.aborted(spec.experiment, error), display.say)
        raise
    results = results_of(analyse(out, ran.campaign_id), allow_invalid=allow_invalid) if ran.run_dirs else None
    if results is not None and history is not None:
        remember(history, results.analysis, display)
    worst = ran.worst()
    exit_code = INTERRUPTED if stop.asked else worst.exit_code if worst else results.exit_code if results else 0
    analysis, costs, files = (None, (), {}) if results is None else (results.analysis, results.costs, results.files)
    summary = conclude(spec, out, ran, analysis.summaries if analysis else (), costs, files.get("html"), exit_code)
    ending.notify(spec.notify, summary, display.say)
    return Outcome(ran, results, summary)


def measure_campaign(
    spec: ExperimentSpec,
    out: Path,
    display: Display,
    stop: Stop,
    intent: Intent = Intent(),  # noqa: B008 - frozen
) -> Ran:
    """Every cell of an experiment in its recorded order, stored. A cell that fails is a run that says so; the others go on.

    Raises ConfigError or TargetError (a lock is held) before anything starts, and StoreError at any time; after that, a Ctrl-C or
    a kill it can be resumed, until `conclude` has closed it.
    """
    if spec.fleet is not None:
        return over_fleet(spec, out, intent, display, stop)
    with begin(spec, out, intent, display) as campaign:
        _measure_cells(campaign, stop)
    return campaign.ran


def measure_part(work: Work, voice: Voice, stop: Stop) -> None:
    """On a box of a fleet: some cells of one repetition, each handed over when it is stored. Raises HarnessError."""
    with begin_part(work, voice) as part:
        _measure_cells(part, stop)


def measure_one(spec: ExperimentSpec, run_dir: Path, display: Display, stop: Stop) -> Ran:
    """The one cell of `spec` as the run directory `run_dir`, with nothing recorded beside it. Raises its HarnessError."""
    with OneRun(spec, run_dir, display) as one:
        _measure_cells(one, stop)
    return one.ran


def _measure_cells(campaign: Campaign | OneRun | Part, stop: Stop) -> None:
    for run in campaign.cells(stop):
        try:
            target, facts = campaign.serve(run)
            measure = run_cell if run.load_spec.capacity is None else search_cell
            measure(run, target, facts)
            campaign.ended(run)
        except Exception as error:  # trouble stays in its cell
            campaign.failed(run, error)


def results_of(analysis: Analysis, *, hardware: Hardware | None = None, allow_invalid: bool = False) -> Results:
    """Price judged runs and write their report. `hardware`: another price of the measured machine than the runs' own.

    Raises StoreError where the report cannot be written.
    """
    try:
        costs = price_runs(analysis.summaries, hardware=hardware, allow_invalid=allow_invalid)
    except InvalidRunError:  # every run is: the report says so
        costs = []
    return Results(analysis, costs, write_report(analysis.directory, analysis, costs, allow_invalid=allow_invalid))


def remember(results: Path, analysis: Analysis, display: Display) -> None:
    """The campaign's runs as rows of the history; that can be done later, so a failure is a warning."""
    try:
        index_campaign(results, analysis.summaries)
    except (StoreError, ConfigError) as error:
        display.say(f"not in the history: {error.what}: {error.value}; `harness history index {results}` does it later")


def write_plans(spec: ExperimentSpec, out: Path) -> list[dict[str, Any]]:
    """Draw and write plan.parquet of every cell (in a folder a cell, unless there is only one); sends nothing.

    Returns one row a plan: path, requests, sha256, notes. The plans do not depend on the target, so one target's do.
    """
    cells = cells_of(spec, spec.targets[0].name)
    rows = []
    for cell, load_spec in cells:
        plan, notes = draw_plan(spec, cell, load_spec)
        folder = out if len(cells) == 1 else out / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        write_plan(folder, plan)
        path = folder / "plan.parquet"
        rows.append({"path": str(path), "requests": len(plan.requests), "sha256": plan.sha256, "notes": list(notes)})
    return rows
