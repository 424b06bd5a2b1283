"""Run directories in, summaries or rows of the history out: what every command that starts from files begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.base.errors import ConfigError, StoreError
from harness.judge.capacity.as_run import as_run
from harness.judge.capacity.orders import best_probe, over_repetitions
from harness.judge.repeats import LEVEL, campaign_of
from harness.judge.summary import summarise
from harness.records import Analysis, CapacityCell, RunData, RunState, RunSummary, SearchedCapacity
from harness.store import history
from harness.store.history_files import FOLDER
from harness.store.manifest import holds_capacity, is_pruned, read_capacity, read_manifest
from harness.store.reader import find_capacities, find_runs, is_run, read_judged

_Read = TypeVar("_Read")


def analyse(directory: Path, campaign: str | None = None) -> Analysis:
    """Summarise a run, or the runs of an experiment's newest campaign (`campaign`: another one's id, or "all").

    Of a capacity search, the probe of the highest rate that passed is among the runs: it is what the capacity looks like.
    Raises StoreError where there is no readable run.
    """
    problems: list[str] = []
    runs = find_runs(directory)
    chosen = _of_campaign(sorted([*runs, *find_capacities(directory)]), campaign)
    capacities = _readable((path for path in chosen if path not in runs), _capacity, problems)
    summaries = _readable((path for path in chosen if path in runs), _summary, problems)
    seen = {summary.run_id for summary in summaries}
    bests = ((search.directory, best_probe(search.result)) for search in capacities)
    probes = [at / str(best.run_id) for at, best in bests if best and best.run_id not in seen]
    summaries += _readable(probes, _summary, problems)
    if not summaries and not capacities:
        raise StoreError(
            "no run to analyse", directory, "; ".join(problems) or "give a run directory or an experiment's directory"
        )
    return Analysis(directory, tuple(summaries), tuple(problems), tuple(capacities))


def run_paths(analysis: Analysis) -> dict[str, Path]:
    """Where runs lie, by their id; a probe of a capacity search is in the search's directory."""
    places = (analysis.directory, *(search.directory for search in analysis.capacities))
    return {path.name: path for place in places for path in find_runs(place)}


def run_data(analysis: Analysis, runs: Iterable[RunSummary]) -> list[RunData]:
    """The rows behind runs of an analysis. Raises StoreError."""
    paths = run_paths(analysis)
    return [read_judged(paths[run.run_id]) for run in runs]


def _readable(paths: Iterable[Path], read: Callable[[Path], _Read], problems: list[str]) -> list[_Read]:
    """What `read` makes of each path; of one that cannot be read, a line in `problems`."""
    found: list[_Read] = []
    for path in paths:
        try:
            found.append(read(path))
        except StoreError as error:
            problems.append(f"{path.name}: {', '.join(filter(None, (error.what, error.value, error.advice)))}")
    return found


def _summary(directory: Path) -> RunSummary:
    return summarise(read_judged(directory))


def _capacity(directory: Path) -> CapacityCell:
    return CapacityCell(directory, read_manifest(directory), read_capacity(directory))


def searched(capacities: Sequence[CapacityCell]) -> tuple[SearchedCapacity, ...]:
    """Searches of one target and workload taken together; repetitions are the unit."""
    cells: dict[tuple[str, str], list[CapacityCell]] = {}
    for search in capacities:
        cells.setdefault((search.cell.target, search.cell.workload), []).append(search)
    return tuple(_searched(target, workload, searches) for (target, workload), searches in cells.items())


def _searched(target: str, workload: str, searches: Sequence[CapacityCell]) -> SearchedCapacity:
    promised = sorted({search.result.attainment for search in searches})
    if len(promised) > 1:
        advice = "give the directory or the campaign of one promise"
        raise ConfigError("capacity searches of several promises", ", ".join(map(str, promised)), advice)
    mean = over_repetitions([search.result for search in searches])
    return SearchedCapacity(
        target=target,
        workload=workload,
        attainment=promised[0],
        state=mean.state,
        repetitions=mean.repetitions,
        capacity_rps=mean.mean_rps,
        low_rps=mean.low_rps,
        high_rps=mean.high_rps,
        level=LEVEL,
        run_ids=tuple(search.directory.name for search in searches),
        probe_ids=tuple(probe.run_id for search in searches for probe in search.result.probes if probe.run_id),
        created_utc=max(search.manifest.created_utc for search in searches),
        why="; ".join(dict.fromkeys(f"{search.result.state}: {search.result.why}" for search in searches)),
    )


def _of_campaign(runs: Sequence[Path], campaign: str | None) -> list[Path]:
    if campaign == "all" or len(runs) < 2:
        return list(runs)
    wanted = campaign_of((path.name.split("_", 1)[0] for path in runs), campaign)
    return [path for path in runs if path.name.split("_", 1)[0] == wanted]


def hosted_summaries(directory: Path) -> tuple[list[RunSummary], list[str]]:
    """Every run against a hosted API, alone or as a side of a hybrid, at `directory`: a run, an experiment's runs, or those of all experiments; and why others could not be
    read. INVALID and interrupted ones too: they are billed. Raises StoreError: no such directory."""
    runs = find_runs(directory)
    if not runs:
        runs = [run for child in sorted(directory.iterdir()) if child.is_dir() for run in find_runs(child)]
    summaries, problems = [], []
    for path in runs:
        try:
            if read_manifest(path).target.get("kind") in ("hosted", "hybrid"):
                summaries.append(summarise(read_judged(path)))
        except StoreError as error:
            problems.append(f"{path.name}: {error.what}: {error.value}")
    return summaries, problems


# ---------------------------------------------------------------- into the history

_BATCH = 200  # summaries held at once: each keeps a tuple a request


def history_of(analysis: Analysis) -> list[RunSummary]:
    """The runs, and the searches themselves in place of their probes: what the history gets of an analysis."""
    probes = {probe.run_id for search in analysis.capacities for probe in search.result.probes}
    runs = [run for run in analysis.summaries if run.run_id not in probes]
    return runs + [as_run(search.manifest, search.result) for search in analysis.capacities]


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an indexing did: runs written, left as they were, pruned (their rows stay), and why others could not be read."""

    written: int
    known: int
    pruned: int
    problems: tuple[str, ...]


def index_runs(
    results_dir: Path, to: str | None = None, *, rebuild: bool = False, say: Callable[[str], None] | None = None
) -> Indexed:
    """Put every run under `results_dir` (its experiments' directories) into the history of `to`, by default its own.

    A run that the history has as ended is left out unless `rebuild`; one that is still going on is left out for now.
    Raises StoreError: no such directory, or one experiment's instead of the results of all.
    """
    paths = (
        path
        for experiment in experiments(results_dir)
        for path in [*find_runs(experiment), *find_capacities(experiment)]
    )
    return index_paths(paths, to or str(results_dir), rebuild=rebuild, say=say)


def index_paths(
    paths: Iterable[Path], where: str, *, rebuild: bool = False, say: Callable[[str], None] | None = None
) -> Indexed:
    """`index_runs` of these directories of runs and searches. Raises StoreError: the history cannot be read or written."""
    have = history.indexed(where)
    known = pruned = written = 0
    problems: list[str] = []
    batch: list[RunSummary] = []
    for path in paths:
        if is_pruned(path):
            pruned += 1
            continue
        try:
            manifest = read_manifest(path)
            state = have.get((manifest.experiment, manifest.run_id), RunState.RUNNING)
            if not rebuild and state != RunState.RUNNING:
                known += 1
                continue
            if holds_capacity(path):
                summary = as_run(manifest, read_capacity(path))
            else:
                run = read_judged(path)
                if run.manifest.state == RunState.RUNNING:
                    problems.append(f"{path.name}: still running")
                    continue
                summary = summarise(run)
        except StoreError as error:
            problems.append(f"{path.name}: {error.what}: {error.value}")
            continue
        batch.append(summary)
        if len(batch) >= _BATCH:
            history.index_campaign(where, batch)
            written, batch = written + len(batch), []
            if say is not None:
                say(f"{written} runs indexed")
    history.index_campaign(where, batch)
    return Indexed(written + len(batch), known, pruned, tuple(problems))


def experiments(results_dir: Path) -> list[Path]:
    """The experiments' directories in that of all results. Raises StoreError: there is none, or it is one experiment's."""
    if is_run(results_dir) or (results_dir.is_dir() and any(is_run(child) for child in results_dir.iterdir())):
        parent = results_dir.parent.parent if is_run(results_dir) else results_dir.parent
        advice = f"give the directory of all experiments, {parent}"
        raise StoreError("this is not the directory of all results", results_dir, advice)
    try:
        return sorted(child for child in results_dir.iterdir() if child.is_dir() and child.name != FOLDER)
    except OSError as error:
        advice = f"{error.strerror}; give the directory that holds the experiments, e.g. results"
        raise StoreError("no such results directory", results_dir, advice) from None
