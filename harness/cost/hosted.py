"""The bill of measured tokens at a hosted API's prices, request by request.

Prices come from the experiment (PriceRef with its own numbers) or from the genai-prices package: bundled with it, read offline,
those in force when the run was made. Tiers go by one request's input tokens, so requests are never added up before pricing:
1,000 requests of 1,000 tokens are not one request of a million.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import genai_prices
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, TieredPrices

from harness.config import PriceRef
from harness.cost.quantities import nearest
from harness.errors import ConfigError
from harness.records import RunSummary

Usage = tuple[int, int, int, int]  # prompt, cached, output, reasoning tokens, as in RunSummary.usage

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class HostedPrice:
    """A price to bill with. `own` holds $/M (input, cached input, output); else `model` is a genai-prices price.

    `inputs` is what is printed beside every figure made with it.
    """

    name: str
    own: tuple[Decimal, Decimal, Decimal] | None
    model: Any | None  # genai_prices.types.ModelPrice
    inputs: Mapping[str, str]
    as_of: str | None  # of an own price


@dataclass(frozen=True, slots=True)
class Bill:
    """Dollars for the requests billed; `total_usd` may hold more than input and output (a fee per request)."""

    requests: int
    input_tokens: int
    output_tokens: int
    input_usd: Decimal
    output_usd: Decimal
    total_usd: Decimal


_GIVE_IT = "give input_usd_per_million and output_usd_per_million yourself"


def _own(ref: PriceRef) -> HostedPrice:
    given, out = ref.input_usd_per_million, ref.output_usd_per_million
    if given is None or out is None:
        raise ConfigError(
            "own price is incomplete", ref.name, "give both input_usd_per_million and output_usd_per_million"
        )
    cached = given if ref.cached_input_usd_per_million is None else ref.cached_input_usd_per_million
    own = (Decimal(repr(given)), Decimal(repr(cached)), Decimal(repr(out)))
    as_of = ref.as_of or "not given"
    inputs = {
        "price": f"${own[0]} input, ${own[1]} cached input, ${own[2]} output per million tokens",
        "price source": ref.source or "declared in the experiment",
        "price as of": as_of,
    }
    return HostedPrice(ref.name, own, None, inputs, as_of)


def find_price(ref: PriceRef, at: datetime) -> HostedPrice:
    """The price of `ref` in force at `at`. Raises ConfigError: unknown provider or model (the nearest are named)."""
    if ref.input_usd_per_million is not None or ref.output_usd_per_million is not None:
        return _own(ref)
    snapshot = data_snapshot.get_snapshot()
    provider = data_snapshot.find_provider_by_id(snapshot.providers, ref.provider)
    if provider is None:
        raise ConfigError(
            "no prices of this provider",
            ref.provider,
            nearest(ref.provider.lower(), (p.id for p in snapshot.providers), _GIVE_IT),
        )
    model = provider.find_model(ref.model, all_providers=snapshot.providers)
    if model is None:
        raise ConfigError(
            "no price of this model", ref.name, nearest(ref.model.lower(), (m.id for m in provider.models), _GIVE_IT)
        )
    price = model.get_prices(at)
    if price.input_mtok is None or price.output_mtok is None:
        raise ConfigError("model is not priced by input and output tokens", ref.name, f"its price is: {price}")
    inputs = {
        "price": str(price),
        "price source": f"genai-prices {genai_prices.__version__} (bundled data, read offline): {provider.id}/{model.id}",
        "price as of": f"in force on {at.date().isoformat()} by the data of genai-prices {genai_prices.__version__}",
    }
    if provider.pricing_urls:
        inputs["vendor's page"] = provider.pricing_urls[0]
    if model.price_comments:
        inputs["price comment"] = model.price_comments
    return HostedPrice(ref.name, None, price, inputs, None)


def price_ratio(price: HostedPrice) -> Decimal | None:
    """Output $/token over input $/token, at the first tier; None if input is free."""
    if price.own is not None:
        given, _, out = price.own
    else:
        assert price.model is not None
        given, out = (
            p.base if isinstance(p, TieredPrices) else p for p in (price.model.input_mtok, price.model.output_mtok)
        )
    return out / given if given else None


def _of_one(price: HostedPrice, usage: Usage) -> tuple[Decimal, Decimal, Decimal]:
    """(input, output, total) dollars of one request. Reasoning tokens are part of the output and billed as output."""
    prompt, cached, output, reasoning = usage
    if price.own is not None:
        fresh_usd, cached_usd, output_usd = price.own
        given = ((prompt - cached) * fresh_usd + cached * cached_usd) / _MILLION
        written = output * output_usd / _MILLION
        return given, written, given + written
    assert price.model is not None
    tokens = genai_prices.Usage(
        input_tokens=prompt, cache_read_tokens=cached, output_tokens=output, output_reasoning_tokens=reasoning
    )
    parts = price.model.calc_price(tokens)
    return parts["input_price"], parts["output_price"], parts["total_price"]


def _is_linear(price: HostedPrice) -> bool:
    """True if the price of a sum of requests is the sum of their prices: no tiers, no fee per request."""
    if price.own is not None:
        return True
    model: ModelPrice = price.model
    known = [v for k, v in vars(model).items() if not k.startswith("_") and v is not None]
    return model.requests_kcount is None and not any(isinstance(v, TieredPrices) for v in known)


def bill(price: HostedPrice, usage: Sequence[Usage]) -> Bill:
    """The bill of every request, each priced by itself (equal ones once); empty usage gives a bill of 0 requests.

    A price without tiers and without a fee per request is linear: there the sum is priced, which is the same to the last digit.
    Raises ConfigError for usage that cannot be billed (more cached than prompt tokens, more reasoning than output tokens).
    """
    wrong = next((u for u in usage if not (0 <= u[1] <= u[0] and 0 <= u[3] <= u[2])), None)
    if wrong is not None:
        raise ConfigError(
            "usage cannot be billed",
            f"prompt, cached, output, reasoning = {wrong}",
            "cached tokens are part of the prompt, reasoning tokens of the output",
        )
    columns = tuple(sum(column) for column in zip(*usage, strict=True)) or (0, 0, 0, 0)
    counted = {(columns[0], columns[1], columns[2], columns[3]): 1} if usage and _is_linear(price) else Counter(usage)
    sums = [Decimal(0)] * 3
    for one, times in counted.items():
        sums = [s + part * times for s, part in zip(sums, _of_one(price, one), strict=True)]
    return Bill(len(usage), columns[0], columns[2], *sums)


def as_input_text(summary: RunSummary) -> dict[str, str]:
    """The tokens that a bill is made of, for printing beside it."""
    cached, reasoning = sum(u[1] for u in summary.usage), sum(u[3] for u in summary.usage)
    return {
        "run": summary.run_id,
        "requests": str(len(summary.usage)),
        "prompt tokens": str(sum(u[0] for u in summary.usage)),
        "of them cached": str(cached),
        "output tokens": str(sum(u[2] for u in summary.usage)),
        "of them reasoning": str(reasoning),
    }


def same_model(measured: str, hosted: str) -> bool:
    """Whether a hosted price is for the model measured: equal names after the last slash, in letters and digits only.

    Strict on purpose: a name that merely resembles another is called a different product.
    """
    plain = [re.sub(r"[^a-z0-9]", "", name.lower().rstrip("/").rsplit("/", 1)[-1]) for name in (measured, hosted)]
    return bool(plain[0]) and plain[0] == plain[1]
