"""Where self-hosting becomes cheaper than a hosted API, with whole replicas: every crossing, not the first one only.

    self(rps)   = c x (ceil(rps / mu) + spares) + F        dollars per hour, a staircase
    hosted(rps) = P x rps,  P = 3600 x price of a request   a line through 0

The line crosses each stair at most once upwards, and the next stair may jump over it again, so between the first crossing and
the permanent one the answer alternates. u* = c / (P x mu) is the use that one replica must have of itself to pay; at u* >= 1 the
hosted API is cheaper at every volume. Arithmetic is exact (fractions of the decimal text of every input).

Ties: "cheaper" is strict. Where both sides cost the same at one single rate and hosted is cheaper on either side of it (a stair
whose far edge just touches the line), nothing changes hands and no crossing is reported. Touching means to within 1e-15 of the
rate: prices are divided and rounded before they get here.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Literal

from harness.cost.demand import Demand
from harness.cost.quantities import Number, above_zero, exact, exact_usd, to_decimal, to_float, whole
from harness.errors import ConfigError

MAX_CROSSINGS = 10_000  # u* just below 1 has a crossing at each of very many stairs: more than anybody reads
MAX_EDGES = 200_000  # of a demand curve's staircase
_TIE = Fraction(1, 10**15)
_SCAN_TIE = 1e-12  # the scan of a curve is in floats

Side = Literal["self", "hosted"]


@dataclass(frozen=True, slots=True)
class Crossing:
    """At `rps` the cheaper side changes; above it `cheaper_above` is the cheaper one."""

    rps: float
    cheaper_above: Side


@dataclass(frozen=True, slots=True)
class BreakEven:
    """All crossings in order of rps; hosted is the cheaper one below the first.

    permanent_rps: from here on self-hosting stays the cheaper one; None: never, or (see `scanned_to_rps`) not found.
    break_even_utilisation: c / (P x mu); None where the hosted price is 0.
    crossings_omitted: how many further crossings there are beyond those listed (at most MAX_CROSSINGS are).
    scanned_to_rps: None when all volumes are covered; else nothing is said about volumes above it.
    """

    crossings: tuple[Crossing, ...]
    permanent_rps: float | None
    break_even_utilisation: float | None
    crossings_omitted: int = 0
    scanned_to_rps: float | None = None


@dataclass(frozen=True, slots=True)
class _Inputs:
    mu: Fraction  # rps of one replica
    c: Fraction  # $ per replica-hour
    per_hour: Fraction  # P: $ per hour for 1 rps at the hosted price
    spares: int
    fixed: Fraction  # $ per hour

    def overhead(self) -> Fraction:
        return self.c * self.spares + self.fixed


def _inputs(
    capacity_rps: Number, replica_usd_per_hour: Number, hosted_usd_per_request: Number, spares: int, fixed: Number
) -> _Inputs:
    above_zero(capacity_rps, "capacity of a replica (rps)")
    return _Inputs(
        exact(capacity_rps, "capacity of a replica (rps)"),
        exact_usd(replica_usd_per_hour, "price of a replica (USD per hour)"),
        3600 * exact_usd(hosted_usd_per_request, "hosted price (USD per request)"),
        whole(spares, "spares"),
        exact_usd(fixed, "fixed cost (USD per hour)"),
    )


def _permanent_step(i: _Inputs) -> tuple[int, int] | None:
    """(first stair with self cheaper somewhere on it, stair from which self stays cheaper); None if u* >= 1."""
    line = i.per_hour * i.mu  # hosted dollars per hour at one replica's rate
    if line * (1 - _TIE) <= i.c:
        return None
    first = floor(i.overhead() / (line * (1 - _TIE) - i.c)) + 1
    last = max(first, ceil((i.c + i.overhead()) / (line * (1 + _TIE) - i.c)))
    return first, last


def _cross(i: _Inputs, step: int) -> Fraction:
    return (i.c * step + i.overhead()) / i.per_hour


def permanent_rps(
    capacity_rps: Number,
    replica_usd_per_hour: Number,
    hosted_usd_per_request: Number,
    *,
    spares: int = 0,
    fixed_usd_per_hour: Number = 0,
) -> float | None:
    """The rate above which self-hosting stays cheaper, in closed form without listing crossings; None if there is none.

    lambda_p = (c (n* - 1 + spares) + F) / P with n* = ceil((P mu + c spares + F) / (P mu - c)).
    """
    i = _inputs(capacity_rps, replica_usd_per_hour, hosted_usd_per_request, spares, fixed_usd_per_hour)
    steps = _permanent_step(i)
    return None if steps is None else to_float(_cross(i, steps[1]), "permanent crossing")


def break_even(
    capacity_rps: Number,
    replica_usd_per_hour: Number,
    hosted_usd_per_request: Number,
    *,
    spares: int = 0,
    fixed_usd_per_hour: Number = 0,
) -> BreakEven:
    """Every crossing over a steady rate in requests/s.

    capacity_rps: usable rate of one replica (capacity at the SLO x headroom). Money in USD. Raises ConfigError for numbers
    that are not finite or out of range.
    """
    i = _inputs(capacity_rps, replica_usd_per_hour, hosted_usd_per_request, spares, fixed_usd_per_hour)
    needed = to_float(i.c / (i.per_hour * i.mu), "break-even utilisation") if i.per_hour else None
    steps = _permanent_step(i)
    if steps is None:
        return BreakEven((), None, needed)
    first, last = steps
    total = 2 * (last - first) + 1  # one upwards on each stair, one back at each edge before the last stair
    found: list[Crossing] = []
    for step in range(first, min(last, first + MAX_CROSSINGS // 2) + 1):
        found.append(Crossing(to_float(_cross(i, step), "crossing"), "self"))
        if step < last:
            found.append(Crossing(to_float(step * i.mu, "crossing"), "hosted"))
    del found[MAX_CROSSINGS:]
    return BreakEven(tuple(found), to_float(_cross(i, last), "permanent crossing"), needed, total - len(found))


def break_even_replica_price(
    rps: Number,
    capacity_rps: Number,
    hosted_usd_per_request: Number,
    *,
    spares: int = 0,
    fixed_usd_per_hour: Number = 0,
) -> Decimal | None:
    """c*: the USD per replica-hour below which self-hosting is cheaper at this rate; None if even a free replica is not.

    c* = (P x rps - F) / (ceil(rps / mu) + spares), which is P mu eta - F / n.
    """
    above_zero(rps, "rate (rps)")
    i = _inputs(capacity_rps, 0, hosted_usd_per_request, spares, fixed_usd_per_hour)
    rate = exact(rps, "rate (rps)")
    price = (i.per_hour * rate - i.fixed) / (ceil(rate / i.mu) + i.spares)
    return to_decimal(price) if price >= 0 else None


def break_even_hosted_price(
    rps: Number,
    capacity_rps: Number,
    replica_usd_per_hour: Number,
    *,
    spares: int = 0,
    fixed_usd_per_hour: Number = 0,
) -> Decimal:
    """p*: the USD per request above which self-hosting is cheaper at this rate: what a request costs there."""
    above_zero(rps, "rate (rps)")
    i = _inputs(capacity_rps, replica_usd_per_hour, 0, spares, fixed_usd_per_hour)
    rate = exact(rps, "rate (rps)")
    return to_decimal((i.c * ceil(rate / i.mu) + i.overhead()) / (3600 * rate))


def _edges(demand: Demand, mu: float, least: int, up_to: float) -> tuple[list[float], bool]:
    """Mean rates at which some hour of the curve needs one replica more, in order; False if there are too many to list."""
    peak = demand.peak_to_mean
    complete = len(demand.rps) * (up_to / mu + 1) <= MAX_EDGES
    limit = up_to if complete else (MAX_EDGES / len(demand.rps) - 1) * mu
    edges: list[float] = []
    for rate in demand.rps:
        relative = rate / demand.mean_rps
        if relative <= 0:
            continue
        count = floor(limit * relative / mu)
        edges += [k * mu / relative for k in range(max(1, least), count + 1)]
    return [*sorted(edges), max(limit, mu / peak)], complete


def _fixed_fleet_capacity(demand: Demand, i: _Inputs, min_replicas: int) -> Fraction:
    """Mean rate that one replica of a fleet sized for the peak carries."""
    if whole(min_replicas, "min replicas") > 1:
        raise ConfigError(
            "a fixed fleet has no minimum", min_replicas, "leave --min-replicas out, or count them as spares"
        )
    return i.mu / exact(demand.peak_to_mean, "peak to mean")


def staircase(
    demand: Demand,
    capacity_rps: Number,
    replica_usd_per_hour: Number,
    up_to_rps: float,
    *,
    spares: int = 0,
    fixed_usd_per_hour: Number = 0,
    min_replicas: int = 1,
    autoscaled: bool = True,
) -> list[tuple[float, float]]:
    """Self-hosted dollars per hour over the mean rate, for a plot: (rate, $/h from there to the next point), the last at the end.

    The same fleet as in `break_even_over_demand`. Of more than MAX_EDGES stairs only the first are given.
    """
    i = _inputs(capacity_rps, replica_usd_per_hour, 0, spares, fixed_usd_per_hour)
    c, overhead, steps = float(i.c), float(i.overhead()), len(demand.rps)
    if autoscaled:
        edges, _ = _edges(demand, float(i.mu), whole(min_replicas, "min replicas"), up_to_rps)
        first, each = steps * min_replicas or sum(rate > 0 for rate in demand.rps), c / steps
    else:
        mu = float(_fixed_fleet_capacity(demand, i, min_replicas))
        first, each = 1, c
        edges = [*(k * mu for k in range(1, min(floor(up_to_rps / mu), MAX_EDGES) + 1)), up_to_rps]
    points = [(0.0, each * first + overhead)]
    points += [(edge, each * (first + n) + overhead) for n, edge in enumerate(edges[:-1], 1)]
    return [*points, (edges[-1], points[-1][1])]


def break_even_over_demand(
    demand: Demand,
    capacity_rps: Number,
    replica_usd_per_hour: Number,
    hosted_usd_per_request: Number,
    *,
    spares: int = 0,
    fixed_usd_per_hour: Number = 0,
    min_replicas: int = 1,
    autoscaled: bool = True,
) -> BreakEven:
    """Every crossing over the mean rate of a demand curve whose shape stays and whose size is scanned.

    Autoscaled: each step has max(min_replicas, ceil(rate / mu)) + spares replicas, at once and perfectly. Otherwise the fleet
    has at all times what the peak needs, and the mean rate is compared: mu is used peak-to-mean times less.
    The scan goes from each stair of the summed staircase to the next (not over a grid), in floats.
    """
    i = _inputs(capacity_rps, replica_usd_per_hour, hosted_usd_per_request, spares, fixed_usd_per_hour)
    if not autoscaled:
        mu = _fixed_fleet_capacity(demand, i, min_replicas)
        return break_even(mu, i.c, i.per_hour / 3600, spares=spares, fixed_usd_per_hour=i.fixed)
    whole(min_replicas, "min replicas")
    needed = to_float(i.c / (i.per_hour * i.mu), "break-even utilisation") if i.per_hour else None
    if i.per_hour * i.mu <= i.c:  # the mean of ceil(x) is never below the mean of x
        return BreakEven((), None, needed)
    # Above `certain` self is cheaper for sure: no step has more than rate / mu + max(1, min_replicas) replicas.
    certain = float((i.c * max(1, min_replicas) + i.overhead()) / (i.per_hour - i.c / i.mu)) * (1 + 1e-9)
    edges, complete = _edges(demand, float(i.mu), min_replicas, certain)
    c, per_hour, overhead = float(i.c), float(i.per_hour), float(i.overhead())
    steps = len(demand.rps)
    busy = sum(1 for rate in demand.rps if rate > 0)
    replicas = steps * min_replicas if min_replicas else busy  # summed over the steps, on the first stair
    found: list[Crossing] = []
    side: Side = "hosted"
    start, tie = 0.0, _SCAN_TIE
    for edge in edges:
        if edge * (1 - tie) > start:
            at = (c * replicas / steps + overhead) / per_hour
            begins: Side = "self" if at * (1 - tie) <= start else "hosted"
            if begins != side:
                found.append(Crossing(start, begins))
                side = begins
            if begins == "hosted" and at < edge * (1 - tie):
                found.append(Crossing(at, "self"))
                side = "self"
            start = edge
        replicas += 1
    permanent = found[-1].rps if complete and side == "self" else None
    scanned = None if complete else start
    return BreakEven(tuple(found[:MAX_CROSSINGS]), permanent, needed, max(0, len(found) - MAX_CROSSINGS), scanned)
