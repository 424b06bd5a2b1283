"""Whose API a URL is, by the patterns of genai-prices, and what a few short requests to it cost at most."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal

from genai_prices import data_snapshot

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.price.hosted import Tokens, bill, find_price


def provider_at(url: str) -> str | None:
    """Id of the provider in the price book whose API stands at the URL; None for an own server, and whom the book does not know."""
    return next((p.id for p in data_snapshot.get_snapshot().providers if re.match(p.api_pattern, url)), None)


def most_usd(provider: str | None, model: str, at: datetime, requests: int, tokens: tuple[int, int]) -> Decimal | None:
    """Dollars of `requests` of at most (prompt, output) `tokens` each, every prompt token at the dearest that it may cost; None where there is
    no price of the model."""
    if provider is None:
        return None
    try:
        price = find_price(PriceRef(provider=provider, model=model), at)
    except ConfigError:
        return None
    prompt, output = tokens
    ways = [
        Tokens(prompt, 0, output, reasoning, **written)
        for reasoning in (0, output)
        for written in ({}, {"written_5m": prompt}, {"written_1h": prompt})
    ]
    return max(bill(price, [one] * requests).total_usd for one in ways)
