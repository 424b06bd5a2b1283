"""Whose API a URL is, by the patterns of genai-prices."""

from __future__ import annotations

import re
from functools import lru_cache

from genai_prices import data_snapshot


@lru_cache(maxsize=1024)
def providers_at(url: str) -> tuple[str, ...]:
    """Ids of the providers in the price book whose API stands at the URL; none for an own server, and whom the book does not know."""
    return tuple(p.id for p in data_snapshot.get_snapshot().providers if re.match(p.api_pattern, url))


def provider_at(url: str) -> str | None:
    """The first of them; None where there is none."""
    return next(iter(providers_at(url)), None)
