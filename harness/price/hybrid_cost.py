"""What a hybrid costs: the own machine's paid hours and the hosted side's bill, over all of its requests.

    USD per hour of both = machine price / U + hosted bill of the window / seconds of the window x 3600

The lines of a run's own cost are then those of one machine at that price: the bill is paid for what was sent, so only the machine's
part is divided by its utilisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from harness.price.hosted_api import api_of_run, hosted_side
from harness.price.hosted_cache import RunBill, bill_of_run
from harness.price.prices import day_of
from harness.price.unit_cost import OwnCost, decimal_text, short
from harness.records import RunSummary


@dataclass(frozen=True, slots=True)
class HostedHalf:
    """The hosted side's bill of the window. `why`: why there is none."""

    made: RunBill | None
    why: str = ""


def hosted_half(summary: RunSummary, beside: Sequence[RunSummary]) -> HostedHalf:
    """The bill of the requests that the hosted side of a hybrid served. Raises ConfigError for a price that is not known."""
    side = summary.sides[1]
    half = hosted_side(summary)
    api = api_of_run(half)
    if api is None or api.ref is None:
        return HostedHalf(None, f"the price of the hosted side {side.name} is not known: give the target price:")
    if side.offered and not side.usage:
        return HostedHalf(None, f"usage is not known for every request of {side.name}")
    price = api.price(api.ref, day_of(summary.created_utc))
    return HostedHalf(bill_of_run(api.ref, price, half, beside))


def of_both(own: OwnCost, half: HostedHalf) -> OwnCost | str:
    """The own machine's cost with the hosted bill in it, or why there is none."""
    window = own.summary.window
    if half.made is None:
        return half.why
    if window is None or window.offered_s <= 0:
        return "the run has no window"
    bill = half.made.bill
    seconds = Decimal(repr(float(window.offered_s)))
    billed_per_hour = bill.total_usd / seconds * 3600
    whole = own.usd_per_hour / own.utilisation + billed_per_hour
    inputs = {
        **own.inputs,
        "hosted side": f"{own.summary.sides[1].name}: {bill.requests} requests of the window, ${decimal_text(bill.total_usd)}",
        "hosted price": half.made.inputs.get("price", ""),
        "hosted price source": half.made.inputs.get("price source", ""),
        "both": f"{own.usd_per_hour} $/h / {own.utilisation} utilisation + {short(bill.total_usd)} $ / {short(seconds)} s x 3600 s/h = {short(whole)} $/h",
    }
    return replace(own, usd_per_hour=Decimal(decimal_text(whole)), utilisation=Decimal(1), inputs=inputs)
