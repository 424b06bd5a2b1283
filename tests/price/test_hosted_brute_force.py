"""10,000 random requests over 20 models of the price book, billed by us and by an oracle that reads the book's raw entries itself.

The oracle shares nothing with `harness.price`: it picks the entry in force by its own rule, and adds exact fractions token by token.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from genai_prices.data import providers

from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.price.run_cost import cost_run
from tests.price.cost_summaries import summary

_MODELS, _REQUESTS = 20, 500  # of each
_KINDS = {  # part of a request -> the book's keys, the first that is there
    "fresh": ("input_mtok",),
    "read": ("cache_read_mtok", "input_mtok"),
    "five": ("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
    "hour": ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
    "plain": ("output_mtok",),
    "reasoning": ("output_reasoning_mtok", "output_mtok"),
}


def entry_at(model, when):
    """The raw prices of a model: the last of its dated entries that has begun, as {key: price}; None where one goes by the hour."""
    if not isinstance(model.prices, list):
        return vars(model.prices)
    begun = []
    for entry in model.prices:
        since = getattr(entry.constraint, "start_date", None)
        if entry.constraint is not None and since is None:
            return None
        start = datetime.combine(since, time(), UTC) if type(since) is date else since
        if start is None or (start if start.tzinfo else start.replace(tzinfo=UTC)) <= when:
            begun.append(entry)
    return vars((begun or model.prices[:1])[-1].prices)


def rate(prices, keys, prompt) -> Fraction:
    """$ a million at this prompt's tier: the highest that it is beyond."""
    price = next((prices[key] for key in keys if prices.get(key) is not None), 0)
    if hasattr(price, "tiers"):
        beyond = [tier for tier in price.tiers if prompt > tier.start]
        price = max(beyond, key=lambda tier: tier.start).price if beyond else price.base
    return Fraction(price)


def by_oracle(prices, requests) -> Fraction:
    total = Fraction(0)
    for prompt, read, output, reasoning, five, hour in requests:
        counts = dict(
            zip(_KINDS, (prompt - read - five - hour, read, five, hour, output - reasoning, reasoning), strict=True)
        )
        total += sum(tokens * rate(prices, _KINDS[kind], prompt) for kind, tokens in counts.items()) / 1_000_000
        total += rate(prices, ("requests_kcount",), prompt) / 1000
    return total


def chosen(draw, when):
    """20 models: some of each kind of price that there is, the rest any."""
    priced = {
        (p.id, m.id): prices
        for p in providers
        for m in p.models
        if (prices := entry_at(m, when))
        and prices.get("input_mtok") is not None
        and prices.get("output_mtok") is not None
    }
    kinds = [
        lambda prices: any(hasattr(price, "tiers") for price in prices.values()),
        lambda prices: hasattr(prices.get("cache_write_1h_mtok"), "tiers"),
        lambda prices: prices.get("cache_write_1h_mtok") is not None,
        lambda prices: prices.get("output_reasoning_mtok") is not None,
        lambda prices: prices.get("requests_kcount") is not None,
        lambda prices: prices.get("cache_read_mtok") is not None and prices.get("cache_write_mtok") is None,
    ]
    taken = {}
    for has in kinds:
        of_kind = sorted(name for name, prices in priced.items() if has(prices) and name not in taken)
        assert of_kind, "the book has no such price any more"
        taken |= {name: priced[name] for name in draw.sample(of_kind, min(2, len(of_kind)))}
    rest = sorted(name for name in priced if name not in taken)
    return taken | {name: priced[name] for name in draw.sample(rest, _MODELS - len(taken))}


def random_request(draw):
    prompt = draw.choice(
        [
            draw.randint(1, 3000),
            draw.randint(1, 150_000),
            draw.choice([128_000, 200_000, 272_000]) + draw.randint(-1, 1),
        ]
    )
    read = draw.randint(0, prompt)
    five = draw.randint(0, prompt - read)
    output = draw.randint(0, 6000)
    return prompt, read, output, draw.randint(0, output), five, draw.randint(0, prompt - read - five)


def cents(usd: Fraction) -> Decimal:
    return (Decimal(usd.numerator) / Decimal(usd.denominator)).quantize(Decimal("0.01"), ROUND_HALF_UP)


@pytest.mark.parametrize("seed", [1, 2])
def test_10_000_requests_over_20_models_cost_what_the_raw_book_says(seed):
    """From the rows of a run against each API to its window's dollars: equal to the cent, and before rounding to the last digit."""
    draw, count = random.Random(seed), 0
    when = datetime(2026, draw.randint(1, 11), draw.randint(1, 28), 12, tzinfo=UTC)
    for (provider, model), prices in chosen(draw, when).items():
        rows = tuple(random_request(draw) for _ in range(_REQUESTS))
        ref = PriceRef(provider=provider, model=model)
        config = {"targets": [{"name": "t", "price": ref.model_dump(mode="json")}]}
        run = replace(summary(kind="hosted", usage=rows, created_utc=when.strftime("%Y%m%dT%H%M%SZ")), config=config)
        report = cost_run(run, None, CostSpec())
        window = next(line.usd for line in report.hosted[ref.name] if line.name == "hosted_usd_window")
        exact = by_oracle(prices, rows)
        assert Fraction(report.bills[ref.name].total_usd) == exact, ref.name
        assert Decimal(window).quantize(Decimal("0.01"), ROUND_HALF_UP) == cents(exact), ref.name
        count += len(rows)
    assert count == _MODELS * _REQUESTS
