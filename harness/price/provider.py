"""Whose API a URL is, by the patterns of genai-prices, and what a few short requests to it cost at most."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

from genai_prices import data_snapshot

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.price.hosted import find_price, worst_usd


@lru_cache(maxsize=1024)
def providers_at(url: str) -> tuple[str, ...]:
    """Ids of the providers in the price book whose API stands at the URL; none for an own server, and whom the book does not know."""
    return tuple(p.id for p in data_snapshot.get_snapshot().providers if re.match(p.api_pattern, url))


def provider_at(url: str) -> str | None:
    """The first of them; None where there is none."""
    return next(iter(providers_at(url)), None)


def most_usd(provider: str | None, model: str, at: datetime, requests: int, tokens: tuple[int, int]) -> Decimal | None:
    """Dollars of `requests` of at most (prompt, output) `tokens` each, at the dearest that they may cost; None where the model has no price."""
    if provider is None:
        return None
    try:
        price = find_price(PriceRef(provider=provider, model=model), at)
    except ConfigError:
        return None
    return requests * worst_usd(price, *tokens)
