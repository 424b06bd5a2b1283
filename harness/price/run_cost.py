"""Costs of one run: the measured machine at its declared price, and the same tokens at hosted prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation, localcontext

from harness.base.errors import ConfigError, InvalidRunError
from harness.config.experiment import CostSpec
from harness.price.gpu_share import PREFIX, Share, share_lines, share_of
from harness.price.hosted import Bill, HostedPrice, find_price, price_ratio, same_model, usage_problem
from harness.price.hosted_cache import bill_of_run
from harness.price.machine_match import price_mismatch, ran_on, unchecked
from harness.price.prices import DECLARE, day_of, machine_age_words, machine_staleness, staleness
from harness.price.unit_cost import split_by_price_ratio, usd_per_served
from harness.records import CostLine, CostReport, Hardware, RunSummary

PER_MILLION = "USD per million tokens"
PER_THOUSAND = "USD per 1,000 requests"
_THOUSAND = Decimal(1000)
_MILLION = Decimal(1_000_000)
_DEFAULT_RATIO = Decimal(4)  # output:input, a usual list-price ratio of 2026; only a convention

_OWN_LINES = (
    ("self_usd_per_million_total_tokens", "self-hosted, per million tokens (input + output)", PER_MILLION),
    ("self_usd_per_1000_requests", "self-hosted, per 1,000 requests", PER_THOUSAND),
    ("self_usd_per_1000_good_requests", "self-hosted, per 1,000 requests inside the SLO", PER_THOUSAND),
    ("self_usd_per_million_input_tokens", "self-hosted, per million input tokens, split by price ratio", PER_MILLION),
    ("self_usd_per_million_output_tokens", "self-hosted, per million output tokens, split by price ratio", PER_MILLION),
    (
        "self_usd_per_million_output_tokens_upper",
        "self-hosted, per million output tokens, if all cost is put on output",
        PER_MILLION,
    ),
    (
        "self_usd_per_million_input_tokens_upper",
        "self-hosted, per million input tokens, if all cost is put on input",
        PER_MILLION,
    ),
    ("self_usd_window", "self-hosted, the requests sent in the window", "USD"),
)


def decimal_text(value: Decimal) -> str:
    """Plain decimal text of at most 12 significant digits: `0.0525185`, never an exponent."""
    with localcontext() as context:
        context.prec = 12
        return format((+value).normalize(), "f")


def _short(value: Decimal) -> str:
    with localcontext() as context:
        context.prec = 6
        return format((+value).normalize(), "f")


@dataclass(frozen=True, slots=True)
class _Own:
    """Everything that the machine's lines are computed from."""

    summary: RunSummary
    usd_per_hour: Decimal
    utilisation: Decimal
    ratio: Decimal
    inputs: Mapping[str, str]

    def scalar(self, name: str) -> Decimal | None:
        value = self.summary.scalars.get(name)
        return None if value is None else Decimal(repr(float(value)))


def _served(own: _Own, metric: str, units: Decimal) -> tuple[Decimal | None, str]:
    """A cost per served unit and its formula; None and why not."""
    rate = own.scalar(metric)
    if rate is None or rate <= 0:
        return None, f"not computed: {metric} is {'not known' if rate is None else '0'} in this run"
    usd = usd_per_served(own.usd_per_hour, rate, own.utilisation, units)
    return (
        usd,
        f"{own.usd_per_hour} $/h / ({_short(rate)} {metric} x 3600 s/h x {own.utilisation} utilisation) x {units}",
    )


def _split(own: _Own, output: bool) -> tuple[Decimal | None, str]:
    given, written = own.scalar("input_tps"), own.scalar("output_tps")
    if given is None or written is None or given + written <= 0:
        return None, "not computed: input_tps and output_tps are not both known in this run"
    split = split_by_price_ratio(own.usd_per_hour, given, written, own.utilisation, own.ratio)
    formula = (
        f"{own.usd_per_hour} $/h / (({_short(given)} input_tps + {_short(own.ratio)} x {_short(written)} output_tps) x 3600 s/h "
        f"x {own.utilisation} utilisation) x 1000000"
    )
    return (split.output_usd, f"{_short(own.ratio)} x {formula}") if output else (split.input_usd, formula)


def _window_usd(own: _Own) -> tuple[Decimal | None, str]:
    window = own.summary.window
    if window is None:
        return None, "not computed: the run has no window"
    seconds = Decimal(repr(float(window.offered_s)))  # what the rates are over
    usd = own.usd_per_hour * seconds / 3600 / own.utilisation
    return usd, f"{own.usd_per_hour} $/h x {_short(seconds)} s / 3600 s/h / {own.utilisation} utilisation"


def _own_value(own: _Own, name: str) -> tuple[Decimal | None, str]:
    bound = "; a bound: it carries the whole machine, so input and output bounds must never be added"
    match name:
        case "self_usd_per_million_total_tokens":
            return _served(own, "total_tps", _MILLION)
        case "self_usd_per_1000_requests":
            return _served(own, "request_rps", _THOUSAND)
        case "self_usd_per_1000_good_requests":
            return _served(own, "goodput_rps", _THOUSAND)
        case "self_usd_per_million_input_tokens":
            return _split(own, output=False)
        case "self_usd_per_million_output_tokens":
            return _split(own, output=True)
        case "self_usd_per_million_output_tokens_upper":
            usd, formula = _served(own, "output_tps", _MILLION)
            return usd, formula if usd is None else formula + bound
        case "self_usd_per_million_input_tokens_upper":
            usd, formula = _served(own, "input_tps", _MILLION)
            return usd, formula if usd is None else formula + bound
        case _:
            return _window_usd(own)


def _no_own_lines(why: str, run_id: str) -> tuple[CostLine, ...]:
    return tuple(
        CostLine(name, label, None, unit, f"not computed: {why}", {"run": run_id}) for name, label, unit in _OWN_LINES
    )


def _own_lines(own: _Own) -> tuple[CostLine, ...]:
    lines = []
    for name, label, unit in _OWN_LINES:
        usd, formula = _own_value(own, name)
        lines.append(CostLine(name, label, None if usd is None else decimal_text(usd), unit, formula, own.inputs))
    return tuple(lines)


_HOSTED_LINES = (
    ("hosted_usd_per_million_total_tokens", "hosted, per million tokens (input + output)", PER_MILLION),
    ("hosted_usd_per_1000_requests", "hosted, per 1,000 requests", PER_THOUSAND),
    ("hosted_usd_per_million_input_tokens", "hosted, per million input tokens, as billed", PER_MILLION),
    ("hosted_usd_per_million_output_tokens", "hosted, per million output tokens, as billed", PER_MILLION),
    ("hosted_usd_window", "hosted, the requests sent in the window", "USD"),
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
        formula = f"{formula}: {_short(usd)} $ / {over} x {scale}"
        usd = usd / over * scale
    return CostLine(name, label, decimal_text(usd), unit, formula, inputs)


def _hosted_lines(b: Bill, inputs: Mapping[str, str]) -> tuple[CostLine, ...]:
    return tuple(_hosted_line(row, b, inputs) for row in _HOSTED_LINES)


def _ratio(spec: CostSpec, prices: list[HostedPrice]) -> tuple[Decimal, str]:
    if spec.input_output_price_ratio is not None:
        return Decimal(repr(spec.input_output_price_ratio)), "declared in the experiment"
    found = price_ratio(prices[0]) if prices else None
    if found:
        return found, f"that of {prices[0].name}"
    return _DEFAULT_RATIO, "4:1, the harness's default"


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
    asked = ", priced only because it was asked for by name" if summary.verdict.state == "INVALID" else ""
    return [f"run {summary.run_id} is {summary.verdict.state}{asked}: {why}"]


def cost_run(
    summary: RunSummary,
    hardware: Hardware | None,
    spec: CostSpec,
    *,
    allow_invalid: bool = False,
    no_price: str = "",
) -> CostReport:
    """Own and hosted costs of one run, each line with its formula and inputs; a line that cannot be computed says why.

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
    prices = [(ref, find_price(ref, at)) for ref in spec.hosted]
    utilisation = float(spec.utilisation)
    if (wrong := usage_problem(summary.usage)) is not None:
        why = f"usage does not add up: {wrong}; cached tokens are part of the prompt, reasoning tokens of the output"
        own = _no_own_lines(why, summary.run_id)
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
        own = _no_own_lines(why, summary.run_id)
    else:
        found = (mismatch, unchecked(hardware, summary), machine_staleness(hardware, at))
        warnings += [*_basis_warnings(hardware), *(warning for warning in found if warning is not None)]
        own = _machine_lines(summary, hardware, spec, [p for _, p in prices], at)
        if spec.utilisation == 1:
            warnings.append(
                "utilisation 1.0 is the lower bound of cost: the machine is taken to be as busy as in this run in every paid hour"
            )
    billed = {p.name: bill_of_run(ref, p, summary) for ref, p in prices}
    warnings += [warning for b in billed.values() for warning in b.warnings]
    hosted = {name: _hosted_lines(b.bill, b.inputs) for name, b in billed.items()}
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
    )


def _basis_warnings(hardware: Hardware) -> list[str]:
    """What is to be known of a price that nobody declared."""
    if hardware.basis == "proposed":
        found = f"{hardware.name}, {hardware.why}; {hardware.source}, {hardware.as_of}"
        return [f"the price of the machine is PROPOSED, not declared: {found}; if you pay another, {DECLARE}"]
    if hardware.basis == "example":
        return ["the price of the machine is an EXAMPLE, nobody's quote: declare your own with --usd-per-hour"]
    return []


def _hosted_warnings(summary: RunSummary, prices: list[HostedPrice], at: datetime) -> list[str]:
    found = [w for p in prices if p.as_of is not None and (w := staleness(p.name, p.as_of, at))]
    return found + [
        f"mixed tokenizers: {p.name} is not {summary.model}, so it makes other tokens of the same text than the ones priced here: "
        "harness cost tokens measures the exchange rate"
        for p in prices
        if not same_model(summary.model, p.name)
    ]


def _machine_lines(
    summary: RunSummary, hardware: Hardware, spec: CostSpec, prices: list[HostedPrice], at: datetime
) -> tuple[CostLine, ...]:
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
        "output:input price ratio": f"{_short(ratio)} ({source})",
        "verdict": summary.verdict.state,
    }
    whole = _Own(summary, _usd_per_hour(hardware), utilisation, ratio, inputs)
    share = share_of(hardware, ran_on(summary))
    return _own_lines(whole) + (() if share is None else _share_lines(whole, share))


def _share_lines(whole: _Own, share: Share) -> tuple[CostLine, ...]:
    price = share.of(whole.usd_per_hour)
    inputs = {**whole.inputs, "price taken": f"{decimal_text(price)} USD per hour: {share.words}"}
    lines = share_lines(_own_lines(replace(whole, usd_per_hour=Decimal(decimal_text(price)), inputs=inputs)))
    return tuple(
        replace(line, name=line.name.replace("self_", PREFIX, 1), label=f"{line.label}; {share.words}")
        for line in lines
    )
