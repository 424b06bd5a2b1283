"""THE PROGRAM, top to bottom: config -> cells -> plan -> serve -> drive + observe -> store -> judge -> price -> report -> history -> notify.

The two halves meet only in the files of run directories: what measures writes them, and everything after reads them again, so
that `results_of` makes of an old directory what `run_campaign` made of it on its night.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.base.errors import INTERRUPTED, ConfigError, HarnessError, InvalidRunError, StoreError, TargetError
from harness.config.experiment import ExperimentSpec
from harness.judge.runs import analyse, experiments, history_of, index_paths
from harness.measure.campaign import ending
from harness.measure.campaign.campaign import Campaign, begin, conclude
from harness.measure.campaign.file import lock_path
from harness.measure.campaign.fleet.campaign import over_fleet
from harness.measure.campaign.fleet.part import Part, Voice, begin_part
from harness.measure.campaign.fleet.where import Find, find_on_ray
from harness.measure.campaign.fleet.work import Work
from harness.measure.campaign.intent import Intent
from harness.measure.campaign.lock import hold_file
from harness.measure.campaign.one_run import OneRun
from harness.measure.campaign.order import cells_of
from harness.measure.campaign.ran import Ran
from harness.measure.capacity_search import search_cell
from harness.measure.cell import begin_cell, run_cell
from harness.measure.cell_plan import draw_plan
from harness.measure.run import Display, Run, Stop
from harness.price.run_cost import price_runs
from harness.records import Analysis, CostReport, Hardware
from harness.report.run.document import write_report
from harness.store.history import index_campaign
from harness.store.reader import find_capacities, find_runs
from harness.store.upload import Upload
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
    history: Path | str | None = None,
    allow_invalid: bool = False,
    upload: Upload | None = None,
) -> Outcome:
    """Everything that `harness run CONFIG` does, from its cells to whoever wants to be told of their end.

    `out`: the experiment's directory. `history`: the directory or URL of all results, None to leave it as it is. `upload`: where the runs
    go beside; what could not be put there is `pending` in it. Raises what `measure_campaign` raises, after telling of it, and StoreError.
    """
    try:
        ran = measure_campaign(spec, out, display, stop, intent, upload)
    except HarnessError as error:
        ending.notify(spec.notify, ending.aborted(spec.experiment, error), display.say)
        raise
    results = results_of(analyse(out, ran.campaign_id), allow_invalid=allow_invalid) if ran.run_dirs else None
    if results is not None and history is not None:
        remember(history, results.analysis, display)
    worst = ran.worst()
    exit_code = INTERRUPTED if stop.asked else worst.exit_code if worst else results.exit_code if results else 0
    if upload is not None and not upload.again():
        exit_code = exit_code or StoreError.exit_code
    analysis, costs, files = (None, (), {}) if results is None else (results.analysis, results.costs, results.files)
    summary = conclude(spec, out, ran, analysis.summaries if analysis else (), costs, files.get("html"), exit_code)
    if upload is not None:
        upload.conclude(out, summary.campaign_id)
    ending.notify(spec.notify, summary, display.say)
    return Outcome(ran, results, summary)


def measure_campaign(
    spec: ExperimentSpec,
    out: Path,
    display: Display,
    stop: Stop,
    intent: Intent = Intent(),  # noqa: B008 - frozen
    upload: Upload | None = None,
) -> Ran:
    """Every cell of an experiment in its recorded order, stored. A cell that fails is a run that says so; the others go on.

    Raises ConfigError or TargetError (a lock is held) before anything starts, StoreError too where the runs cannot go where they shall,
    and StoreError at any time; after that, a Ctrl-C or a kill it can be resumed, until `conclude` has closed it.
    """
    if upload is not None:
        upload.probe()
        intent = replace(intent, take=upload.take)
    if spec.fleet is not None:
        return measure_fleet(spec, out, display, stop, intent, upload)
    with begin(spec, out, intent, display) as campaign:
        _measure_cells(campaign, stop, upload)
    return campaign.ran


def measure_fleet(
    spec: ExperimentSpec,
    out: Path,
    display: Display,
    stop: Stop,
    intent: Intent,
    upload: Upload | None,
    find: Find = find_on_ray,
) -> Ran:
    """`measure_campaign` over boxes, each run put as soon as it has come back, one at a time; nothing beside a cell that is measured here."""
    put: dict[Path, Future[bool]] = {}
    with ThreadPoolExecutor(1) as puts:

        def stored(run_dir: Path) -> None:
            if upload is not None:
                put[run_dir] = puts.submit(upload.put_run, run_dir)

        def here(campaign: Campaign) -> None:
            wait(put.values())
            _measure_cells(campaign, stop, upload)

        ran = over_fleet(spec, out, intent, display, stop, find, here=here, stored=stored)
    if upload is not None:  # those of earlier attempts
        upload.put_runs([run_dir for run_dir in ran.run_dirs if run_dir not in put])
    return ran


def measure_part(work: Work, voice: Voice, stop: Stop) -> None:
    """On a box of a fleet: some cells of one repetition, each handed over when it is stored. Raises HarnessError."""
    with begin_part(work, voice) as part:
        _measure_cells(part, stop)


def measure_one(spec: ExperimentSpec, run_dir: Path, display: Display, stop: Stop, upload: Upload | None = None) -> Ran:
    """The one cell of `spec` as the run directory `run_dir`, with nothing recorded beside it. Raises its HarnessError."""
    if upload is not None:
        upload.probe()
    with OneRun(spec, run_dir, display) as one:
        _measure_cells(one, stop, upload)
    return one.ran


def _measure_cells(campaign: Campaign | OneRun | Part, stop: Stop, upload: Upload | None = None) -> None:
    for run in campaign.cells(stop):
        try:
            _measure_cell(campaign, run)
            campaign.ended(run)
        except Exception as error:  # trouble stays in its cell
            campaign.failed(run, error)
        if upload is not None and run.run_dir.is_dir():
            upload.put_run(run.run_dir)


def _measure_cell(campaign: Campaign | OneRun | Part, run: Run) -> None:
    """One cell; its plan, which may be large, is gone before the next is drawn."""
    drawn = draw_plan(run.spec, run.cell, run.load_spec, salt=run.salt)
    target, facts = campaign.serve(run)
    if run.load_spec.capacity is not None:
        search_cell(run, drawn, target, facts)
        return
    with begin_cell(run, drawn, target, facts) as writer:
        run_cell(run, drawn.plan, target, writer)


def results_of(analysis: Analysis, *, hardware: Hardware | None = None, allow_invalid: bool = False) -> Results:
    """Price judged runs and write their report. `hardware`: another price of the measured machine than the runs' own.

    Raises StoreError where the report cannot be written.
    """
    try:
        costs = price_runs(analysis.summaries, hardware=hardware, allow_invalid=allow_invalid)
    except InvalidRunError:  # every run is: the report says so
        costs = []
    return Results(analysis, costs, write_report(analysis.directory, analysis, costs, allow_invalid=allow_invalid))


def remember(results: Path | str, analysis: Analysis, display: Display) -> None:
    """The campaign's runs as rows of the history; that can be done later, so a failure is a warning."""
    try:
        index_campaign(results, history_of(analysis))
    except (StoreError, ConfigError) as error:
        display.say(f"not in the history: {error.what}: {error.value}; `harness history index {results}` does it later")


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an upload did: `runs` put now, of `bytes`, `known` that were there whole, (run or campaign, why) `left` on this machine, and
    `indexed` rows of the history."""

    url: str
    runs: tuple[str, ...]
    bytes: int
    known: int
    left: tuple[tuple[str, str], ...]
    indexed: int


def upload_results(
    directory: Path, url: str, say: Callable[[str], None], progress: Callable[[int, int], None] = lambda *_: None
) -> Uploaded:
    """Put what is not there yet: the runs of a run, an experiment or all results, their campaigns' files, reports and rows of the history.

    `progress`: runs looked at, of how many. May be repeated at any time. Raises StoreError: nothing can be put there.
    """
    here, runs = _runs_below(directory.resolve())
    put: list[str] = []
    whole: list[Path] = []
    left: list[tuple[str, str]] = []
    with ExitStack() as held, Upload(url, here, say) as upload:
        upload.probe()
        campaigns = {run.parent / "campaigns" / f"{run.name.partition('_')[0]}.json" for run in runs}
        files = [path for path in sorted(campaigns) if path.is_file()]
        refused = {path: why for path in files if (why := _in_use(path, held) or upload.refused(path))}
        left += [(f"{path.parent.parent.name}/{path.stem}", why) for path, why in refused.items()]
        for number, run in enumerate(runs, 1):
            campaign = run.parent / "campaigns" / f"{run.name.partition('_')[0]}.json"
            if campaign not in refused:
                if upload.is_there(run):
                    whole.append(run)
                elif upload.put_run(run):
                    whole.append(run)
                    put.append(f"{run.parent.name}/{run.name}")
            progress(number, len(runs))
        for path in [path for path in files if path not in refused]:
            newest = path == max(c for c in campaigns if c.parent == path.parent)
            upload.conclude(path.parent.parent, path.stem, report=newest)
        left += [(str(path.relative_to(here)), why) for path, why in upload.pending.items()]
        index = index_paths(whole, url)
        return Uploaded(url, tuple(put), upload.put_bytes, len(whole) - len(put), tuple(left), index.written)


def _in_use(campaign_file: Path, held: ExitStack) -> str | None:
    """Why a campaign is left to who runs it on this machine now; None where nobody does, and nobody begins to while `held` lasts."""
    path = lock_path(campaign_file.parent.parent, campaign_file.stem)
    if path.exists():
        try:
            held.enter_context(hold_file(path, campaign_file.stem))
        except TargetError as error:
            return f"{error.what}: {error.value}: it uploads its runs itself"
    return None


def _runs_below(directory: Path) -> tuple[Path, list[Path]]:
    """The directory of all results, and the runs and searches at or below `directory` in it. Raises StoreError: there are none."""
    runs = {*find_runs(directory), *find_capacities(directory)}
    if runs == {directory}:
        return directory.parent.parent, [directory]
    if runs:
        return directory.parent, sorted(runs)
    folders = experiments(directory)
    return directory, sorted(path for folder in folders for path in {*find_runs(folder), *find_capacities(folder)})


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
