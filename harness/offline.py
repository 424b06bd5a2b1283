"""THE OFFLINE HALF of the main path: run directories -> analyse -> cost -> report. Needs no server, GPU or network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.analyse.capacity import best_probe, over_repetitions
from harness.analyse.repeats import LEVEL
from harness.analyse.summary import summarise
from harness.config import CostSpec, of_run
from harness.cost.example_price import is_example, why_not
from harness.cost.measured import Measured, measured_capacity
from harness.cost.prices import day_of, declared, instance_price
from harness.cost.proposal import MachinePrice, propose
from harness.cost.report import cost_run
from harness.errors import ConfigError, InvalidRunError, StoreError
from harness.records import CapacityResult, Cell, CostReport, Hardware, Manifest, RunSummary, SearchedCapacity
from harness.report import document
from harness.store.capacity_file import read_capacity
from harness.store.manifest import read_manifest
from harness.store.reader import find_capacities, find_runs, read_run
from harness.target_spec import HardwareSpec


@dataclass(frozen=True, slots=True)
class CapacityCell:
    """A finished capacity search and the cell it belongs to."""

    directory: Path
    manifest: Manifest
    result: CapacityResult

    @property
    def cell(self) -> Cell:
        return self.manifest.cell


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the offline half makes of a run or experiment directory; `problems` are runs that could not be read."""

    directory: Path
    summaries: tuple[RunSummary, ...]
    problems: tuple[str, ...]
    capacities: tuple[CapacityCell, ...] = ()


def analyse(directory: Path, campaign: str | None = None) -> Analysis:
    """Summarise a run, or the runs of an experiment's newest campaign (`campaign`: another one's id, or "all").

    Of a capacity search, the probe of the highest rate that passed is among the runs: it is what the capacity looks like.
    Raises StoreError where there is no readable run.
    """
    problems: list[str] = []
    summaries: list[RunSummary] = []
    runs = find_runs(directory)
    chosen = _of_campaign(sorted([*runs, *find_capacities(directory)]), campaign)
    capacities = [_capacity(path) for path in chosen if path not in runs]
    for path in chosen:
        if path not in runs:
            continue
        try:
            summaries.append(summarise(read_run(path)))
        except StoreError as error:
            problems.append(f"{path.name}: {': '.join(filter(None, (error.what, error.value, error.advice)))}")
    seen = {summary.run_id for summary in summaries}
    bests = ((found.directory, best_probe(found.result)) for found in capacities)
    summaries += [summarise(read_run(at / str(best.run_id))) for at, best in bests if best and best.run_id not in seen]
    if not summaries and not capacities:
        raise StoreError(
            "no run to analyse", directory, "; ".join(problems) or "give a run directory or an experiment's directory"
        )
    return Analysis(directory, tuple(summaries), tuple(problems), tuple(capacities))


def _capacity(directory: Path) -> CapacityCell:
    return CapacityCell(directory, read_manifest(directory), read_capacity(directory))


def measured(
    directory: Path, campaign: str | None = None, *, workload: str | None = None, target: str | None = None
) -> Measured:
    """The capacity that a run or experiment directory shows, for the cost of a fleet: every command takes it from here.

    Raises StoreError, and what cost.measured.measured_capacity raises.
    """
    found = analyse(directory, campaign)
    return measured_capacity(found.summaries, workload, target=target, searches=searched(found.capacities))


def searched(capacities: Sequence[CapacityCell]) -> tuple[SearchedCapacity, ...]:
    """Searches of one target and workload taken together; repetitions are the unit."""
    cells: dict[tuple[str, str], list[CapacityCell]] = {}
    for one in capacities:
        cells.setdefault((one.cell.target, one.cell.workload), []).append(one)
    return tuple(_searched(target, workload, found) for (target, workload), found in cells.items())


def _searched(target: str, workload: str, found: Sequence[CapacityCell]) -> SearchedCapacity:
    promised = sorted({one.result.attainment for one in found})
    if len(promised) > 1:
        advice = "give the directory or the campaign of one promise"
        raise ConfigError("capacity searches of several promises", ", ".join(map(str, promised)), advice)
    mean = over_repetitions([one.result for one in found])
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
        run_ids=tuple(one.directory.name for one in found),
        probe_ids=tuple(probe.run_id for one in found for probe in one.result.probes if probe.run_id),
        created_utc=max(one.manifest.created_utc for one in found),
        why="; ".join(dict.fromkeys(f"{one.result.state}: {one.result.why}" for one in found)),
    )


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
        spec = overrides or of_run(CostSpec, summary.config.get("cost", {}), summary.run_id)
        try:
            price = machine_price(summary) if hardware is None else MachinePrice(hardware)
            reports.append(cost_run(summary, price.hardware, spec, allow_invalid=allow_invalid, no_price=price.why))
        except InvalidRunError as error:
            refused.append(error)
    if refused and not reports:
        raise refused[0]
    return reports


def declared_hardware(summary: RunSummary) -> Hardware | None:
    """The price that the run's config declares for its target's machine, None if it declares none, or an example that does not hold.

    It is either written out, or the name of an instance in configs/prices/instances.csv, at its price of the run's date.
    """
    return _declared(summary).hardware


def machine_price(summary: RunSummary) -> MachinePrice:
    """The price of the run's machine: what its config declares, else what is proposed for the boards it ran on, else why none."""
    found = _declared(summary)
    if found.hardware is not None:
        return found
    proposed = propose(summary, day_of(summary.created_utc))
    return replace(proposed, why="; ".join(filter(None, (found.why, proposed.why))))


def _declared(summary: RunSummary) -> MachinePrice:
    target: Mapping[str, Any] = next(
        (t for t in summary.config.get("targets", []) if t.get("name") == summary.cell.target), {}
    )
    found = target.get("hardware")
    if not found:
        return MachinePrice(None)
    if isinstance(found, str):
        return MachinePrice(instance_price(found, day_of(summary.created_utc)))
    spec = of_run(HardwareSpec, found, summary.run_id)
    if not is_example(found):
        return MachinePrice(declared(spec))
    boards = [str(name) for name in summary.environment.get("machine_boards") or ()]
    boards += [str(gpu.get("name")) for gpu in summary.environment.get("gpus") or ()]
    if (why := why_not(summary.experiment, target, boards)) is not None:
        return MachinePrice(None, f"the example price is left out: {why}")
    return MachinePrice(replace(declared(spec), basis="example"))


def report(
    directory: Path, analysis: Analysis, costs: Sequence[CostReport], *, allow_invalid: bool = False
) -> dict[str, Path]:
    """Write derived/report.md, .html and the rest under `directory`; all of it can be made again from the raw files."""
    summaries = list(analysis.summaries)
    title = summaries[0].experiment if summaries else directory.name
    capacities = [(found.cell, found.result) for found in analysis.capacities]
    return document.write(
        directory / "derived", title, summaries, list(costs), allow_invalid=allow_invalid, capacities=capacities
    )
