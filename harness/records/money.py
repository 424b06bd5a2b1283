"""What a token costs: the price of a machine, and lines that each say their formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal


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
class Bill:
    """Tokens and dollars of the requests billed, each part at its own price. `fees_usd`: what is paid per request.

    `input_tokens` are all of the prompts': fresh, cached and written.
    """

    requests: int
    input_tokens: int
    cached_tokens: int
    written_tokens: int
    output_tokens: int
    fresh_usd: Decimal
    cached_usd: Decimal
    written_usd: Decimal
    output_usd: Decimal
    fees_usd: Decimal

    @property
    def input_usd(self) -> Decimal:
        return self.fresh_usd + self.cached_usd + self.written_usd

    @property
    def total_usd(self) -> Decimal:
        return self.input_usd + self.output_usd + self.fees_usd


@dataclass(frozen=True, slots=True)
class CostLine:
    """A dollar figure with everything it was made of. `usd` is decimal text."""

    name: str  # e.g. self_usd_per_million_total_tokens
    label: str  # for people
    usd: str | None  # None: could not be computed, `formula` says why
    unit: str  # USD per million tokens | USD per 1,000 requests | USD
    formula: str
    inputs: Mapping[str, str]


MEASURED, LIST_PRICE = "measured", "list price"  # bases of a hosted bill


@dataclass(frozen=True, slots=True)
class CostReport:
    """Costs of one run: `own` for the measured machine, `hosted` one group per hosted price.

    `basis`: of each hosted price, MEASURED where the run was against that API, else LIST_PRICE: the tokens of a run elsewhere at what the
    API asks, its latency not known. `bills`: what the lines of each are made of.
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
    basis: Mapping[str, str] = field(default_factory=dict)
    bills: Mapping[str, Bill] = field(default_factory=dict, repr=False)

    @property
    def paid(self) -> tuple[CostLine, ...]:
        """What was paid for this run: the bill of the very API that it was against, else what its machine costs."""
        name = next((name for name, basis in self.basis.items() if basis == MEASURED), None)
        return self.own if name is None else self.hosted[name]

    @property
    def price_dated(self) -> str:
        """Date of the machine's price with its age at the run; empty without one."""
        as_of = "" if self.hardware is None else self.hardware.as_of
        return ", ".join(filter(None, (as_of, next((line.inputs.get("price age", "") for line in self.own), ""))))
