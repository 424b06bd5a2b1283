"""The fleet of a demand: how many whole replicas, what is paid for, what a request costs, how full it is.

    n(D)  = max(min_replicas, ceil(D / (headroom x mu)))                     replicas for the rate D
    paid  = sum over rates (share of the time paid for a replica at that rate x n(rate)) + spares
            autoscaled: n follows each step, cold starts and billing granularity in; fixed: n(highest hour) at all times
    eta   = served / (paid replica-hours x mu)                               utilisation: a result, never an input

`paid_shares` is where every command gets its fleet: costs, break-even, scenarios and their odds. Day-to-day variation behind an
averaged curve raises what a fixed fleet must carry; an autoscaled one follows each hour, and pays for the hours there are.
Idle replicas are paid for in full. Energy of rented machines is in their price: shown, never added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from harness.base.errors import ConfigError
from harness.base.quantities import (
    HOURS_PER_MONTH,
    Number,
    as_fraction,
    exact_above_zero,
    exact_at_least_zero,
    exact_share,
    to_decimal,
    usd,
    whole,
)
from harness.planner.demand import Demand

HOURS_PER_WEEK = 168
_WORK_HOURS_PER_WEEK = 40
ROUNDING = Fraction(1, 10**9)  # of a replica: rates are scaled and divided in floats before they get here


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """capacity_rps: of one replica at the SLO (the lower bound of its interval), before headroom.

    cold_start_s: a replica is paid this long before it serves. billing_s: each stretch that a replica is up is billed in whole
    multiples of it. max_replicas: what there is to be had, spares in; None: no limit. power_kw of one replica, for the energy line.
    """

    capacity_rps: Number
    replica_usd_per_hour: Number
    headroom: Number = 0.7
    spares: int = 1
    min_replicas: int = 1
    max_replicas: int | None = None
    scaling: Literal["autoscaled", "fixed"] = "autoscaled"
    cold_start_s: Number = 0
    billing_s: Number = 1
    storage_usd_per_month: Number = 0
    egress_usd_per_gb: Number = 0
    bytes_per_request: Number = 0
    labour_usd_per_hour: Number = 0
    other_usd_per_hour: Number = 0
    power_kw: Number = 0
    pue: Number = 1
    usd_per_kwh: Number = 0


@dataclass(frozen=True, slots=True)
class CostPart:
    """USD over one cycle of the demand curve; `added` False: shown, in the price already."""

    name: str
    usd: Decimal
    added: bool
    how: str


@dataclass(frozen=True, slots=True)
class FleetCost:
    """One cycle of the demand curve. `replicas` per step, spares in. utilisation = served / paid SLO capacity, in (0, 1]."""

    hours: float
    requests: float
    replicas: tuple[int, ...]
    paid_replica_hours: Decimal
    cold_starts: int
    utilisation: float
    parts: tuple[CostPart, ...]
    total_usd: Decimal
    usd_per_hour: Decimal
    usd_per_request: Decimal
    usd_per_month: Decimal


def labour_usd_per_hour(full_time: Number, usd_per_work_hour: Number) -> Decimal:
    """Labour per clock hour: FTE x 40 / 168 x rate. 0.25 FTE at $150 is $8.93/h."""
    people = to_decimal(exact_at_least_zero(full_time, "full-time equivalents"))
    rate = usd(usd_per_work_hour, "labour (USD per work hour)")
    return people * _WORK_HOURS_PER_WEEK / HOURS_PER_WEEK * rate


def replicas_needed(rate_rps: Number, capacity_rps: Number, headroom: Number) -> int:
    """ceil(rate / (headroom x mu)); 0 for no demand. A billionth of a replica's rate is rounding, and buys none."""
    rate = exact_at_least_zero(rate_rps, "rate (rps)")
    usable = exact_above_zero(capacity_rps, "capacity of a replica (rps)") * exact_share(headroom, "headroom")
    return max(int(rate > 0), math.ceil(rate / usable - ROUNDING))


def replicas_for(rate_rps: Number, spec: FleetSpec) -> int:
    """Replicas that serve this rate, without spares."""
    return max(whole(spec.min_replicas, "min replicas"), replicas_needed(rate_rps, spec.capacity_rps, spec.headroom))


def _is_fixed(spec: FleetSpec) -> bool:
    match spec.scaling:
        case "autoscaled":
            return False
        case "fixed":
            return True
        case _:
            raise ConfigError("scaling is not known", spec.scaling, "autoscaled or fixed")


def replica_counts(demand: Demand, spec: FleetSpec) -> tuple[int, ...]:
    """Replicas in each step, spares in. Raises ConfigError where demand needs more than max_replicas."""
    spares = whole(spec.spares, "spares")
    rates = (demand.highest_rps,) * len(demand.rps) if _is_fixed(spec) else demand.rps
    needed = {rate: replicas_for(rate, spec) for rate in set(rates)}
    most = max(needed.values())
    if spec.max_replicas is not None and most + spares > whole(spec.max_replicas, "max replicas"):
        raise ConfigError(
            "demand is above what the fleet can serve",
            f"{max(rates):.6g} rps need {most} replicas + {spares} spares, there are {spec.max_replicas}",
            "more replicas, less headroom or spares, or send the peak to a hosted API (harness cost hybrid)",
        )
    return tuple(needed[rate] + spares for rate in rates)


def _stretches(up: list[bool]) -> list[tuple[int, int]]:
    """(steps up, steps down before) of each stretch in which a replica is up, round the cycle."""
    if all(up):
        return [(len(up), 0)]
    pause = next(at for at in range(len(up)) if up[at - 1] and not up[at])  # a pause begins here
    stretches: list[tuple[int, int]] = []
    on = off = 0
    for at in [*up[pause:], *up[:pause], False]:
        if at:
            on += 1
        else:
            if on:
                stretches.append((on, off))
                on = off = 0
            off += 1
    return stretches


@dataclass(frozen=True, slots=True)
class Level:
    """Replicas that are up wherever the rate is `rate_rps` or more: seconds paid and cold starts of each in one cycle."""

    rate_rps: float
    paid_s: Fraction
    cold_starts: int


def _level(up: list[bool], step: int, cold: int, unit: int) -> tuple[int, int]:
    """(time paid, cold starts) of a replica in one cycle; times in any unit that makes them whole.

    A stretch is billed in whole multiples of `unit`, its cold start in. Where that is as long as the stretch and the pause
    before it, the replica is kept through the pause instead: paid for the pause, and not started cold.
    """
    paid = starts = 0
    for on, off in _stretches(up):
        billed = -(-(on * step + cold) // unit) * unit
        if off and billed < (on + off) * step:
            paid += billed
            starts += 1
        else:
            paid += (on + off) * step
    return paid, starts


@lru_cache(maxsize=64)
def _autoscaled(rps: tuple[float, ...], step_s: Fraction, cold_s: Fraction, unit_s: Fraction) -> tuple[Level, ...]:
    """Of each rate of the curve, lowest first. The last replica up is the first down."""
    parts = math.lcm(step_s.denominator, cold_s.denominator, unit_s.denominator)  # of a second
    times = [int(time * parts) for time in (step_s, cold_s, unit_s)]
    levels: list[Level] = []
    for rate in sorted(set(rps)):
        paid, starts = _level([other >= rate for other in rps], *times)
        level = Level(rate, Fraction(paid, parts), starts)
        if levels and levels[-1].paid_s < level.paid_s:  # then it stays up with the one below it
            level = replace(levels[-1], rate_rps=rate)
        levels.append(level)
    return tuple(levels)


def _levels(demand: Demand, spec: FleetSpec) -> tuple[Level, ...]:
    cold_s = exact_at_least_zero(spec.cold_start_s, "cold start (s)")
    unit_s = exact_above_zero(spec.billing_s, "billing granularity (s)")
    step_s = as_fraction(demand.step_s)
    if _is_fixed(spec):
        return (Level(demand.highest_rps, step_s * len(demand.rps), 0),)
    return _autoscaled(demand.rps, step_s, cold_s, unit_s)


def paid_shares(demand: Demand, spec: FleetSpec) -> tuple[tuple[float, Fraction], ...]:
    """(rate in rps, share of the time), lowest rate first: the fleet pays, on average over the curve, for
    sum(share x replicas_for(rate)) + spares replicas. Shares add up to 1: each is what a replica more at that rate costs, cold
    starts and billing in. They hold for the same curve at every size. Raises ConfigError for bad numbers.
    """
    levels = _levels(demand, spec)
    above = [*(level.paid_s for level in levels[1:]), Fraction(0)]
    cycle = as_fraction(demand.step_s) * len(demand.rps)
    return tuple((level.rate_rps, (level.paid_s - more) / cycle) for level, more in zip(levels, above, strict=True))


def fixed_usd_per_hour(spec: FleetSpec) -> Decimal:
    """What is paid at every hour whatever the demand is: labour, storage and other."""
    storage = usd(spec.storage_usd_per_month, "storage (USD per month)") / HOURS_PER_MONTH
    labour, other = usd(spec.labour_usd_per_hour, "labour (USD per hour)"), usd(spec.other_usd_per_hour, "other (USD per hour)")  # fmt: skip
    return storage + labour + other


def _parts(demand: Demand, spec: FleetSpec, paid_hours: Decimal) -> list[CostPart]:
    price = usd(spec.replica_usd_per_hour, "price of a replica (USD per hour)")
    hours, requests = to_decimal(demand.hours), to_decimal(demand.requests)
    gb = requests * to_decimal(exact_at_least_zero(spec.bytes_per_request, "bytes per request")) / 10**9
    kwh = paid_hours * to_decimal(exact_at_least_zero(spec.power_kw, "power (kW)"))
    kwh *= to_decimal(exact_at_least_zero(spec.pue, "PUE"))
    storage = usd(spec.storage_usd_per_month, "storage (USD per month)") * hours / HOURS_PER_MONTH
    return [
        CostPart("replicas", price * paid_hours, True, f"{paid_hours:.6g} replica-hours x {price} $/h"),
        CostPart("storage", storage, True, f"{hours:.6g} h of a month of {HOURS_PER_MONTH} h"),
        CostPart("egress", usd(spec.egress_usd_per_gb, "egress (USD per GB)") * gb, True, f"{gb:.6g} GB"),
        CostPart(
            "labour", usd(spec.labour_usd_per_hour, "labour (USD per hour)") * hours, True, f"{hours:.6g} clock hours"
        ),
        CostPart("other", usd(spec.other_usd_per_hour, "other (USD per hour)") * hours, True, f"{hours:.6g} h"),
        CostPart(
            "energy", usd(spec.usd_per_kwh, "energy price (USD per kWh)") * kwh, False, f"{kwh:.6g} kWh: in the price"
        ),
    ]


def _cold_starts(demand: Demand, spec: FleetSpec) -> int:
    starts, below = 0, 0
    for level in _levels(demand, spec):
        needed = replicas_for(level.rate_rps, spec)
        starts += (needed - below) * level.cold_starts
        below = needed
    return starts


def fleet_cost(demand: Demand, spec: FleetSpec) -> FleetCost:
    """What the fleet costs over one cycle of the demand curve. Raises ConfigError for bad numbers or too much demand."""
    counts = replica_counts(demand, spec)
    paid = sum((part * replicas_for(rate, spec) for rate, part in paid_shares(demand, spec)), Fraction(spec.spares))
    seconds = paid * as_fraction(demand.step_s) * len(demand.rps)
    paid_hours = to_decimal(seconds / 3600)
    parts = _parts(demand, spec, paid_hours)
    total = sum((part.usd for part in parts if part.added), Decimal(0))
    requests, hours = to_decimal(demand.requests), to_decimal(demand.hours)
    return FleetCost(
        hours=demand.hours,
        requests=demand.requests,
        replicas=counts,
        paid_replica_hours=paid_hours,
        cold_starts=_cold_starts(demand, spec),
        utilisation=demand.requests / (float(seconds) * float(spec.capacity_rps)),
        parts=tuple(parts),
        total_usd=total,
        usd_per_hour=total / hours,
        usd_per_request=total / requests,
        usd_per_month=total / hours * HOURS_PER_MONTH,
    )


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of the cost ladder: USD per 1,000 requests, times the rung before it and times the lowest one."""

    name: str
    usd_per_1000_requests: Decimal
    of_previous: float
    of_first: float


def cost_ladder(demand: Demand, spec: FleetSpec, *, saturated_rps: Number | None = None) -> tuple[Rung, ...]:
    """From a replica that is 100 % full at all times to what is paid, one step after the other.

    saturated_rps: rate of one replica with no SLO (closed loop), the figure that most benchmarks print: then the first rung.
    """
    per_second = usd(spec.replica_usd_per_hour, "price of a replica (USD per hour)") * 1000 / 3600
    full = per_second / to_decimal(exact_above_zero(spec.capacity_rps, "capacity of a replica (rps)"))
    headroom = to_decimal(exact_share(spec.headroom, "headroom"))
    steps: list[tuple[str, Decimal]] = []
    if saturated_rps is not None:
        most = to_decimal(exact_above_zero(saturated_rps, "rate with no SLO (rps)"))
        steps.append(("no SLO, 100 % full", per_second / most))
    steps.append(("at SLO capacity, 100 % full", full))
    steps.append((f"+ headroom: {headroom:.3g} of it is planned to be used", full / headroom))
    bare = replace(
        spec, spares=0, cold_start_s=0, billing_s=1, storage_usd_per_month=0, egress_usd_per_gb=0,
        labour_usd_per_hour=0, other_usd_per_hour=0,
    )  # fmt: skip
    spared = replace(bare, spares=spec.spares)
    paid = replace(spared, cold_start_s=spec.cold_start_s, billing_s=spec.billing_s)
    stored = replace(
        paid, storage_usd_per_month=spec.storage_usd_per_month, egress_usd_per_gb=spec.egress_usd_per_gb,
        other_usd_per_hour=spec.other_usd_per_hour,
    )  # fmt: skip
    for name, one in (
        (f"+ demand shape and whole replicas, {spec.scaling}", bare),
        (f"+ {spec.spares} spare{'s' * (spec.spares != 1)}", spared),
        ("+ cold starts and billing granularity", paid),
        ("+ storage, egress and other", stored),
        ("+ labour: what you pay", spec),
    ):
        steps.append((name, fleet_cost(demand, one).usd_per_request * 1000))
    if steps[0][1] == 0:
        raise ConfigError("a replica is free", spec.replica_usd_per_hour, "factors of a ladder need a price above 0")
    before = [steps[0][1], *(usd_ for _, usd_ in steps[:-1])]
    return tuple(
        Rung(name, value, float(value / last), float(value / steps[0][1]))
        for (name, value), last in zip(steps, before, strict=True)
    )
