"""Readings of counters -> what was served in a window. A pure function: any readings, of any monitors, in any order, repeated or not.

Within one start of a server a counter's increase is what it rises above all that was read of it before; a later start begins at 0, the first
that was seen at its first reading. An increase belongs to the window in which it was read, whole: windows beside each other add up to the
token. What a server did between its last reading and its end nobody read; it is told as `lost`, never guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.base.clock import NS
from harness.monitor.adding import at_bounds, rest_of_page, together
from harness.monitor.incarnations import SKEW_NS, Pages, Restart, incarnations
from harness.monitor.spans import Seen, seconds_of
from harness.monitor.usual import Asked, Columns, Lists, usual
from harness.records import COUNTERS, GAUGES, HISTOGRAMS, OTHER, Histogram, ServerReading, ServerUsage
from harness.store.monitor_rows import Rows, readings_of

ROW_S = 60.0  # a row is the last page of its minute

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def usage(
    readings: Sequence[ServerReading],
    from_ns: int,
    to_ns: int,
    interval_s: float,
    began_ns: Mapping[str, int] | None = None,
) -> list[ServerUsage]:
    """What each (server, model, tenant) did in [from_ns, to_ns), by server.

    Readings before the window say where its increases begin (without one it is the first in the window), those after it only whether
    its end is a gap. `interval_s`: between two scrapes of a server. `began_ns`: pool -> first time it was watched (default: the first of
    its readings): a server that says it started later began at 0.
    """
    rows = readings_of(readings)
    if not len(rows):
        return []
    columns = _columns(rows)
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(columns.server)) + 1])
    ends = np.append(firsts[1:], len(rows))
    pool_of = [columns.pools[at] for at in columns.pool[ends - 1].tolist()]
    seen_by_pool: dict[str, list[IntArray]] = defaultdict(list)
    for pool, first, end in zip(pool_of, firsts, ends, strict=True):
        seen_by_pool[pool].append(columns.t[first:end])
    stamps = {pool: np.unique(np.concatenate(parts)) for pool, parts in seen_by_pool.items()}
    began = {pool: int(some[0]) for pool, some in stamps.items()} | dict(began_ns or rows.began_ns)
    near_ns = round((ROW_S + 3 * interval_s) * NS)

    def lists(name: str) -> tuple[Lists, Lists]:
        return rows.lists(f"{name}_le_s"), rows.lists(f"{name}_counts")

    found = usual(columns, firsts, ends, Asked(from_ns, to_ns, near_ns, stamps, began), lists)
    others: dict[int, _Server] = {}
    for at, (pool, first, end) in enumerate(zip(pool_of, firsts.tolist(), ends.tolist(), strict=True)):
        if at not in found:
            others[at] = _Server(columns, first, end, began[pool])
            others[at].count(pool, columns.engines[columns.engine[end - 1]], from_ns, to_ns, near_ns, stamps[pool])
    for name in HISTOGRAMS if others else ():
        buckets = _Buckets(*lists(name))
        for server in others.values():
            server.count_histogram(name, buckets)
    found |= {at: server.usages() for at, server in others.items()}
    return [one for at in range(len(firsts)) for one in found[at]]


@dataclass(frozen=True, slots=True)
class _Buckets:
    """A histogram of all readings: values and offsets of its bounds and its counts, in the order of the readings."""

    le: Lists
    counts: Lists


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of one key and start, where their increases begin, and which of them are in the window; `of`: which usage they are of."""

    of: int
    rows: IntArray
    base: bool | IntArray
    inside: npt.NDArray[np.bool_]


def _columns(rows: Rows[ServerReading]) -> Columns:
    server, servers = rows.words("server")
    t = rows.stamps("read_utc_ns")
    order = np.lexsort((t, server))
    model, models = rows.words("model")
    tenant, tenants = rows.words("tenant")
    monitor, _ = rows.words("monitor")
    pool, pools = rows.words("pool")
    engine, engines = rows.words("engine")
    pairs, key = np.unique(model * len(tenants) + tenant, return_inverse=True)
    keys = [(models[p // len(tenants)], tenants[p % len(tenants)]) for p in pairs.tolist()]
    return Columns(
        t=t[order], server=server[order], monitor=monitor[order], key=key.reshape(-1)[order], pool=pool[order], engine=engine[order],
        count=rows.stamps("incarnation")[order], started=rows.stamps("started_utc_ns")[order],
        scrapes=rows.stamps("scrapes")[order],
        values=np.column_stack([rows.numbers(name) for name in COUNTERS])[order],
        gauges=np.column_stack([rows.numbers(name) for name in GAUGES])[order],
        order=order, servers=servers, pools=pools, engines=engines, keys=keys,
    )  # fmt: skip


class _Server:
    """One server's rows, by time, and what follows from them."""

    def __init__(self, columns: Columns, first: int, end: int, watched_ns: int) -> None:
        self.columns, self.first, self.watched_ns = columns, first, watched_ns
        self.name = columns.servers[columns.server[first]]
        read = columns.scrapes[first:end] > 0
        self.missed = columns.t[first:end][~read]
        self.at = np.arange(first, end)[read]
        self.t, self.monitor = columns.t[self.at], columns.monitor[self.at]
        self.key, self.values = columns.key[self.at], columns.values[self.at]
        self.started = columns.started[self.at]
        pages = Pages(self.t, self.monitor, columns.count[self.at], self.started, self.key, self.values)
        self.number, self.restarts = incarnations(pages)
        self._found: list[ServerUsage] = []
        self._parts: list[_Part] = []

    def count(self, pool: str, engine: str, from_ns: int, to_ns: int, near_ns: int, stamps: IntArray) -> None:
        """Its usages of the window, but for histograms."""
        covered_s, gap_s = seconds_of(Seen(np.unique(self.t), np.unique(self.missed), stamps), from_ns, to_ns, near_ns)
        keys = np.unique(self.key[(self.t >= from_ns) & (self.t < to_ns)]).tolist()
        read = bool(keys)
        if not read:  # not one page: what it serves is what was last known of it
            if gap_s == 0 and not ((self.missed >= from_ns) & (self.missed < to_ns)).any():
                return
            before = self.t < to_ns
            keys = np.unique(self.key[before & (self.t == self.t[before].max())]).tolist() if before.any() else []
        restarted = [r for r in self.restarts if from_ns <= r.hi < to_ns]
        lost = sum(self._hid_something(r, near_ns) for r in restarted)
        for key in keys or [-1]:
            model, tenant = self.columns.keys[key] if key >= 0 else ("", "")
            counters, gauges = self._of_key(key, from_ns, to_ns) if read else _nothing()
            self._found.append(
                ServerUsage(
                    server=self.name, model=model, tenant=tenant, pool=pool, engine=engine, from_ns=from_ns, to_ns=to_ns,
                    covered_s=covered_s, gap_s=gap_s, restarts=len(restarted), lost=lost,
                    counters=counters, gauges=gauges, histograms={},
                )
            )  # fmt: skip

    def count_histogram(self, name: str, buckets: _Buckets) -> None:
        """One histogram of all its usages."""
        found: dict[int, list[Histogram]] = defaultdict(list)
        for part in self._parts:
            if (histogram := self._histogram(buckets, part)) is not None:
                found[part.of].append(histogram)
        for of, some in found.items():
            self._found[of] = replace(self._found[of], histograms={**self._found[of].histograms, name: together(some)})

    def usages(self) -> list[ServerUsage]:
        return rest_of_page(self._found)

    def _hid_something(self, restart: Restart, near_ns: int) -> bool:
        """Whether the server may have served after the last reading before a restart."""
        index = self.restarts.index(restart)
        before = self.number <= index
        if not before.any():
            return True
        last = self.t[before].max()
        after = self.t[self.number > index]
        gauges = self.columns.gauges[self.at[before & (self.t == last)]][:, :2]  # running, waiting
        idle = bool((gauges == 0).all())  # NaN is not 0
        return not idle or not len(after) or int(after.min() - last) > near_ns

    def _of_key(self, key: int, from_ns: int, to_ns: int) -> tuple[dict[str, float | None], dict[str, float | None]]:
        mine = np.flatnonzero((self.key == key) & (self.t < to_ns))
        rises = np.zeros(len(COUNTERS))
        known = ~np.isnan(self.values[mine]).all(axis=0)
        for g in np.unique(self.number[mine]).tolist():
            rows = mine[self.number[mine] == g]
            inside = (self.t[rows] >= from_ns) & (self.t[rows] < to_ns)
            if inside.any():
                base = self._base(key, g, rows)
                rises += self._rises(rows, base)[inside].sum(axis=0)
                self._parts.append(_Part(len(self._found), rows, base, inside))
        counters = {name: float(rises[i]) if known[i] else None for i, name in enumerate(COUNTERS)}
        window = self.at[mine[self.t[mine] >= from_ns]]
        return counters, _weighted(self.columns.gauges[window], self.columns.scrapes[window])

    # ---- where a key's increases begin in an incarnation: at 0, at its first reading, or where rows of others were

    def _base(self, key: int, g: int, rows: IntArray) -> bool | IntArray:
        """True: at 0. False: at its first reading. Rows: at the greatest of each key among them, summed (it had another name, or no row of
        its own)."""
        at = rows[0]
        if g > 0 or self.started[at] >= self.watched_ns:
            return True
        earlier = self._pages_without(at)
        if not len(earlier):
            return False
        names = self.columns.keys
        model, tenant = names[key]
        if (model, tenant) == (OTHER, OTHER):
            return earlier
        if any(names[k] == (OTHER, OTHER) for k in np.unique(self.key[earlier]).tolist()):
            return False
        of_page = earlier[self.t[earlier] == self.t[earlier].max()]
        gone = [
            i for i in of_page.tolist()
            if names[self.key[i]][1] == tenant and not ((self.key == self.key[i]) & (self.number == g) & (self.t >= self.t[at])).any()
            and not (self.values[at] < self.values[i]).any()
        ]  # fmt: skip
        return earlier[self.key[earlier] == self.key[gone[0]]] if len(gone) == 1 else True

    def _own_before(self, at: np.int64) -> IntArray:
        """Rows of earlier pages of the same start that the same monitor read."""
        return np.flatnonzero(
            (self.number == self.number[at]) & (self.monitor == self.monitor[at]) & (self.t < self.t[at])
        )

    def _pages_without(self, at: np.int64) -> IntArray:
        """Rows of the pages before a key's first row, its own monitor's or else another's: one of the same start that does not have the key
        is earlier than those that do, if clocks allow it."""
        if len(own := self._own_before(at)):
            return own
        near = (self.number == self.number[at]) & (self.t <= self.t[at] + SKEW_NS) & (self.monitor != self.monitor[at])
        having = near & (self.key == self.key[at])
        with_key = set(zip(self.monitor[having].tolist(), self.t[having].tolist(), strict=True))
        rows = np.flatnonzero(near).tolist()
        without = [i for i in rows if (int(self.monitor[i]), int(self.t[i])) not in with_key]
        return np.array([i for i in without if self.monitor[i] == self.monitor[without[-1]]], dtype=np.int64)

    def _rises(self, rows: IntArray, base: bool | IntArray) -> FloatArray:
        """Increase of each counter at each row (rows x COUNTERS)."""
        values = self.values[rows]
        had = np.fmax.accumulate(values, axis=0)
        before = np.empty_like(values)
        before[1:] = had[:-1]
        if base is True:
            before[0] = 0.0
        elif base is False:  # of the monitors' first readings the least is the first, whatever their clocks say
            before[0] = np.fmin.reduce(values[self.t[rows] <= self.t[rows[0]] + SKEW_NS], axis=0)
        else:
            before[0] = self._greatest(base)
        later = np.isnan(before[1:]) & ~np.isnan(values[1:])  # a series that was not there at first
        for i, column in zip(*np.nonzero(later), strict=True):
            before[i + 1, column] = 0.0 if len(self._own_before(rows[i + 1])) else values[i + 1, column]
        rises: FloatArray = np.nan_to_num(np.maximum(values - before, 0.0), nan=0.0)
        return rises

    def _greatest(self, rows: IntArray) -> FloatArray:
        keys = np.unique(self.key[rows])
        greatest: FloatArray = np.sum(
            [np.fmax.reduce(self.values[rows[self.key[rows] == k]], axis=0) for k in keys], axis=0
        )
        return greatest

    def _histogram(self, buckets: _Buckets, part: _Part) -> Histogram | None:
        """Increase of its buckets at the rows inside, at the bounds that all of the start's rows have."""
        bounds, counts, have = self._buckets(buckets, part.rows)
        if not (have & part.inside).any():
            return None
        first = np.zeros(len(bounds))
        if part.base is False:
            stamps = self.t[part.rows[have]]
            first = counts[stamps <= stamps[0] + SKEW_NS].min(axis=0)
        elif part.base is not True:
            for k in np.unique(self.key[part.base]):
                theirs = at_bounds(*self._buckets(buckets, part.base[self.key[part.base] == k])[:2], bounds)
                first = first + (theirs.max(axis=0) if len(theirs) else 0.0)
        had = np.maximum.accumulate(np.vstack([first, counts]), axis=0)
        rises = np.diff(had, axis=0)[part.inside[have]]
        return Histogram(tuple(bounds.tolist()), tuple(rises.sum(axis=0).tolist()))

    def _buckets(self, buckets: _Buckets, rows: IntArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """Bounds that all rows have, counts (rows with buckets x bounds), and which rows have any."""
        source = self.columns.order[self.at[rows]]
        (le, le_at), (counts, counts_at) = buckets.le, buckets.counts
        sizes = le_at[source + 1] - le_at[source]
        have = sizes > 0
        source, sizes = source[have], sizes[have]
        if not len(source):
            return np.zeros(0), np.zeros((0, 0)), have
        if (sizes == sizes[0]).all():
            steps = np.arange(sizes[0])
            all_le = le[le_at[source][:, None] + steps]
            if (all_le == all_le[0]).all():
                return all_le[0], counts[counts_at[source][:, None] + steps], have
        rows_le = [le[le_at[i] : le_at[i + 1]] for i in source]
        common = rows_le[0]
        for one in rows_le[1:]:
            common = np.intersect1d(common, one)
        table = [
            at_bounds(one, counts[counts_at[i] : counts_at[i + 1]][None, :], common)[0]
            for one, i in zip(rows_le, source, strict=True)
        ]
        return common, np.array(table), have


def _nothing() -> tuple[dict[str, float | None], dict[str, float | None]]:
    return dict.fromkeys(COUNTERS), dict.fromkeys(GAUGES)


def _weighted(gauges: FloatArray, scrapes: IntArray) -> dict[str, float | None]:
    """Means of the rows, by how many pages each stands for."""
    found: dict[str, float | None] = {}
    for i, name in enumerate(GAUGES):
        values = gauges[:, i]
        there = ~np.isnan(values)
        weight = float(scrapes[there].sum())
        found[name] = float((values[there] * scrapes[there]).sum() / weight) if weight else None
    return found
