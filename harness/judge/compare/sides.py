"""What is compared: the runs and capacity searches of one campaign, read back, summarised, and gathered by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import ConfigError, InvalidRunError, StoreError
from harness.judge.capacity.as_run import as_run
from harness.judge.repeats import CellKey, by_cell, campaign_of
from harness.judge.summary import summarise
from harness.records import CapacityResult, Cell, ComparedSide, Manifest, RunData, RunSummary, Verdict
from harness.store.elsewhere import fetched, is_url
from harness.store.manifest import read_capacity, read_manifest
from harness.store.reader import find_capacities, find_runs, read_judged


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run with the manifest that says what it stood on; `data` only where its requests are wanted. A finished capacity search is a run
    of its cell: `search` is what it found."""

    summary: RunSummary
    manifest: Manifest
    data: RunData | None = None
    search: CapacityResult | None = None

    @property
    def cell(self) -> Cell:
        return self.summary.cell

    @property
    def created_utc(self) -> str:
        return self.summary.created_utc

    @property
    def verdict(self) -> Verdict:
        return self.summary.verdict


@dataclass(frozen=True, slots=True)
class Side:
    """The runs of one campaign (of one target, where one was chosen), and runs that could not be read."""

    record: ComparedSide
    runs: tuple[ComparedRun, ...]
    problems: tuple[str, ...] = ()

    def cells(self) -> dict[CellKey, list[ComparedRun]]:
        """Runs by (target, workload, load)."""
        return by_cell(self.runs)


def split_campaign(words: str) -> tuple[Path, str | None]:
    """`DIR` or `DIR@CAMPAIGN_ID`; a directory whose own name holds an @ is taken as it is. Of a URL the campaign is fetched."""
    if is_url(words):
        place, _, campaign = words.rpartition("@") if "@" in words else (words, "", "")
        return fetched(place, campaign or None), campaign or None
    if Path(words).exists() or "@" not in words:
        return Path(words), None
    directory, _, campaign = words.rpartition("@")
    return Path(directory), campaign


def load_side(words: str, target: str | None = None, *, with_requests: bool = False) -> Side:
    """Read one side: `words` as in `split_campaign`, the newest campaign by default, only the runs of `target` if given.

    Raises StoreError where there is no readable run or no such campaign, ConfigError where there is no such target.
    """
    directory, campaign = split_campaign(words)
    manifests: dict[Path, Manifest] = {}
    problems: list[str] = []
    searches = find_capacities(directory) if directory.is_dir() else []
    for path in searches if searches == [directory] else [*find_runs(directory), *searches]:
        try:
            manifests[path] = read_manifest(path)
        except StoreError as error:
            problems.append(f"{path.name}: {error.what}: {error.value}")
    if not manifests:
        raise StoreError("no run to compare", directory, _first(problems) or "give a run or experiment directory")
    wanted = campaign_of((manifest.campaign_id for manifest in manifests.values()), campaign)
    of_campaign = {path: manifest for path, manifest in manifests.items() if manifest.campaign_id == wanted}
    runs: list[ComparedRun] = []
    for path in _of_target(of_campaign, target, directory):
        try:
            if path in searches:
                runs.append(of_search(of_campaign[path], read_capacity(path)))
                continue
            data = read_judged(path)
            runs.append(ComparedRun(summarise(data), data.manifest, data if with_requests else None))
        except StoreError as error:
            problems.append(f"{path.name}: {error.what}: {error.value}")
    if not runs:
        raise StoreError("no run of the campaign can be read", directory, _first(problems))
    return side(str(directory), runs, target, problems)


def of_search(manifest: Manifest, result: CapacityResult) -> ComparedRun:
    return ComparedRun(as_run(manifest, result), manifest, search=result)


def side(directory: str, runs: Sequence[ComparedRun], target: str | None = None, problems: Sequence[str] = ()) -> Side:
    """A side of runs that are in memory; they must be of one campaign."""
    states = [run.verdict.state for run in runs]
    record = ComparedSide(
        directory=directory,
        campaign_id=runs[0].summary.campaign_id,
        target=target,
        runs=len(runs),
        invalid=states.count("INVALID"),
        unknown=states.count("UNKNOWN"),
    )
    return Side(record, tuple(runs), tuple(problems))


def _first(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - 2} more)" if len(problems) > 2 else ""
    return "; ".join(problems[:2]) + more


def require_valid(which: str, side: Side) -> None:
    """Raises InvalidRunError where every run of the side is INVALID."""
    if side.record.invalid < side.record.runs:
        return
    reasons = {r.message: None for run in side.runs for r in run.verdict.reasons if r.severity == "invalid"}
    raise InvalidRunError(
        f"no run of {which} may be compared: all {side.record.runs} are INVALID",
        f"{side.record.directory}: {'; '.join(list(reasons)[:3])}",
        "harness analyse shows every reason with its advice",
    )


def _of_target(manifests: dict[Path, Manifest], target: str | None, directory: Path) -> dict[Path, Manifest]:
    if target is None:
        return manifests
    chosen = {path: manifest for path, manifest in manifests.items() if manifest.cell.target == target}
    if not chosen:
        known = ", ".join(sorted({manifest.cell.target for manifest in manifests.values()}))
        raise ConfigError(f"no such target in {directory}", target, f"its targets: {known}")
    return chosen
