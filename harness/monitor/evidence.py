"""What advice is made of, and when it is said: three days at least that were read, and never below its noise.

The unit is the day (UTC): hours of one day are alike. The interval is Student's t over the days that were read, at 90 %, times the days of
a mean month. With fewer than three days, or where the interval at 99 % reaches 0, or for less than 1 % of what the pool costs, nothing is
said: many questions are asked of one month, and chance answers some of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.base import stats
from harness.base.clock import DAY_NS, HOUR_NS, NS, utc_of
from harness.base.quantities import HOURS_PER_MONTH
from harness.config.monitor import MonitorSpec, PoolSpec
from harness.monitor.hosted import HostedOffer
from harness.monitor.served import LEAST_READ, Served
from harness.monitor.steps import COUNTED, Key, Steps
from harness.records.monitor import Advice, CapacityOfRun, MonitorStep

LEVEL = 0.90  # of the interval that is printed
SURE = 0.99  # of the one that must not reach 0
LEAST_DAYS = 3
_LEAST_DAY_S = 20 * 3600  # of a day that were read, for it to count
_LEAST_SHARE = 0.01  # of what the pool costs
DAYS_PER_MONTH = float(HOURS_PER_MONTH) / 24
FloatArray = npt.NDArray[np.float64]


class Ends(NamedTuple):
    """Dollars a month: the mean, its interval at LEVEL, and the low end at SURE."""

    mean: float
    low: float
    high: float
    surely: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What advice is made of. `columns`: every server, model and tenant in each step; `steps`: the pools in those steps."""

    spec: MonitorSpec
    rows: Sequence[Served]
    columns: Steps
    steps: Sequence[MonitorStep]
    used: Mapping[tuple[str, str], CapacityOfRun]
    offers: Mapping[str, Sequence[HostedOffer]]
    from_ns: int
    to_ns: int


@dataclass(slots=True)
class PoolEvidence:
    """A pool's share of it, day by day; only days that were read."""

    pool: PoolSpec
    of: Evidence
    rows: list[Served]
    days: dict[int, list[MonitorStep]]
    keys: list[Key]
    sums: Mapping[str, FloatArray]  # name of COUNTED -> days x keys; NaN where a page does not say

    def usd(self, day: int) -> float:
        return float(sum((step.usd or Decimal(0) for step in self.days[day]), Decimal(0)))

    def seen(self) -> str:
        first, last = min(self.days), max(self.days)
        words = [utc_of(day * DAY_NS).date().isoformat() for day in (first, last)]
        return f"{len(self.days)} days read of {words[0]} to {words[1]} (UTC)"


def pool_evidence(pool: PoolSpec, of: Evidence) -> PoolEvidence | None:
    """None where fewer than LEAST_DAYS days were read, or a step is unpriced."""
    days: dict[int, list[MonitorStep]] = {}
    for step in of.steps:
        if step.pool == pool.name and step.read_share >= LEAST_READ and step.to_ns - step.from_ns <= HOUR_NS:
            days.setdefault(step.from_ns // DAY_NS, []).append(step)
    days = {day: mine for day, mine in days.items() if sum(s.to_ns - s.from_ns for s in mine) >= _LEAST_DAY_S * NS}
    if len(days) < LEAST_DAYS or any(step.usd is None for mine in days.values() for step in mine):
        return None
    rows = [row for row in of.rows if row.pool == pool.name]
    codes = [at for at, key in enumerate(of.columns.keys) if key[0] == pool.name]
    return PoolEvidence(
        pool, of, rows, days, [of.columns.keys[at] for at in codes], _daily(of.columns, codes, list(days))
    )


def _daily(columns: Steps, codes: Sequence[int], days: Sequence[int]) -> dict[str, FloatArray]:
    """Counters of each of these days and keys."""
    place = np.full(len(columns.keys), -1)
    place[list(codes)] = np.arange(len(codes))
    order = np.sort(np.array(days, np.int64))
    day = columns.from_ns // DAY_NS
    at = np.minimum(np.searchsorted(order, day), len(order) - 1)
    rows = np.flatnonzero((place[columns.key] >= 0) & (order[at] == day) & columns.told())
    cell = at[rows] * len(codes) + place[columns.key[rows]]
    size = len(order) * len(codes)
    return {
        name: np.asarray(np.bincount(cell, columns.of(name)[rows], size), np.float64).reshape(len(order), -1)
        for name in COUNTED
    }


def monthly(days: Sequence[float]) -> Ends:
    """Mean day and its interval, times the days of a month."""
    values = np.asarray(days, np.float64)
    low, high = stats.mean_interval(values, LEVEL) or (-math.inf, math.inf)
    surely, _ = stats.mean_interval(values, SURE) or (-math.inf, math.inf)
    return Ends(*(float(end) * DAYS_PER_MONTH for end in (values.mean(), low, high, surely)))


def made(one: PoolEvidence, name: str, says: str, ends: Ends, formula: str, unless: str) -> Advice | None:
    """The advice; None below its noise."""
    if ends.surely <= 0 or ends.mean < _LEAST_SHARE * fmean(one.usd(day) for day in one.days) * DAYS_PER_MONTH:
        return None
    usd, least, most = (
        Decimal(repr(round(end, 6))) for end in (ends.mean, min(ends.low, ends.mean), max(ends.high, ends.mean))
    )
    return Advice(
        name=name, says=f"pool {one.pool.name}: {says}", usd_per_month=usd, low_usd=least, high_usd=most, formula=formula,
        evidence=one.seen(), unless=unless,
    )  # fmt: skip


def hours_words(chosen: Mapping[int, object]) -> str:
    """`22:00-06:00 UTC`, or all hours."""
    if len(chosen) == 24:
        return "all hours"
    starts = [h for h in chosen if (h - 1) % 24 not in chosen]
    spans = []
    for start in starts:
        end = start
        while end % 24 in chosen:
            end += 1
        spans.append(f"{start:02d}:00-{end % 24:02d}:00")
    return f"{', '.join(spans)} UTC"
