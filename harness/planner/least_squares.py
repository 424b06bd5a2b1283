"""Non-negative least squares for the handful of terms that a cost is fitted with, weighted, and checked by leaving one group out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_EMPTY = 1e-290  # a column with nothing above it is taken for empty
_NOISE = 0.05  # noise of a value, as a share of it; only its size against the clock's resolution matters


def nnls(x: Floats, y: Floats) -> Floats:
    """Least squares with no coefficient below 0, exactly: the best of the unconstrained fits over every subset of the columns
    that comes out non-negative (Karush-Kuhn-Tucker). For the handful of columns used here. x: rows x columns, of any size: they are
    brought to one size first, because a solver drops a column that is tiny beside another."""
    columns, size_of = x.shape[1], np.abs(x).max(axis=0)
    scale = np.where(size_of > _EMPTY, size_of, np.inf)  # an empty column becomes 0, and so does its coefficient
    x = x / scale
    best, best_error = np.zeros(columns), float(y @ y)
    for size in range(1, columns + 1):
        for chosen in combinations(range(columns), size):
            part, *_ = np.linalg.lstsq(x[:, chosen], y, rcond=None)
            if (part < 0).any():
                continue
            error = float(np.sum((y - x[:, chosen] @ part) ** 2))
            if error < best_error:
                best, best_error = np.zeros(columns), error
                best[list(chosen)] = part
    found: Floats = best / scale
    return found


def weighted_fit(x: Floats, y: Floats, resolution: float = 0.0) -> Floats:
    """`nnls` with each row weighted by its noise: a share of its value, and the clock's resolution."""
    weight = 1 / np.hypot(resolution, _NOISE * y)
    return nnls(x * weight[:, None], y * weight)


def left_out(shapes: Sequence[str], x: Floats, y: Floats, resolution: float = 0.0) -> dict[str, float]:
    """Total of each shape predicted from the others, as predicted/measured - 1."""
    names, label = sorted(set(shapes)), np.array(shapes)
    if len(names) < 2:
        return {}
    errors = {}
    for name in names:
        rest = label != name
        coefficients = weighted_fit(x[rest], y[rest], resolution)
        errors[name] = float(np.sum(x[~rest] @ coefficients) / np.sum(y[~rest]) - 1)
    return errors
