"""FOCUS 1.4 (FinOps Open Cost and Usage Specification) rows of measured and modelled costs; the mapping stands in this file alone.

A benchmark is no invoice: every row bills 0, says "estimate" in ChargeDescription, and carries its cost in EffectiveCost,
ContractedCost and ListCost. One row a model, phase and charge period. A hosted bill is split as it is billed: input, cached input,
cache writes, output and fees per request, each at its own price; a machine's joint cost by a convention, which stands in the split-cost
columns AllocatedMethodId and AllocatedMethodDetails; what FOCUS has no column for is in x_ columns.
Rows are texts: dates in UTC, numbers plain decimals, nulls empty; `column_kind` says what each is in a file that has types (Parquet).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from harness.base.documents import csv_cell
from harness.base.errors import ConfigError
from harness.planner.measured import Measured
from harness.planner.scenario.inputs import base_of
from harness.planner.scenario.options import HostedSide, hosted_sides
from harness.planner.scenario.run import ScenarioResult
from harness.price.prices import day_of
from harness.price.unit_cost import decimal_text
from harness.records import Bill, CostReport, Hardware, RunSummary

MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodStart", "ChargePeriodEnd", "ContractedCost",
    "EffectiveCost", "HostProviderName", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ServiceCategory",
    "ServiceName", "ServiceProviderName",
)  # fmt: skip
COLUMNS = (
    *MANDATORY,
    "ServiceSubcategory", "InvoiceId", "ChargeFrequency", "ConsumedQuantity", "ConsumedUnit", "PricingCategory", "ListUnitPrice",
    "ContractedUnitPrice", "SkuId", "SkuPriceId", "AllocatedMethodId", "AllocatedMethodDetails", "AllocatedResourceId",
    "AllocatedResourceName", "AllocatedTags", "x_Phase", "x_UtilizationFraction", "x_SLOAttainment", "x_Replicas", "x_CostLow",
    "x_CostHigh", "x_PriceAsOf", "x_PriceSource", "x_BenchmarkRunId", "x_EnergyKWh",
)  # fmt: skip

_DECIMALS = frozenset(
    (
        "BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity", "ConsumedQuantity", "ListUnitPrice",
        "ContractedUnitPrice", "x_UtilizationFraction", "x_SLOAttainment", "x_CostLow", "x_CostHigh", "x_EnergyKWh",
    )
)  # fmt: skip


def column_kind(name: str) -> Literal["text", "decimal", "whole", "utc"]:
    """Type of a column in a file that has types."""
    if name in _DECIMALS:
        return "decimal"
    if name == "x_Replicas":
        return "whole"
    return "utc" if name.endswith(("PeriodStart", "PeriodEnd")) else "text"


@dataclass(frozen=True, slots=True)
class EstimatedCharge:
    """Tokens of one phase over one period, and what they are estimated to cost. None: not known, an empty field.

    `method_id` and `ratio`: how a joint cost was split and which part this is; None where a price list gives it directly.
    """

    model: str
    phase: str  # input | cached input | cache writes | output | requests | unused commitment
    start: datetime
    end: datetime
    tokens: Decimal
    usd: Decimal
    provider: str  # who serves the model
    host: str  # whose machines
    method_id: str | None
    ratio: Decimal | None
    price_as_of: str
    price_source: str
    run_id: str | None = None
    utilisation: float | None = None
    slo_attainment: float | None = None
    replicas: int | None = None
    usd_low: Decimal | None = None
    usd_high: Decimal | None = None
    energy_kwh: Decimal | None = None
    unit: str = "Tokens"  # what `tokens` counts: a fee per request counts requests, a machine hours
    tags: Mapping[str, str] | None = None  # whose it is: server, tenant ..


def _utc(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _month(when: datetime) -> tuple[datetime, datetime]:
    start = datetime(when.year, when.month, 1, tzinfo=when.tzinfo)
    return start, start.replace(year=when.year + when.month // 12, month=when.month % 12 + 1)


def _text(value: Decimal | float | None) -> str:
    """Plain decimal text with a point, so that a reader that guesses types takes every number column for decimals."""
    if value is None:
        return ""
    text = decimal_text(Decimal(repr(value)) if isinstance(value, float) else value)
    return text if "." in text else f"{text}.0"


def focus_row(charge: EstimatedCharge) -> dict[str, str]:
    """One FOCUS row. Raises ConfigError for a charge that is not a finite amount of tokens and dollars, 0 or more."""
    for what, value in (("tokens", charge.tokens), ("usd", charge.usd)):
        if not value.is_finite() or value < 0:
            raise ConfigError(f"charge has no {what}", f"{charge.model} {charge.phase}: {value}", "a number, 0 or more")
    unit = charge.usd / charge.tokens if charge.tokens else Decimal(0)
    cost = _text(charge.usd)
    period = _month(charge.start)
    sku = f"{charge.provider}/{charge.model}/{charge.phase}"
    details = ""
    if charge.ratio is not None:
        quantity = int(charge.tokens) if charge.unit == "Tokens" else float(charge.tokens)
        element = {"AllocatedRatio": float(charge.ratio), "UsageUnit": charge.unit, "UsageQuantity": quantity}
        details = json.dumps({"Elements": [element]}, separators=(",", ":"))
    return dict.fromkeys(COLUMNS, "") | {
        "BilledCost": "0.0", "BillingAccountId": "estimate", "BillingAccountName": "Benchmark estimates, not billed",
        "BillingCurrency": "USD", "BillingPeriodStart": _utc(period[0]), "BillingPeriodEnd": _utc(period[1]),
        "ChargeCategory": "Usage", "ChargeFrequency": "Usage-Based",
        "ChargeDescription": f"estimate, not billed: {charge.phase}{' tokens' * (charge.unit == 'Tokens')} of {charge.model}",
        "ChargePeriodStart": _utc(charge.start), "ChargePeriodEnd": _utc(charge.end),
        "ContractedCost": cost, "EffectiveCost": cost, "ListCost": cost,
        "HostProviderName": charge.host, "InvoiceIssuerName": charge.provider, "ServiceProviderName": charge.provider,
        "PricingQuantity": _text(charge.tokens), "PricingUnit": charge.unit,
        "ConsumedQuantity": _text(charge.tokens), "ConsumedUnit": charge.unit, "PricingCategory": "Standard",
        "ListUnitPrice": _text(unit), "ContractedUnitPrice": _text(unit), "SkuId": sku,
        "SkuPriceId": f"{sku}/{charge.price_as_of}",
        "ServiceCategory": "AI and Machine Learning", "ServiceSubcategory": "Generative AI", "ServiceName": charge.model,
        "AllocatedMethodId": charge.method_id or "", "AllocatedMethodDetails": details,
        "AllocatedResourceId": sku if charge.method_id else "", "AllocatedResourceName": charge.model if charge.method_id else "",
        "AllocatedTags": json.dumps(charge.tags, separators=(",", ":")) if charge.tags else "",
        "x_Phase": charge.phase, "x_UtilizationFraction": _text(charge.utilisation), "x_SLOAttainment": _text(charge.slo_attainment),
        "x_Replicas": "" if charge.replicas is None else str(charge.replicas), "x_CostLow": _text(charge.usd_low),
        "x_CostHigh": _text(charge.usd_high), "x_PriceAsOf": charge.price_as_of, "x_PriceSource": charge.price_source,
        "x_BenchmarkRunId": charge.run_id or "", "x_EnergyKWh": _text(charge.energy_kwh),
    }  # fmt: skip


def focus_rows(charges: Sequence[EstimatedCharge]) -> list[dict[str, str]]:
    """All rows. Raises ConfigError for no charge at all: an empty file would look like a free month."""
    if not charges:
        raise ConfigError("nothing to export", "0 charges", "a run needs a priced machine or a hosted price")
    return [focus_row(charge) for charge in charges]


def focus_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows as a CSV file, header included."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(text) for name, text in row.items()} for row in rows)
    return out.getvalue()


# ---------------------------------------------------------------- what is exported


def charges_of_run(summary: RunSummary, report: CostReport) -> list[EstimatedCharge]:
    """The window of a run: the machine's price split by the report's ratio, and each hosted bill of the same tokens.

    The charge period is the hour the run was made in. A run without usage has no tokens to charge: ConfigError.
    """
    if not summary.usage:
        raise ConfigError("run has no usage", summary.run_id, "the server must say how many tokens each request had")
    start = day_of(summary.created_utc).replace(minute=0, second=0, microsecond=0)
    end = start + timedelta(hours=1)
    tokens = {
        "input": Decimal(sum(u[0] for u in summary.usage)),
        "output": Decimal(sum(u[2] for u in summary.usage)),
    }
    energy = summary.scalars.get("energy_j")
    charges = []
    own = {line.name: line for line in report.own}
    window = own["self_usd_window"].usd
    prices = {phase: own[f"self_usd_per_million_{phase}_tokens"].usd for phase in tokens}
    given, written = prices["input"], prices["output"]
    if report.hardware is not None and window is not None and given is not None and written is not None:
        weights = {"input": Decimal(given) * tokens["input"], "output": Decimal(written) * tokens["output"]}
        if not any(weights.values()):  # a free machine: any split of $0
            weights = tokens
        total = sum(weights.values(), Decimal(0))
        for phase, weight in weights.items():
            ratio = weight / total
            charges.append(
                EstimatedCharge(
                    model=summary.model, phase=phase, start=start, end=end, tokens=tokens[phase], usd=Decimal(window) * ratio,
                    provider="self-hosted", host=report.hardware.name, method_id="x-price-ratio", ratio=ratio,
                    price_as_of=report.hardware.as_of, price_source=_source(report.hardware), run_id=summary.run_id,
                    utilisation=report.utilisation, slo_attainment=summary.scalars.get("attainment"), replicas=1,
                    energy_kwh=None if energy is None else Decimal(repr(float(energy))) * ratio / 3_600_000,
                )
            )  # fmt: skip
    for name, bill in report.bills.items():
        inputs = report.hosted[name][0].inputs
        charges += _as_billed(name, _billed_parts(bill), start, end, inputs, run_id=summary.run_id)
    return charges


def _source(hardware: Hardware) -> str:
    return hardware.source if hardware.basis == "declared" else f"{hardware.source} ({hardware.basis}, not declared)"


def charges_of_runs(runs: Sequence[tuple[RunSummary, CostReport]]) -> tuple[list[EstimatedCharge], list[str]]:
    """The charges of every run that has some, and why the others have none."""
    charges: list[EstimatedCharge] = []
    left_out: list[str] = []
    for summary, report in runs:
        if report.unpriced is not None or not summary.usage:
            left_out.append(f"{summary.run_id}: {report.unpriced or 'it has no usage'}")
        else:
            charges += charges_of_run(summary, report)
    return charges, left_out


_Part = tuple[str, Decimal, Decimal, str]  # phase, how many, USD, unit


def _billed_parts(b: Bill, requests: Decimal | None = None, usd: Decimal | None = None) -> list[_Part]:
    """Each part of a bill at its own price, scaled to `requests` and to `usd` in all; parts that are not there are left out."""
    times = Decimal(1) if requests is None else requests / b.requests
    off = Decimal(1) if usd is None or not b.total_usd else usd / (b.total_usd * times)
    fresh = b.input_tokens - b.cached_tokens - b.written_tokens
    parts = (
        ("input", fresh, b.fresh_usd, "Tokens"),
        ("cached input", b.cached_tokens, b.cached_usd, "Tokens"),
        ("cache writes", b.written_tokens, b.written_usd, "Tokens"),
        ("output", b.output_tokens, b.output_usd, "Tokens"),
        ("requests", b.requests if b.fees_usd else 0, b.fees_usd, "Requests"),
    )
    return [(phase, count * times, cost * times * off, unit) for phase, count, cost, unit in parts if count]


def _as_billed(
    name: str, parts: Sequence[_Part], start: datetime, end: datetime, inputs: Mapping[str, str], run_id: str | None = None,
    host: str | None = None, provider: str | None = None,
) -> list[EstimatedCharge]:  # fmt: skip
    own, _, model = name.partition("/")
    return [
        EstimatedCharge(
            model=model if provider is None else name, phase=phase, start=start, end=end, tokens=count, usd=usd,
            provider=provider or own, host=host or own, method_id=None, ratio=None, price_as_of=inputs["price as of"],
            price_source=inputs["price source"], run_id=run_id, unit=unit,
        )
        for phase, count, usd, unit in parts
    ]  # fmt: skip


def _side_parts(side: HostedSide, requests: Decimal) -> list[_Part]:
    """A month's hosted bill as billed, discount and retries in, and what the minimum commitment adds to it."""
    parts = _billed_parts(side.billed, requests, side.bill.used_usd)
    unused = [("unused commitment", Decimal(1), side.bill.unused_usd, "Months")] if side.bill.unused_usd else []
    return parts + unused


def charges_of_scenario(result: ScenarioResult, measured: Measured | None = None) -> list[EstimatedCharge]:
    """The month of a scenario's date, every feasible option: hosted as billed, the others at one price for all tokens (no split).

    `measured`: as the scenario was run with. Rows of different options are alternatives: they must not be added up.
    """
    start, end = _month(day_of(result.at))
    w, requests = result.spec.workload, Decimal(repr(result.spec.demand.requests_per_month))
    tokens = {"input": requests * w.input_tokens, "output": requests * w.output_tokens}
    total = sum(tokens.values(), Decimal(0))
    sides = iter(hosted_sides(base_of(result.spec, measured)))
    charges = []
    for option in result.options:
        side = next(sides) if option.kind == "hosted" else None
        if option.infeasible is not None:
            continue
        if side is not None:
            parts = _side_parts(side, requests)
            charges += _as_billed(
                result.model, parts, start, end, option.inputs, host=option.name, provider=option.kind
            )
            continue
        for phase, count in tokens.items():
            ratio = count / total
            charges.append(
                EstimatedCharge(
                    model=result.model, phase=phase, start=start, end=end, tokens=count, usd=option.usd_per_month * ratio,
                    provider=option.kind, host=option.name, method_id="x-one-price-for-all-tokens", ratio=ratio,
                    price_as_of=option.inputs.get("price as of", result.at), price_source=option.inputs["price source"],
                )
            )  # fmt: skip
    return charges
