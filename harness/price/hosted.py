"""The bill of measured tokens at a hosted API's prices, request by request.

Prices come from the experiment (PriceRef with its own numbers) or from the genai-prices package: bundled with it, read offline,
those in force at a date (`price_at`, the one place that answers it). Tiers go by one request's input tokens, so requests are never
added up before pricing: 1,000 requests of 1,000 tokens are not one request of a million.

    request = sum over fresh, cached, written (5 min, 1 h) input, output, reasoning of tokens x price[tier of the request] + fee

Whose cache: a hosted API never has what our own server found in its prefix cache (see `hosted_cache.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

import genai_prices
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, TieredPrices, calc_unit_price

from harness.base.errors import ConfigError, nearest
from harness.config.price_ref import PriceRef
from harness.records import Bill

Usage = tuple[
    int, ...
]  # prompt, cached, output, reasoning tokens, and written ones where there are any, as in RunSummary.usage

_MILLION = 1_000_000
# Prices of each part of a request, the first that a model has: what has no price of its own costs the price it is a part of.
_PARTS = (
    ("input_mtok",),
    ("cache_read_mtok", "input_mtok"),
    ("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
    ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
    ("output_mtok",),
    ("output_reasoning_mtok", "output_mtok"),
)


class Tokens(NamedTuple):
    """Tokens of one request as a hosted API bills them. `prompt` holds the cached and the written ones, `output` the reasoning."""

    prompt: int
    cached: int
    output: int
    reasoning: int
    written_5m: int = 0
    written_1h: int = 0


@dataclass(frozen=True, slots=True)
class HostedPrice:
    """A price to bill with: `model` is a genai-prices price. `inputs` is what is printed beside every figure made with it."""

    name: str
    model: Any  # genai_prices.types.ModelPrice
    inputs: Mapping[str, str]
    as_of: str | None  # of an own price; None: of the price book


_CROSS_CHECK = Decimal("0.10")  # two sources further apart than this are flagged
_GIVE_IT = "give input_usd_per_million and output_usd_per_million yourself"


def _own(ref: PriceRef) -> HostedPrice:
    input_usd, output_usd = ref.input_usd_per_million, ref.output_usd_per_million
    if input_usd is None or output_usd is None:
        raise ConfigError(
            "own price is incomplete", ref.name, "give both input_usd_per_million and output_usd_per_million"
        )
    declared = {
        "cache_read_mtok": ref.cached_input_usd_per_million,
        "cache_write_5m_mtok": ref.cache_write_5m_usd_per_million,
        "cache_write_1h_mtok": ref.cache_write_1h_usd_per_million,
    }
    more = {key: Decimal(repr(usd)) for key, usd in declared.items() if usd is not None}
    fresh, output = Decimal(repr(input_usd)), Decimal(repr(output_usd))
    as_of = ref.as_of or "not given"
    writes = "".join(
        f", ${more[key]} cache write for {life}"
        for key, life in (("cache_write_5m_mtok", "5 minutes"), ("cache_write_1h_mtok", "an hour"))
        if key in more
    )
    inputs = {
        "price": f"${fresh} input, ${more.get('cache_read_mtok', fresh)} cached input{writes}, ${output} output per million tokens",
        "price source": ref.source or "declared in the experiment",
        "price as of": as_of,
    }
    return HostedPrice(ref.name, ModelPrice(input_mtok=fresh, output_mtok=output, **more), inputs, as_of)


def price_at(model: Any, at: datetime, context: Mapping[str, str] | None = None) -> ModelPrice:
    """The price of a genai-prices model in force at `at` (aware), by default of its standard service."""
    return model.get_prices(at, context)


def book_model(ref: PriceRef) -> tuple[Any, Any]:
    """(provider, model) of genai-prices: the entry of just that id, as the catalogue lists it, else the one whose rules match the name.

    Raises ConfigError: unknown provider or model (the nearest are named).
    """
    snapshot = data_snapshot.get_snapshot()
    provider = data_snapshot.find_provider_by_id(snapshot.providers, ref.provider)
    if provider is None:
        raise ConfigError(
            "no prices of this provider",
            ref.provider,
            nearest(ref.provider.lower(), (p.id for p in snapshot.providers), _GIVE_IT),
        )
    listed = next((m for m in provider.models if m.id == ref.model), None)
    model = listed or provider.find_model(ref.model, all_providers=snapshot.providers)
    if model is None:
        raise ConfigError(
            "no price of this model", ref.name, nearest(ref.model.lower(), (m.id for m in provider.models), _GIVE_IT)
        )
    return provider, model


def is_by_tokens(model: Any) -> bool:
    """Whether every price that a genai-prices model has, at whatever date, is of input and output tokens."""
    prices = [one.prices for one in model.prices] if isinstance(model.prices, list) else [model.prices]
    return all(price.input_mtok is not None and price.output_mtok is not None for price in prices)


def find_price(ref: PriceRef, at: datetime) -> HostedPrice:
    """The price of `ref` in force at `at`. Raises ConfigError: unknown provider or model, or one not priced by tokens."""
    if ref.has_dollars:
        return _own(ref)
    provider, model = book_model(ref)
    price = price_at(model, at)
    if price.input_mtok is None or price.output_mtok is None:
        raise ConfigError("model is not priced by input and output tokens", ref.name, f"its price is: {price}")
    if ref.cache_write_1h_tokens and price.cache_write_mtok is not None and price.cache_write_1h_mtok is None:
        raise ConfigError("no price of cache writes for an hour", ref.name, _GIVE_IT)
    inputs = {
        "price": str(price),
        "price source": f"genai-prices {genai_prices.__version__} (bundled data, read offline): {provider.id}/{model.id}",
        "price as of": f"in force on {at.date().isoformat()} by the data of genai-prices {genai_prices.__version__}",
    }
    if provider.pricing_urls:
        inputs["vendor's page"] = provider.pricing_urls[0]
    if model.price_comments:
        inputs["price comment"] = model.price_comments
    return HostedPrice(ref.name, price, inputs, None)


def find_variant(ref: PriceRef, at: datetime, service: str) -> HostedPrice:
    """The price of a service variant (`batch`, `flex`, `priority`, ..) in force at `at`, where genai-prices has it.

    A name the price data does not know would silently give the standard price: it is an error here, naming the known ones.
    """
    provider, model = book_model(ref)
    contexts = {
        value: {key: value}
        for variant in model.price_variants or ()
        if len(variant.when) == 1 and (variant.constraint is None or variant.constraint.active(at))
        for key, value in variant.when.items()
        if isinstance(value, str)
    }
    if service not in contexts:
        known = ", ".join(sorted(contexts))
        raise ConfigError(
            f"no price of this service of {ref.name}",
            f"{service} on {at.date().isoformat()}",
            f"known: {known}" if known else "give its price yourself: input_usd_per_million, output_usd_per_million",
        )
    price = price_at(model, at, contexts[service])
    source = f"genai-prices {genai_prices.__version__}: {provider.id}/{model.id}, {service}"
    inputs = {"price": str(price), "price source": source, "price as of": f"in force on {at.date().isoformat()}"}
    return HostedPrice(f"{ref.name} ({service})", price, inputs, None)


def first_tier(price: Decimal | TieredPrices | None) -> Decimal | None:
    """A price as it is for short prompts."""
    return price.base if isinstance(price, TieredPrices) else price


def unit_prices(price: HostedPrice) -> tuple[Decimal, Decimal]:
    """$ per million input and output tokens, at the first tier."""
    input_usd, output_usd = first_tier(price.model.input_mtok), first_tier(price.model.output_mtok)
    assert input_usd is not None
    assert output_usd is not None
    return input_usd, output_usd


def price_ratio(price: HostedPrice) -> Decimal | None:
    """Output $/token over input $/token, at the first tier; None if input is free."""
    input_usd, output_usd = unit_prices(price)
    return output_usd / input_usd if input_usd else None


def cross_check(first: HostedPrice, second: HostedPrice) -> str | None:
    """A warning where two sources of one price differ by more than 10 % in input or output; else None."""
    apart = []
    for what, a, b in zip(("input", "output"), unit_prices(first), unit_prices(second), strict=True):
        if max(a, b) > 0 and abs(a - b) / max(a, b) > _CROSS_CHECK:
            apart.append(f"{what} {a} against {b} $/M")
    if not apart:
        return None
    sources = " and ".join(p.inputs.get("price source", "unknown source") for p in (first, second))
    return f"two sources of the price of {first.name} differ by more than 10 %: {'; '.join(apart)} ({sources})"


def _of_one(model: ModelPrice, t: Tokens) -> list[Decimal]:
    """Dollars of one request, in the order of _PARTS, and the fee per request. Reasoning tokens are part of the output."""
    fresh = t.prompt - t.cached - t.written_5m - t.written_1h
    counts = (fresh, t.cached, t.written_5m, t.written_1h, t.output - t.reasoning, t.reasoning)
    parts = []
    for count, keys in zip(counts, _PARTS, strict=True):
        price = next((p for key in keys if (p := getattr(model, key)) is not None), None)
        parts.append(calc_unit_price(price, count, t.prompt, _MILLION))
    return [*parts, calc_unit_price(model.requests_kcount, 1, t.prompt, 1000)]


def worst_usd(price: HostedPrice, prompt_tokens: int, output_tokens: int) -> Decimal:
    """The most that one request of up to so many tokens can be billed: every token at the dearest of its parts' prices, at the dearest
    tier that a prompt of that length may be in (cache writes and reasoning too), and the fee per request."""
    given = max(_dearest(price.model, keys, prompt_tokens) for keys in _PARTS[:4])
    written = max(_dearest(price.model, keys, prompt_tokens) for keys in _PARTS[4:])
    fee = _dearest(price.model, ("requests_kcount",), prompt_tokens)
    return (given * prompt_tokens + written * output_tokens) / _MILLION + fee / 1000


def _dearest(model: ModelPrice, keys: tuple[str, ...], prompt_tokens: int) -> Decimal:
    price = next((p for key in keys if (p := getattr(model, key)) is not None), None)
    if not isinstance(price, TieredPrices):
        return Decimal(price or 0)
    return max(
        Decimal(one) for one in [price.base, *(tier.price for tier in price.tiers if prompt_tokens > tier.start)]
    )


def is_linear(model: ModelPrice) -> bool:
    """True if the price of a sum of requests is the sum of their prices: no tiers, no fee per request."""
    known = [v for k, v in vars(model).items() if not k.startswith("_") and v is not None]
    return model.requests_kcount is None and not any(isinstance(v, TieredPrices) for v in known)


def usage_problem(usage: Sequence[tuple[int, ...]]) -> str | None:
    """Why usage cannot be billed: the first request whose parts are more than the whole; None where all add up."""
    for one in usage:
        t = Tokens(*one)
        inside = t.cached + t.written_5m + t.written_1h
        if min(t) < 0 or inside > t.prompt or t.reasoning > t.output:
            return f"prompt, cached, output, reasoning = {tuple(one)[:4]}" + (
                f", written = {t.written_5m + t.written_1h}" if t.written_5m + t.written_1h else ""
            )
    return None


def bill(price: HostedPrice, usage: Sequence[tuple[int, ...]]) -> Bill:
    """The bill of every request (`Tokens`, or as in RunSummary.usage), each priced by itself; no usage is a bill of 0 requests.

    A price without tiers and without a fee per request is linear: there the sum is priced, which is the same to the last digit.
    Raises ConfigError for usage that cannot be billed (more cached than prompt tokens, more reasoning than output tokens).
    """
    if (wrong := usage_problem(usage)) is not None:
        advice = "cached and written tokens are part of the prompt, reasoning tokens of the output"
        raise ConfigError("usage cannot be billed", wrong, advice)
    requests = [Tokens(*one) for one in usage]
    whole = Tokens(*map(sum, zip(*requests, strict=True))) if requests else Tokens(0, 0, 0, 0)
    counted = {whole: 1} if requests and is_linear(price.model) else Counter(requests)
    sums = [Decimal(0)] * (len(_PARTS) + 1)
    for one, times in counted.items():
        sums = [s + part * times for s, part in zip(sums, _of_one(price.model, one), strict=True)]
    fresh, cached, written_5m, written_1h, output, reasoning, fees = sums
    return Bill(
        len(requests), whole.prompt, whole.cached, whole.written_5m + whole.written_1h, whole.output,
        fresh, cached, written_5m + written_1h, output + reasoning, fees,
    )  # fmt: skip


def usd_by_lengths(price: HostedPrice) -> Callable[[int, int], float]:
    """Dollars of one request by its (prompt, output) tokens, nothing cached; each pair is billed once."""

    @cache
    def usd(prompt: int, output: int) -> float:
        return float(bill(price, [(prompt, 0, output, 0)]).total_usd)

    return usd


def same_model(measured: str, hosted: str) -> bool:
    """Whether a hosted price is for the model measured: equal names after the last slash, in letters and digits only.

    Strict on purpose: a name that merely resembles another is called a different product.
    """
    names = (measured, hosted.partition(" (")[0])  # without the service: openai/gpt-5 (flex)
    plain = [re.sub(r"[^a-z0-9]", "", name.lower().rstrip("/").rsplit("/", 1)[-1]) for name in names]
    return bool(plain[0]) and plain[0] == plain[1]
