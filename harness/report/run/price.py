"""The price of the measured machine in words: declared, proposed, an example, or none and what to declare."""

from __future__ import annotations

from harness.price.gpu_share import PREFIX
from harness.records import CostReport
from harness.report import formats

_BASIS = {"proposed": "PROPOSED from the price table, not declared", "example": "an EXAMPLE price, nobody's quote"}


def price_line(cost: CostReport) -> str:
    """`aws/p5.4xlarge .. at $6.88/h (source, date, age)`, or why there is no price. Plain text from outside: escape it."""
    hardware = cost.hardware
    if hardware is None:
        return cost.no_price or "no hardware price declared"
    basis = f", {_BASIS[hardware.basis]}" if hardware.basis in _BASIS else ""
    return f"{hardware.name} at ${hardware.usd_per_hour}/h{basis} ({hardware.source}, {cost.price_dated})"


def hourly_words(cost: CostReport) -> str:
    """The end of the answer's price: `$6.88/h (price of 2026-07-20, 127 days old)`, and that nobody declared it."""
    hardware = cost.hardware
    if hardware is None:
        return ""
    dated = f"${formats.clean(hardware.usd_per_hour, 20)}/h (price of {formats.clean(cost.price_dated, 60)})"
    match hardware.basis:
        case "proposed":
            why = formats.clean(hardware.why, 200)
            return f"{dated}. PROPOSED, not declared: {why}; {formats.clean(hardware.source, 120)}"
        case "example":
            return f"{dated}, {_BASIS['example']}"
        case _:
            return dated


def share_words(cost: CostReport) -> str:
    """What a token costs at the share of the price that belongs to the GPUs used; empty where the price is of just those."""
    found = {line.name.removeprefix(PREFIX): line for line in cost.own if line.name.startswith(PREFIX)}
    output = found.get("usd_per_million_output_tokens")
    if output is None or output.usd is None:
        return ""
    total = found.get("usd_per_million_total_tokens")
    more = f", {formats.usd(total.usd)} per million input + output" if total is not None and total.usd else ""
    what = formats.clean(output.label.rpartition("; ")[2], 60)
    return f"That is the whole price; {what}: {formats.usd(output.usd)} per million output tokens{more}."
