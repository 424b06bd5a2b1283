"""How often enough replicas are up: k of n, failures independent.

Zone, software and deployment faults take all replicas at once and are not in here: these are upper bounds of availability.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from math import comb

from harness.base.errors import ConfigError
from harness.base.quantities import Number, above_zero, at_least_zero, share, to_decimal, usd, whole

MAX_SPARES = 100


@dataclass(frozen=True, slots=True)
class Redundancy:
    """`total` replicas of which `needed` carry the load; uplift is the spares' share of the needed fleet's price."""

    needed: int
    total: int
    availability: float
    uplift: float


def unavailability(mtbf_hours: Number, repair_hours: Number) -> float:
    """q: share of time that one replica is down = repair / (time between failures + repair).

    An 8-GPU server failing every 264 days (Llama 3, 54 days on 16,384 GPUs, all causes) with 4 h repair: 6.3e-4.
    """
    between = above_zero(mtbf_hours, "time between failures (h)")
    repair = at_least_zero(repair_hours, "repair time (h)")
    return repair / (between + repair)


def k_of_n(needed: int, total: int, down: Number) -> float:
    """Share of time that at least `needed` of `total` replicas are up, each down a share `down` of the time."""
    whole(needed, "replicas needed")
    whole(total, "replicas")
    q = share(down, "share of time down", zero=True)
    if needed > total:
        raise ConfigError("more replicas needed than there are", f"{needed} of {total}", "add replicas")
    return sum(comb(total, up) * (1 - q) ** up * q ** (total - up) for up in range(needed, total + 1))


def spares_for(needed: int, down: Number, target: Number) -> Redundancy:
    """The fewest spares with which `needed` replicas are up a share `target` of the time. Raises ConfigError: out of reach."""
    whole(needed, "replicas needed", least=1)
    wanted = share(target, "availability")
    if wanted == 1 and share(down, "share of time down", zero=True) > 0:
        raise ConfigError("no number of spares is up always", target, "ask for less than 1")
    for spares in range(MAX_SPARES + 1):
        reached = k_of_n(needed, needed + spares, down)
        if reached >= wanted:
            return Redundancy(needed, needed + spares, reached, spares / needed)
    raise ConfigError(
        "availability is out of reach", f"{wanted} with {MAX_SPARES} spares", "lower the target or the time to repair"
    )


def fallback_usd_per_hour(needed: int, down: Number, capacity_rps: Number, hosted_usd_per_request: Number) -> Decimal:
    """What a hosted API costs as the spare: it takes the load of the replicas that are down, q x k x mu x price x 3600."""
    q = share(down, "share of time down", zero=True)
    lost_rps = q * whole(needed, "replicas needed") * above_zero(capacity_rps, "capacity of a replica (rps)")
    return to_decimal(lost_rps) * 3600 * usd(hosted_usd_per_request, "hosted price (USD per request)")
