"""Repetitions of a cell: a metric's mean over them, and an interval. The repetition is the unit, never the request.

Requests of one run share a server, a queue and a minute of the machine's life, so an interval over requests says nothing of the
next run. With one repetition there is no interval. Which interval, and why, is in base/stats.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from harness.base.errors import ConfigError, StoreError
from harness.base.stats import mean_interval
from harness.records import Cell, CellInterval, Load, RunSummary, Verdict
from harness.records.metrics import METRICS

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Point:
    """A number of a run: a scalar of METRICS, or a point (`at`) of its distribution."""

    metric: str
    at: str = ""  # mean | p50 | p90 | p99 of a distribution

    @property
    def higher_is_better(self) -> bool:
        return bool(METRICS[self.metric].higher_is_better)

    @property
    def key(self) -> str:
        return f"{self.metric}.{self.at}" if self.at else self.metric

    @property
    def label(self) -> str:
        return f"{METRICS[self.metric].symbol} {self.at}".rstrip()

    @property
    def unit(self) -> str:
        return METRICS[self.metric].unit

    @property
    def is_share(self) -> bool:
        """A share of 1 is compared by difference: near 0 and 1 a ratio says nothing."""
        return self.metric == "attainment"

    def of(self, summary: RunSummary) -> float | None:
        """The run's value; None where it was not observed or its percentile is not supported."""
        if not self.at:
            return summary.scalars.get(self.metric)
        distribution = summary.distributions.get(self.metric)
        return None if distribution is None else getattr(distribution, self.at)


_POINTS = (
    Point("output_tps"), Point("total_tps"), Point("request_rps"),
    Point("ttft_s", "p50"), Point("ttft_s", "p90"), Point("ttft_s", "p99"),
    Point("ttft_from_schedule_s", "p50"), Point("ttft_from_schedule_s", "p99"),
    Point("tpot_s", "mean"), Point("tpot_s", "p50"), Point("tpot_s", "p99"), Point("itl_s", "p99"),
    Point("e2el_s", "p50"), Point("e2el_s", "p99"),
    Point("goodput_rps"), Point("attainment"), Point("energy_per_output_token_j"), Point("capacity_rps"),
)  # fmt: skip
POINTS = {point.key: point for point in _POINTS}
# One of each kind: a metric that repeats another only makes the correction over all of them stricter.
DEFAULT_KEYS = ("output_tps", "ttft_s.p50", "ttft_s.p99", "tpot_s.p50", "itl_s.p99", "attainment", "capacity_rps")


def points(keys: Iterable[str]) -> tuple[Point, ...]:
    """The points of these keys; a metric's bare name stands for all its points, `all` for every one. None: the default ones.

    Raises ConfigError for a word that is neither.
    """
    chosen: dict[str, Point] = {}
    for key in keys or DEFAULT_KEYS:
        matching = [p for p in POINTS.values() if key in (p.key, p.metric, p.metric.removesuffix("_s"), "all")]
        if not matching:
            raise ConfigError("no such metric to compare", key, f"all, or some of: {', '.join(POINTS)}")
        chosen |= {p.key: p for p in matching}
    return tuple(chosen.values())


def campaign_of(known: Iterable[str], wanted: str | None) -> str:
    """`wanted`, or the newest of the campaigns that are `known` (ids sort by time). Raises StoreError where there is no such one."""
    ids = sorted(set(known))
    if wanted and wanted not in ids:
        raise StoreError("no such campaign", wanted, f"the newest here: {', '.join(ids[-5:])}")
    return wanted or ids[-1]


CellKey = tuple[str, str, Load]


class Judged(Protocol):
    """A run with its verdict: a RunSummary, or what holds one."""

    @property
    def cell(self) -> Cell: ...
    @property
    def created_utc(self) -> str: ...
    @property
    def verdict(self) -> Verdict: ...


Run = TypeVar("Run", bound=Judged)


def by_cell(runs: Iterable[Run]) -> dict[CellKey, list[Run]]:
    """Runs gathered by (target, workload, load), in the order of their repetitions."""
    cells: dict[CellKey, list[Run]] = {}
    for run in sorted(runs, key=_age):
        cells.setdefault((run.cell.target, run.cell.workload, run.cell.load), []).append(run)
    return cells


def usable(runs: Iterable[Run]) -> list[Run]:
    """Those that are not INVALID, one a repetition: of a repetition that was run again, the newest."""
    valid = (run for run in runs if run.verdict.state != "INVALID")
    return list({run.cell.repetition: run for run in sorted(valid, key=_age)}.values())


def _age(run: Judged) -> tuple[int, str]:
    return run.cell.repetition, run.created_utc


def interval(cell: CellKey, runs: Sequence[RunSummary], point: Point, level: float = LEVEL) -> CellInterval | None:
    """`point` over the usable runs of a cell that have it; None where none has.

    Student's t over repetitions on the logarithm, so that the interval is about a ratio and never reaches 0: repetitions of a
    server differ by factors. Where a value is not positive, and for attainment, on the values themselves (there cut to 0..1).
    """
    kept = usable(runs)
    values_of = {run.cell.repetition: value for run in kept if (value := point.of(run)) is not None}
    if not values_of:
        return None
    values = np.array(list(values_of.values()), np.float64)
    log = not point.is_share and bool((values > 0).all())
    low, high = mean_interval(values, level, log=log) or (None, None)
    if point.is_share and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return CellInterval(
        target=cell[0],
        workload=cell[1],
        load=cell[2],
        metric=point.key,
        label=point.label,
        unit=point.unit,
        repetitions=tuple(values_of),
        values=tuple(values.tolist()),
        left_out=len(runs) - len(kept),
        scale="log" if log else "linear",
        mean=math.exp(float(np.log(values).mean())) if log else float(values.mean()),
        low=low,
        high=high,
        level=level,
    )


def intervals(
    summaries: Sequence[RunSummary], keys: Iterable[str] = ("all",), level: float = LEVEL
) -> tuple[CellInterval, ...]:
    """Every cell and metric of a campaign that has a value, in the order of cells and of `keys`. Raises ConfigError."""
    wanted = points(keys)
    all_intervals = (
        interval(cell, runs, point, level) for cell, runs in by_cell(summaries).items() for point in wanted
    )
    return tuple(each for each in all_intervals if each is not None)
