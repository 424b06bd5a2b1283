"""What is in the price books at a date, as flat rows for people to search: the prices that a bill of that date is made with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice

from harness.price.hosted import first_tier, price_at
from harness.price.prices import age_days, age_words, instances, stale_after_days


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One price in force at a date: `usd` is decimal text, per `unit`. `as_of`: when it is from, or the date it is in force at.

    `age_days` None: the price book does not say when it was looked up. `dated`: date and age in words.
    """

    kind: str  # hosted | instance
    name: str
    usd: str
    unit: str
    as_of: str
    source: str
    dated: str
    age_days: int | None = None
    stale: bool = False


def catalogue(pattern: str, at: datetime) -> list[PriceRow]:
    """Instances and hosted models whose `provider/name` contains `pattern` (any case; empty: all), at their prices in force at `at`."""
    wanted = pattern.lower()
    rows = []
    for i in instances(at):
        if i.usd_per_hour is None or wanted not in f"{i.full_name} {i.gpu_model}".lower():
            continue
        limit, age = stale_after_days(i.full_name, i.source), age_days(i.as_of, at)
        rows.append(
            PriceRow(
                "instance", i.full_name, format(i.usd_per_hour, "f"), "USD/h", i.as_of, i.source, f"{i.as_of}, {age_words(i.as_of, at, limit)}", age,
                age is None or abs(age) > limit,
            )
        )  # fmt: skip
    book = f"genai-prices {version('genai-prices')}"
    day = at.astimezone(UTC).date().isoformat()
    for provider in get_snapshot().providers:
        for model in provider.models:
            name = f"{provider.id}/{model.id}"
            if wanted in name.lower():
                usd = _usd(price_at(model, at))
                rows.append(PriceRow("hosted", name, usd, "USD/M tokens in / out", day, book, f"in force on {day}"))
    return rows


def _usd(price: ModelPrice) -> str:
    """`in / out`, first tiers."""
    found = (first_tier(getattr(price, field)) for field in ("input_mtok", "output_mtok"))
    return " / ".join("-" if usd is None else str(usd) for usd in found)
