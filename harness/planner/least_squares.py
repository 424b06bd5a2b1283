"""Least squares with no coefficient below 0 of the few terms that a cost is fitted with: weighted, and checked by leaving one group out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.base.stats import nnls

Floats = NDArray[np.float64]
_NOISE = 0.05  # noise of a value, as a share of it; only its size against the clock's resolution matters


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
