"""Raw runs -> rows of the history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import StoreError
from harness.judge.summary import summarise
from harness.records import RunState, RunSummary
from harness.store import history
from harness.store.manifest import is_pruned, read_manifest
from harness.store.reader import find_runs, is_run, read_run

_BATCH = 200  # summaries held at once: each keeps a tuple a request


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
    where = to or str(results_dir)
    have = history.indexed(where)
    known = pruned = written = 0
    problems: list[str] = []
    batch: list[RunSummary] = []
    for experiment in _experiments(results_dir):
        for path in find_runs(experiment):
            if is_pruned(path):
                pruned += 1
                continue
            try:
                manifest = read_manifest(path)
                state = have.get((manifest.experiment, manifest.run_id), RunState.RUNNING)
                if not rebuild and state != RunState.RUNNING:
                    known += 1
                    continue
                run = read_run(path)
                if run.manifest.state == RunState.RUNNING:
                    problems.append(f"{path.name}: still running")
                    continue
                batch.append(summarise(run))
            except StoreError as error:
                problems.append(f"{path.name}: {error.what}: {error.value}")
                continue
            if len(batch) >= _BATCH:
                history.index_campaign(where, batch)
                written, batch = written + len(batch), []
                if say is not None:
                    say(f"{written} runs indexed")
    history.index_campaign(where, batch)
    return Indexed(written + len(batch), known, pruned, tuple(problems))


def _experiments(results_dir: Path) -> list[Path]:
    if is_run(results_dir) or (results_dir.is_dir() and any(is_run(child) for child in results_dir.iterdir())):
        parent = results_dir.parent.parent if is_run(results_dir) else results_dir.parent
        advice = f"give the directory of all experiments, {parent}"
        raise StoreError("this is not the directory of all results", results_dir, advice)
    try:
        return sorted(child for child in results_dir.iterdir() if child.is_dir() and child.name != history.FOLDER)
    except OSError as error:
        advice = f"{error.strerror}; give the directory that holds the experiments, e.g. results"
        raise StoreError("no such results directory", results_dir, advice) from None
