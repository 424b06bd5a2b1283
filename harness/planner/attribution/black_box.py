"""What a token costs on a server that tells nothing: a fit over the cost of requests of several fixed shapes.

    $/request = alpha i + beta o + gamma o (i + o/2) + delta i^2/2        i input, o output tokens

gamma is the KV cache that decoding reads, delta the attention of the prompt. A fit linear in i and o misses by -71 to +31 % on
published shapes. The terms have no common shared part: what a step costs empty is inside alpha and beta.

A request's cost is a paid hour over the requests that the server can serve in one under its promise: its capacity for that shape.
At any other load it says how busy the server was, not what a token needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean

import numpy as np

from harness.base.errors import ConfigError, InvalidRunError
from harness.base.stats import FloatArray
from harness.planner.attribution.split import left_out, weighted_fit
from harness.planner.measured import Measured, measured_capacity
from harness.records import RunSummary, SearchedCapacity

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


@dataclass(frozen=True, slots=True)
class AtCapacity:
    """Shapes with what a request of each costs at its capacity, and the workloads that are left out, each with its reason."""

    shapes: tuple[ShapeCost, ...]
    left_out: Mapping[str, str]


def at_capacity(
    summaries: Sequence[RunSummary], usd_per_hour: Decimal, searches: Sequence[SearchedCapacity] = ()
) -> AtCapacity:
    """The capacity of every workload of the runs and searches, by the rule that sizes fleets, as dollars per request.

    A workload whose capacity is not known (closed loops, no promise, nothing that broke it, one server in one place and another
    in the next) is left out. Its shape is the mean of its requests; workloads of one shape count by their mean.
    """
    cells = {(s.cell.target, s.cell.workload) for s in summaries} | {(s.target, s.workload) for s in searches}
    usd: dict[tuple[int, int], list[float]] = {}
    reasons: dict[str, str] = {}
    several = len({target for target, _ in cells}) > 1
    for target, workload in sorted(cells):
        name = f"{target} {workload}" if several else workload
        if several:
            reasons[name] = "the runs are of several servers: give the directory of one"
            continue
        capacity = _capacity(summaries, workload, searches)
        if isinstance(capacity, str):
            reasons[name] = capacity
            continue
        shape = (round(fmean(u[0] for u in capacity.usage)), round(fmean(u[2] for u in capacity.usage)))
        usd.setdefault(shape, []).append(float(usd_per_hour) / 3600 / capacity.rps)
    return AtCapacity(tuple(ShapeCost(i, o, fmean(each)) for (i, o), each in sorted(usd.items())), reasons)


def _capacity(summaries: Sequence[RunSummary], workload: str, searches: Sequence[SearchedCapacity]) -> Measured | str:
    """A workload's capacity, or why it is not known."""
    try:
        capacity = measured_capacity(summaries, workload, searches=searches)
    except (ConfigError, InvalidRunError) as error:
        return f"{error.what}: {error.value}"
    if capacity.is_upper_bound:
        return "no SLO was declared, so there is no capacity under one"
    if capacity.at_least:
        return f"nothing that was offered broke the promise: the capacity is at least {capacity.rps:.4g}/s, not known"
    return capacity


def _terms(shapes: Sequence[tuple[float, float]]) -> FloatArray:
    return np.array([(i, o, o * (i + o / 2), i * i / 2) for i, o in shapes])


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
