"""What the same tokens would cost hosted at the prices in force now, and from which rate on own machines are the cheaper ones.

Counters tell sums, not requests. A price without tiers and fees is linear, so the sum is enough; any other is taken of the mean request,
which is an assumption: a tier that only long prompts are in is missed. An API reads from its own cache what is declared
(cached_input_tokens), else nothing: that our servers found tokens in theirs says nothing of it; what it would be if it did is told beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from harness.base.clock import NS
from harness.base.errors import ConfigError
from harness.config.monitor import PoolSpec
from harness.config.price_ref import PriceRef
from harness.monitor.served import LEAST_READ, Served
from harness.planner.breakeven import break_even_over_demand, equal_prices
from harness.planner.demand import Demand
from harness.planner.fleet import FleetSpec
from harness.price.hosted import HostedPrice, Tokens, bill, find_price, is_linear, price_ratio
from harness.price.hosted_cache import cache_of
from harness.price.run_cost import DEFAULT_RATIO
from harness.price.unit_cost import short
from harness.records.monitor import CapacityOfRun, MonitorStep


@dataclass(frozen=True, slots=True)
class Totals:
    """What was served: whole tokens and requests."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class HostedOffer:
    """One hosted price of a pool, and what its tokens come to there. `cached_usd`: if the API read from its cache what our servers did."""

    ref: PriceRef
    price: HostedPrice
    usd: Decimal
    cached_usd: Decimal
    assumption: str


def totals(rows: Sequence[Served]) -> Totals | str:
    """The sums over rows; why there are none, as a text. Servers that were not read add nothing."""
    read = [row for row in rows if row.usage is not None]
    sums = {}
    for name in ("requests", "prompt_tokens", "cached_tokens", "output_tokens"):
        values = [row.counter(name) for row in read]
        if name != "cached_tokens" and (not read or any(value is None for value in values)):
            return f"not known: {name} of {next((r.server for r in read if r.counter(name) is None), 'any server')}"
        sums[name] = round(sum(value or 0.0 for value in values))
    if not sums["requests"] and (sums["prompt_tokens"] or sums["output_tokens"]):
        return "not known: no request has ended in this window"
    return Totals(**{**sums, "cached_tokens": min(sums["cached_tokens"], sums["prompt_tokens"])})


def bill_of_totals(price: HostedPrice, of: Totals) -> Decimal:
    """Dollars of so many requests, each as long as the mean one to within a token; exact where the price is linear."""
    if not of.requests:
        return Decimal(0)
    if is_linear(price.model):
        return bill(price, [Tokens(of.prompt_tokens, of.cached_tokens, of.output_tokens, 0)]).total_usd
    whole, more = zip(*(divmod(n, of.requests) for n in (of.prompt_tokens, of.cached_tokens, of.output_tokens)), strict=True)  # fmt: skip
    usd, done = Decimal(0), 0
    for end in sorted({*more, of.requests} - {0}):  # the first more[i] requests have a token more
        prompt, cached, output = (base + (done < extra) for base, extra in zip(whole, more, strict=True))
        usd += bill(price, [Tokens(prompt, min(cached, prompt), output, 0)]).total_usd * (end - done)
        done = end
    return usd


def offers(pool: PoolSpec, of: Totals, at: datetime, only: PriceRef | None = None) -> list[HostedOffer]:
    """Every hosted price of the pool (or one) in force at `at`, the cheapest first. Raises ConfigError: a price that is not known."""
    found = []
    for ref in pool.hosted if only is None else [only]:
        price = find_price(ref, at)
        cache = cache_of(ref, ours=of.cached_tokens)
        read = min(of.prompt_tokens, (cache.read_tokens or 0) * of.requests)
        usd = bill_of_totals(price, Totals(of.requests, of.prompt_tokens, read, of.output_tokens))
        mean = (of.prompt_tokens / of.requests, of.output_tokens / of.requests) if of.requests else (0.0, 0.0)
        exact = "linear price: the sum is exact" if is_linear(price.model) else "every request taken as the mean one"
        told = f"{exact} ({mean[0]:.0f} + {mean[1]:.0f} tokens); cached: {cache.source}; {price.inputs['price as of']}"
        found.append(HostedOffer(ref, price, usd, bill_of_totals(price, of), told))
    return sorted(found, key=lambda offer: offer.usd)


def ratio_of(pool: PoolSpec, at: datetime) -> Decimal:
    """Output over input price of the pool's first hosted price, else the harness's default."""
    try:
        ratio = price_ratio(find_price(pool.hosted[0], at)) if pool.hosted else None
    except ConfigError:
        ratio = None
    return ratio or DEFAULT_RATIO


# ---------------------------------------------------------------- where own machines become the cheaper ones


@dataclass(frozen=True, slots=True)
class Distance:
    """`rps`: the mean rate from which own machines stay cheaper, None: at none. `words`: where the pool is, and what flips it."""

    rps: float | None
    words: str


def break_even(
    pool: PoolSpec,
    usd_per_request: Decimal,
    usd_per_replica_hour: Decimal,
    now_rps: float,
    paid_usd_per_hour: Decimal,
    capacity: CapacityOfRun | None,
    steps: Sequence[MonitorStep],
) -> Distance:
    """With a capacity: the fleet that its demand needs (planner.breakeven), whole replicas, headroom and spares in. Without: the machines as
    they are paid now, over the hosted price of a request."""
    if usd_per_request <= 0:
        return Distance(None, "the hosted price is 0")
    flat_rps = float(paid_usd_per_hour / (3600 * usd_per_request))
    as_paid = f"what is paid now ({short(paid_usd_per_hour)} $/h) is the hosted bill of {flat_rps:.4g} requests/s; now {now_rps:.4g}"
    flip = f"; at this rate a flip needs a request at {short(paid_usd_per_hour / 3600 / Decimal(repr(now_rps)))} $" if now_rps else ""  # fmt: skip
    demand = demand_of(pool, steps)
    if capacity is None or demand is None:
        return Distance(flat_rps, as_paid + flip)
    fleet = FleetSpec(
        capacity_rps=repr(capacity.rps), replica_usd_per_hour=usd_per_replica_hour, headroom=repr(pool.headroom),
        spares=pool.spares, scaling="fixed",
    )  # fmt: skip
    crossing = break_even_over_demand(demand, fleet, usd_per_request)
    equal = equal_prices(demand, fleet, usd_per_request)
    replica = "no price above 0" if equal.replica_usd_per_hour is None else f"{short(equal.replica_usd_per_hour)} $/h"
    where = (
        "hosted is cheaper at every rate"
        if crossing.permanent_rps is None
        else f"own replicas stay cheaper from {crossing.permanent_rps:.4g} requests/s, now {demand.mean_rps:.4g}"
    )
    return Distance(
        crossing.permanent_rps,
        f"{where}; it flips at a replica for {replica} (now {short(usd_per_replica_hour)}) or a request at "
        f"{short(equal.hosted_usd_per_request)} $ (now {short(usd_per_request)}); {as_paid}",
    )


def demand_of(pool: PoolSpec, steps: Sequence[MonitorStep]) -> Demand | None:
    """The pool's requests/s in its steps that were read; None without any."""
    mine = [s for s in steps if s.pool == pool.name and s.requests is not None and s.read_share >= LEAST_READ]
    rates = tuple((s.requests or 0.0) * NS / (s.to_ns - s.from_ns) for s in mine)
    if not any(rates):
        return None
    return Demand(pool.name, rates, (mine[0].to_ns - mine[0].from_ns) / NS, "counters of its servers")
