"""Prices of machines: the table configs/prices/instances.csv, and what an experiment declares; `catalogue` shows hosted ones too.

Prices are dated data: a row is appended to the table, never overwritten, and the price at a date is the newest that is not after it.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from harness.base.errors import ConfigError, nearest
from harness.base.files import data_dir
from harness.config.target import HardwareSpec
from harness.records import Hardware

STALE_DAYS = 120  # on demand and committed: hyperscalers change list prices once or twice a year
STALE_SPOT_DAYS = 45  # spot, marketplaces and small clouds: RunPod's H100 rose 14 % in six weeks
DECLARE = (
    "declare one: --instance PROVIDER/NAME, --usd-per-hour, or hardware: in the experiment"  # where a price is missing
)
_HYPERSCALERS = ("aws", "azure", "gcp")
_SPOT_WORDS = ("spot", "community", "marketplace", "vast.ai")


@dataclass(frozen=True, slots=True)
class Instance:
    """A row of instances.csv. Prices are USD per hour of the whole instance, on demand; None where none is published.

    `spot_text`, `commitment_text`: the columns as they stand. Bandwidth in GB/s, memory in decimal GB.
    """

    provider: str
    name: str
    region: str
    gpu_model: str
    gpu_count: int
    gpu_mem_gb_each: Decimal | None
    gpu_mem_gb_total: Decimal | None
    gpu_mem_bw_gb_per_s_each: Decimal | None
    usd_per_hour: Decimal | None
    spot_text: str
    commitment_text: str
    source: str
    as_of: str
    confidence: str
    notes: str

    @property
    def full_name(self) -> str:
        return f"{self.provider}/{self.name}"

    @property
    def spot_usd(self) -> Decimal | None:
        return spot_price(self.spot_text, self.usd_per_hour)


def spot_price(text: str, on_demand: Decimal | None) -> Decimal | None:
    """The spot column's dollars: the dear end of a range; None where it is blank, a part of the machine, or not below on demand."""
    amounts = re.match(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?(?![\d.])", text.strip())
    if amounts is None or "part" in text:
        return None
    price = Decimal(amounts[2] or amounts[1])
    return price if price > 0 and (on_demand is None or price < on_demand) else None


def instances_file() -> Path:
    return data_dir("configs") / "prices" / "instances.csv"


def _decimal(text: str | None) -> Decimal | None:
    return Decimal(text) if text else None


def _whole(row: dict[str, str]) -> dict[str, str]:
    """The row. Raises ValueError where it has more or fewer cells than the header: every later cell would be another column's."""
    if None in row or None in row.values():
        raise ValueError(f"{row['provider']}/{row['instance']} has more or fewer cells than the header")
    return row


def _rows(path: Path) -> list[Instance]:
    """Every row of the price table, old ones too, in the file's order. Raises ConfigError."""
    try:
        with path.open(newline="", encoding="utf-8") as f:
            return [
                Instance(
                    provider=row["provider"],
                    name=row["instance"],
                    region=row["region"],
                    gpu_model=row["gpu_model"],
                    gpu_count=int(row["gpu_count"]),
                    gpu_mem_gb_each=_decimal(row.get("gpu_mem_gb_each")),
                    gpu_mem_gb_total=_decimal(row["gpu_mem_gb_total"]),
                    gpu_mem_bw_gb_per_s_each=_decimal(row.get("gpu_mem_bw_gbps_each")),
                    usd_per_hour=_decimal(row["on_demand_usd_h"]),
                    spot_text=row.get("spot_usd_h") or "",
                    commitment_text=row.get("commitment_usd_h") or "",
                    source=row["source"],
                    as_of=row["source_date"],
                    confidence=row["confidence"],
                    notes=row["notes"],
                )
                for row in map(_whole, csv.DictReader(f))
            ]
    except OSError as error:
        raise ConfigError("price table cannot be read", path, str(error.strerror)) from None
    except (KeyError, ValueError, InvalidOperation) as error:
        raise ConfigError("price table has a bad row", path, f"{type(error).__name__}: {error}") from None


def instances(at: datetime, path: Path | None = None) -> tuple[Instance, ...]:
    """Each instance of the price table (`path`, else the one that comes with the harness) at its price in force at `at`.

    In force is the newest row whose date is not after `at`; of one date, the row further down; where every row is later, the
    earliest. Raises ConfigError.
    """
    day = at.astimezone(UTC).date().isoformat()
    newest: dict[str, Instance] = {}
    for row in _rows(path or instances_file()):
        have = newest.get(row.full_name)
        if have is None or _supersedes(row.as_of, have.as_of, day):
            newest[row.full_name] = row
    return tuple(newest.values())


def _supersedes(new: str, old: str, day: str) -> bool:
    """Dates as ISO texts, which sort by time; a year alone sorts before its days."""
    if new > day or old > day:
        return new < old
    return new >= old


def instance_price(name: str, at: datetime, path: Path | None = None) -> Hardware:
    """The on-demand price of an instance in force at `at`, named as its provider does (`g5.12xlarge`) or with it (`aws/g5.12xlarge`).

    Raises ConfigError: no such instance (the nearest are named), or one without an on-demand price.
    """
    table = instances(at, path)
    rows = [i for i in table if name in {i.name, i.full_name}]
    if not rows:
        known = [n for i in table for n in (i.name, i.full_name)]
        advice = nearest(name, known, "see `harness prices show`, or give usd_per_hour, source and as_of")
        raise ConfigError("no such instance in the price table", name, advice)
    if len(rows) > 1:
        raise ConfigError("instance name is not unique", name, f"say which: {', '.join(i.full_name for i in rows)}")
    row = rows[0]
    if row.usd_per_hour is None:
        raise ConfigError(
            "no on-demand price is published for this instance",
            name,
            f"give usd_per_hour, source and as_of yourself. {row.notes}".strip(),
        )
    return hardware_of(row)


def hardware_of(row: Instance) -> Hardware:
    """A row of the price table as a machine's price, on demand. The row must have one."""
    assert row.usd_per_hour is not None
    return Hardware(
        f"{row.full_name} ({row.gpu_count} x {row.gpu_model}, {row.region}, on demand)",
        format(row.usd_per_hour, "f"),
        row.source,
        row.as_of,
        gpu_model=row.gpu_model,
        gpu_count=row.gpu_count,
    )


def declared(spec: HardwareSpec) -> Hardware:
    """The machine as an experiment declares it."""
    usd_per_hour = format(Decimal(repr(spec.usd_per_hour)), "f")
    basis = "example" if spec.example else "declared"
    return Hardware(spec.name, usd_per_hour, spec.source, spec.as_of, spec.gpu_model, spec.gpu_count, basis)


def day_of(created_utc: str) -> datetime:
    """`20261124T113000Z` or ISO 8601, as UTC. Raises ConfigError."""
    try:
        when = datetime.fromisoformat(created_utc)
    except ValueError:
        raise ConfigError("run has no readable date", created_utc, "created_utc in manifest.json") from None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def stale_after_days(name: str, source: str = "") -> int:
    """Days until the price of a machine wants looking up again: 120 for list prices of hyperscalers and what a user declares, 45
    for spot, marketplaces and the small clouds of the price table (named `provider/instance`)."""
    provider, slash, _ = name.partition("/")
    small = bool(slash) and " " not in provider and provider not in _HYPERSCALERS
    quick = small or any(word in f"{name} {source}".lower() for word in _SPOT_WORDS)
    return STALE_SPOT_DAYS if quick else STALE_DAYS


def age_days(as_of: str, at: datetime) -> int | None:
    """Days from a price's date to `at`, below 0 for a later price; None where the date is not one to the day."""
    try:
        return (at.date() - date.fromisoformat(as_of)).days if re.fullmatch(r"\d{4}-\d{2}-\d{2}", as_of) else None
    except ValueError:
        return None


def age_words(as_of: str, at: datetime, limit_days: int = STALE_DAYS) -> str:
    """Age at `at` of a price of that date, for a table: `127 days old, STALE (limit 120)`."""
    days = age_days(as_of, at)
    if days is None:
        return "age not known"
    old = f"{days} days old" if days >= 0 else f"of {-days} days later"
    return old + (f", STALE (limit {limit_days})" if abs(days) > limit_days else "")


def machine_age_words(hardware: Hardware, at: datetime) -> str:
    """`age_words` of a machine's price, by its own limit."""
    return age_words(hardware.as_of, at, stale_after_days(hardware.name, hardware.source))


def machine_staleness(hardware: Hardware, at: datetime) -> str | None:
    """`staleness` of a machine's price, by its own limit."""
    return staleness(hardware.name, hardware.as_of, at, stale_after_days(hardware.name, hardware.source))


def staleness(what: str, as_of: str, run: datetime, limit_days: int = STALE_DAYS) -> str | None:
    """A warning if the price's date is too far from the run's, or is not a date; else None."""
    days = age_days(as_of, run)
    if days is None:
        known = (
            "which is not a date"
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", as_of)
            else "not to the day: its age is not known"
        )
        return f"price of {what} is dated {as_of!r}, {known}"
    if abs(days) <= limit_days:
        return None
    side = "before" if days > 0 else "after"
    return (
        f"stale price of {what}: dated {as_of}, {abs(days)} days {side} the run (limit {limit_days}): look it up again"
    )


# ---------------------------------------------------------------- what is in the price books


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
    import genai_prices
    from genai_prices.data_snapshot import get_snapshot

    from harness.price.hosted import first_tier, price_at

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
    book = f"genai-prices {genai_prices.__version__}"
    day = at.astimezone(UTC).date().isoformat()
    for provider in get_snapshot().providers:
        for model in provider.models:
            name = f"{provider.id}/{model.id}"
            if wanted in name.lower():
                price = price_at(model, at)
                tiers = (first_tier(price.input_mtok), first_tier(price.output_mtok))
                usd = " / ".join("-" if usd is None else str(usd) for usd in tiers)
                rows.append(PriceRow("hosted", name, usd, "USD/M tokens in / out", day, book, f"in force on {day}"))
    return rows
