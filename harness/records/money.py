"""What a token costs: the price of a machine, and lines that each say their formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the measured machine costs, as declared; `source` and `as_of` are printed beside every dollar.

    `gpu_model`, `gpu_count`: what the price is for; None where it does not say. `basis`: declared | proposed (from the price
    table, by what NVML and the firmware say of the machine; `why` says how it was found) | example.
    """

    name: str
    usd_per_hour: str  # decimal text: money is never a float
    source: str
    as_of: str
    gpu_model: str | None = None
    gpu_count: int | None = None
    basis: str = "declared"
    why: str = ""


@dataclass(frozen=True, slots=True)
class CostLine:
    """A dollar figure with everything it was made of. `usd` is decimal text."""

    name: str  # e.g. self_usd_per_million_total_tokens
    label: str  # for people
    usd: str | None  # None: could not be computed, `formula` says why
    unit: str  # USD per million tokens | USD per 1,000 requests | USD
    formula: str
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CostReport:
    """Costs of one run: `own` for the measured machine, `hosted` one group per hosted price.

    `price_mismatch`: how the machine that the price is for differs from the one that ran; None where it does not, or is not known.
    `unpriced`: why this run has no dollar at all; None where it has. `no_price`: where the machine has no price, what was looked
    for and what to declare.
    """

    run_id: str
    verdict: str
    utilisation: float
    hardware: Hardware | None
    own: tuple[CostLine, ...]
    hosted: Mapping[str, tuple[CostLine, ...]]
    warnings: tuple[str, ...]
    price_mismatch: str | None = None
    unpriced: str | None = None
    no_price: str | None = None

    @property
    def price_dated(self) -> str:
        """Date of the machine's price with its age at the run; empty without one."""
        as_of = "" if self.hardware is None else self.hardware.as_of
        return ", ".join(filter(None, (as_of, next((line.inputs.get("price age", "") for line in self.own), ""))))
