"""Costs of measured runs: each on its machine at the price that is known for it, and the same tokens at hosted prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal, InvalidOperation

from harness.base.errors import ConfigError, InvalidRunError
from harness.config.experiment import CostSpec, of_run
from harness.config.price_ref import PriceRef
from harness.price.hosted import HostedPrice, price_ratio, same_model, usage_problem
from harness.price.hosted_api import api_of_run, prices_of_run
from harness.price.hosted_cache import RunBill, bill_of_run, cache_of
from harness.price.hybrid_cost import HostedHalf, hosted_half, of_both
from harness.price.machine_match import price_mismatch, ran_on, share_of, unchecked
from harness.price.machine_price import MachinePrice, machine_price
from harness.price.prices import DECLARE, day_of, machine_age_words, machine_staleness, staleness
from harness.price.sent_bill import bill_of_sent
from harness.price.unit_cost import (
    PER_MILLION,
    PER_THOUSAND,
    OwnCost,
    decimal_text,
    no_own_lines,
    own_lines,
    share_lines,
    short,
)
from harness.records import MEASURED, Bill, CostLine, CostReport, Hardware, RunSummary

DEFAULT_RATIO = Decimal(4)  # output:input, a usual list-price ratio of 2026; only a convention

_HOSTED_LINES = (
    ("hosted_usd_per_million_total_tokens", "hosted, per million tokens (input + output)", PER_MILLION),
    ("hosted_usd_per_1000_requests", "hosted, per 1,000 requests", PER_THOUSAND),
    ("hosted_usd_per_million_input_tokens", "hosted, per million input tokens, as billed", PER_MILLION),
    ("hosted_usd_per_million_output_tokens", "hosted, per million output tokens, as billed", PER_MILLION),
    ("hosted_usd_window", "hosted, the requests sent in the window", "USD"),
)
_GOOD_LINE = ("hosted_usd_per_1000_good_requests", "hosted, per 1,000 requests inside the SLO", PER_THOUSAND)
_SENT_LINES = (
    ("hosted_usd_run", "hosted, all requests of the run, warm-up included", "USD"),
    ("hosted_usd_run_unknown_up_to", "hosted, and unknown up to: failed, cut and repeated requests", "USD"),
)


def _no_hosted_line(row: tuple[str, str, str], why: str, run_id: str) -> CostLine:
    return CostLine(*row[:2], None, row[2], f"not computed: {why}", {"run": run_id})


def _hosted_line(row: tuple[str, str, str], b: Bill, inputs: Mapping[str, str]) -> CostLine:
    name, label, unit = row
    usd, part, over, scale = {
        "hosted_usd_per_million_total_tokens": (b.total_usd, "bill", b.input_tokens + b.output_tokens, 1_000_000),
        "hosted_usd_per_1000_requests": (b.total_usd, "bill", b.requests, 1000),
        "hosted_usd_per_million_input_tokens": (b.input_usd, "input part of the bill", b.input_tokens, 1_000_000),
        "hosted_usd_per_million_output_tokens": (b.output_usd, "output part of the bill", b.output_tokens, 1_000_000),
        "hosted_usd_window": (b.total_usd, "bill", b.requests, 0),
    }[name]
    if not b.requests:
        why = "not computed: usage is not known for every request of the window, or there is none"
        return CostLine(name, label, None, unit, why, inputs)
    if not over:
        return CostLine(name, label, None, unit, "not computed: this run has no such tokens", inputs)
    formula = f"{part} of {b.requests} requests, each priced by itself"
    if scale:
        formula = f"{formula}: {short(usd)} $ / {over} x {scale}"
        usd = usd / over * scale
    return CostLine(name, label, decimal_text(usd), unit, formula, inputs)


def _hosted_lines(ref: PriceRef, price: HostedPrice, made: RunBill, summary: RunSummary) -> tuple[CostLine, ...]:
    lines = tuple(_hosted_line(row, made.bill, made.inputs) for row in _HOSTED_LINES)
    if made.basis != MEASURED:
        return lines
    lines += (_good_line(made, summary),) if summary.scalars.get("goodput_rps") is not None else ()
    return lines + (_sent_lines(ref, price, made, summary) if summary.sent else ())


def _good_line(made: RunBill, summary: RunSummary) -> CostLine:
    """The window's bill over its requests inside the SLO: late ones are billed too."""
    goodput_rps, window = summary.scalars.get("goodput_rps"), summary.window
    good = 0 if goodput_rps is None or window is None else round(goodput_rps * window.offered_s)
    b = made.bill
    if not good or not b.requests:
        why = "no request of the window is inside the SLO" if b.requests else "usage is not known for every request"
        return _no_hosted_line(_GOOD_LINE, why, summary.run_id)
    formula = (
        f"bill of {b.requests} requests, each priced by itself: {short(b.total_usd)} $ / {good} inside the SLO x 1000"
    )
    name, label, unit = _GOOD_LINE
    return CostLine(name, label, decimal_text(b.total_usd / good * 1000), unit, formula, made.inputs)


def _sent_lines(ref: PriceRef, price: HostedPrice, made: RunBill, summary: RunSummary) -> tuple[CostLine, ...]:
    """What the whole run cost the account, beside its window: billed, and unknown up to so much."""
    api = api_of_run(summary)
    whole = bill_of_sent(ref, price, None if api is None else api.service, cache_of(ref, summary), summary.sent)
    billed, unknown = _SENT_LINES
    inputs = {**made.inputs, "all requests of the run": whole.words}
    return (
        CostLine(*billed[:2], decimal_text(whole.billed.total_usd), billed[2], f"bill of {whole.words}", inputs),
        CostLine(
            *unknown[:2],
            decimal_text(whole.unknown_usd),
            unknown[2],
            "at the worst: every token of the prompt and all output tokens asked for, each at its dearest price",
            inputs,
        ),
    )


def _ratio(spec: CostSpec, prices: list[HostedPrice]) -> tuple[Decimal, str]:
    if spec.input_output_price_ratio is not None:
        return Decimal(repr(spec.input_output_price_ratio)), "declared in the experiment"
    ratio = price_ratio(prices[0]) if prices else None
    if ratio:
        return ratio, f"that of {prices[0].name}"
    return DEFAULT_RATIO, "4:1, the harness's default"


def _usd_per_hour(hardware: Hardware) -> Decimal:
    try:
        price = Decimal(hardware.usd_per_hour)
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or price < 0:
        raise ConfigError(
            "price of the machine is not an amount",
            f"{hardware.name}: {hardware.usd_per_hour}",
            "usd_per_hour is dollars per paid hour of the whole machine, 0 or more",
        )
    return price


def _verdict_warnings(summary: RunSummary) -> list[str]:
    if summary.verdict.state == "VALID":
        return []
    why = "; ".join(r.message for r in summary.verdict.reasons if r.severity != "warning")
    by_name = ", priced only because it was asked for by name" if summary.verdict.state == "INVALID" else ""
    return [f"run {summary.run_id} is {summary.verdict.state}{by_name}: {why}"]


def cost_run(
    summary: RunSummary,
    hardware: Hardware | None,
    spec: CostSpec,
    *,
    allow_invalid: bool = False,
    no_price: str = "",
    beside: Sequence[RunSummary] = (),
) -> CostReport:
    """Own and hosted costs of one run, each line with its formula and inputs; a line that cannot be computed says why.

    `beside`: the runs of the same experiment, among them those against the hosted APIs, whose caches are measured there.
    `no_price`: without `hardware`, why there is none and what to declare. Dollars of hosted prices are there all the same.
    Raises InvalidRunError for an INVALID run unless `allow_invalid`, ConfigError for a price or model that is not known.
    """
    if summary.verdict.state == "INVALID" and not allow_invalid:
        first = summary.verdict.reasons[0] if summary.verdict.reasons else None
        raise InvalidRunError(
            "run is INVALID: its numbers are not to be priced",
            f"{summary.run_id}: {first.message if first else ''}",
            f"{first.advice if first else 'run it again'}; --allow-invalid prices it all the same",
        )
    warnings = _verdict_warnings(summary)
    at = day_of(summary.created_utc)
    prices, lacking = prices_of_run(summary, spec.hosted, at)
    warnings += [] if lacking is None else [lacking]
    utilisation = float(spec.utilisation)
    if (wrong := usage_problem(summary.usage)) is not None:
        why = f"usage does not add up: {wrong}; cached tokens are part of the prompt, reasoning tokens of the output"
        own = no_own_lines(why, summary.run_id)
        unbilled = {
            p.name: tuple(_no_hosted_line(row, why, summary.run_id) for row in _HOSTED_LINES) for _, p in prices
        }
        warnings.append(f"run {summary.run_id} is not priced: {why}")
        return CostReport(
            summary.run_id, summary.verdict.state, utilisation, hardware, own, unbilled, tuple(warnings), unpriced=why
        )
    warnings += _hosted_warnings(summary, [p for _, p in prices], at)
    mismatch = None if hardware is None else price_mismatch(hardware, ran_on(summary))
    if hardware is None:
        ours = summary.target_kind != "hosted"
        why = "the machine behind a hosted API is not ours to price"
        why = "no price of the machine is declared (hardware: in the experiment)" if ours else why
        no_price = no_price or why
        own = no_own_lines(why, summary.run_id)
    else:
        doubts = (mismatch, unchecked(hardware, summary), machine_staleness(hardware, at))
        warnings += [*_basis_warnings(hardware), *(warning for warning in doubts if warning is not None)]
        half = hosted_half(summary, beside) if summary.sides else None
        own = _machine_lines(summary, hardware, spec, [p for _, p in prices], at, half)
        if spec.utilisation == 1:
            warnings.append(
                "utilisation 1.0 is the lower bound of cost: the machine is taken to be as busy as in this run in every paid hour"
            )
    billed = [(ref, p, bill_of_run(ref, p, summary, beside)) for ref, p in prices]
    warnings += [warning for _, _, made in billed for warning in made.warnings]
    hosted = {p.name: _hosted_lines(ref, p, made, summary) for ref, p, made in billed}
    return CostReport(
        summary.run_id,
        summary.verdict.state,
        utilisation,
        hardware,
        own,
        hosted,
        tuple(warnings),
        price_mismatch=mismatch,
        no_price=no_price if hardware is None else None,
        basis={p.name: made.basis for _, p, made in billed},
        bills={p.name: made.bill for _, p, made in billed},
    )


def _basis_warnings(hardware: Hardware) -> list[str]:
    """What is to be known of a price that nobody declared."""
    if hardware.basis == "proposed":
        price = f"{hardware.name}, {hardware.why}; {hardware.source}, {hardware.as_of}"
        return [f"the price of the machine is PROPOSED, not declared: {price}; if you pay another, {DECLARE}"]
    if hardware.basis == "example":
        return ["the price of the machine is an EXAMPLE, nobody's quote: declare your own with --usd-per-hour"]
    return []


def _hosted_warnings(summary: RunSummary, prices: list[HostedPrice], at: datetime) -> list[str]:
    stale = [w for p in prices if p.as_of is not None and (w := staleness(p.name, p.as_of, at))]
    return stale + [
        f"mixed tokenizers: {p.name} is not {summary.model}, so it makes other tokens of the same text than the ones priced here: "
        "harness cost tokens measures the exchange rate"
        for p in prices
        if not same_model(summary.model, p.name)
    ]


def _machine_lines(
    summary: RunSummary,
    hardware: Hardware,
    spec: CostSpec,
    prices: list[HostedPrice],
    at: datetime,
    half: HostedHalf | None = None,
) -> tuple[CostLine, ...]:
    """`half`: of a hybrid, what its hosted side is billed."""
    utilisation = Decimal(repr(spec.utilisation))
    ratio, source = _ratio(spec, prices)
    inputs = {
        "run": summary.run_id,
        "machine": hardware.name,
        "price": f"{hardware.usd_per_hour} USD per hour",
        "price source": hardware.source,
        "price as of": hardware.as_of,
        "price age": machine_age_words(hardware, at),
        **({} if hardware.basis == "declared" else {"price is": hardware.basis}),
        "utilisation": f"{utilisation} (declared)",
        "output:input price ratio": f"{short(ratio)} ({source})",
        "verdict": summary.verdict.state,
    }
    whole = OwnCost(summary, _usd_per_hour(hardware), utilisation, ratio, inputs)
    if half is not None:
        both = of_both(whole, half)
        lines = no_own_lines(both, summary.run_id) if isinstance(both, str) else own_lines(both)
        return tuple(replace(line, label=line.label.replace("self-hosted", "hybrid", 1)) for line in lines)
    share = share_of(hardware, ran_on(summary))
    return own_lines(whole) + (() if share is None else share_lines(whole, share))


def price_runs(
    summaries: Sequence[RunSummary],
    overrides: CostSpec | None = None,
    hardware: Hardware | None = None,
    *,
    allow_invalid: bool = False,
) -> list[CostReport]:
    """Price every run that may be priced: what its config declares, unless `overrides` or `hardware` say otherwise.

    An INVALID run is left out unless asked for by `allow_invalid`; if all are INVALID, InvalidRunError.
    """
    reports: list[CostReport] = []
    refused: list[InvalidRunError] = []
    for summary in summaries:
        spec = overrides or of_run(CostSpec, summary.config.get("cost", {}), summary.run_id)
        try:
            price = machine_price(summary) if hardware is None else MachinePrice(hardware)
            reports.append(
                cost_run(
                    summary, price.hardware, spec, allow_invalid=allow_invalid, no_price=price.why, beside=summaries
                )
            )
        except InvalidRunError as error:
            refused.append(error)
    if refused and not reports:
        raise refused[0]
    return reports
