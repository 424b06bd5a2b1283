"""A metric of a cell over the nights: first, last, best, worst, changes of level with what else changed, and the first bad night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from harness.judge.changepoints import MIN_NIGHTS, Change, change_points
from harness.records.metrics import METRICS
from harness.store.history import NightRow


@dataclass(frozen=True, slots=True)
class Night:
    """One campaign: mean over its VALID repetitions, None where it has none (a gap)."""

    campaign_id: str
    date: str  # ISO, UTC; the campaign's id where the date is not known
    value: float | None
    valid: int
    invalid: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Shift:
    """A change of level: the first night of the new one. `bad` is None where the metric has no better direction.

    `differs`: what was recorded otherwise on the last night of the old level, as name -> (then, now); a hint, not a cause.
    """

    night: Night
    before: float
    after: float
    size: float | None
    bad: bool | None
    differs: Mapping[str, tuple[str | None, str | None]]


@dataclass(frozen=True, slots=True)
class Trend:
    """One metric of one cell. `nights` holds every campaign, gaps included; the rest is over those with a value."""

    experiment: str
    target: str
    workload: str
    load: str
    column: str
    unit: str
    higher_is_better: bool | None
    nights: tuple[Night, ...]
    shifts: tuple[Shift, ...]

    @property
    def cell(self) -> str:
        return f"{self.target}_{self.workload}_{self.load}"

    @property
    def seen(self) -> tuple[Night, ...]:
        return tuple(n for n in self.nights if n.value is not None)

    @property
    def best(self) -> Night | None:
        """None without a value, or where the metric has no better direction."""
        return self._extreme(wanted=True)

    @property
    def worst(self) -> Night | None:
        return self._extreme(wanted=False)

    def _extreme(self, *, wanted: bool) -> Night | None:
        if self.higher_is_better is None or not self.seen:
            return None
        pick = max if self.higher_is_better == wanted else min
        return pick(self.seen, key=lambda night: night.value or 0.0)

    @property
    def first_bad_night(self) -> Shift | None:
        """The newest change for the worse that no later change took back: its night is where to look. None if there is none.

        Taken back means that a later level is at least as good as the one before it.
        """
        for place in range(len(self.shifts) - 1, -1, -1):
            shift = self.shifts[place]
            if shift.bad and not any(self._as_good(later.after, shift.before) for later in self.shifts[place + 1 :]):
                return shift
        return None

    def _as_good(self, value: float, as_this: float) -> bool:
        return value >= as_this if self.higher_is_better else value <= as_this

    @property
    def too_few(self) -> bool:
        return len(self.seen) < MIN_NIGHTS


def metric_of(column: str) -> str:
    """`ttft_s_p99` -> `ttft_s`; a run's metric is its own column. "" where it is none of metrics.METRICS."""
    if column in METRICS and METRICS[column].per == "run":
        return column
    name = column.rpartition("_")[0]
    return name if name in METRICS and METRICS[name].per != "run" else ""


def higher_is_better(column: str) -> bool | None:
    """None where neither is: token lengths, asked rates and counts."""
    metric = METRICS.get(metric_of(column))
    return None if metric is None or column.endswith("_count") else metric.higher_is_better


def trends_of(rows: Sequence[NightRow], columns: Sequence[str], *, cell: str | None = None) -> tuple[Trend, ...]:
    """A trend for each cell and column that has a value; `rows` by cell and in order of time, their `values` in order of `columns`.

    `cell`: a pattern of `target_workload_load`, with * and ?; without either, a part of it. Changes are judged with all series of the
    call together (changepoints.penalty), so looking at more cells does not raise more false alarms.
    """
    groups: dict[tuple[str, str, str, str], list[NightRow]] = {}
    for row in rows:
        if cell is None or _matches(f"{row.target}_{row.workload}_{row.load}", cell):
            groups.setdefault((row.experiment, row.target, row.workload, row.load), []).append(row)
    trends = []
    for key, group in groups.items():
        for at, column in enumerate(columns):
            if (column == "capacity_rps") != (key[-1] == "capacity"):  # the one number of a search, and of nothing else
                continue
            nights = tuple(_night(row, at) for row in group)
            if any(n.value is not None for n in nights) or any(n.invalid or n.unknown for n in nights):
                unit = METRICS[metric_of(column)].unit if metric_of(column) and not column.endswith("_count") else ""
                trend = Trend(*key, column, unit, higher_is_better(column), nights, ())
                trends.append((trend, group))
    series = sum(not trend.too_few for trend, _ in trends)
    return tuple(replace(trend, shifts=_shifts(trend, group, series)) for trend, group in trends)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if any(c in pattern for c in "*?[") else pattern in name


def _night(row: NightRow, at: int) -> Night:
    date = row.created_utc.date().isoformat() if row.created_utc is not None else row.campaign_id
    return Night(row.campaign_id, date, row.values[at], row.valid, row.invalid, row.unknown)


def _shifts(trend: Trend, group: Sequence[NightRow], series: int) -> tuple[Shift, ...]:
    places = [i for i, night in enumerate(trend.nights) if night.value is not None]
    changes = change_points([trend.nights[i].value or 0.0 for i in places], series=series)
    return tuple(_shift(trend, group, change, places) for change in changes)


def _shift(trend: Trend, group: Sequence[NightRow], change: Change, places: Sequence[int]) -> Shift:
    now, then = group[places[change.index]].provenance, group[places[change.index - 1]].provenance
    differs = {k: (then.get(k), now.get(k)) for k in {**then, **now} if then.get(k) != now.get(k)}
    bad = None if trend.higher_is_better is None else (change.after < change.before) == trend.higher_is_better
    return Shift(trend.nights[places[change.index]], change.before, change.after, change.size, bad, differs)
