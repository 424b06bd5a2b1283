"""Increases of the servers that nothing happened to, all at once: one monitor, one start, the same series on every page, no page missed.

There what `increase.py` finds server by server is the last reading in the window less the one before it. Who is not as usual is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.base.clock import NS
from harness.records import COUNTERS, GAUGES, HISTOGRAMS, OTHER, Histogram, ServerUsage

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Lists = tuple[FloatArray, IntArray]  # values of all rows, and the n + 1 offsets of their rows in them
Key = tuple[str, str]  # model, tenant


@dataclass(frozen=True, slots=True)
class Columns:
    """All readings by server and time; `order`: row of these columns -> row of the readings."""

    t: IntArray
    server: IntArray
    monitor: IntArray
    key: IntArray
    pool: IntArray
    engine: IntArray
    count: IntArray
    started: IntArray
    scrapes: IntArray
    values: FloatArray
    gauges: FloatArray
    order: IntArray
    servers: list[str]
    pools: list[str]
    engines: list[str]
    keys: list[Key]


@dataclass(frozen=True, slots=True)
class Asked:
    """The window, how far apart pages may be, by pool all its stamps and when it was first watched."""

    from_ns: int
    to_ns: int
    near_ns: int
    stamps: Mapping[str, IntArray]
    began_ns: Mapping[str, int]


class _Groups:
    """Rows by server, key and time, and of each such group the rows that its increase lies between."""

    def __init__(self, columns: Columns, firsts: IntArray, asked: Asked) -> None:
        self.order = np.lexsort((columns.t, columns.key, columns.server))
        server, key, t = columns.server[self.order], columns.key[self.order], columns.t[self.order]
        self.same = (np.diff(server) == 0) & (np.diff(key) == 0)  # a row and the next are of one group
        self.starts = np.concatenate([[0], np.flatnonzero(~self.same) + 1])
        self.of = np.searchsorted(firsts, self.starts, side="right") - 1  # ordinal of each group's server
        self.row_of = np.repeat(self.of, np.diff(np.append(self.starts, len(t))))
        self.key, self.late = key[self.starts], t[self.starts] != columns.t[firsts][self.of]
        before = np.add.reduceat((t < asked.from_ns).astype(np.int64), self.starts)
        self.inside = np.add.reduceat(((t >= asked.from_ns) & (t < asked.to_ns)).astype(np.int64), self.starts)
        self.first = self.starts + before
        self.last = np.maximum(self.first + self.inside - 1, self.starts)
        self.first = np.minimum(self.first, len(t) - 1)
        pools = columns.pool[firsts][self.of]
        watched = np.array([asked.began_ns.get(name, 0) for name in columns.pools], dtype=np.int64)[pools]
        new = (columns.started[firsts][self.of] >= watched) & (self.first == self.starts)
        self.base = np.where(new, -1, np.maximum(self.first - 1, self.starts))  # -1: at 0

    def rises(self, values: FloatArray) -> FloatArray:
        """Of rows in the order of the groups: what each group's values rise by in the window."""
        before = np.where((self.base >= 0)[:, None], values[np.maximum(self.base, 0)], 0.0)
        found: FloatArray = values[self.last] - before
        return found


def usual(
    columns: Columns, firsts: IntArray, ends: IntArray, asked: Asked, lists: Callable[[str], tuple[Lists, Lists]]
) -> dict[int, list[ServerUsage]]:
    """Usages by the server's ordinal, of those that are as usual. `firsts`, `ends`: rows of each server; `lists`: bounds and counts of a
    histogram, in the order of the readings."""
    groups = _Groups(columns, firsts, asked)
    odd = _odd_servers(columns, firsts, groups)
    histograms: dict[str, dict[int, Histogram]] = {}
    for name in HISTOGRAMS:  # one at a time: of an hour of 500 servers each has ten million bytes
        histograms[name] = _histograms(*lists(name), columns, groups, odd)
    values = columns.values[groups.order]
    rises, known = groups.rises(values), ~np.isnan(values[groups.starts])
    gauges = _means(columns.gauges[groups.order], columns.scrapes[groups.order], groups)
    covered, gap = _seconds(columns, firsts, asked)
    found: dict[int, list[ServerUsage]] = {}
    for g in np.flatnonzero((groups.inside > 0) & ~odd[groups.of]).tolist():
        of = int(groups.of[g])
        at = int(ends[of]) - 1
        model, tenant = columns.keys[groups.key[g]]
        found.setdefault(of, []).append(
            ServerUsage(
                server=columns.servers[columns.server[at]], model=model, tenant=tenant, pool=columns.pools[columns.pool[at]],
                engine=columns.engines[columns.engine[at]], from_ns=asked.from_ns, to_ns=asked.to_ns,
                covered_s=float(covered[of]), gap_s=float(gap[of]), restarts=0, lost=0,
                counters={n: v if k else None for n, v, k in zip(COUNTERS, rises[g].tolist(), known[g].tolist(), strict=True)},
                gauges={n: None if v != v else v for n, v in zip(GAUGES, gauges[g].tolist(), strict=True)},  # noqa: PLR0124 - NaN
                histograms={name: some[g] for name, some in histograms.items() if g in some},
            )
        )  # fmt: skip
    return found


def _odd_servers(columns: Columns, firsts: IntArray, groups: _Groups) -> BoolArray:
    """Servers that something happened to, or may have: restarts, another monitor, missed pages, series that came or went."""
    odd: BoolArray = np.zeros(len(firsts), dtype=np.bool_)
    for column in (columns.monitor, columns.count, columns.started, columns.pool, columns.engine):
        odd |= np.minimum.reduceat(column, firsts) != np.maximum.reduceat(column, firsts)
    others = [at for at, key in enumerate(columns.keys) if key == (OTHER, OTHER)]
    odd |= np.logical_or.reduceat((columns.scrapes <= 0) | np.isin(columns.key, others), firsts)
    np.logical_or.at(odd, groups.of, groups.late)
    values = columns.values[groups.order]
    there = ~np.isnan(values)
    changed = (there[1:] != there[:-1]) | (values[1:] < values[:-1])
    np.logical_or.at(odd, groups.row_of[1:], changed.any(axis=1) & groups.same)
    read = np.zeros(len(firsts), dtype=np.int64)
    np.add.at(read, groups.of, groups.inside)
    result: BoolArray = odd | (read == 0)
    return result


def _histograms(le: Lists, counts: Lists, columns: Columns, groups: _Groups, odd: BoolArray) -> dict[int, Histogram]:
    """By group, what one histogram rose by; `odd` gets the servers whose buckets change, come, go or fall."""
    source = columns.order[groups.order]
    sizes = np.diff(le[1])[source]
    same_sizes = np.diff(counts[1])[source] == sizes
    np.logical_or.at(odd, groups.row_of, ~same_sizes)
    np.logical_or.at(odd, groups.row_of[1:], groups.same & (np.diff(sizes) != 0))
    found: dict[int, Histogram] = {}
    usual_rows = ~odd[groups.row_of]
    for size in np.unique(sizes[usual_rows]).tolist():
        rows = np.flatnonzero(usual_rows & (sizes == size)) if size else np.zeros(0, dtype=np.int64)
        if not len(rows):
            continue
        place = np.full(len(source), -1)
        place[rows] = np.arange(len(rows))
        bounds, risen = (values[at[source[rows]][:, None] + np.arange(size)] for values, at in (le, counts))
        changed = (bounds[1:] != bounds[:-1]).any(axis=1) | (risen[1:] < risen[:-1]).any(axis=1)
        np.logical_or.at(odd, groups.row_of[rows[1:]], changed & groups.same[rows[1:] - 1])
        mine = np.flatnonzero((place[groups.starts] >= 0) & (groups.inside > 0) & ~odd[groups.of])
        base = groups.base[mine]
        before = np.where((base >= 0)[:, None], risen[place[np.maximum(base, groups.starts[mine])]], 0.0)
        rises = risen[place[groups.last[mine]]] - before
        shared: dict[bytes, tuple[float, ...]] = {}
        for g, row, rise in zip(mine.tolist(), bounds[place[groups.starts[mine]]], rises.tolist(), strict=True):
            found[g] = Histogram(shared.setdefault(row.tobytes(), tuple(row.tolist())), tuple(rise))
    return found


def _means(gauges: FloatArray, scrapes: IntArray, groups: _Groups) -> FloatArray:
    """Means of the window's rows, by how many pages each stands for; NaN where no page says."""
    at = np.arange(len(scrapes))
    group = np.repeat(np.arange(len(groups.starts)), np.diff(np.append(groups.starts, len(scrapes))))
    inside = (at >= groups.first[group]) & (at < (groups.first + groups.inside)[group])
    weight = np.where(inside[:, None] & ~np.isnan(gauges), scrapes[:, None].astype(np.float64), 0.0)
    sums = np.add.reduceat(np.nan_to_num(gauges) * weight, groups.starts, axis=0)
    weights = np.add.reduceat(weight, groups.starts, axis=0)
    found: FloatArray = np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0)
    return found


def _seconds(columns: Columns, firsts: IntArray, asked: Asked) -> tuple[FloatArray, FloatArray]:
    """`spans.seconds_of` of every server, none of whose pages were missed."""
    begin, end, pool = columns.t[:-1], columns.t[1:], columns.pool[1:]
    same = np.diff(columns.server) == 0
    lengths = np.where(same, np.maximum(np.minimum(end, asked.to_ns) - np.maximum(begin, asked.from_ns), 0), 0)
    near, alone = end - begin <= asked.near_ns, np.zeros(len(begin), dtype=np.bool_)
    for at, name in enumerate(columns.pools):
        mine = np.flatnonzero((pool == at) & same)
        stamps = asked.stamps.get(name, np.zeros(0, dtype=np.int64))
        between = np.searchsorted(stamps, end[mine], side="left") - np.searchsorted(stamps, begin[mine], side="right")
        alone[mine] = between <= 0
    of = np.searchsorted(firsts, np.arange(1, len(columns.t)), side="right") - 1

    def added(which: BoolArray) -> FloatArray:
        return np.asarray(np.bincount(of, np.where(which, lengths, 0) / NS, len(firsts)), np.float64)

    return added(near), added(~near & alone)
