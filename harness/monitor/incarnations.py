"""Which of a server's readings belong to one start of it, over gaps and any number of monitors.

A page tells when its process began, or it does not. Where it does not, a restart is what a monitor saw drop, between two of its pages; two
monitors' restarts are one where the intervals in which they happened meet. Clocks of monitors may differ by SKEW_NS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from harness.base.clock import NS

SKEW_NS = 10 * NS
SAME_START_NS = NS  # a start is told by the server's clock, to less than a second

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pages:
    """Rows of one server by time: a page's rows share stamp and monitor. `started` -1: not told. `values`: counters, NaN for none."""

    t: IntArray
    monitor: IntArray
    count: IntArray  # the monitor's own count of starts
    started: IntArray
    key: IntArray
    values: FloatArray


@dataclass(slots=True)
class Restart:
    """A restart between `lo` and `hi`; `by`: monitor -> its first page after it. `before`: counters by key as they were before it."""

    lo: int
    hi: int
    started: int
    by: dict[int, int] = field(default_factory=dict)
    before: Mapping[int, FloatArray] = field(default_factory=dict)


def incarnations(pages: Pages) -> tuple[IntArray, list[Restart]]:
    """Of each row the number of restarts before it, and the restarts in their order."""
    if not len(pages.t) or _never_restarted(pages):
        return np.zeros(len(pages.t), dtype=np.int64), []
    restarts = _merged(_seen(pages))
    return np.array([_number(pages, at, restarts) for at in range(len(pages.t))], dtype=np.int64), restarts


def _never_restarted(pages: Pages) -> bool:
    """The usual case, without a look at each row: one start told by all, or one monitor's count that stands still; and nothing drops."""
    told = pages.started[0] >= 0 and bool((np.abs(pages.started - pages.started[0]) <= SAME_START_NS).all())
    alone = bool((pages.monitor == pages.monitor[0]).all())
    if (
        not (told or alone)
        or _rises(pages.count, pages.monitor)
        or (not told and np.ptp(pages.started) > SAME_START_NS)
    ):
        return False
    order = np.lexsort((pages.t, pages.key, pages.monitor))
    same = (np.diff(pages.key[order]) == 0) & (np.diff(pages.monitor[order]) == 0)
    return not bool((np.diff(pages.values[order], axis=0)[same] < 0).any())


def _rises(count: IntArray, monitor: IntArray) -> bool:
    order = np.argsort(monitor, kind="stable")
    return bool(((np.diff(count[order]) > 0) & (np.diff(monitor[order]) == 0)).any())


def _dropped(values: FloatArray, before: FloatArray | None) -> bool:
    return before is not None and bool((values < before).any())  # NaN is never less


def _seen(pages: Pages) -> list[Restart]:
    """What each monitor saw for itself, and what the first page of one shows against the last of another."""
    seen: list[Restart] = []
    for monitor in np.unique(pages.monitor).tolist():
        last: dict[int, FloatArray] = {}
        rows = np.flatnonzero(pages.monitor == monitor)
        bounds = [0, *(np.flatnonzero(np.diff(pages.t[rows])) + 1).tolist(), len(rows)]
        before_ns, count, started = -1, -1, -1
        for first, end in zip(bounds, bounds[1:], strict=False):
            page = rows[first:end]
            at, now_count, now_started = page[0], int(pages.count[page[0]]), int(pages.started[page[0]])
            t = int(pages.t[at])
            if before_ns < 0:
                before_ns, last, started = _others_before(pages, monitor, t)
                count = now_count
            new = before_ns >= 0 and (
                now_count > count
                or (now_started >= 0 and started >= 0 and now_started - started > SAME_START_NS)
                or any(_dropped(pages.values[i], last.get(int(pages.key[i]))) for i in page)
            )
            if new:
                lo, hi = before_ns, t
                if now_started >= 0:  # told to the second, by a clock that may be wrong
                    lo = hi = min(max(now_started, lo), hi)
                seen.append(Restart(lo, hi, now_started, {monitor: t}, last))
                last = {}
            last |= {int(pages.key[i]): pages.values[i] for i in page}
            before_ns, count, started = t, now_count, now_started
    return seen


def _others_before(pages: Pages, monitor: int, t: int) -> tuple[int, dict[int, FloatArray], int]:
    """Stamp, counters and start of the last page of another monitor that surely lies before a monitor's first; -1 without one."""
    rows = np.flatnonzero((pages.monitor != monitor) & (pages.t < t - SKEW_NS))
    if not len(rows):
        return -1, {}, -1
    last = int(pages.t[rows[-1]])
    rows = rows[(pages.t[rows] == last) & (pages.monitor[rows] == pages.monitor[rows[-1]])]
    return last, {int(pages.key[i]): pages.values[i] for i in rows}, int(pages.started[rows[-1]])


def _merged(seen: Sequence[Restart]) -> list[Restart]:
    """Restarts of all monitors, each once."""
    merged: list[Restart] = []
    for one in sorted(seen, key=lambda r: (r.hi, r.lo)):
        (monitor,) = one.by
        from_ = max((i + 1 for i, other in enumerate(merged) if monitor in other.by), default=0)
        same = next((other for other in merged[from_:] if _one_restart(other, one)), None)
        if same is None:
            merged.append(one)
            continue
        same.lo, same.hi = max(same.lo, one.lo), min(same.hi, one.hi)
        same.started = max(same.started, one.started)
        same.by |= one.by
        same.before = {**one.before, **same.before}
    return merged


def _one_restart(a: Restart, b: Restart) -> bool:
    if a.started >= 0 and b.started >= 0:
        return abs(a.started - b.started) <= SAME_START_NS
    return max(a.lo, b.lo) <= min(a.hi, b.hi) + SKEW_NS


def _number(pages: Pages, at: int, restarts: Sequence[Restart]) -> int:
    """How many of the restarts lie before a row: its monitor's own by their first pages, others' by start, by counts, by time."""
    monitor, t = int(pages.monitor[at]), int(pages.t[at])
    number = max((i + 1 for i, r in enumerate(restarts) if r.by.get(monitor, t + 1) <= t), default=0)
    for restart in restarts[number:]:
        if monitor in restart.by or not _after(pages, at, restart):
            break
        number += 1
    return number


def _after(pages: Pages, at: int, restart: Restart) -> bool:
    t, started = int(pages.t[at]), int(pages.started[at])
    if started >= 0 and restart.started >= 0:
        return started >= restart.started - SAME_START_NS
    if t > restart.hi + SKEW_NS or t < restart.lo - SKEW_NS:
        return t > restart.hi
    return _dropped(pages.values[at], restart.before.get(int(pages.key[at]))) or t >= restart.hi
