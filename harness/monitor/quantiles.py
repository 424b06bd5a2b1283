"""What a histogram can say of percentiles and promises, and no more: bounds, never a point inside a bucket.

A percentile of n values lies between two of them, by the ranks floor(1 + (n - 1) q) and ceil(1 + (n - 1) q); every usual definition's
value is between these. Each is in the bucket where the cumulative count reaches its rank, above the bound before it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from harness.records.monitor import Band, Histogram

EMPTY = Histogram((), ())


def merged(histograms: Sequence[Histogram]) -> Histogram:
    """Together at the bounds that all of them have: there the cumulative counts add up exactly."""
    parts = [h for h in histograms if h.le_s and h.counts and h.counts[-1] > 0]
    if not parts:
        return EMPTY
    if len({h.le_s for h in parts}) == 1 and parts[0].le_s[-1] == math.inf:  # the usual case: a column each
        counts = np.maximum.accumulate(np.array([h.counts for h in parts]), axis=1).sum(axis=0)
        return Histogram(parts[0].le_s, tuple(counts.tolist()))
    tables = [{**dict(zip(h.le_s, accumulate(h.counts, max), strict=True)), math.inf: count(h)} for h in parts]
    bounds = sorted(set.intersection(*map(set, tables)))
    return Histogram(tuple(bounds), tuple(math.fsum(table[le] for table in tables) for le in bounds))


def count(h: Histogram) -> float:
    """How many it counted; 0 for an empty one."""
    return max(h.counts, default=0.0)


def band(h: Histogram, q: float) -> Band | None:
    """Bounds of the percentile `q` (0 to 1); None of nothing counted. `high_s` is infinite where it lies in the last bucket."""
    n = math.floor(count(h) + 1e-6)
    if n < 1:
        return None
    counts = list(accumulate(h.counts, max))
    rank = 1 + (n - 1) * q
    low_at = bisect_left(counts, math.floor(rank + 1e-9) - 1e-6)
    high_at = bisect_left(counts, math.ceil(rank - 1e-9) - 1e-6)
    low_s = h.le_s[low_at - 1] if low_at else 0.0
    return Band(low_s, h.le_s[high_at] if high_at < len(h.le_s) else math.inf)


def within(h: Histogram, limit_s: float) -> tuple[float, float]:
    """(at least, at most) so many took `limit_s` or less: equal where the limit is a bucket's bound."""
    counts = list(accumulate(h.counts, max))
    below = bisect_right(h.le_s, limit_s)
    above = bisect_left(h.le_s, limit_s)
    return counts[below - 1] if below else 0.0, counts[above] if above < len(counts) else count(h)


def attainment(
    histograms: Mapping[str, Histogram], limits_s: Mapping[str, float], requests: float | None, errors: float | None
) -> tuple[float, float] | str:
    """(least, greatest) share of the offered requests that were inside every limit and no error; why there is none, as a text.

    Which request is in which bucket of two histograms is not known: at least all less those outside each, at most the fewest inside one.
    Offered: the requests that ended, or that had a first token where they are more (they are under way, and may still keep the other
    limits). A histogram that counts tokens bounds no request.
    """
    if not limits_s:
        return "no promise is declared: slo of the pool"
    if missing := [name for name in limits_s if not count(histograms.get(name, EMPTY))]:
        return f"the pages have no histogram of {', '.join(missing)}, or nothing was counted"
    offered = max([requests or 0.0, *(count(histograms[name]) for name in limits_s if name != "tpot")])
    if offered <= 0:
        return "no request ended"
    under_way = 0.0 if requests is None else max(0.0, offered - requests)
    low, high = offered - (errors or 0.0), offered - (errors or 0.0)
    for name, limit_s in limits_s.items():
        of = histograms[name]
        if count(of) > 1.2 * offered:  # one a token
            low = 0.0
            continue
        least, most = within(of, limit_s)
        low -= offered - least
        high = min(high, most if name == "ttft" else most + under_way)
    return min(1.0, max(0.0, low / offered)), min(1.0, max(0.0, high / offered))


def burn(attained: tuple[float, float], target: float) -> tuple[float, float] | None:
    """How many times as fast as it may the error budget is used: (1 - attained) / (1 - target); None where all was promised."""
    if target >= 1:
        return None
    low, high = attained
    return (1 - high) / (1 - target), (1 - low) / (1 - target)
