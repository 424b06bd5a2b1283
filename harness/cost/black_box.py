"""What a token costs on a server that tells nothing: a fit over the cost of requests of several fixed shapes.

    $/request = alpha i + beta o + gamma o (i + o/2) + delta i^2/2        i input, o output tokens

gamma is the KV cache that decoding reads, delta the attention of the prompt. A fit linear in i and o misses by -71 to +31 % on
published shapes. The terms have no common shared part: what a step costs empty is inside alpha and beta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.cost.least_squares import Floats, left_out, weighted_fit
from harness.errors import ConfigError

_MIN_SHAPES = 6


@dataclass(frozen=True, slots=True)
class ShapeCost:
    """What one request of a fixed shape costs on the server, measured at its capacity."""

    input_tokens: int
    output_tokens: int
    usd_per_request: float

    @property
    def name(self) -> str:
        return f"{self.input_tokens}x{self.output_tokens}"


@dataclass(frozen=True, slots=True)
class ShapeFit:
    """$/request = alpha i + beta o + gamma o (i + o/2) + delta i^2/2; errors are fitted/measured - 1."""

    alpha: float
    beta: float
    gamma: float
    delta: float
    error: Mapping[str, float]
    left_out_error: Mapping[str, float]
    warnings: tuple[str, ...]

    def usd_per_request(self, input_tokens: float, output_tokens: float) -> float:
        return float(_terms([(input_tokens, output_tokens)])[0] @ [self.alpha, self.beta, self.gamma, self.delta])

    def input_share(self, input_tokens: float, output_tokens: float) -> float:
        """Part of a request's cost that it would have without output; the rest is what output adds, KV reads included."""
        return self.usd_per_request(input_tokens, 0) / self.usd_per_request(input_tokens, output_tokens)


def _terms(shapes: Sequence[tuple[float, float]]) -> Floats:
    return np.array([(i, o, o * (i + o / 2), i * i / 2) for i, o in shapes], dtype=np.float64)


def fit_shapes(shapes: Sequence[ShapeCost]) -> ShapeFit:
    """The black-box fit, of relative errors (a cheap shape counts as much as a dear one). Needs 5 shapes; warns below 6.

    Raises ConfigError for fewer, for equal ones, or for a cost that is not a positive number.
    """
    if len({s.name for s in shapes}) < max(5, len(shapes)):
        raise ConfigError(
            "too few shapes for the black-box fit",
            f"{len({s.name for s in shapes})} different of {len(shapes)}",
            "measure the capacity of 6 to 12 different input x output shapes",
        )
    usd = np.array([s.usd_per_request for s in shapes])
    if not np.isfinite(usd).all() or (usd <= 0).any():
        raise ConfigError("cost of a shape is not an amount", usd.tolist(), "dollars per request, above 0")
    x = _terms([(s.input_tokens, s.output_tokens) for s in shapes])
    coefficients = weighted_fit(x, usd)
    warnings: tuple[str, ...] = ()
    if len(shapes) < _MIN_SHAPES:
        warnings = (f"{len(shapes)} shapes for 4 terms: it shows the direction, it proves nothing",)
    errors = {s.name: float(e) for s, e in zip(shapes, x @ coefficients / usd - 1, strict=True)}
    without = left_out([s.name for s in shapes], x, usd)
    alpha, beta, gamma, delta = (float(c) for c in coefficients)
    return ShapeFit(alpha, beta, gamma, delta, errors, without, warnings)
