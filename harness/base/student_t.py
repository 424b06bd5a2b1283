"""Quantiles of Student's t in plain Python: scipy's have 28 MiB of memory, which a process that goes on for months need not hold.

    P(T > t) = I_x(df / 2, 1 / 2) / 2,  x = df / (df + t^2)

I is the regularised incomplete beta function, a continued fraction (DLMF 8.17.22, by Lentz' method; 8.17.4 where it converges slowly).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_TINY, _EXACT, _MOST = 1e-300, 1e-15, 500


@lru_cache(maxsize=1024)
def t_above(tail: float, df: float) -> float:
    """The value that Student's t with `df` degrees of freedom exceeds with probability `tail`; to 12 digits for df up to 1,000."""
    if tail >= 0.5:
        return -t_above(1 - tail, df) if tail > 0.5 else 0.0
    if tail <= 0:
        return math.inf
    t = max(-NormalDist().inv_cdf(tail), 1e-3)
    if math.isinf(df):
        return t
    for _ in range(100):  # Newton's steps of log P over log t, which is nearly straight
        share = _tail(t, df)
        step = math.log(share / tail) * share / (_density(t, df) * t)
        t *= math.exp(step)
        if abs(step) < _EXACT:
            break
    return t


def _tail(t: float, df: float) -> float:
    x, a, b = df / (df + t * t), df / 2, 0.5
    if x < (a + 1) / (a + b + 2):
        return _incomplete_beta(x, a, b) / 2
    return (1 - _incomplete_beta(t * t / (df + t * t), b, a)) / 2


def _density(t: float, df: float) -> float:
    scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    return math.exp(scale - (df + 1) / 2 * math.log1p(t * t / df))


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b)."""
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    above, below, found = 1.0, 0.0, 1.0
    for i in range(_MOST):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        below = 1 / ((1 + term * below) or _TINY)
        above = (1 + term / above) or _TINY
        found *= above * below
        if abs(above * below - 1) < _EXACT:
            break
    return front * (found - 1)
