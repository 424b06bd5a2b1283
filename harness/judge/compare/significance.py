"""The test of one comparison, and Holm's correction over all of them.

A comparison is tested by Student's t over repetitions, on logarithms (the change is a ratio). Repetition k of both sides replays the
same plan, so what the plan's draw adds to both cancels in pairs; pairing costs half the degrees of freedom, though, and these are
what a strict corrected level needs. So a metric is paired only where its sides move together enough to pay for that: see
`is_paired`. Otherwise Welch's test, which does not assume equal spreads.

Sharing the spread between cells (a moderated t, Smyth 2004) was simulated and left out: with 3 to 5 repetitions and cells of
different spread its false-alarm rate over a campaign was 7 % to 43 % where 5 % was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.base.stats import FloatArray, t_above, t_beyond


@dataclass(frozen=True, slots=True)
class Contrast:
    """`effect` new - base on the tested scale, its standard error, degrees of freedom, two-sided `p`."""

    effect: float
    error: float
    df: float
    p: float
    paired: bool

    def between(self, level: float) -> tuple[float, float]:
        """The interval at `level`."""
        half = t_above((1 - level) / 2, self.df) * self.error
        return self.effect - half, self.effect + half


def paired_t(base: FloatArray, new: FloatArray, floor: float = 0.0) -> Contrast | None:
    """Student's t on the differences; `floor`: the smallest variance of the effect that is believed. None below 2 pairs, or
    where there is a difference but no spread at all."""
    n = len(base)
    if n < 2:
        return None
    off = new - base
    return _test(float(off.mean()), float(off.var(ddof=1)) / n, n - 1.0, floor, paired=True)


def welch_t(base: FloatArray, new: FloatArray, floor: float = 0.0) -> Contrast | None:
    """Welch's t with Satterthwaite's degrees of freedom; as `paired_t`. None below 2 values on either side."""
    if min(len(base), len(new)) < 2:
        return None
    a, b = (float(side.var(ddof=1)) / len(side) for side in (base, new))
    bottom = a**2 / (len(base) - 1) + b**2 / (len(new) - 1)
    df = (a + b) ** 2 / bottom if bottom > 0 else float(len(base) + len(new) - 2)
    return _test(float(new.mean() - base.mean()), a + b, df, floor, paired=False)


def blocked_t(
    base: FloatArray, new: FloatArray, blocks: tuple[Sequence[str], Sequence[str]], floor: float = 0.0
) -> Contrast | None:
    """Student's t on the side in a linear model of side + block (ordinary least squares), `blocks`: of base's and of new's values; as
    `paired_t`.

    Within each block the sides' means are held against each other, weighted by n m / (n + m); a block of one side alone tells of the spread
    and nothing of the effect. None where no block has both sides, or no degree of freedom is left.
    """
    where = np.array([*blocks[0], *blocks[1]])
    values, side = np.concatenate([base, new]), np.repeat([0.0, 1.0], [len(base), len(new)])
    for block in set(where):
        here = where == block
        values[here] -= values[here].mean()
        side[here] -= side[here].mean()
    information = float(side @ side)
    df = float(len(values) - len(set(where)) - 1)
    if information <= 0 or df < 1:
        return None
    effect = float(side @ values) / information
    left = values - effect * side
    return _test(effect, float(left @ left) / df / information, df, floor, paired=False)


def _test(effect: float, variance: float, df: float, floor: float, *, paired: bool) -> Contrast | None:
    variance = max(variance, floor)
    tiny = (1e-12 * max(1.0, abs(effect))) ** 2  # rounding, not spread
    if variance <= tiny:
        return Contrast(effect, 0.0, df, 1.0, paired) if abs(effect) <= 1e-12 else None
    error = math.sqrt(variance)
    return Contrast(effect, error, df, t_beyond(effect / error, df), paired)


def is_paired(pairs: Sequence[tuple[FloatArray, FloatArray]], tests: int, alpha: float) -> bool:
    """Whether a metric's cells are tested in pairs: one choice for all of them, so that no cell picks what suits it.

    `pairs`: base and new of each cell, repetition by repetition. Paired where the median correlation, less 1 / sqrt(values) for
    its own uncertainty, is above the one at which both tests are equally sharp at alpha / tests:
    1 - (t(2n - 2) / t(n - 1))^2, from 2 s^2 (1 - r) / n against 2 s^2 / n. The covariance of normal values tells nothing of their
    means, so this choice hardly touches the false-alarm rate (bench_compare measures it).
    """
    known = [(a, b) for a, b in pairs if len(a) >= 3 and a.std() > 0 and b.std() > 0]
    if not known:
        return False
    n = int(np.median([len(a) for a, _ in known]))
    together = float(np.median([np.corrcoef(a, b)[0, 1] for a, b in known]))
    return worth_pairing(together, n, len(known), alpha / max(1, tests))


def worth_pairing(together: float, n: int, cells: int, alpha: float) -> bool:
    """Whether `n` pairs in each of `cells`, of this median correlation, are tested more sharply in pairs at `alpha`."""
    enough = 1 - (t_above(alpha / 2, 2 * n - 2) / t_above(alpha / 2, n - 1)) ** 2
    return together - 1 / math.sqrt(n * cells) > enough


def holm(p: Sequence[float]) -> list[float]:
    """Corrected p-values (Holm 1979): the k-th smallest of m times m - k + 1, never falling, at most 1. Below alpha in all
    comparisons together with probability at most alpha if nothing changed, however they depend on each other."""
    order = sorted(range(len(p)), key=p.__getitem__)
    corrected = [1.0] * len(p)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, p[index] * (len(p) - rank)))
        corrected[index] = running
    return corrected


def holm_levels(p: Sequence[float], alpha: float) -> list[float]:
    """The level of each comparison's corrected interval: it excludes no change exactly where Holm's correction rejects.

    A rejected one has 1 - alpha / (m - k + 1) at its rank k; all others have the level at which the first of them was not.
    """
    m = len(p)
    order = sorted(range(m), key=p.__getitem__)
    corrected = holm(p)
    rejected = sum(c <= alpha for c in corrected)
    levels = [1 - alpha / max(1, m - rejected)] * m
    for rank, index in enumerate(order[:rejected]):
        levels[index] = 1 - alpha / (m - rank)
    return levels
