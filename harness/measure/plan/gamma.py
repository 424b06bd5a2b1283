"""Quantiles of the gamma distribution of mean 1, for arrivals whose gaps have a CV other than Poisson's."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from harness.measure.plan.streams import F64

_POINTS = 4_000
_LEAST = 1e-12  # of a mean gap: shorter ones are 0 ns


def _cumulative(shape: float, x: float) -> float:
    """Regularised lower incomplete gamma function P(shape, x): its series below shape + 1, else the continued fraction of
    the rest by Lentz (Press et al., Numerical Recipes, 6.2)."""
    front = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        n = shape
        while term > total * 1e-17:
            n += 1
            term *= x / n
            total += term
        return front * total
    b = x + 1 - shape
    c, d = 1e300, 1 / b
    h = d
    for i in range(1, 10_000):
        a = -i * (i - shape)
        b += 2
        d = 1 / (a * d + b)
        c = b + a / c
        h *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return 1 - front * h


@cache
def gamma_quantiles(shape: float) -> tuple[F64, F64]:
    """(levels, values) of a table that `interpolate` inverts: geometric steps from 1e-12 of the mean to a level of
    1 - 1e-12, rounded so that no C library's last bit shows, scaled so that the table's own mean is 1."""
    top = shape + 12 * math.sqrt(shape) + 40
    low = _LEAST * shape
    points = [low * (top / low) ** (i / _POINTS) for i in range(_POINTS + 1)]
    if shape > 2:  # all of the mass lies within a few standard deviations: linear steps there
        low = max(low, shape - 9 * math.sqrt(shape))
        points = [low + (top - low) * i / _POINTS for i in range(_POINTS + 1)]
    levels, values = [0.0], [0.0 if shape <= 2 else points[0]]
    for x in points:
        level = round(_cumulative(shape, x), 12)
        if levels[-1] < level < 1:
            levels.append(level)
            values.append(x)
    levels.append(1.0)
    values.append(top)
    table = np.array(levels), np.array(values)
    mean = float((np.diff(table[0]) * (table[1][1:] + table[1][:-1])).sum()) / 2
    return table[0], np.array([float(f"{v / mean:.9g}") for v in values])
