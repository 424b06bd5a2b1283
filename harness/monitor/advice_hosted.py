"""Advice on the other side: a hosted API that is cheaper than the machines, at all hours or at some."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np

from harness.base import stats
from harness.base.clock import DAY_NS, HOUR_NS, utc_of
from harness.monitor.evidence import (
    DAYS_PER_MONTH,
    LEAST_DAYS,
    SURE,
    PoolEvidence,
    hours_words,
    made,
    monthly,
)
from harness.monitor.hosted import HostedOffer, bill_of_totals, totals
from harness.price.hosted import find_price, same_model
from harness.price.unit_cost import short
from harness.records.monitor import Advice


def hosted_cheaper(one: PoolEvidence) -> Advice | None:
    """A hosted model cheaper than the machines: at all hours, else in those where the days say so, each at the level that is left of 99 %
    where 24 hours are asked."""
    offers = one.of.offers.get(one.pool.name) or ()
    of = totals(one.rows)
    if not offers or isinstance(of, str) or not of.requests:
        return None
    offer, each = offers[0], float(offers[0].usd / of.requests)
    by_day = {
        day: [(s.from_ns % DAY_NS // HOUR_NS, float(s.usd or 0) - each * (s.requests or 0.0)) for s in steps]
        for day, steps in one.days.items()
    }
    if any(step.requests is None for steps in one.days.values() for step in steps):
        return None
    same = all(same_model(row.model, offer.ref.model) for row in one.rows if row.model)
    title = offer.ref.name if same else f"{offer.ref.name}, another model,"
    formula = f"$ paid - requests x {short(offer.usd / of.requests)} $ ({offer.assumption}) in these hours x {DAYS_PER_MONTH:.4g} days"
    unless = f"its latency, limits or data rules do not do; the machines cannot be given back in these hours{'' if same else '; its answers are not compared'}"
    whole = monthly([math.fsum(usd for _, usd in steps) for steps in by_day.values()])
    name, changed = _changed(one, offer)
    always = made(one, name, f"{title} is cheaper at all hours{changed}", whole, formula, unless)
    if always is not None:
        return always
    hours: dict[int, list[float]] = {}
    for steps in by_day.values():
        for hour, usd in steps:
            hours.setdefault(hour, []).append(usd)
    chosen = {
        h: v
        for h, v in hours.items()
        if len(v) >= LEAST_DAYS and (stats.mean_interval(np.asarray(v), 1 - (1 - SURE) / 24) or (0.0,))[0] > 0
    }
    chosen = {h: v for h, v in chosen.items() if (h + 1) % 24 in chosen or (h - 1) % 24 in chosen}
    if not chosen:
        return None
    sums = [math.fsum(usd for hour, usd in steps if hour in chosen) for steps in by_day.values()]
    return made(
        one,
        name,
        f"{title} is cheaper at {hours_words(dict(sorted(chosen.items())))}{changed}",
        monthly(sums),
        formula,
        unless,
    )


def _changed(one: PoolEvidence, offer: HostedOffer) -> tuple[str, str]:
    """(name of the advice, what to add) where only the vendor's change of its price in the window made it the cheaper side."""
    then = find_price(offer.ref, utc_of(one.of.from_ns))
    of_rows = totals(one.rows)
    paid = [row.usd for row in one.rows]
    if then.model == offer.price.model or isinstance(of_rows, str) or None in paid:
        return "hosted_cheaper", ""
    before, own = bill_of_totals(then, of_rows), sum((usd for usd in paid if usd is not None), Decimal(0))
    if before <= own:
        return "hosted_cheaper", ""
    return (
        "price_change",
        f" since its price changed: {short(before)} $ for this window before, {short(offer.usd)} $ now",
    )
