"""How sure a cost is: Monte Carlo over what was measured and what was assumed, both in one draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from harness.base.errors import ConfigError
from harness.base.stats import FloatArray


@dataclass(frozen=True, slots=True)
class Interval:
    """Low, middle and high of a quantity at `level`; `inf` is a value like any other (it never happens). `runs`: measured runs."""

    low: float
    middle: float
    high: float
    level: float
    method: str
    runs: int


def quantiles(values: FloatArray, at: Sequence[float]) -> list[float]:
    """Quantiles that are drawn values, so that infinite ones stay and are never averaged. Raises ConfigError for NaN."""
    if np.isnan(values).any():
        raise ConfigError("a draw is not a number", "NaN", "look at the ranges of the assumptions")
    return [float(v) for v in np.quantile(values, at, method="inverted_cdf")]


# ---------------------------------------------------------------- assumptions


@dataclass(frozen=True, slots=True)
class Assumption:
    """A quantity with a range, `mode` being what is planned with. Declared: triangular (low, mode, high), which are its bounds.

    Measured (`estimate` given): low and high are the ends of its interval at `level`, not bounds. It is drawn around the estimate,
    half below and half above it, log-normally to either side (normally where low is not above 0), so that low and high are its
    (1 - level)/2 and (1 + level)/2 quantiles.
    """

    name: str
    low: float
    mode: float
    high: float
    source: str = ""
    estimate: float | None = None
    level: float = 0.9


def checked(assumption: Assumption) -> Assumption:
    """The same. Raises ConfigError unless low <= mode <= high and low <= estimate <= high, all finite."""
    a, values = assumption, (assumption.low, assumption.mode, assumption.high)
    if not all(math.isfinite(v) for v in values) or not a.low <= a.mode <= a.high:
        raise ConfigError("range is not low <= mode <= high", f"{a.name}: {values}", "three finite numbers")
    if a.estimate is not None and not (a.low <= a.estimate <= a.high and 0 < a.level < 1):
        value = f"{a.name}: {a.estimate} in {a.low} to {a.high} at {a.level}"
        raise ConfigError("interval is not around its estimate", value, "low <= estimate <= high, level in (0, 1)")
    return assumption


def draw(assumptions: Sequence[Assumption], count: int, seed: int = 1) -> dict[str, FloatArray]:
    """`count` joint draws of independent assumptions; each has its own stream, so adding one leaves the others as they were."""
    drawn: dict[str, FloatArray] = {}
    for a in map(checked, assumptions):
        rng = np.random.default_rng([seed, *a.name.encode()])
        if a.low == a.high:
            drawn[a.name] = np.full(count, a.mode)
        elif a.estimate is not None:
            drawn[a.name] = _around(a.low, a.estimate, a.high, a.level, rng.standard_normal(count))
        else:
            drawn[a.name] = rng.triangular(a.low, a.mode, a.high, count)
    return drawn


def _around(low: float, middle: float, high: float, level: float, z: FloatArray) -> FloatArray:
    """Standard normal draws brought to the median `middle` and the quantiles `low` and `high`, each half with a spread of its own."""
    end = NormalDist().inv_cdf((1 + level) / 2)
    values: FloatArray
    if low <= 0:
        values = middle + z * np.where(z < 0, middle - low, high - middle) / end
    else:
        values = middle * np.exp(z * np.where(z < 0, math.log(middle / low), math.log(high / middle)) / end)
    return values


# ---------------------------------------------------------------- the question: self-hosted or hosted


@dataclass(frozen=True, slots=True)
class Case:
    """Everything the comparison of hourly costs needs; each field is a number, or an array of draws.

    `shape`: rates over the mean rate, and `shares`: of the time, that a replica at each is paid for (`fleet.paid_shares`); empty:
    equal shares. `tokenizer_ratio`: hosted tokens over own tokens of the same text. `headroom` in (0, 1].
    """

    demand_rps: Any
    capacity_rps: Any
    replica_usd_per_hour: Any
    hosted_usd_per_request: Any
    headroom: Any = 1.0
    tokenizer_ratio: Any = 1.0
    fixed_usd_per_hour: Any = 0.0
    hosted_minimum_usd_per_hour: Any = 0.0
    spares: Any = 0.0
    min_replicas: float = 1.0
    shape: tuple[float, ...] = (1.0,)
    shares: tuple[float, ...] = ()

    @property
    def paid(self) -> tuple[tuple[float, float], ...]:
        """(rate over the mean rate, share of the time)."""
        return tuple(zip(self.shape, self.shares or (1 / len(self.shape),) * len(self.shape), strict=True))


def self_usd_per_hour(case: Case) -> Any:
    """Whole replicas for the demand of each step plus spares, at their price, plus the fixed part: mean per hour."""
    load = np.asarray(case.demand_rps) / (np.asarray(case.capacity_rps) * case.headroom)
    replicas: Any = 0.0
    for rate, share in case.paid:
        least = max(case.min_replicas, float(rate > 0))
        replicas = replicas + share * np.maximum(least, np.ceil(load * rate - 1e-9))
    return (replicas + case.spares) * case.replica_usd_per_hour + case.fixed_usd_per_hour


def hosted_usd_per_hour(case: Case) -> Any:
    """Every request of the hour at its price, for the tokens the hosted tokenizer makes of it; at least the minimum."""
    usage = np.asarray(case.demand_rps) * 3600 * case.hosted_usd_per_request * case.tokenizer_ratio
    return np.maximum(usage, case.hosted_minimum_usd_per_hour)


def permanent_rps(case: Case) -> Any:
    """Mean demand above which self-hosting stays cheaper; inf where it never does: `BreakEven.permanent_rps` over arrays.

    Capacity counts what is paid for a replica's rate of mean demand times less: exact for a fixed fleet, and for whether there is
    such a demand. The stairs of an autoscaled fleet are smoother than those of a constant demand that are taken here, so it is
    cheaper from a lower one on.
    """
    usable = np.asarray(case.capacity_rps) * case.headroom / sum(rate * share for rate, share in case.paid)
    hour = 3600 * np.asarray(case.hosted_usd_per_request) * case.tokenizer_ratio
    price, spares, fixed = case.replica_usd_per_hour, case.spares, case.fixed_usd_per_hour
    gain, overhead = hour * usable - price, price * spares + fixed
    with np.errstate(divide="ignore", invalid="ignore"):
        last = np.ceil((price + overhead) / gain - 1e-12)
        rps = (price * last + overhead) / hour
    rps = np.where(price * last + overhead < case.hosted_minimum_usd_per_hour, 0.0, rps)
    return np.where(gain > 0, rps, np.inf)


def never_cheaper(case: Case) -> Any:
    """True where self-hosting is cheaper at no volume: at none for good, and not even one stair is below the minimum."""
    first = self_usd_per_hour(replace(case, demand_rps=1e-9))
    return np.isinf(permanent_rps(case)) & (first >= case.hosted_minimum_usd_per_hour)


@dataclass(frozen=True, slots=True)
class Bar:
    """One assumption moved over its range, the others at their mode: what self - hosted ($/h) becomes."""

    name: str
    low: float
    high: float
    at_low: float
    at_high: float

    @property
    def swing(self) -> float:
        return abs(self.at_high - self.at_low)


@dataclass(frozen=True, slots=True)
class Outlook:
    """Answers over joint draws. `difference` is self - hosted in $/h: below 0, self-hosting is cheaper.

    `curve`: (mean demand in rps, P(self-hosted is cheaper)). `p_never`: draws where no volume makes it cheaper; they stay in
    `permanent` as inf. `flips`: names whose range alone changes the answer.
    """

    draws: int
    seed: int
    p_self_cheaper: float
    p_never: float
    difference: Interval
    permanent: Interval
    curve: tuple[tuple[float, float], ...]
    base_usd_per_hour: float
    tornado: tuple[Bar, ...]

    @property
    def flips(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.tornado if b.at_low * b.at_high < 0)


def _with(case: Case, values: Mapping[str, Any]) -> Case:
    known = {f for f in Case.__slots__ if f not in {"shape", "shares", "min_replicas"}}
    if wrong := sorted(set(values) - known):
        raise ConfigError("no such assumption", ", ".join(wrong), f"known: {', '.join(sorted(known))}")
    return replace(case, **values)


def _difference(case: Case) -> Any:
    return self_usd_per_hour(case) - hosted_usd_per_hour(case)


def tornado(case: Case, assumptions: Sequence[Assumption]) -> tuple[Bar, ...]:
    """Each assumption at its low and high, the others at their modes; the widest first."""
    modes = _with(case, {a.name: a.mode for a in map(checked, assumptions)})
    bars = [
        Bar(a.name, a.low, a.high, *(float(_difference(_with(modes, {a.name: v}))) for v in (a.low, a.high)))
        for a in assumptions
    ]
    return tuple(sorted(bars, key=lambda b: (-b.swing, b.name)))


def outlook(
    case: Case,
    assumptions: Sequence[Assumption],
    *,
    volumes_rps: Sequence[float] | None = None,
    draws: int = 10_000,
    seed: int = 1,
    level: float = 0.9,
) -> Outlook:
    """Joint Monte Carlo of `assumptions` around `case`. Raises ConfigError for ranges outside what a quantity can be."""
    drawn = draw(assumptions, draws, seed)
    _check_drawn(drawn)
    base = _with(case, {a.name: a.mode for a in assumptions})
    joint = _with(case, drawn)
    difference = np.broadcast_to(_difference(joint), draws)
    permanent = np.broadcast_to(permanent_rps(joint), draws)
    tail = (1 - level) / 2
    demand = float(np.mean(np.asarray(base.demand_rps)))
    grid = volumes_rps or [demand * f for f in np.geomspace(0.05, 20, 21)]
    curve = [(float(v), float(np.mean(_difference(replace(joint, demand_rps=v)) < 0))) for v in grid]
    return Outlook(
        draws=draws,
        seed=seed,
        p_self_cheaper=float(np.mean(difference < 0)),
        p_never=float(np.mean(never_cheaper(joint))),
        difference=_interval(difference, tail, level, draws),
        permanent=_interval(permanent, tail, level, draws),
        curve=tuple(curve),
        base_usd_per_hour=float(_difference(base)),
        tornado=tornado(case, assumptions),
    )


def _interval(values: FloatArray, tail: float, level: float, draws: int) -> Interval:
    low, middle, high = quantiles(values, (tail, 0.5, 1 - tail))
    return Interval(low, middle, high, level, f"Monte Carlo, {draws} joint draws", 0)


def _check_drawn(drawn: Mapping[str, FloatArray]) -> None:
    positive = {"demand_rps", "capacity_rps", "headroom", "tokenizer_ratio"}
    for name, values in drawn.items():
        if values.min() < 0 or (name in positive and values.min() <= 0) or (name == "headroom" and values.max() > 1):
            raise ConfigError("range of an assumption is impossible", f"{name}: {values.min():g} to {values.max():g}", "see its meaning in the README")  # fmt: skip
