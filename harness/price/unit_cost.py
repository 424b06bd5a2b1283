"""What serving ourselves costs: the paid hours of the machine over the tokens it served in them.

    $ per million tokens = price per hour / (tokens/s x 3600 x U) x 1e6

`U` is utilisation: served load / paid capacity, declared. An idle machine is paid for in full, so it stands in the divisor: half
the use, twice the cost. (A published formula multiplies by it, which makes an idle machine free and is too low by 1/U.)
Everything here is Decimal and per served unit; nothing is rounded but the text of a line (12 digits).

Where a price is for other GPUs than the run used (`Share`), the same costs at its share stand beside those of the whole box: the
share is what a token costs where somebody else's work pays for the other GPUs; where the run used more, what its GPUs cost at the
price of one. The whole box is what is paid otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext

from harness.base.errors import ConfigError
from harness.price.machine_match import Share
from harness.records import CostLine, RunSummary

PER_MILLION = "USD per million tokens"
PER_THOUSAND = "USD per 1,000 requests"
SHARE_PREFIX = "self_share_"  # of the lines at a share of the price; those of the whole box begin with self_
MILLION = Decimal(1_000_000)
_HOUR_S = Decimal(3600)


def usd_per_served(usd_per_hour: Decimal, rate_per_s: Decimal, utilisation: Decimal, units: Decimal) -> Decimal:
    """Dollars for `units` tokens or requests served at `rate_per_s` when fully loaded, loaded to `utilisation` of the paid time.

    Raises ConfigError unless price >= 0, rate > 0 and 0 < utilisation <= 1.
    """
    if not 0 < utilisation <= 1:
        raise ConfigError("utilisation out of range", utilisation, "0 < utilisation <= 1: served load / paid capacity")
    if rate_per_s <= 0:
        raise ConfigError("no rate to divide the price by", rate_per_s, "the run served nothing")
    if usd_per_hour < 0:
        raise ConfigError("negative price", usd_per_hour, "give the price of the whole machine per paid hour")
    return usd_per_hour / (rate_per_s * _HOUR_S * utilisation) * units


def usd_per_million_tokens(usd_per_hour: Decimal, tokens_per_s: Decimal, utilisation: Decimal) -> Decimal:
    """`usd_per_served` for a million tokens."""
    return usd_per_served(usd_per_hour, tokens_per_s, utilisation, MILLION)


@dataclass(frozen=True, slots=True)
class Split:
    """$ per million input and per million output tokens whose sum over both streams is the whole price."""

    input_usd: Decimal
    output_usd: Decimal


def split_by_price_ratio(
    usd_per_hour: Decimal, input_tps: Decimal, output_tps: Decimal, utilisation: Decimal, ratio: Decimal
) -> Split:
    """Split the machine's price between input and output tokens so that one output token costs `ratio` input tokens.

    A machine that does prefill and decode together has one joint cost: any split is a convention, this one is the price ratio
    of a vendor. p_in x (input/s + ratio x output/s) = price per served second; p_out = ratio x p_in.
    """
    if ratio <= 0:
        raise ConfigError("price ratio out of range", ratio, "output price / input price, above 0")
    weighted = input_tps + ratio * output_tps
    input_usd = usd_per_million_tokens(usd_per_hour, weighted, utilisation)
    return Split(input_usd, ratio * input_usd)


# ---------------------------------------------------------------- the lines of a run's report


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


def short(value: Decimal) -> str:
    """The same of 6 digits, for formulas."""
    with localcontext() as context:
        context.prec = 6
        return format((+value).normalize(), "f")


@dataclass(frozen=True, slots=True)
class OwnCost:
    """Everything that the machine's lines are computed from."""

    summary: RunSummary
    usd_per_hour: Decimal
    utilisation: Decimal
    ratio: Decimal
    inputs: Mapping[str, str]

    def scalar(self, name: str) -> Decimal | None:
        value = self.summary.scalars.get(name)
        return None if value is None else Decimal(repr(float(value)))


def _served(own: OwnCost, metric: str, units: Decimal) -> tuple[Decimal | None, str]:
    """A cost per served unit and its formula; None and why not."""
    rate = own.scalar(metric)
    if rate is None or rate <= 0:
        return None, f"not computed: {metric} is {'not known' if rate is None else '0'} in this run"
    usd = usd_per_served(own.usd_per_hour, rate, own.utilisation, units)
    return (
        usd,
        f"{own.usd_per_hour} $/h / ({short(rate)} {metric} x 3600 s/h x {own.utilisation} utilisation) x {units}",
    )


def _split(own: OwnCost, output: bool) -> tuple[Decimal | None, str]:
    input_tps, output_tps = own.scalar("input_tps"), own.scalar("output_tps")
    if input_tps is None or output_tps is None or input_tps + output_tps <= 0:
        return None, "not computed: input_tps and output_tps are not both known in this run"
    split = split_by_price_ratio(own.usd_per_hour, input_tps, output_tps, own.utilisation, own.ratio)
    formula = (
        f"{own.usd_per_hour} $/h / (({short(input_tps)} input_tps + {short(own.ratio)} x {short(output_tps)} output_tps) x 3600 s/h "
        f"x {own.utilisation} utilisation) x 1000000"
    )
    return (split.output_usd, f"{short(own.ratio)} x {formula}") if output else (split.input_usd, formula)


def _window_usd(own: OwnCost) -> tuple[Decimal | None, str]:
    window = own.summary.window
    if window is None:
        return None, "not computed: the run has no window"
    seconds = Decimal(repr(float(window.offered_s)))  # what the rates are over
    usd = own.usd_per_hour * seconds / 3600 / own.utilisation
    return usd, f"{own.usd_per_hour} $/h x {short(seconds)} s / 3600 s/h / {own.utilisation} utilisation"


def _own_value(own: OwnCost, name: str) -> tuple[Decimal | None, str]:
    bound = "; a bound: it carries the whole machine, so input and output bounds must never be added"
    match name:
        case "self_usd_per_million_total_tokens":
            return _served(own, "total_tps", MILLION)
        case "self_usd_per_1000_requests":
            return _served(own, "request_rps", Decimal(1000))
        case "self_usd_per_1000_good_requests":
            return _served(own, "goodput_rps", Decimal(1000))
        case "self_usd_per_million_input_tokens":
            return _split(own, output=False)
        case "self_usd_per_million_output_tokens":
            return _split(own, output=True)
        case "self_usd_per_million_output_tokens_upper":
            usd, formula = _served(own, "output_tps", MILLION)
            return usd, formula if usd is None else formula + bound
        case "self_usd_per_million_input_tokens_upper":
            usd, formula = _served(own, "input_tps", MILLION)
            return usd, formula if usd is None else formula + bound
        case _:
            return _window_usd(own)


def no_own_lines(why: str, run_id: str) -> tuple[CostLine, ...]:
    """Lines that say why there are no dollars."""
    return tuple(
        CostLine(name, label, None, unit, f"not computed: {why}", {"run": run_id}) for name, label, unit in _OWN_LINES
    )


def own_lines(own: OwnCost) -> tuple[CostLine, ...]:
    """Every line of the machine, with its formula; one that cannot be computed says why."""
    lines = []
    for name, label, unit in _OWN_LINES:
        usd, formula = _own_value(own, name)
        lines.append(CostLine(name, label, None if usd is None else decimal_text(usd), unit, formula, own.inputs))
    return tuple(lines)


def share_lines(whole: OwnCost, share: Share) -> tuple[CostLine, ...]:
    """The same at a share of the price. Bounds and the window's sum say nothing that the others do not: they are left out."""
    price = Decimal(decimal_text(share.of(whole.usd_per_hour)))
    inputs = {**whole.inputs, "price taken": f"{decimal_text(price)} USD per hour: {share.words}"}
    return tuple(
        replace(line, name=line.name.replace("self_", SHARE_PREFIX, 1), label=f"{line.label}; {share.words}")
        for line in own_lines(replace(whole, usd_per_hour=price, inputs=inputs))
        if not line.name.endswith(("_upper", "_window"))
    )
