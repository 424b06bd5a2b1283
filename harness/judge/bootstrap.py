"""Intervals for a mean over few repetitions, and for what the requests inside one run explain.

What is used is `student_t`: `python -m tests.bench.bench_compare` prints how often each interval here covers the truth. With 3
repetitions a percentile bootstrap that asks for 95 % covers 73 % to 76 %: resampling 3 values cannot show a spread wider than theirs.
The hierarchical bootstrap (repetitions, then blocks of requests inside each) counts the spread inside runs twice, which makes up for
that where it happens to be half of all (93 %) and not where it is a tenth (83 %). The bootstrap-t covers from 5 repetitions on, wider
than Student's t, and is infinite below. Student's t on the logarithms covers at every count from 2 on, under heavy tails too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray], float]
Interval = tuple[float, float]


def student_t(values: FloatArray, level: float) -> Interval | None:
    """Mean +- t(n - 1) s / sqrt(n), on the scale of `values` (logarithms for what is positive). None below 2 values."""
    n = len(values)
    if n < 2:
        return None
    half = -float(special.stdtrit(n - 1, (1 - level) / 2)) * float(values.std(ddof=1)) / np.sqrt(n)
    middle = float(values.mean())
    return middle - half, middle + half


def percentile(values: FloatArray, level: float, *, draws: int = 2000, seed: int = 1) -> Interval | None:
    """Percentile bootstrap of the mean over repetitions. None below 2 values."""
    n = len(values)
    if n < 2:
        return None
    picked = np.random.default_rng(seed).integers(0, n, (draws, n))
    return _between(values[picked].mean(axis=1), level)


def bootstrap_t(values: FloatArray, level: float, *, draws: int = 2000, seed: int = 1) -> Interval | None:
    """Studentised bootstrap of the mean (Efron and Tibshirani, 12.5). None below 2 values; infinite where draws have no spread.

    A draw that repeats one value has no spread: its t is infinite on the side that its mean is on.
    """
    n = len(values)
    if n < 2:
        return None
    middle, spread = float(values.mean()), float(values.std(ddof=1)) / np.sqrt(n)
    drawn = values[np.random.default_rng(seed).integers(0, n, (draws, n))]
    off, own = drawn.mean(axis=1) - middle, drawn.std(axis=1, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(own > 0, off / own, np.where(off == 0, 0.0, np.copysign(np.inf, off)))
    low, high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    if spread == 0:
        return middle, middle
    return middle - float(high) * spread, middle - float(low) * spread


def hierarchical(
    repetitions: Sequence[FloatArray], statistic: Statistic, level: float, *, draws: int = 1000, seed: int = 1
) -> Interval | None:
    """Hierarchical bootstrap: repetitions drawn with replacement, and inside each its requests in blocks.

    `repetitions`: one array a repetition, its requests in the order they were sent. The result is about the mean over repetitions
    of `statistic`; percentile interval. None below 2 repetitions.
    """
    n = len(repetitions)
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for i in range(draws):
        picked = rng.integers(0, n, n)
        means[i] = np.mean([statistic(_blocks(repetitions[k], rng)) for k in picked])
    return _between(means, level)


def inside_variance(requests: FloatArray, statistic: Statistic, *, draws: int = 100, seed: int = 1) -> float | None:
    """Variance of `statistic` of one run that its requests alone explain: a block bootstrap. None below 20 requests."""
    if len(requests) < 20:
        return None
    rng = np.random.default_rng(seed)
    drawn = [statistic(_blocks(requests, rng)) for _ in range(draws)]
    return float(np.var(drawn, ddof=1))


def _blocks(requests: FloatArray, rng: np.random.Generator) -> FloatArray:
    """As many requests, in circular blocks of n^(1/3) neighbours (Politis and Romano 1992): they share a queue."""
    n = len(requests)
    length = max(1, round(n ** (1 / 3)))
    starts = rng.integers(0, n, -(-n // length))
    index = (starts[:, None] + np.arange(length)).ravel()[:n] % n
    drawn: FloatArray = requests[index]
    return drawn


def _between(drawn: FloatArray, level: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
