"""What was served in any window, out of a store: whole hours by their stored increases, the rest by readings; and the making of those hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.clock import DAY_NS, HOUR_NS, NS
from harness.monitor.adding import together
from harness.monitor.increase import ROW_S, usage
from harness.monitor.paid import days
from harness.monitor.steps import COLUMNS, Steps, joined_steps, steps_of, steps_of_hours
from harness.records import COUNTERS, GAUGES, HISTOGRAMS, Histogram, HourUsage, ServerReading, ServerUsage
from harness.store import hour_rows, readings
from harness.store.columns import release
from harness.store.monitor_rows import Rows, empty, hours_of, joined
from harness.store.readings import BLOCK_NS, QUARTER_NS, hour_of
from harness.store.root import Root

LATE_NS = 300 * NS  # rows of another monitor may be stored as late as this
FORGOTTEN_NS = 8 * DAY_NS  # a server that nobody read for as long is a new one
_DAYS_AT_ONCE, _HOURS_AT_ONCE_NS, _ROWS_AT_ONCE = 4, 6 * HOUR_NS, 5000  # 500 servers' hour is a megabyte

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """Usages of a window by server; `warnings`: files that were left out."""

    usages: list[ServerUsage]
    warnings: tuple[str, ...]


def window(root: Root, from_ns: int, to_ns: int, interval_s: float) -> Window:
    """What each (server, model, tenant) did in [from_ns, to_ns), days summed where they are stored. Raises StoreError: the store cannot be
    listed."""
    there = sorted(hour_rows.days_there(root, from_ns, to_ns))
    sums, begins = _Sums(from_ns, to_ns), set[int]()
    for at in range(0, len(there), _DAYS_AT_ONCE):
        days = hour_rows.read_days(root, there[at : at + _DAYS_AT_ONCE])
        begins |= set(np.unique(days.stamps("from_utc_ns")).tolist())
        sums.add(days)
    for begin, end in _stretches(begins, DAY_NS, from_ns, to_ns):
        _add_hours(sums, root, begin, end, interval_s)
    return sums.window()


class _Sums:
    """Usages of [from_ns, to_ns) as they are put together: a few rows' columns at a time, for as objects all of them would be much memory."""

    def __init__(self, from_ns: int, to_ns: int) -> None:
        self._from_ns, self._to_ns = from_ns, to_ns
        self._parts: list[Rows[HourUsage]] = []
        self._warnings: dict[str, None] = {}

    def add(self, rows: Rows[HourUsage]) -> None:
        """Rows of any lengths of time."""
        self._warnings |= dict.fromkeys(rows.warnings)
        self._parts += [rows] if len(rows) else []
        if sum(map(len, self._parts)) > _ROWS_AT_ONCE:
            self._parts = [hours_of([hour_row(one) for one in self._usages()])]
        release()

    def add_usages(self, usages: Sequence[ServerUsage], warnings: Sequence[str] = ()) -> None:
        rows = hours_of([hour_row(one) for one in usages])
        self.add(Rows(rows.table, rows.of, warnings))

    def _usages(self) -> list[ServerUsage]:
        return total_of_hours(joined(self._parts), self._from_ns, self._to_ns) if self._parts else []

    def window(self) -> Window:
        return Window(self._usages(), tuple(self._warnings))


def _add_hours(sums: _Sums, root: Root, from_ns: int, to_ns: int, interval_s: float) -> None:
    """Of the hours that are stored, and of readings where none is, or none that can be read."""
    whole = hour_rows.hours_there(root, from_ns, to_ns)
    for begin in sorted({hour - hour % _HOURS_AT_ONCE_NS for hour in whole}):
        end = min(begin + _HOURS_AT_ONCE_NS, to_ns)
        hours = hour_rows.read_hours(root, max(begin, from_ns), end)
        if hours.warnings:
            read = set(np.unique(hours.stamps("from_utc_ns")).tolist())
            whole -= {hour for hour in whole - read if begin <= hour < end}
        sums.add(hours)
    for begin, end in _stretches(whole, HOUR_NS, from_ns, to_ns):
        if end - begin > DAY_NS:
            first = readings.first_stamp(root)
            begin = max(begin, min(end, end if first is None else hour_of(first)))  # noqa: PLW2901
        _add_readings(sums, root, begin, end, interval_s)


def hourly(root: Root, from_ns: int, to_ns: int, interval_s: float, then: Sequence[ServerUsage] = ()) -> Steps:
    """The same by the hour, and `then` what came after: for what changes with the hour of the day. What cannot be read is in the warnings of
    `window`."""
    there, whole, nothing = hour_rows.hours_there(root, from_ns, to_ns), set[int](), set[int]()
    steps: list[Steps] = []
    for begin, end in days(from_ns, to_ns):  # a day at a time, for the memory's sake
        hours = hour_rows.read_hours(root, begin, end, COLUMNS)
        read = set(np.unique(hours.stamps("from_utc_ns")).tolist())
        whole |= read
        nothing |= {hour for hour in there - read if begin <= hour < end and not hours.warnings}
        steps.append(steps_of_hours(hours))
        release()
    left = [at for at in range(hour_of(from_ns), to_ns, HOUR_NS) if at not in whole and at not in nothing]
    if left:
        first = readings.first_stamp(root)
        left = [at for at in left if first is not None and at + HOUR_NS > first]
    for begin in left:
        sums = _Sums(*(part := (max(begin, from_ns), min(begin + HOUR_NS, to_ns))))
        _add_readings(sums, root, *part, interval_s)
        steps.append(steps_of(sums.window().usages))
    steps.append(steps_of(then))
    return joined_steps(steps)


def _stretches(whole: set[int], long_ns: int, from_ns: int, to_ns: int) -> Iterator[tuple[int, int]]:
    """What of [from_ns, to_ns) the whole hours, or days, leave."""
    at = from_ns
    for hour in sorted(whole):
        if hour > at:
            yield at, hour
        at = hour + long_ns
    if at < to_ns:
        yield at, to_ns


def _add_readings(sums: _Sums, root: Root, from_ns: int, to_ns: int, interval_s: float) -> None:
    """Five minutes at a time, for the memory's sake: each begins at the last readings before it."""
    for _, found, rows in pieces(root, from_ns, to_ns, BLOCK_NS, interval_s):
        sums.add_usages(found, rows.warnings)


def pieces(
    root: Root, from_ns: int, to_ns: int, long_ns: int, interval_s: float
) -> Iterator[tuple[int, list[ServerUsage], Rows[ServerReading]]]:
    """Begin, usages and last readings of each piece of [from_ns, to_ns), cut at multiples of `long_ns`. Raises StoreError."""
    begin = hour_of(from_ns)
    last = hour_rows.last_before(root, begin)
    if last is None:
        last = _last_of_hour(root, begin - HOUR_NS)
    if begin < from_ns:
        _, last = _rolled(root, last, begin, from_ns, interval_s)
    at = from_ns
    while at < to_ns:
        end = min(to_ns, at + long_ns - at % long_ns)
        found, last = _rolled(root, last, at, end, interval_s)
        release()
        yield at, found, last
        at = end


def _last_of_hour(root: Root, begin: int) -> Rows[ServerReading]:
    """Its last readings, where nobody stored them, and when each pool was first watched in it. Raises StoreError."""
    last, began = empty("readings"), dict[str, int]()
    for at in range(begin, begin + HOUR_NS, QUARTER_NS):  # an hour at once is much memory
        rows = readings.read(root, at, at + QUARTER_NS)
        began = _first_watched(rows) | began
        last = readings.last_of(joined([last, rows]))
    return Rows(last.table, "readings", last.warnings, began)


def _first_watched(rows: Rows[ServerReading]) -> dict[str, int]:
    """The first stamp of each pool."""
    stamps, (pool, names) = rows.stamps("read_utc_ns"), rows.words("pool")
    return {name: int(stamps[pool == i].min()) for i, name in enumerate(names)}


# ---------------------------------------------------------------- hours


def roll_up(root: Root, now_ns: int, interval_s: float, most_hours: int = 24) -> list[int]:
    """Store the increases of hours that are over and not stored yet, oldest first, at most so many; returns their begins.

    Each begins where the one before it ended, so that they add up, whoever wrote which. Raises StoreError.
    """
    first = readings.first_stamp(root)
    if first is None:
        return []
    done: list[int] = []
    there = hour_rows.hours_there(root, hour_of(first), now_ns)
    begin = hour_of(first)
    while begin in there:
        begin += HOUR_NS
    while begin + HOUR_NS + LATE_NS <= now_ns and len(done) < most_hours:
        if begin not in there:
            _roll(root, begin, interval_s)
            done.append(begin)
        begin += HOUR_NS
    return done


def _roll(root: Root, begin: int, interval_s: float) -> None:
    sums, last = _Sums(begin, begin + HOUR_NS), empty("readings")
    for _, found, last in pieces(root, begin, begin + HOUR_NS, BLOCK_NS, interval_s):  # noqa: B007 - the last one
        sums.add_usages(found)
    hour_rows.put_hour(root, begin, [hour_row(one) for one in sums.window().usages], last, last.began_ns)


def _rolled(
    root: Root, last: Rows[ServerReading], begin: int, end: int, interval_s: float
) -> tuple[list[ServerUsage], Rows[ServerReading]]:
    ahead = readings.read(root, begin, end + round((ROW_S + 3 * interval_s) * NS))
    if not len(last) and not len(ahead):
        return [], joined([last, ahead])
    if not len(ahead) or ahead.stamps("read_utc_ns").max() < end:
        ahead = joined([ahead, readings.first_after(root, end)])
    return advanced(last, ahead, begin, end, interval_s)


def advanced(
    last: Rows[ServerReading], ahead: Rows[ServerReading], begin: int, end: int, interval_s: float
) -> tuple[list[ServerUsage], Rows[ServerReading]]:
    """Usages of [begin, end), and the last readings before its end, with when each pool was first watched. `last`: those before its begin,
    `ahead`: all since, and some after its end."""
    both = joined([last, ahead])
    stamps, firsts = both.stamps("read_utc_ns"), _first_watched(both)
    began = {**last.began_ns, **{name: min(last.began_ns.get(name, at), at) for name, at in firsts.items()}}
    found = usage(both, begin, end, interval_s, began)
    newest = readings.last_of(both.where((stamps < end) & (stamps >= end - FORGOTTEN_NS)))
    return found, Rows(newest.table, "readings", newest.warnings, began)


def roll_day(root: Root, day_ns: int) -> bool:
    """Store the sums of a day that is over, if all its hours are stored and it is not yet. Raises StoreError."""
    hours = hour_rows.hours_there(root, day_ns, day_ns + DAY_NS)
    if len(hours) < 24 or hour_rows.days_there(root, day_ns, day_ns + DAY_NS):
        return False
    rows = hour_rows.read_hours(root, day_ns, day_ns + DAY_NS)
    if rows.warnings:
        return False
    hour_rows.put_day(root, day_ns, [hour_row(one) for one in total_of_hours(rows, day_ns, day_ns + DAY_NS)])
    return True


def hour_row(one: ServerUsage) -> HourUsage:
    more: dict[str, Any] = {**one.counters, **one.gauges}
    for name in HISTOGRAMS:
        histogram = one.histograms.get(name, Histogram((), ()))
        more |= {f"{name}_le_s": histogram.le_s, f"{name}_counts": histogram.counts}
    return HourUsage(
        from_utc_ns=one.from_ns, server=one.server, model=one.model, tenant=one.tenant, pool=one.pool, engine=one.engine,
        covered_s=one.covered_s, gap_s=one.gap_s, restarts=one.restarts, lost=one.lost, **more,
    )  # fmt: skip


def total_of_hours(rows: Rows[HourUsage], from_ns: int, to_ns: int) -> list[ServerUsage]:
    """`increase.total` of many hours, a column at a time."""
    if not len(rows):
        return []
    words = {name: rows.words(name) for name in ("server", "model", "tenant", "pool", "engine")}
    keys = [words[name][0] for name in ("server", "model", "tenant")]
    order = np.lexsort((rows.stamps("from_utc_ns"), *reversed(keys)))
    change = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    ends = np.append(starts[1:], len(order))
    covered = rows.numbers("covered_s")[order]
    sums: dict[str, Any] = {name: np.add.reduceat(rows.numbers(name)[order], starts) for name in ("covered_s", "gap_s")}
    sums |= {name: np.add.reduceat(rows.stamps(name)[order], starts) for name in ("restarts", "lost")}
    counters = {name: _known(rows.numbers(name)[order], None, starts) for name in COUNTERS}
    gauges = {name: _known(rows.numbers(name)[order], np.maximum(covered, 1e-9), starts) for name in GAUGES}
    histograms = {name: _histograms(rows, name, order, starts, ends) for name in HISTOGRAMS}
    found = []
    for i, last in enumerate(order[ends - 1]):
        text = {name: names[codes[last]] for name, (codes, names) in words.items()}
        found.append(
            ServerUsage(
                **text, from_ns=from_ns, to_ns=to_ns, covered_s=float(sums["covered_s"][i]), gap_s=float(sums["gap_s"][i]),
                restarts=int(sums["restarts"][i]), lost=int(sums["lost"][i]),
                counters={name: column[i] for name, column in counters.items()},
                gauges={name: column[i] for name, column in gauges.items()},
                histograms={name: column[i] for name, column in histograms.items() if i in column},
            )
        )  # fmt: skip
    return found


def _known(values: FloatArray, weights: FloatArray | None, starts: IntArray) -> list[float | None]:
    """Sums, or weighted means, of groups; None where nothing is known of one."""
    there = ~np.isnan(values)
    weight = there.astype(float) if weights is None else np.where(there, weights, 0.0)
    sums = np.add.reduceat(np.where(there, values, 0.0) * (weight if weights is not None else 1.0), starts)
    weighed = np.add.reduceat(weight, starts)
    if weights is not None:
        sums = np.divide(sums, weighed, out=np.zeros_like(sums), where=weighed > 0)
    return [float(value) if w > 0 else None for value, w in zip(sums, weighed, strict=True)]


def _histograms(
    rows: Rows[HourUsage], name: str, order: IntArray, starts: IntArray, ends: IntArray
) -> Mapping[int, Histogram]:
    (le, le_at), (counts, counts_at) = rows.lists(f"{name}_le_s"), rows.lists(f"{name}_counts")
    sizes = np.diff(le_at)
    if len(sizes) and sizes[0] and (sizes == sizes[0]).all() and (sizes == np.diff(counts_at)).all():
        every = le[le_at[0] : le_at[-1]].reshape(len(sizes), -1)
        if (every == every[0]).all():  # as usual: all at once
            rises = counts[counts_at[0] : counts_at[-1]].reshape(len(sizes), -1)[order]
            same = tuple(every[0].tolist())
            return {i: Histogram(same, tuple(row)) for i, row in enumerate(np.add.reduceat(rises, starts).tolist())}
    found = {}
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        mine = order[start:end]
        sizes = le_at[mine + 1] - le_at[mine]
        mine, sizes = mine[sizes > 0], sizes[sizes > 0]
        if not len(mine):
            continue
        steps = np.arange(sizes[0])
        bounds = le[le_at[mine][:, None] + steps] if (sizes == sizes[0]).all() else None
        if bounds is not None and (bounds == bounds[0]).all():
            sums = counts[counts_at[mine][:, None] + steps].sum(axis=0)
            found[i] = Histogram(tuple(bounds[0].tolist()), tuple(sums.tolist()))
            continue
        found[i] = together(
            [
                Histogram(
                    tuple(le[le_at[j] : le_at[j + 1]].tolist()), tuple(counts[counts_at[j] : counts_at[j + 1]].tolist())
                )
                for j in mine
            ]
        )
    return found
