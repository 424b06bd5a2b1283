"""What is in the price books, as flat rows for people to search."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from genai_prices.data_snapshot import get_snapshot

from harness.cost.prices import instances


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One price: `usd` is decimal text, per `unit`; `as_of` is a date or the price book's version."""

    kind: str  # hosted | instance
    name: str
    usd: str
    unit: str
    as_of: str
    source: str


def catalogue(pattern: str) -> list[PriceRow]:
    """Instances and hosted models whose `provider/name` contains `pattern` (any case; empty: all)."""
    wanted = pattern.lower()
    rows = [
        PriceRow("instance", f"{i.provider}/{i.name}", str(i.usd_per_hour), "USD/h", i.as_of, i.source)
        for i in instances()
        if i.usd_per_hour is not None and wanted in f"{i.provider}/{i.name} {i.gpu_model}".lower()
    ]
    book = f"genai-prices {version('genai-prices')}"
    for provider in get_snapshot().providers:
        for model in provider.models:
            name = f"{provider.id}/{model.id}"
            if wanted in name.lower():
                rows.append(
                    PriceRow("hosted", name, _usd(model.prices), "USD/M tokens in / out", "dated by the run", book)
                )
    return rows


def _usd(prices: object) -> str:
    """`in / out` of the newest price; "conditional" parts are taken in the order the book lists them."""
    newest = prices[-1].prices if isinstance(prices, list) else prices
    return " / ".join(_per_million(getattr(newest, field, None)) for field in ("input_mtok", "output_mtok"))


def _per_million(price: object) -> str:
    base = getattr(price, "base", price)  # a tiered price shows its first tier
    return "-" if base is None else str(base)
