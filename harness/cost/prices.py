"""Prices of machines: the table configs/prices/instances.csv, files under configs/hardware/, and what an experiment declares."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from pydantic import ValidationError

from harness.config import HardwareSpec, data_dir, load_yaml
from harness.cost.quantities import nearest
from harness.errors import ConfigError
from harness.records import Hardware

STALE_DAYS = 120  # on demand and committed: hyperscalers change list prices once or twice a year
STALE_SPOT_DAYS = 45  # spot and marketplace prices move every week


@dataclass(frozen=True, slots=True)
class Instance:
    """A row of instances.csv. Prices are USD per hour of the whole instance, on demand; None where none is published."""

    provider: str
    name: str
    region: str
    gpu_model: str
    gpu_count: int
    gpu_mem_gb_total: Decimal | None
    usd_per_hour: Decimal | None
    source: str
    as_of: str
    confidence: str
    notes: str


def instances_file() -> Path:
    return data_dir("configs") / "prices" / "instances.csv"


def _decimal(text: str) -> Decimal | None:
    return Decimal(text) if text else None


def instances(path: Path | None = None) -> tuple[Instance, ...]:
    """Every row of the price table (`path`, else the one that comes with the harness). Raises ConfigError."""
    path = path or instances_file()
    try:
        with path.open(newline="", encoding="utf-8") as f:
            return tuple(
                Instance(
                    provider=row["provider"],
                    name=row["instance"],
                    region=row["region"],
                    gpu_model=row["gpu_model"],
                    gpu_count=int(row["gpu_count"]),
                    gpu_mem_gb_total=_decimal(row["gpu_mem_gb_total"]),
                    usd_per_hour=_decimal(row["on_demand_usd_h"]),
                    source=row["source"],
                    as_of=row["source_date"],
                    confidence=row["confidence"],
                    notes=row["notes"],
                )
                for row in csv.DictReader(f)
            )
    except OSError as error:
        raise ConfigError("price table cannot be read", path, str(error.strerror)) from None
    except (KeyError, ValueError, InvalidOperation) as error:
        raise ConfigError("price table has a bad row", path, f"{type(error).__name__}: {error}") from None


def instance_price(name: str, path: Path | None = None) -> Hardware:
    """The on-demand price of an instance, named as its provider does (`g5.12xlarge`) or with it (`aws/g5.12xlarge`).

    Raises ConfigError: no such instance (the nearest are named), or one without an on-demand price.
    """
    table = instances(path)
    found = [i for i in table if name in {i.name, f"{i.provider}/{i.name}"}]
    if not found:
        known = [n for i in table for n in (i.name, f"{i.provider}/{i.name}")]
        advice = nearest(name, known, "see `harness prices show`, or give usd_per_hour, source and as_of")
        raise ConfigError("no such instance in the price table", name, advice)
    if len(found) > 1:
        raise ConfigError(
            "instance name is not unique", name, f"say which: {', '.join(f'{i.provider}/{i.name}' for i in found)}"
        )
    row = found[0]
    if row.usd_per_hour is None:
        raise ConfigError(
            "no on-demand price is published for this instance",
            name,
            f"give usd_per_hour, source and as_of yourself. {row.notes}".strip(),
        )
    return Hardware(
        f"{row.provider}/{row.name} ({row.gpu_count} x {row.gpu_model}, {row.region}, on demand)",
        format(row.usd_per_hour, "f"),
        row.source,
        row.as_of,
    )


def declared(spec: HardwareSpec) -> Hardware:
    """The machine as an experiment declares it."""
    return Hardware(spec.name, format(Decimal(repr(spec.usd_per_hour)), "f"), spec.source, spec.as_of)


def load_hardware(path: Path) -> Hardware:
    """A file of configs/hardware/: the keys of HardwareSpec, or `instance:` with a name of the price table. Raises ConfigError."""
    data = load_yaml(path)
    if isinstance(data, dict) and set(data) == {"instance"}:
        return instance_price(str(data["instance"]))
    try:
        return declared(HardwareSpec.model_validate(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "(top level)"
        raise ConfigError(
            f"{path}: not a machine's price",
            where,
            f"{first['msg']}; keys: instance, or {', '.join(HardwareSpec.model_fields)}",
        ) from None


def day_of(created_utc: str) -> datetime:
    """`20261124T113000Z` or ISO 8601, as UTC. Raises ConfigError."""
    try:
        when = datetime.fromisoformat(created_utc)
    except ValueError:
        raise ConfigError("run has no readable date", created_utc, "created_utc in manifest.json") from None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def staleness(what: str, as_of: str, run: datetime, *, spot: bool = False) -> str | None:
    """A warning if the price's date is too far from the run's, or is not a date; else None."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", as_of):
        return f"price of {what} is dated {as_of!r}, not to the day: its age is not known"
    try:
        dated = date.fromisoformat(as_of)
    except ValueError:
        return f"price of {what} is dated {as_of!r}, which is not a date"
    days = (run.date() - dated).days
    limit = STALE_SPOT_DAYS if spot else STALE_DAYS
    if abs(days) <= limit:
        return None
    side = "before" if days > 0 else "after"
    return f"stale price of {what}: dated {as_of}, {abs(days)} days {side} the run (limit {limit}): look it up again"
