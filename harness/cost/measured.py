"""Capacity out of measured runs, for the cost of a fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.cost.uncertainty import Interval, bootstrap_runs
from harness.errors import ConfigError, InvalidRunError
from harness.records import RunSummary

Usage = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one server was seen to serve. `plan_rps` is what a fleet is sized by: the interval's low end, else the mean."""

    plan_rps: float
    rps: float
    interval: Interval | None
    usage: Usage
    run_ids: tuple[str, ...]
    models: tuple[str, ...]
    created_utc: str
    how: str
    warnings: tuple[str, ...]


def measured_capacity(summaries: Sequence[RunSummary], workload: str | None = None) -> Measured:
    """The load of the runs that served the most good requests/s (all requests/s where no SLO was declared), its repetitions'
    mean and 90 % interval over runs. `workload`: which one's runs, needed where there are several: an easy workload's capacity
    is not another's.

    Raises InvalidRunError if no run is VALID or UNKNOWN, ConfigError where runs have no rate or no usage. One model only.
    """
    usable = [s for s in summaries if s.verdict.state != "INVALID"]
    if not usable:
        first = summaries[0] if summaries else None
        raise InvalidRunError("no run whose capacity may be used", first.run_id if first else "none", "run it again")
    known = sorted({s.cell.workload for s in usable})
    if workload is None and len(known) > 1:
        raise ConfigError(
            "runs of several workloads", ", ".join(known), "name one: capacity.workload, or give one run's directory"
        )
    if workload is not None:
        usable = [s for s in usable if s.cell.workload == workload]
    if not usable:
        raise ConfigError("no run of this workload", workload, f"there are: {', '.join(known)}")
    models = tuple(sorted({s.model for s in usable}))
    if len(models) > 1:
        raise ConfigError("runs of several models", ", ".join(models), "give the directory of one model's runs")
    metric = "goodput_rps" if all(s.scalars.get("goodput_rps") is not None for s in usable) else "request_rps"
    by_cell: dict[tuple[str, str, str], list[RunSummary]] = {}
    for s in usable:
        if s.scalars.get(metric):
            by_cell.setdefault((s.cell.target, s.cell.workload, s.cell.load.name), []).append(s)
    if not by_cell:
        raise ConfigError(
            "runs have no rate", f"{metric} of {usable[0].run_id}", "a run that served nothing has no capacity"
        )
    best = max(by_cell.values(), key=lambda runs: fmean(_rate(s, metric) for s in runs))
    usage: Usage = tuple(u for s in best for u in s.usage)
    if not usage:
        raise ConfigError("runs have no usage", best[0].run_id, "the server must say how many tokens a request had")
    rates = [_rate(s, metric) for s in best]
    interval = bootstrap_runs(rates, fmean)
    warnings = [f"run {s.run_id} is {s.verdict.state}" for s in best if s.verdict.state != "VALID"]
    if metric == "request_rps":
        warnings.append("no SLO was declared: the capacity is throughput at any latency, an upper bound")
    if interval is None:
        warnings.append("one run: its repeatability is not known; repeat it 5 times")
    return Measured(
        plan_rps=rates[0] if interval is None else interval.low,
        rps=fmean(rates),
        interval=interval,
        usage=usage,
        run_ids=tuple(s.run_id for s in best),
        models=models,
        created_utc=max(s.created_utc for s in best),
        how=f"highest {metric} over loads: {best[0].cell.load.name}, {len(best)} run{'s' * (len(best) > 1)}",
        warnings=tuple(warnings),
    )


def _rate(summary: RunSummary, metric: str) -> float:
    value = summary.scalars[metric]
    assert value is not None
    return float(value)
