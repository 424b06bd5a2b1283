"""Own the base, burst the peak: how many replicas to pay for at all times, and where the rest of the demand goes.

    E[cost](k) = c k + 3600 v E[min(D, k mu)] + max(M, 3600 p E[(D - k mu)+])    dollars per hour; M: committed to hosted
    add the next replica while it saves more than c: 3600 (p - v) E[min(mu, (D - k mu)+)] > c where M is not reached,
    the newsvendor rule, in whole replicas

D are the hours of the days behind an averaged curve (`demand.days_of`): what k replicas leave over is convex in the rate.
The next replica must itself be used a share u* = c / (3600 (p - v) mu) of the time. Reserved, on-demand and spot replicas and the
hosted API are then layers of the same stack: what a replica at height j of the stack carries falls with j, so the commitment
stands at the bottom. Planning uses average cost; routing uses marginal cost: a replica that is paid is filled first, never by the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from harness.base.errors import ConfigError
from harness.base.quantities import (
    HOURS_PER_MONTH,
    Number,
    as_fraction,
    exact_above_zero,
    exact_at_least_zero,
    exact_share,
    exact_usd,
    to_decimal,
    usd,
    whole,
)
from harness.planner.demand import DAY_S, HOUR_S, Demand, days_of

MAX_REPLICAS = 100_000


@dataclass(frozen=True, slots=True)
class HybridPlan:
    """`replicas` at all times, what is above them hosted. hosted_share: of requests. needed_utilisation: u*, None if never."""

    replicas: int
    usd_per_hour: Decimal
    usd_per_request: Decimal
    hosted_share: float
    hosted_peak_rps: float
    needed_utilisation: float | None
    fractile_rps: float | None


def _rates(demand: Demand) -> list[Fraction]:
    return [as_fraction(rate) for rate in days_of(demand).rps]


def _capacity(capacity_rps: Number) -> Fraction:
    return exact_above_zero(capacity_rps, "capacity of a replica (rps)")


def _mean(values: Sequence[Fraction]) -> Fraction:
    return sum(values) / Fraction(len(values))


def _above(rates: Sequence[Fraction], level: Fraction) -> Fraction:
    """E[(D - level)+]"""
    return _mean([max(rate - level, Fraction(0)) for rate in rates])


@dataclass(frozen=True, slots=True)
class _Terms:
    """Dollars of k replicas and what they leave over, exact."""

    rates: list[Fraction]
    mu: Fraction
    c: Fraction
    p: Fraction
    v: Fraction
    floor: Fraction  # $ per hour that the hosted side is paid at least

    def usd_per_hour(self, replicas: int, over: Fraction) -> Fraction:
        own = self.c * replicas + 3600 * self.v * (_mean(self.rates) - over)
        return own + max(self.floor, 3600 * self.p * over)


def _terms(demand: Demand, capacity_rps: Number, price: Number, hosted: Number, own: Number, minimum: Number) -> _Terms:
    return _Terms(
        _rates(demand),
        _capacity(capacity_rps),
        exact_usd(price, "price of a replica (USD per hour)"),
        exact_usd(hosted, "hosted price (USD per request)"),
        exact_usd(own, "own marginal cost (USD per request)"),
        exact_usd(minimum, "minimum commitment (USD per month)") / Fraction(HOURS_PER_MONTH),
    )


def hybrid_usd_per_hour(
    demand: Demand,
    replicas: int,
    capacity_rps: Number,
    replica_usd_per_hour: Number,
    hosted_usd_per_request: Number,
    *,
    own_usd_per_request: Number = 0,
    minimum_usd_per_month: Number = 0,
) -> Decimal:
    """E[cost](k) of `replicas` always on with the overflow hosted, in USD per hour; the hosted contract bills its minimum."""
    t = _terms(demand, capacity_rps, replica_usd_per_hour, hosted_usd_per_request, own_usd_per_request, minimum_usd_per_month)  # fmt: skip
    return to_decimal(t.usd_per_hour(replicas, _above(t.rates, whole(replicas, "replicas") * t.mu)))


def plan_hybrid(
    demand: Demand,
    capacity_rps: Number,
    replica_usd_per_hour: Number,
    hosted_usd_per_request: Number,
    *,
    own_usd_per_request: Number = 0,
    minimum_usd_per_month: Number = 0,
) -> HybridPlan:
    """The cheapest number of replicas that are always on; the fewer of two that cost the same.

    capacity_rps: usable rate of a replica (SLO capacity x headroom). own_usd_per_request: marginal, 0 for rented machines.
    minimum_usd_per_month: what the hosted contract bills at least. Hosted is the spare here, so there are none to pay. What a
    replica more saves falls with each one, with a minimum too: the first that does not pay is the end. Raises ConfigError.
    """
    t = _terms(demand, capacity_rps, replica_usd_per_hour, hosted_usd_per_request, own_usd_per_request, minimum_usd_per_month)  # fmt: skip
    most = -(-max(t.rates) // t.mu)
    if most > MAX_REPLICAS:
        raise ConfigError("too many replicas to plan one by one", most, "check the units: both rates are in requests/s")
    mean = _mean(t.rates)
    k, over = 0, mean
    cost = t.usd_per_hour(0, over)
    while k < most:
        next_over = _above(t.rates, (k + 1) * t.mu)
        next_cost = t.usd_per_hour(k + 1, next_over)
        if next_cost >= cost:
            break
        k, over, cost = k + 1, next_over, next_cost
    needed = float(t.c / (3600 * (t.p - t.v) * t.mu)) if t.p > t.v else None
    fractile = None
    if needed is not None and needed <= 1:
        ordered = sorted(t.rates)
        fractile = float(ordered[min(len(ordered) - 1, int((1 - needed) * len(ordered)))])
    return HybridPlan(
        k,
        to_decimal(cost),
        to_decimal(cost / (3600 * mean)),
        float(over / mean),
        float(max(as_fraction(demand.highest_rps) - k * t.mu, Fraction(0))),
        needed,
        fractile,
    )


def spot_usd_per_hour(
    spot: Number,
    on_demand: Number,
    *,
    interruptions_per_hour: Number,
    lost_hours: Number,
    unavailable: Number = 0,
) -> Decimal:
    """USD per useful hour of a spot replica: c_spot / (1 - f), f = interruptions per hour x hours lost at each.

    lost_hours: cold start plus work done again. unavailable: share of hours with no spot to be had, bought on demand instead.
    Raises ConfigError where interruptions leave no useful time.
    """
    useful, elsewhere = (
        exact_usd(spot, "spot price (USD per hour)"),
        exact_usd(on_demand, "on-demand price (USD per hour)"),
    )
    gone = exact_share(unavailable, "share of hours without spot", zero=True)
    lost = exact_at_least_zero(interruptions_per_hour, "interruptions per hour")
    lost *= exact_at_least_zero(lost_hours, "hours lost at an interruption")
    if lost >= 1:
        raise ConfigError(
            "spot is interrupted faster than it starts", float(lost), "hours lost per hour must be below 1"
        )
    return to_decimal((1 - gone) * useful / (1 - lost) + gone * elsewhere)


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind of supply in the stack. `replicas`: how many heights of the stack use it; usd_per_hour: mean over the curve."""

    kind: str  # reserved | on-demand | spot | hosted
    replicas: int
    usd_per_hour: Decimal
    request_share: float


@dataclass(frozen=True, slots=True)
class LayeredPlan:
    """Bottom first. reserved_replicas are paid at all hours; above them each hour takes the cheapest elastic supply."""

    reserved_replicas: int
    layers: tuple[Layer, ...]
    usd_per_hour: Decimal
    usd_per_request: Decimal


_Supply = dict[str, Fraction]


def _height(loads: Sequence[Fraction], elastic: _Supply, p: Fraction) -> list[tuple[str, Fraction]]:
    """(cheapest elastic supply, its USD) of one height of the stack in each hour; nothing in an hour without load."""
    chosen = []
    for load in loads:
        offers = {**elastic, "hosted": 3600 * p * load}
        kind = min(offers, key=lambda name: offers[name])
        chosen.append((kind, offers[kind]) if load else ("hosted", Fraction(0)))
    return chosen


def plan_layers(
    demand: Demand,
    capacity_rps: Number,
    hosted_usd_per_request: Number,
    *,
    reserved_usd_per_hour: Number | None = None,
    on_demand_usd_per_hour: Number | None = None,
    spot_usd_per_useful_hour: Number | None = None,
    never_spot: int = 0,
) -> LayeredPlan:
    """The cheapest stack. A price of None: that supply is not to be had. never_spot: heights at the bottom without spot.

    Exact, because cost adds up over the heights of the stack and over hours: height j carries min(mu, (D - (j-1) mu)+), a
    reserved replica there costs the same at every hour, an elastic one its price only where that is below the hosted bill of
    the same load. Elastic replicas come and go with the steps of the curve, at once (price cold starts with `fleet_cost`).
    """
    mu, rates = _capacity(capacity_rps), _rates(demand)
    p = exact_usd(hosted_usd_per_request, "hosted price (USD per request)")
    given = {"on-demand": on_demand_usd_per_hour, "spot": spot_usd_per_useful_hour}
    elastic = {
        kind: exact_usd(price, f"{kind} price (USD per hour)") for kind, price in given.items() if price is not None
    }
    reserved = (
        None if reserved_usd_per_hour is None else exact_usd(reserved_usd_per_hour, "reserved price (USD per hour)")
    )
    whole(never_spot, "replicas that are never spot")
    cost: dict[str, Fraction] = {}
    served: dict[str, Fraction] = {}
    heights: dict[str, int] = {}
    most = int(-(-max(rates) // mu))
    if most > MAX_REPLICAS:
        raise ConfigError("too many replicas to plan one by one", most, "check the units: both rates are in requests/s")
    for j in range(most):
        loads = [min(mu, max(rate - j * mu, Fraction(0))) for rate in rates]
        offers = {kind: price for kind, price in elastic.items() if kind != "spot" or j >= never_spot}
        hours = _height(loads, offers, p)
        if reserved is not None and reserved < _mean([price for _, price in hours]):
            hours = [("reserved", reserved)] * len(rates)
        for (kind, price), load in zip(hours, loads, strict=True):
            cost[kind] = cost.get(kind, Fraction(0)) + price / len(rates)
            served[kind] = served.get(kind, Fraction(0)) + load / len(rates)
        for kind in {kind for (kind, _), load in zip(hours, loads, strict=True) if load or kind == "reserved"}:
            heights[kind] = heights.get(kind, 0) + 1
    mean, total = _mean(rates), sum(cost.values())
    layers = tuple(
        Layer(kind, heights[kind], to_decimal(cost[kind]), float(served[kind] / mean))
        for kind in ("reserved", "on-demand", "spot", "hosted")
        if kind in heights
    )
    return LayeredPlan(heights.get("reserved", 0), layers, to_decimal(total), to_decimal(total / (3600 * mean)))


@dataclass(frozen=True, slots=True)
class ClockPolicy:
    """Sending certain hours of the day to the hosted API while the replicas are paid round the clock. USD per month.

    idle_usd: what the replicas cost in those hours, for nothing. hosted_usd: the bill of those hours' requests, on top.
    saved_without_usd: what not doing it would save (the whole hosted bill: the replicas had room for it).
    """

    replicas_usd: Decimal
    idle_usd: Decimal
    hosted_usd: Decimal
    total_usd: Decimal
    saved_without_usd: Decimal


def _seconds_inside(demand: Demand, hours: Sequence[int]) -> list[Fraction]:
    """Of each step: seconds that lie in these hours of the day. The curve begins at midnight and holds whole days."""
    step, day = as_fraction(demand.step_s), int(DAY_S)
    cycle = step * len(demand.rps)
    if cycle % day:
        raise ConfigError(
            "hours of the day need whole days", f"{demand.hours:g} h", "give a curve of 24 h, or of weeks"
        )
    spans = [at + hour * int(HOUR_S) for at in range(0, int(cycle), day) for hour in hours]
    seconds = []
    for n in range(len(demand.rps)):
        begin, end = n * step, (n + 1) * step
        overlaps = (min(end, Fraction(span + 3600)) - max(begin, Fraction(span)) for span in spans)
        seconds.append(sum((overlap for overlap in overlaps if overlap > 0), Fraction(0)))
    return seconds


def clock_policy(
    demand: Demand | None,
    replicas: int,
    replica_usd_per_hour: Number,
    hosted_usd_per_request: Number,
    *,
    hours: Sequence[int] = (0, 1, 2, 3),
    capacity_rps: Number | None = None,
    hours_per_month: Number = HOURS_PER_MONTH,
) -> ClockPolicy:
    """Price the rule "hosted during these hours of the day" for a fixed fleet. Without a demand curve the hosted bill is 0.

    Two g5.12xlarge at $5.672 and hours 0-3 of a 720-hour month: $1,361 of the $8,168 paid buy nothing. The hours
    need a curve of whole days. With `capacity_rps`, raises ConfigError if the replicas could not have served those hours: then the rule is not waste but lack of replicas.
    """
    clocked = sorted(set(hours))
    if not clocked or any(whole(hour, "hour of the day") > 23 for hour in clocked):
        raise ConfigError("hours of the day are 0 to 23", list(hours), "name at least one")
    month = to_decimal(exact_above_zero(hours_per_month, "hours per month"))
    per_hour = usd(replica_usd_per_hour, "price of a replica (USD per hour)") * whole(replicas, "replicas", least=1)
    paid = per_hour * month
    hosted = Decimal(0)
    if demand is not None:
        price = usd(hosted_usd_per_request, "hosted price (USD per request)")
        inside = _seconds_inside(demand, clocked)
        rates = [as_fraction(rate) for rate in demand.rps]
        highest = max(rate for rate, seconds in zip(rates, inside, strict=True) if seconds)
        if capacity_rps is not None and highest > replicas * _capacity(capacity_rps):
            raise ConfigError(
                "the replicas cannot serve these hours",
                f"{float(highest):.6g} rps, {replicas} replicas",
                "the rule is not waste here: the fleet is too small",
            )
        requests = sum(rate * seconds for rate, seconds in zip(rates, inside, strict=True))
        hosted = to_decimal(requests / as_fraction(demand.hours)) * month * price
    return ClockPolicy(paid, paid * len(clocked) / 24, hosted, paid + hosted, hosted)
