"""What serving ourselves costs: the paid hours of the machine over the tokens it served in them.

    $ per million tokens = price per hour / (tokens/s x 3600 x U) x 1e6

`U` is utilisation: served load / paid capacity, declared. An idle machine is paid for in full, so it stands in the divisor: half
the use, twice the cost. (A published formula multiplies by it, which makes an idle machine free and is too low by 1/U.)
Everything here is Decimal and per served unit; nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from harness.base.errors import ConfigError

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
