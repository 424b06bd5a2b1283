"""A published cost comparison, claim by claim: what it says, the right value by the functions of this package, and the test of it.

The post compares self-hosted vLLM with hosted APIs ("Q4 2025"). 33 of its claims are looked at here. Where the right value is a
number, it is computed when the table is made: from the price table, the price book and the cost functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from harness.base.errors import ConfigError
from harness.base.quantities import HOURS_PER_MONTH
from harness.config.experiment import PriceRef
from harness.planner.audit_memory import PRICED_AT as _NOW
from harness.planner.audit_memory import memory_rows
from harness.planner.breakeven import break_even, permanent_rps
from harness.planner.demand import flat
from harness.planner.fleet import FleetSpec, fleet_cost, labour_usd_per_hour, replicas_needed
from harness.planner.hosted_terms import unit_prices
from harness.planner.hybrid import clock_policy, spot_usd_per_hour
from harness.planner.instances import machines
from harness.price.hosted import bill, find_price
from harness.price.prices import instance_price, instances
from harness.price.unit_cost import usd_per_million_tokens

Values = Mapping[str, Decimal | float | int | str]
_MONTH_H = Decimal(720)  # the post's month
_REQUESTS, _TOKENS = Decimal(10_000_000), Decimal(500)
_TEST = "tests/planner/test_cost_audit.py::test_seed_row"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """`right` is text made of `values`, which are computed (empty: nothing to compute, `right` is an advice). `test` checks it."""

    row: int
    claim: str
    right: str
    values: Values
    test: str


_Entry = tuple[int, str, Callable[[], Values], str]  # row, claim, values, text of the right value


def _g5() -> Decimal:
    return Decimal(instance_price("aws/g5.12xlarge", _NOW).usd_per_hour)


def _own(given: float, written: float) -> PriceRef:
    return PriceRef(provider="post", model="m", input_usd_per_million=given, output_usd_per_million=written)


def _month_usd(ref: PriceRef, at: datetime = _NOW) -> Decimal:
    return bill(find_price(ref, at), [(300, 0, 200, 0)]).total_usd * _REQUESTS


def _memory_gb(name: str) -> Decimal:
    found = next(i.gpu_mem_gb_total for i in instances(_NOW) if i.full_name == name)
    assert found is not None
    return found


def _fleet(tokens_per_s: int) -> Values:
    """The post's 10M requests on instances that serve this many tokens/s each, all hours at the mean, 720-hour month."""
    needed = replicas_needed(_REQUESTS * _TOKENS / (_MONTH_H * 3600), tokens_per_s, 1)
    usd = needed * _g5() * _MONTH_H
    return {"needed": needed, "usd": usd, "per_million": usd / (_REQUESTS * _TOKENS / 1_000_000)}


def _over_capacity() -> str:
    """What the fleet says of 10M requests on the post's two instances at its own 125 tokens/s."""
    spec = FleetSpec(capacity_rps="0.25", replica_usd_per_hour=_g5(), headroom=1, spares=0, max_replicas=2)
    try:
        fleet_cost(flat(_REQUESTS / (_MONTH_H * 3600)), spec)
    except ConfigError as error:
        return error.value
    return "served"


# ---------------------------------------------------------------- rows 1-8: prices and the formula


def _row_1() -> Values:
    return {f"u{u}": usd_per_million_tokens(_g5(), Decimal(2000), Decimal(u) / 100) for u in (10, 25, 50, 100)}


def _row_6() -> Values:
    now = Decimal(instance_price("aws/p4d.24xlarge", _NOW).usd_per_hour)
    h100 = Decimal(instance_price("aws/p5.48xlarge", _NOW).usd_per_hour)
    return {"now": now, "change": now / Decimal("32.77") - 1, "h100": h100, "h100_change": h100 / Decimal("98.32") - 1}


def _row_7() -> Values:
    return {"right": 2 * _g5() * HOURS_PER_MONTH, "printed": 2 * _g5() * 730, "post": 2 * _g5() * _MONTH_H}


def _row_8() -> Values:
    return {
        "own_table": _month_usd(_own(1.5, 2.0)),
        "list": _month_usd(PriceRef(provider="openai", model="gpt-3.5-turbo")),
        "open_8b": _month_usd(PriceRef(provider="groq", model="llama-3.1-8b-instant")),
    }


_PRICES: tuple[_Entry, ...] = (
    (1, "hourly cost x utilisation: an idle GPU costs little", _row_1, "divide by it: at 2,000 tokens/s ${u10:.3f}/M at 10 % use, {u25:.3f} at 25, {u50:.3f} at 50, {u100:.3f} at 100; the post's is too low by 1/U"),
    (2, "requests per hour and utilisation in one formula", lambda: {"said": _over_capacity()}, "served demand holds the utilisation already; and demand above capacity must be refused: {said}"),
    (3, "g5.12xlarge has 48 GB", lambda: {"gb": _memory_gb("aws/g5.12xlarge")}, "4 x 24 = {gb} GB"),
    (4, "g5.48xlarge has 96 GB", lambda: {"gb": _memory_gb("aws/g5.48xlarge")}, "8 x 24 = {gb} GB"),
    (5, "p4d.24xlarge has 320 GB", lambda: {"gb": _memory_gb("aws/p4d.24xlarge")}, "right: 8 x 40 = {gb} GB"),
    (6, "p4d.24xlarge costs $32.77/h", _row_6, "${now}/h since June 2025 ({change:+.1%}); p5.48xlarge 98.32 -> {h100} ({h100_change:+.1%})"),
    (7, "a month is 24 x 30 hours", _row_7, "730.5 h: two instances are ${right:,.2f} (${printed:,.2f} at the 730 h that AWS prints), not ${post:,.2f}"),
    (8, "10M requests cost $7,500 hosted", _row_8, "60/40 at the post's own two prices ${own_table:,.0f}; at the list price ${list:,.0f}; an open 8B model ${open_8b:,.0f}"),
)  # fmt: skip


# ---------------------------------------------------------------- rows 9-18: the two scenarios


def _row_10() -> Values:
    fixed, price = 2 * _g5(), Decimal("1.5") / 1_000_000 * _TOKENS
    month = fixed / price * 720
    full = break_even("0.25", _g5(), price)  # a replica that serves 125 tokens/s, at the post's hosted price
    return {
        "own_inputs": month,
        "mean_month": fixed / price * HOURS_PER_MONTH,
        "first_month": (fixed * 720 + 6000) / price,
        "one_instance": month / 2,
        "at_3m": price * 3_000_000,
        "capacity": "never" if full.permanent_rps is None else f"{full.permanent_rps:.3g} requests/s",
        "needed_use": Decimal(repr(full.break_even_utilisation)),
    }


def _row_11() -> Values:
    found = break_even("22.58", "3.49", "0.0000614")  # Qwen3-8B, 1024/128, an H100 at 0.7 x 32.26 requests/s
    return {
        "crossings": ", ".join(f"{c.cheaper_above} {c.rps:.2f}" for c in found.crossings),
        "count": len(found.crossings),
    }


def _row_13() -> Values:
    mean = _REQUESTS / (_MONTH_H * 3600)
    return {"needed": replicas_needed(2 * mean, "0.25", 1) + 1, "flat": replicas_needed(mean, "0.25", 1)}


def _row_14() -> Values:
    quarter = labour_usd_per_hour("0.25", 150)
    return {"quarter": quarter, "month": quarter * HOURS_PER_MONTH, "more": labour_usd_per_hour("0.7", 150)}


def _row_15() -> Values:
    month = _g5() * _MONTH_H
    return {"hours": 1200 / _g5(), "share": 1200 / _g5() / _MONTH_H, "month": month, "more": month / 1500 - 1}


def _row_16() -> Values:
    hours = Decimal(100_000_000) / 95 / 3600
    return {"hours": hours, "usd": hours * _g5()}


def _row_18() -> Values:
    price = unit_prices(find_price(PriceRef(provider="together", model="codellama/CodeLlama-34b-Instruct-hf"), _NOW))
    newer = unit_prices(find_price(PriceRef(provider="novita", model="meta-llama/llama-3.3-70b-instruct"), _NOW))
    return {"price": price[0], "times": 15 / price[0], "newer_in": newer[0], "newer_out": newer[1]}


_SCENARIOS: tuple[_Entry, ...] = (
    (9, "self-hosting wins at 10M requests", lambda: {"loss": 2 * _g5() * _MONTH_H - _REQUESTS * _TOKENS / 1_000_000 * Decimal("1.5")}, "by its own numbers it loses ${loss:,.2f} a month there"),
    (10, "break-even at ~3M requests a month", _row_10, "its own inputs give {own_inputs:,.0f} ({mean_month:,.0f} in a month of 730.5 h, {first_month:,.0f} in the first); at 3M the hosted bill is ${at_3m:,.0f}; with the capacity of an instance: {capacity}"),
    (11, "< 1M hosted, > 3M self-hosted, 2-5M typical", _row_11, "no threshold without its inputs; crossings of computed curves, of which there are several: {crossings} requests/s"),
    (12, "two instances serve 10M requests a month", lambda: _fleet(125), "at its own 125 tokens/s {needed} instances, ${usd:,.0f} a month, ${per_million:.2f}/M"),
    (13, "24/7 with two instances", _row_13, "ceil(peak / capacity) + spare: {needed} at a peak of twice the mean, {flat} at no peak and no spare"),
    (14, "$6,000 once, then the instances only", _row_14, "people every month: ${quarter:.2f} an hour for a quarter of a person (${month:,.0f} a month), ${more:.0f} for 0.7"),
    (15, "$1,200 a month for one g5.12xlarge", _row_15, "$1,200 buys {hours:.1f} h, {share:.1%} of the month; all of it is ${month:,.2f}, {more:.0%} more than the hosted $1,500"),
    (16, "100M tokens as batch fit $1,200", _row_16, "one after the other at its own 95 tokens/s: {hours:.1f} h, ${usd:,.0f}; batched it is less, by how much was not measured"),
    (17, "$1,500 hosted for 100K requests", lambda: {"tokens": Decimal(1500) / 15 * 1_000_000 / 100_000}, "implies {tokens:,.0f} tokens a request, which it does not say; its other example has 500"),
    (18, "a hosted 34B code model costs $15/M", _row_18, "the same model is ${price}/M: {times:.0f} times less; a newer 70B {newer_in} / {newer_out}"),
)  # fmt: skip


# ---------------------------------------------------------------- rows 23-33: latency, hybrid, monitoring, advice


def _row_26() -> Values:
    found = clock_policy(None, 2, _g5(), 0, hours_per_month=720)
    return {"idle": found.idle_usd, "share": found.idle_usd / found.replicas_usd}


def _row_27() -> Values:
    month = 2 * _g5() * _MONTH_H
    return {"right": month, "circular": month / _REQUESTS * _REQUESTS / 2}


def _row_28() -> Values:
    spec = FleetSpec(capacity_rps=10, replica_usd_per_hour=_g5(), headroom=1, spares=0)
    return {"low": fleet_cost(flat(2), spec).utilisation, "high": fleet_cost(flat(10), spec).utilisation}


def _row_31() -> Values:
    day = datetime(2025, 10, 1, tzinfo=UTC)
    small = unit_prices(find_price(PriceRef(provider="openai", model="gpt-3.5-turbo"), day))
    large = unit_prices(find_price(PriceRef(provider="openai", model="gpt-4o"), day))
    return {"small_in": small[0], "small_out": small[1], "large_in": large[0], "large_out": large[1]}


def _row_32() -> Values:
    """Break-even volume of one GPU a replica against eight of them a replica that serve eight times as much."""
    small, large = (permanent_rps(n, 3 * n, "0.0012", fixed_usd_per_hour=9) for n in (1, 8))
    assert small is not None
    assert large is not None
    return {"small": small, "large": large}


def _row_33() -> Values:
    machine = next(m for m in machines(_NOW) if m.name == "aws/g5.12xlarge")
    assert machine.spot_usd is not None
    assert machine.on_demand_usd is not None
    calm, stormy = (
        spot_usd_per_hour(
            machine.spot_usd, machine.on_demand_usd, interruptions_per_hour=i, lost_hours="0.5", unavailable=u
        )
        for i, u in (("0.05", 0), ("0.5", "0.5"))
    )
    return {"listed": machine.spot_usd, "calm": calm, "stormy": stormy, "demand": machine.on_demand_usd}


_ADVICE: tuple[_Entry, ...] = (
    (23, "2-3x higher throughput", lambda: {"a": 125 / 45, "b": 280 / 120, "c": 95 / 35}, "{a:.2f}, {b:.2f}, {c:.2f} are right divisions of columns that do not compare; hosted APIs batch continuously too"),
    (24, "P99 latency < 200 ms for 500 tokens", lambda: {"reply_s": 500 / 125, "tokens": 125 * 0.2}, "of what? 500 tokens at 125 tokens/s take {reply_s:.1f} s, 200 ms are {tokens:.0f} tokens: TTFT, ITL and E2EL apart, with percentiles"),
    (25, "sub-100 ms favours self-hosting", lambda: {"rows_above": sum(ms >= 100 for ms in (85, 45, 110))}, "its own table has {rows_above} model above 100 ms"),
    (26, "hybrid: hosted in hours 0-3", _row_26, "backwards: the instances are paid in those hours ({share:.1%} of them, ${idle:,.0f} a month for nothing); burst at the peak"),
    (27, "monthly cost = tokens x cost per token", _row_27, "circular: at half the traffic it says ${circular:,.0f}, the bill is ${right:,.0f}; metered hours x price, cost per token is the result"),
    (28, "utilisation = GPU utilisation of NVML", _row_28, "that is the share of time with any kernel running; served load / capacity is {low:.0%} at 2 of 10 requests/s and {high:.0%} at 10, where NVML says 94 and 100 %"),
    (29, "group prompts of similar length", dict, "pointless under continuous batching, and a blocking call in an async method: send them all"),
    (30, "MODEL_NAME in the environment of the vLLM image", dict, "the image does not read it: --model or the positional argument"),
    (31, "GPT-4 30/60, gpt-3.5 1.5/2.0 as of Q4 2025", _row_31, "prices of 2023; on 2025-10-01 gpt-3.5-turbo is {small_in} / {small_out} and gpt-4o {large_in} / {large_out}: dated price table"),
    (32, "larger models make self-hosting pay sooner", _row_32, "the step is larger: with 8 GPUs a replica the answer is for good from {large:.2f} requests/s, with 1 from {small:.2f}, at the same cost a request"),
    (33, "bursty workloads: spot instances", _row_33, "an interruption at the peak fits worst: ${listed} listed is ${calm:.2f} a useful hour in calm and ${stormy:.2f} when half the hours need on demand ({demand}); minimise cost over the catalogue under the SLO"),
)  # fmt: skip


def audit() -> tuple[AuditRow, ...]:
    """All 33 rows, computed now."""
    rows = []
    for row, claim, values_of, text in (*_PRICES, *_SCENARIOS, *memory_rows(), *_ADVICE):
        values = values_of()
        rows.append(AuditRow(row, claim, text.format(**values), values, f"{_TEST}_{row}"))
    return tuple(rows)


def as_markdown(rows: tuple[AuditRow, ...]) -> str:
    """The page: one table, every row with the name of its test."""
    lines = ["| # | The post says | Right | Test |", "|---|---|---|---|"]
    lines += [f"| {r.row} | {r.claim} | {r.right} | `{r.test}` |".replace("\n", " ") for r in rows]
    return "\n".join(lines) + "\n"
