"""What a hosted contract allows and asks for: rate limits as a capacity, commitments, provisioned units.

Demand above a rate limit makes the hosted side infeasible, not expensive. A limit counts in the vendor's way: whether cached input
counts differs between vendors, and max_tokens may count in the place of the output that was made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from harness.base.errors import ConfigError
from harness.base.quantities import (
    HOURS_PER_MONTH,
    Number,
    above_zero,
    at_least_zero,
    exact,
    exact_above_zero,
    exact_at_least_zero,
    exact_usd,
    to_decimal,
    usd,
)
from harness.planner.demand import DAY_S, Load


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """A hosted account's limits; None: not limited by this. `source` and `as_of` are printed beside the result."""

    requests_per_minute: Number | None = None
    requests_per_day: Number | None = None
    input_tokens_per_minute: Number | None = None
    output_tokens_per_minute: Number | None = None
    tokens_per_minute: Number | None = None  # input + the larger of max_tokens and output
    tokens_per_day: Number | None = None  # the same
    concurrency: int | None = None
    spend_usd_per_day: Number | None = None
    spend_usd_per_month: Number | None = None
    cached_input_counts: bool = True
    source: str = ""
    as_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRequest:
    """One request on average: `input_tokens` holds the cached ones too. e2e_s is needed where concurrency is limited."""

    input_tokens: Number
    output_tokens: Number
    cached_input_tokens: Number = 0
    max_tokens: Number | None = None
    e2e_s: Number | None = None
    usd_per_request: Number | None = None


@dataclass(frozen=True, slots=True)
class LimitCapacity:
    """Requests/s that each limit allows over its own time, and the one nearest to its load (without a load: the least); None:
    nothing limits. `infeasible` says why, else None."""

    rps: float | None
    binding: str | None
    by_limit: Mapping[str, float]
    infeasible: str | None


_MONTH_S = float(HOURS_PER_MONTH) * 3600
_LOADS = {"peak_rps": "peak demand", "day_rps": "demand of the busiest day", "mean_rps": "mean demand"}
_ROUNDING = 1e-9  # rates are scaled and summed in floats


def limit_capacity(limits: RateLimits, shape: MeanRequest, load: Load | None = None) -> LimitCapacity:
    """RPM/60, RPD/86400, ITPM/(60 counted input), OTPM/(60 out), TPM/(60 (in + max_tokens)), TPD, concurrency/E2E, spend/$ of a day and of a month.

    Each limit is held against the load of its own time: by the minute or less against the peak, by the day against the busiest
    24 hours, by the month against the mean. Raises ConfigError where a limit cannot be turned into a rate.
    """
    given, cached = (at_least_zero(t, "tokens") for t in (shape.input_tokens, shape.cached_input_tokens))
    written = at_least_zero(shape.output_tokens, "output tokens")
    if cached > given:
        raise ConfigError(
            "more cached than input tokens", f"{cached:g} of {given:g}", "cached tokens are part of the input"
        )
    counted = given if limits.cached_input_counts else given - cached
    reserved = given + max(written, at_least_zero(shape.max_tokens or 0, "max tokens"))
    e2e_s, each_usd = (None if x is None else float(x) for x in (shape.e2e_s, shape.usd_per_request))
    by_limit: dict[str, float] = {}
    over: dict[str, float] = {}  # load / allowed
    broken: list[str] = []
    for name, limit, per_request, seconds, of in (
        ("requests_per_minute", limits.requests_per_minute, 1.0, 60, "peak_rps"),
        ("requests_per_day", limits.requests_per_day, 1.0, DAY_S, "day_rps"),
        ("input_tokens_per_minute", limits.input_tokens_per_minute, counted, 60, "peak_rps"),
        ("output_tokens_per_minute", limits.output_tokens_per_minute, written, 60, "peak_rps"),
        ("tokens_per_minute", limits.tokens_per_minute, reserved, 60, "peak_rps"),
        ("tokens_per_day", limits.tokens_per_day, reserved, DAY_S, "day_rps"),
        ("concurrency", limits.concurrency, e2e_s, 1, "peak_rps"),
        ("spend_usd_per_day", limits.spend_usd_per_day, each_usd, DAY_S, "day_rps"),
        ("spend_usd_per_month", limits.spend_usd_per_month, each_usd, _MONTH_S, "mean_rps"),
    ):
        if limit is None:
            continue
        if per_request is None:
            raise ConfigError(
                "a limit cannot be turned into a rate", name, "give e2e_s for concurrency, usd_per_request for spend"
            )
        if per_request > 0:
            by_limit[name] = allowed = above_zero(limit, name) / seconds / per_request
            asked = 0.0 if load is None else getattr(load, of)
            over[name] = asked / allowed if asked else -allowed
            if asked > allowed * (1 + _ROUNDING):
                broken.append(f"{_LOADS[of]} {asked:.4g} requests/s, {name} allows {allowed:.4g}")
    if not by_limit:
        return LimitCapacity(None, None, {}, None)
    binding = max(by_limit, key=lambda name: over[name])
    return LimitCapacity(by_limit[binding], binding, by_limit, f"infeasible: {'; '.join(broken)}" if broken else None)


# ---------------------------------------------------------------- the month's bill


@dataclass(frozen=True, slots=True)
class MonthlyBill:
    """`used_usd` after discount and billed retries; `due_usd` at least the commitment; `unused_usd` is what the commitment adds: a fixed
    sum of the month, in no price of a request. `usd_per_request`: what each costs, and what one more or less changes `used_usd` by."""

    used_usd: Decimal
    due_usd: Decimal
    unused_usd: Decimal
    usd_per_request: Decimal


def monthly_bill(
    usd_per_request: Number,
    requests: Number,
    *,
    discount: Number = 0,
    minimum_usd: Number = 0,
    billed_retries: Number = 0,
) -> MonthlyBill:
    """requests x (1 + billed retries) x price x (1 - discount), at least the minimum commitment.

    billed_retries: share of requests billed again (a stream that timed out; a 429 is free). Raises ConfigError out of range.
    """
    count = exact_above_zero(requests, "requests per month")
    off = exact(discount, "discount")
    if not 0 <= off < 1:
        raise ConfigError("discount is out of range", discount, "a share: 0.2 for 20 %, 0 or more and below 1")
    again = exact_at_least_zero(billed_retries, "billed retries")
    used = to_decimal(exact_usd(usd_per_request, "hosted price (USD per request)") * count * (1 + again) * (1 - off))
    due = max(used, usd(minimum_usd, "minimum commitment (USD per month)"))
    return MonthlyBill(used, due, due - used, used / to_decimal(count))


def provisioned_usd_per_hour(
    demand_rps: Number, unit_rps: Number, unit_usd_per_hour: Number, *, minimum_units: int = 1
) -> tuple[int, Decimal]:
    """Units of provisioned throughput for a demand, and their price: a step cost like a replica's, without labour or spare.

    Its crossings are those of `breakeven` with mu = unit_rps and c = unit_usd_per_hour.
    """
    per_unit = exact_above_zero(unit_rps, "rate of a unit (rps)")
    demand = exact_at_least_zero(demand_rps, "demand (rps)")
    units = max(minimum_units, math.ceil(demand / per_unit))
    return units, units * usd(unit_usd_per_hour, "price of a unit (USD per hour)")
