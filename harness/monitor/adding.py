"""Usages as one: of windows beside each other, of starts with other buckets, of a page less what has rows of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from harness.records import COUNTERS, GAUGES, HISTOGRAMS, OTHER, Histogram, ServerUsage

FloatArray = npt.NDArray[np.float64]


def at_bounds(le: FloatArray, counts: FloatArray, bounds: FloatArray) -> FloatArray:
    """Counts at those of the bounds that `le` has; at others what is below them for sure."""
    if not len(le):
        return np.zeros((0, len(bounds)))
    at = np.searchsorted(le, bounds, side="right") - 1
    return np.where(at >= 0, counts[:, np.maximum(at, 0)], 0.0)


def together(parts: Sequence[Histogram]) -> Histogram:
    """The sum of histograms at the bounds that all have: cumulative counts are exact there, whatever buckets each had beside them."""
    if len({part.le_s for part in parts}) == 1:
        return Histogram(parts[0].le_s, tuple(np.sum([part.counts for part in parts], axis=0).tolist()))
    bounds = np.array(sorted(set.intersection(*(set(part.le_s) for part in parts))))
    counts = sum(at_bounds(np.array(p.le_s), np.array([p.counts]), bounds)[0] for p in parts)
    return Histogram(tuple(bounds.tolist()), tuple(np.asarray(counts).tolist()))


def rest_of_page(usages: list[ServerUsage]) -> list[ServerUsage]:
    """The whole page's row less the rows of those that have their own: what is left is OTHER's."""
    whole = next((u for u in usages if (u.model, u.tenant) == (OTHER, OTHER)), None)
    if whole is None:
        return usages
    named = [u for u in usages if u is not whole]

    def less(of: str, name: str) -> float | None:
        total = getattr(whole, of)[name]
        return None if total is None else max(0.0, total - sum(getattr(u, of)[name] or 0.0 for u in named))

    histograms = {}
    for name, total in whole.histograms.items():
        own = together([total, *(u.histograms[name] for u in named if name in u.histograms)])
        bounds = np.array(own.le_s)
        all_of_it = at_bounds(np.array(total.le_s), np.array([total.counts]), bounds)[0]
        histograms[name] = Histogram(own.le_s, tuple(np.maximum(2 * all_of_it - np.array(own.counts), 0.0).tolist()))
    gauges = {name: less("gauges", name) if name in ("running", "waiting") else whole.gauges[name] for name in GAUGES}
    counters = {name: less("counters", name) for name in COUNTERS}
    return [*named, replace(whole, counters=counters, gauges=gauges, histograms=histograms)]


def total(parts: Iterable[ServerUsage], from_ns: int, to_ns: int) -> list[ServerUsage]:
    """Usages of windows beside each other as those of one window, by server. Gauges: means by the time covered."""
    groups: dict[tuple[str, str, str], list[ServerUsage]] = defaultdict(list)
    for part in parts:
        groups[part.server, part.model, part.tenant].append(part)
    return [_sum(members, from_ns, to_ns) for _, members in sorted(groups.items())]


def _sum(parts: list[ServerUsage], from_ns: int, to_ns: int) -> ServerUsage:
    def added(name: str) -> float | None:
        some = [value for part in parts if (value := part.counters[name]) is not None]
        return sum(some) if some else None

    def mean(name: str) -> float | None:
        some = [(value, max(part.covered_s, 1e-9)) for part in parts if (value := part.gauges[name]) is not None]
        return sum(v * s for v, s in some) / sum(s for _, s in some) if some else None

    names = {name for part in parts for name in part.histograms}
    last = parts[-1]
    return ServerUsage(
        server=last.server, model=last.model, tenant=last.tenant, pool=last.pool, engine=last.engine, from_ns=from_ns, to_ns=to_ns,
        covered_s=sum(p.covered_s for p in parts), gap_s=sum(p.gap_s for p in parts),
        restarts=sum(p.restarts for p in parts), lost=sum(p.lost for p in parts),
        counters={name: added(name) for name in COUNTERS}, gauges={name: mean(name) for name in GAUGES},
        histograms={name: together([p.histograms[name] for p in parts if name in p.histograms]) for name in HISTOGRAMS if name in names},
    )  # fmt: skip
