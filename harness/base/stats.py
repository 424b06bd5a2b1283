"""Statistics, a rule each: Student's t, the intervals and tests made of it, two bootstraps, least squares with no coefficient below 0.

An interval of a mean is Student's t: `python -m tests.bench.bench_compare` prints how often it and three bootstraps cover the truth. With
3 repetitions a percentile bootstrap that asks for 95 % covers 73 % to 76 %: resampling 3 values cannot show a spread wider than theirs.
The hierarchical bootstrap (repetitions, then blocks of requests inside each) counts the spread inside runs twice, which makes up for
that where it happens to be half of all (93 %) and not where it is a tenth (83 %). The bootstrap-t covers from 5 repetitions on, wider
than Student's t, and is infinite below. Student's t on the logarithms covers at every count from 2 on, under heavy tails too.

scipy is imported where it is used: the sum of a fleet starts without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Ends = tuple[float, float]
_EMPTY = 1e-290  # a column with nothing above it is taken for empty


def t_above(tail: float, df: float) -> float:
    """The value that Student's t exceeds with probability `tail`."""
    from scipy import special

    return -float(special.stdtrit(df, tail))


def t_beyond(t: float, df: float) -> float:
    """Probability that Student's t is farther from 0 than `t`, on either side."""
    from scipy import special

    return 2 * float(special.stdtr(df, -abs(t)))


def normal_above(tail: float) -> float:
    """The value that a standard normal exceeds with probability `tail`."""
    from scipy import special

    return -float(special.ndtri(tail))


def mean_interval(values: FloatArray, level: float, *, log: bool = False) -> Ends | None:
    """Mean +- t(n - 1) s / sqrt(n), of the logarithms where `log`, and then back. None below 2 values."""
    n = len(values)
    if n < 2:
        return None
    scaled = np.log(values) if log else values
    half = t_above((1 - level) / 2, n - 1) * float(scaled.std(ddof=1)) / np.sqrt(n)
    low, high = float(scaled.mean()) - half, float(scaled.mean()) + half
    # two values far apart: wider than a float holds
    return (math.exp(min(low, 700.0)), math.exp(min(high, 700.0))) if log else (low, high)


def bootstrap_mean(values: Sequence[float], level: float, *, draws: int = 2000, seed: int = 1) -> Ends | None:
    """Ends of an interval of the mean of positive values, one a run: the mean times and over exp(t x standard error of its logarithm).

    Requests of one run share its queue, so runs are resampled, never requests. Percentiles of the draws are too narrow for five runs
    (88 % covered, 75 % at 3, for 90 % asked), so the standard error is what is taken of them, times sqrt(n / (n - 1)) because resamples
    vary less than runs do: 88 % to 92 % are covered at 5 runs. None below 2 values.
    """
    n = len(values)
    if n < 2:
        return None
    runs = np.asarray(values, np.float64)
    means = runs[np.random.default_rng(seed).integers(0, n, (draws, n))].mean(axis=1)
    reach = float(np.exp(t_above((1 - level) / 2, n - 1) * np.sqrt(n / (n - 1)) * np.log(means).std()))
    return float(runs.mean()) / reach, float(runs.mean()) * reach


def inside_variance(
    requests: FloatArray, statistic: Callable[[FloatArray], float], *, draws: int = 100, seed: int = 1
) -> float | None:
    """Variance of `statistic` of one run that its requests, in the order they were sent, explain alone. None below 20 requests."""
    if len(requests) < 20:
        return None
    rng = np.random.default_rng(seed)
    drawn = [statistic(blocks(requests, rng)) for _ in range(draws)]
    return float(np.var(drawn, ddof=1))


def blocks(requests: FloatArray, rng: np.random.Generator) -> FloatArray:
    """As many requests, in circular blocks of n^(1/3) neighbours (Politis and Romano 1992): they share a queue."""
    n = len(requests)
    length = max(1, round(n ** (1 / 3)))
    starts = rng.integers(0, n, -(-n // length))
    index = (starts[:, None] + np.arange(length)).ravel()[:n] % n
    drawn: FloatArray = requests[index]
    return drawn


def nnls(x: FloatArray, y: FloatArray) -> FloatArray:
    """Least squares with no coefficient below 0. x: rows x columns of any size: they are brought to one first, because a solver drops
    a column that is tiny beside another. An empty column has the coefficient 0."""
    from scipy import optimize

    size = np.abs(x).max(axis=0)
    scale = np.where(size > _EMPTY, size, np.inf)
    coefficients: FloatArray = optimize.nnls(x / scale, y)[0] / scale
    return coefficients
