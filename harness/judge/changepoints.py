"""Where a series of nightly values changed its level, and by how much.

The segmentation is the exact minimum of  sum of min((x_t - level)^2 / s^2, K^2)  +  penalty per change,  over all levels and
changes (Fearnhead and Rigaill, Changepoint detection in the presence of outliers, JASA 2019: the biweight loss with K = 3).
One odd night costs at most K^2, less than the penalty, so it is never a change; a level that stays is one. Minimised by dynamic
programming over a grid of levels. Written here because the library for this (ruptures) has no such bounded loss and leaves noise
and penalty to its caller, which is where false alarms come from.

x are logarithms where all values are positive, so that a step of 3 % is one at any level. s is the noise of a night, from trimmed
differences of neighbours, which a step does not widen; nights that resemble their neighbours (autocorrelation) widen it by the
long-run factor of an AR(1). Simulated by tests/bench/bench_changepoints.py: 100 nights of white noise show a false change in 0.2 % of
series, with an autocorrelation of 0.3 in 5 %, of 0.5 in 8 %, of 0.7 in 13 %; a step of 3 % in 1 % noise is placed within 2 nights in
99 %, and needs some nights to be seen at all (3: 68 %, 5: 89 %): one night against another is what `harness compare` judges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.base.stats import FloatArray

MIN_NIGHTS = 8  # with fewer, the noise is not known well enough to call anything a change
_K2 = 9.0
_KEPT = 0.8  # share of the squared differences kept, smallest first: a step or an outlier is among the rest
_KEPT_MEAN = 0.43772  # mean of the smallest 80 % of squared standard normals: 1 - 2 q phi(q) / 0.8 with q = 1.28155
_LEAST_NOISE = 0.001  # 0.1 %: finer differences are below what a night's clock and machine repeat
_STEP = 0.1  # of the grid of levels, in units of the noise: costs at most 0.0025 a night
_MAX_LEVELS = 4000


@dataclass(frozen=True, slots=True)
class Change:
    """A change of level: `index` is the first value of the new one; `size` = after / before - 1, or None where before is <= 0."""

    index: int
    before: float
    after: float
    size: float | None


def penalty(nights: int, series: int = 1) -> float:
    """What a change must gain, in units of the noise's variance: more with more nights, and with more series looked at together.

    13 at 100 nights; 2 ln(series) keeps the chance of one false change among all of them near that of one alone. Above K^2 always.
    """
    return max(10.0, 13.0 + 2.0 * math.log(nights / 100)) + 2.0 * math.log(max(1, series))


def _variance_of_differences(x: FloatArray, lag: int) -> float:
    squares = np.sort((x[lag:] - x[:-lag]) ** 2)
    return float(squares[: math.ceil(_KEPT * len(squares))].mean()) / _KEPT_MEAN


def noise(x: FloatArray) -> float:
    """Long-run standard deviation of a night about its level, of at least 3 values; steps and a few outliers do not widen it.

    For an AR(1) with coefficient f, Var(x_t - x_t-1) = 2 v (1 - f) and Var(x_t - x_t-2) = 2 v (1 - f^2), so their ratio is 1 + f;
    the long-run variance is v (1 + f) / (1 - f). f is held between 0 and 0.9.
    """
    one, two = _variance_of_differences(x, 1), _variance_of_differences(x, 2)
    f = min(0.9, max(0.0, two / one - 1)) if one > 0 else 0.0
    return math.sqrt(one / 2 * (1 + f)) / (1 - f)


def _segment_starts(x: FloatArray, sd: float, charge: float) -> list[int]:
    """First indices of the segments after the first, of the cheapest segmentation: one pass, every level of the grid at once."""
    count = min(_MAX_LEVELS, math.ceil((x.max() - x.min()) / (_STEP * sd)) + 1)
    levels = np.linspace(x.min(), x.max(), count)
    # cheapest way to be at a level now, and where its segment began
    cost, start = np.zeros(count), np.zeros(count, np.int64)
    came_from = np.zeros(len(x), np.int64)  # for a segment that begins at t: where the one before it began
    for t, value in enumerate(x):
        if t:
            best = int(cost.argmin())
            came_from[t] = start[best]
            better = cost[best] + charge < cost
            cost[better], start[better] = cost[best] + charge, t
        cost += np.minimum(((value - levels) / sd) ** 2, _K2)
    starts = []
    at = int(start[cost.argmin()])
    while at:
        starts.append(at)
        at = int(came_from[at])
    return starts[::-1]


def _level(x: FloatArray, sd: float) -> float:
    """Mean of the values within K of the median."""
    near = np.abs(x - np.median(x)) <= math.sqrt(_K2) * sd
    return float(x[near].mean()) if near.any() else float(np.median(x))


def change_points(values: Sequence[float], *, series: int = 1) -> tuple[Change, ...]:
    """Changes of level of finite values in order of time; none with fewer than MIN_NIGHTS. `series`: how many are looked at together."""
    if len(values) < MIN_NIGHTS:
        return ()
    raw = np.asarray(values, np.float64)
    positive = bool((raw > 0).all())
    x = np.log(raw) if positive else raw
    scale = 1.0 if positive else float(np.abs(raw).max()) or 1.0
    sd = max(noise(x), _LEAST_NOISE * scale)
    starts = _segment_starts(x, sd, penalty(len(raw), series))
    edges = [0, *starts, len(raw)]
    levels = [_level(x[a:b], sd) for a, b in zip(edges, edges[1:], strict=False)]
    values_at = [math.exp(level) for level in levels] if positive else levels
    return tuple(
        Change(start, before, after, after / before - 1 if before > 0 else None)
        for start, before, after in zip(starts, values_at, values_at[1:], strict=False)
    )
