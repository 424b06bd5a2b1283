"""What would save money, and how surely: each advice with its formula, its evidence and what would make it wrong."""

from __future__ import annotations

import math
from decimal import Decimal
from statistics import fmean

import numpy as np

from harness.base.clock import DAY_NS, HOUR_NS, utc_of
from harness.base.errors import ConfigError
from harness.base.stats import t_above
from harness.config.target import HardwareSpec
from harness.monitor.advice_hosted import hosted_cheaper
from harness.monitor.advice_work import preemptions, prefix_caching_off
from harness.monitor.evidence import (
    DAYS_PER_MONTH,
    LEAST_DAYS,
    SURE,
    Ends,
    Evidence,
    PoolEvidence,
    hours_words,
    made,
    monthly,
    pool_evidence,
)
from harness.monitor.paid import hardware_on
from harness.planner.fleet import replicas_needed
from harness.price.machine_match import same_gpu
from harness.price.prices import Instance, age_days, instances, stale_after_days
from harness.records.monitor import Advice, MonitorStep


def advices(of: Evidence) -> tuple[Advice, ...]:
    """All that holds, the largest saving first."""
    found: list[Advice] = []
    for pool in of.spec.pools:
        one = pool_evidence(pool, of)
        if one is not None:
            every = (
                _fewer_replicas(one),
                _cheaper_instance(one),
                prefix_caching_off(one),
                preemptions(one),
                hosted_cheaper(one),
                _repriced(one),
            )
            found += [advice for advice in every if advice is not None]
    return tuple(sorted(found, key=lambda advice: -advice.usd_per_month))


def _fewer_replicas(one: PoolEvidence) -> Advice | None:
    """Replicas that no day of the window needed in an hour. Low: at the capacity's low end and the highest demand that such a day may
    bring (99.5 %); high: at its high end and the mean day."""
    known = [c for (pool, _), c in one.of.used.items() if pool == one.pool.name]
    by_hour: dict[int, list[MonitorStep]] = {}
    for steps in one.days.values():
        for step in steps:
            by_hour.setdefault(step.from_ns % DAY_NS // HOUR_NS, []).append(step)
    if not known or any(step.busy_replicas is None for steps in by_hour.values() for step in steps):
        return None
    less, more = max(c.rps / (c.low_rps or c.rps) for c in known), min(c.rps / (c.high_rps or c.rps) for c in known)
    sums = [0.0, 0.0, 0.0]
    free: dict[int, int] = {}
    for hour, steps in sorted(by_hour.items()):
        if len({step.from_ns // DAY_NS for step in steps}) < LEAST_DAYS:
            continue
        busy = [step.busy_replicas or 0.0 for step in steps]
        paid = math.floor(min(step.paid_replicas for step in steps) + 1e-6)
        usd = fmean(
            float(step.usd or 0) / step.paid_replicas / ((step.to_ns - step.from_ns) / HOUR_NS)
            for step in steps
            if step.paid_replicas
        )
        reach = t_above((1 - SURE) / 2, len(busy) - 1) * float(np.std(busy, ddof=1)) * math.sqrt(1 + 1 / len(busy))
        for at, rate in enumerate((max(busy), max(*busy, fmean(busy) + reach) * less, fmean(busy) * more)):
            spare = max(0, paid - replicas_needed(round(rate, 9), 1, one.pool.headroom) - one.pool.spares)
            sums[at] += spare * usd * DAYS_PER_MONTH
            if at == 0 and spare:
                free[hour] = spare
    least, most = min(free.values(), default=0), max(free.values(), default=0)
    count = f"{least}" if least == most else f"{least} to {most}"
    return made(
        one,
        "fewer_replicas",
        f"{count} fewer replicas at {hours_words(free)}",
        Ends(sums[0], sums[1], sums[2], sums[1]),
        f"sum over hours of (paid - ceil(busy / {one.pool.headroom:g}) - {one.pool.spares} spares) x $ a replica-hour x {DAYS_PER_MONTH:.4g} days; busy = requests/s / {', '.join(f'{c.rps:.4g}' for c in known)}",
        "a peak shorter than an hour needs more than the headroom; replicas cannot be stopped by the hour; days unlike these",
    )


def _cheaper_instance(one: PoolEvidence) -> Advice | None:
    """The cheapest machine of the price table with as many of the same GPUs, at a price that is not stale."""
    at = utc_of(one.of.to_ns)
    try:
        own = hardware_on(one.pool, at)
    except ConfigError:
        return None
    price = Decimal(own.usd_per_hour)
    if not own.gpu_model or not own.gpu_count or price <= 0:
        return None
    fits = [
        (row.usd_per_hour, row) for row in instances(at)
        if row.usd_per_hour and row.gpu_count == own.gpu_count and same_gpu(row.gpu_model, own.gpu_model) and _fresh(row, one)
    ]  # fmt: skip
    usd, row = min(fits, key=lambda fit: fit[0], default=(price, None))
    if row is None or usd >= price * Decimal("0.95"):
        return None
    share = float(1 - usd / price)
    return made(
        one,
        "cheaper_instance",
        f"{row.full_name} ({row.gpu_count} x {row.gpu_model}, {row.region}) asks {usd} $/h, {own.name} {own.usd_per_hour}",
        monthly([one.usd(day) * share for day in one.days]),
        f"$ paid a day x (1 - {usd} / {own.usd_per_hour}) x {DAYS_PER_MONTH:.4g} days; {row.source}, {row.as_of}",
        "the price paid is committed; its region, network, disks or egress do not do; no capacity there",
    )


def _fresh(row: Instance, one: PoolEvidence) -> bool:
    age = age_days(row.as_of, utc_of(one.of.to_ns))
    return age is not None and abs(age) <= stale_after_days(row.full_name, row.source)


def _repriced(one: PoolEvidence) -> Advice | None:
    """A declared price of a machine of the price table, which its vendor has lowered since."""
    own = one.pool.hardware
    if not isinstance(own, HardwareSpec):
        return None
    name, price = own.name.partition(" ")[0], Decimal(repr(own.usd_per_hour))
    newer = [
        row for row in instances(utc_of(one.of.to_ns))
        if name in (row.full_name, row.name) and row.usd_per_hour and row.as_of > own.as_of and _fresh(row, one)
    ]  # fmt: skip
    if len(newer) != 1 or newer[0].usd_per_hour is None or newer[0].usd_per_hour >= price:
        return None
    share = float(1 - newer[0].usd_per_hour / price)
    return made(
        one,
        "price_change",
        f"the vendor's price of {newer[0].full_name} is {newer[0].usd_per_hour} $/h since {newer[0].as_of}, {own.usd_per_hour:g} is declared ({own.as_of})",
        monthly([one.usd(day) * share for day in one.days]),
        f"$ paid a day x (1 - {newer[0].usd_per_hour} / {own.usd_per_hour:g}) x {DAYS_PER_MONTH:.4g} days; {newer[0].source}",
        "the price declared is for more than the machine, or is committed",
    )
