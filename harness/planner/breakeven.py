"""Where self-hosting becomes cheaper than a hosted API, with whole replicas: every crossing, not the first one only.

    self(rps)   = c x (ceil(rps / mu) + spares) + F                 dollars per hour, a staircase
    hosted(rps) = max(M, P x rps),  P = 3600 x price of a request   a line through 0, with a floor where M is committed to

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
from math import ceil, floor, inf
from typing import Literal

from harness.base.errors import ConfigError
from harness.base.quantities import (
    HOURS_PER_MONTH,
    Number,
    as_fraction,
    exact,
    exact_above_zero,
    exact_share,
    exact_usd,
    to_decimal,
    to_float,
    whole,
)
from harness.planner.demand import Demand
from harness.planner.fleet import FleetSpec, fixed_usd_per_hour, fleet_cost, paid_shares

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
    """All crossings in order of rps; hosted is the cheaper one below the first. A first one at 0: self-hosting is from there.

    permanent_rps: from here on self-hosting stays the cheaper one; None: never, or (see `scanned_to_rps`) not found.
    break_even_utilisation: c / (P x mu), of a fleet over a curve at volumes that whole replicas do not matter for; None where
    the hosted price is 0.
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
    floor: Fraction  # $ per hour that the hosted side is paid at least

    def overhead(self) -> Fraction:
        return self.c * self.spares + self.fixed


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


def _below_the_floor(i: _Inputs) -> int | None:
    """The last stair that costs less than the commitment; None: all do, as replicas are free."""
    if i.floor <= i.overhead():
        return 0
    return None if not i.c else ceil((i.floor - i.overhead()) / i.c) - 1


def _needed(i: _Inputs) -> float | None:
    return to_float(i.c / (i.per_hour * i.mu), "break-even utilisation") if i.per_hour else None


def _steady(i: _Inputs) -> BreakEven:
    """The crossings over a steady rate, in closed form."""
    steps, paid_for = _permanent_step(i), _below_the_floor(i)
    if paid_for is None or (steps is not None and paid_for >= steps[1]):
        return BreakEven((Crossing(0.0, "self"),), 0.0, _needed(i))
    crossings: list[Crossing] = []
    if paid_for:
        crossings = [Crossing(0.0, "self"), Crossing(to_float(paid_for * i.mu, "crossing"), "hosted")]
    if steps is None:
        return BreakEven(tuple(crossings), None, _needed(i))
    first, last = max(steps[0], paid_for + 1), steps[1]
    total = (
        len(crossings) + 2 * (last - first) + 1
    )  # one upwards on each stair, one back at each edge before the last stair
    for step in range(first, min(last, first + MAX_CROSSINGS // 2) + 1):
        crossings.append(Crossing(to_float(_cross(i, step), "crossing"), "self"))
        if step < last:
            crossings.append(Crossing(to_float(step * i.mu, "crossing"), "hosted"))
    del crossings[MAX_CROSSINGS:]
    return BreakEven(
        tuple(crossings), to_float(_cross(i, last), "permanent crossing"), _needed(i), total - len(crossings)
    )


@dataclass(frozen=True, slots=True)
class EqualPrices:
    """Prices at which both sides cost the same at one demand.

    replica_usd_per_hour (c*): self-hosting is cheaper below it; None: not even with free replicas.
    hosted_usd_per_request (p*): self-hosting is cheaper above it: what a request costs there. 0 where the commitment alone is
    more than the fleet: self-hosting is cheaper at every price.
    """

    replica_usd_per_hour: Decimal | None
    hosted_usd_per_request: Decimal


def equal_prices(
    demand: Demand, spec: FleetSpec, hosted_usd_per_request: Number, *, minimum_usd_per_month: Number = 0
) -> EqualPrices:
    """c* = (hosted - F) / replicas paid on average and p* = self / requests, of the fleet of this demand."""
    fleet = fleet_cost(demand, spec)
    hours, requests = to_decimal(demand.hours), to_decimal(demand.requests)
    minimum = to_decimal(exact_usd(minimum_usd_per_month, "minimum commitment (USD per month)")) / HOURS_PER_MONTH
    usage = requests / hours * to_decimal(exact_usd(hosted_usd_per_request, "hosted price (USD per request)"))
    other = sum(part.usd for part in fleet.parts if part.added and part.name != "replicas") / hours
    replica = (max(minimum, usage) - other) / (fleet.paid_replica_hours / hours)
    below = fleet.usd_per_hour < minimum
    return EqualPrices(replica if replica >= 0 else None, Decimal(0) if below else fleet.usd_per_request)


@dataclass(frozen=True, slots=True)
class _Stairs:
    """The fleet of a demand curve at every mean rate, in floats: one replica more, for its share of the time, at each edge."""

    shares: tuple[tuple[float, float], ...]  # (rate over the mean rate, share of the time)
    mu: float
    least: int
    base: float  # replicas on the first stair, spares in

    def edges(self, up_to_rps: float) -> tuple[list[tuple[float, float]], bool]:
        """(mean rate, replicas more above it) in order, up to a rate; False if there are too many to list."""
        complete = len(self.shares) * (up_to_rps / self.mu + 1) <= MAX_EDGES
        limit = up_to_rps if complete else (MAX_EDGES / len(self.shares) - 1) * self.mu
        points = []
        for relative, part in self.shares:
            count = floor(limit * relative / self.mu)
            points += [(k * self.mu / relative, part) for k in range(max(1, self.least), count + 1)]
        end = max(limit, self.mu / self.shares[-1][0])
        return [*sorted(points), (end, 0.0)], complete


def _usable(spec: FleetSpec) -> Fraction:
    return exact_above_zero(spec.capacity_rps, "capacity of a replica (rps)") * exact_share(spec.headroom, "headroom")


def _stairs(demand: Demand, spec: FleetSpec) -> tuple[_Stairs, Fraction]:
    """The staircase, and the replicas paid for a replica's rate of mean demand where whole ones do not matter."""
    mean, least = demand.mean_rps, whole(spec.min_replicas, "min replicas")
    shares = [(rate / mean, part) for rate, part in paid_shares(demand, spec) if rate > 0]
    first = sum((max(1, least) * part for _, part in shares), Fraction(0))
    first += least * (1 - sum(part for _, part in shares))  # hours without any demand
    mu = _usable(spec)
    steps = tuple((relative, float(part)) for relative, part in shares if part)
    paid = sum((as_fraction(relative) * part for relative, part in shares), Fraction(0))
    return _Stairs(steps, float(mu), least, float(first) + whole(spec.spares, "spares")), paid


def staircase(demand: Demand, spec: FleetSpec, up_to_rps: float) -> list[tuple[float, float]]:
    """Self-hosted dollars per hour over the mean rate, for a plot: (rate, $/h from there to the next point), the last at the end.

    The fleet of `fleet_cost` at every size of the curve. Of more than MAX_EDGES stairs only the first are given.
    """
    stairs, _ = _stairs(demand, spec)
    price = float(exact_usd(spec.replica_usd_per_hour, "price of a replica (USD per hour)"))
    replicas, fixed = stairs.base, float(fixed_usd_per_hour(spec))
    points = [(0.0, price * replicas + fixed)]
    edges, _ = stairs.edges(up_to_rps)
    for edge, more in edges[:-1]:
        replicas += more
        points.append((edge, price * replicas + fixed))
    return [*points, (edges[-1][0], points[-1][1])]


def break_even_over_demand(
    demand: Demand, spec: FleetSpec, hosted_usd_per_request: Number, *, minimum_usd_per_month: Number = 0
) -> BreakEven:
    """Every crossing over the mean rate of a demand curve whose shape stays and whose size is scanned, for its fleet.

    A fixed fleet has at all times what the highest hour needs: mu is used that hour over the mean times less, and the crossings
    are those of a steady rate. An autoscaled one is scanned from each stair of its staircase to the next (not over a grid), in
    floats. Raises ConfigError for an egress price: it is per request, and no stair.
    """
    if exact(spec.egress_usd_per_gb, "egress") and exact(spec.bytes_per_request, "bytes per request"):
        raise ConfigError(
            "break-even has no egress", spec.egress_usd_per_gb, "take it off the hosted price of a request"
        )
    stairs, paid = _stairs(demand, spec)
    i = _Inputs(
        mu=_usable(spec) / paid,
        c=exact_usd(spec.replica_usd_per_hour, "price of a replica (USD per hour)"),
        per_hour=3600 * exact_usd(hosted_usd_per_request, "hosted price (USD per request)"),
        spares=whole(spec.spares, "spares"),
        fixed=Fraction(fixed_usd_per_hour(spec)),
        floor=exact_usd(minimum_usd_per_month, "minimum commitment (USD per month)") / Fraction(HOURS_PER_MONTH),
    )
    if spec.scaling == "fixed" and spec.min_replicas <= 1:
        return _steady(i)
    never = i.per_hour * i.mu <= i.c  # the mean of ceil(x) is never below the mean of x
    if never and i.floor <= i.overhead():
        return BreakEven((), None, _needed(i))
    if never and not i.c:  # nothing to pay for but what the commitment exceeds
        return BreakEven((Crossing(0.0, "self"),), 0.0, _needed(i))
    # Beyond `certain` one side is cheaper for sure: the stairs are above the mean, and by max(1, min_replicas) at most.
    if never:
        certain = (i.floor - i.overhead()) * i.mu / i.c
    else:
        certain = (i.c * max(1, stairs.least) + i.overhead()) / (i.per_hour - i.c / i.mu)
    return _scanned(i, stairs, float(certain) * (1 + 1e-9))


def _scanned(i: _Inputs, stairs: _Stairs, certain: float) -> BreakEven:
    """Crossings from stair to stair up to `certain`; the side that is cheaper there stays."""
    edges, complete = stairs.edges(certain)
    c, per_hour, fixed, least_usd = float(i.c), float(i.per_hour), float(i.fixed), float(i.floor)
    replicas, start, tie = stairs.base, 0.0, _SCAN_TIE
    crossings: list[Crossing] = []
    side: Side = "hosted"
    for edge, more in edges:
        if edge * (1 - tie) > start:
            cost = c * replicas + fixed
            at = 0.0 if cost < least_usd * (1 - tie) else cost / per_hour if per_hour else inf
            begins: Side = "self" if at * (1 - tie) <= start else "hosted"
            if begins != side:
                crossings.append(Crossing(start, begins))
                side = begins
            if begins == "hosted" and at < edge * (1 - tie):
                crossings.append(Crossing(at, "self"))
                side = "self"
            start = edge
        replicas += more
    permanent = crossings[-1].rps if complete and side == "self" else None
    scanned = None if complete else start
    return BreakEven(
        tuple(crossings[:MAX_CROSSINGS]), permanent, _needed(i), max(0, len(crossings) - MAX_CROSSINGS), scanned
    )
