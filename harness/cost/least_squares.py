"""Non-negative least squares for the handful of terms that a cost is fitted with, weighted, and checked by leaving one group out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_NOISE = 0.05  # noise of a value, as a share of it; only its size against the clock's resolution matters


def nnls(x: Floats, y: Floats) -> Floats:
    """Least squares with no coefficient below 0, exactly: the best of the unconstrained fits over every subset of the columns
    that comes out non-negative (Karush-Kuhn-Tucker). For the handful of columns used here. x: rows x columns."""
    columns = x.shape[1]
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
    return best


def weighted_fit(x: Floats, y: Floats, resolution: float = 0.0) -> Floats:
    """`nnls` with each row weighted by its noise: a share of its value, and the clock's resolution; columns brought to one size."""
    weight = 1 / np.hypot(resolution, _NOISE * y)
    weighted = x * weight[:, None]
    scale = np.where(weighted.max(axis=0) > 0, weighted.max(axis=0), 1.0)
    found: Floats = nnls(weighted / scale, y * weight) / scale
    return found


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
