"""What an owned GPU costs per hour, and what energy costs where it is metered."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Literal

from harness.base.documents import load_yaml
from harness.base.errors import ConfigError
from harness.base.quantities import (
    HOURS_PER_MONTH,
    HOURS_PER_YEAR,
    Number,
    exact,
    exact_above_zero,
    exact_at_least_zero,
    exact_share,
    to_decimal,
    usd,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedMachine:
    """A bought machine: per GPU or per server, all fields for the same thing.

    power_kw: average draw of the IT equipment, at the wall. pue multiplies it, and only where power is metered.
    power_billing: `included`: the colocation price per kW already has power and cooling; `metered`: energy is paid on top.
    residual_usd: what it sells for at the end (0 unless declared: a modelling choice). availability: share of hours usable.
    """

    capex_usd: Number
    years: Number
    interest: Number
    power_kw: Number
    power_billing: Literal["included", "metered"]
    usd_per_kwh: Number = 0
    pue: Number = 1
    colocation_usd_per_kw_month: Number = 0
    maintenance_usd_per_year: Number = 0
    residual_usd: Number = 0
    availability: Number = 1


@dataclass(frozen=True, slots=True)
class OwnedCost:
    """USD per hour of each part, and of a usable hour: their sum / availability."""

    capital_usd: Decimal
    colocation_usd: Decimal
    energy_usd: Decimal
    maintenance_usd: Decimal
    total_usd_per_hour: Decimal
    crf: Decimal


def _term(interest: Number, years: Number) -> tuple[Decimal, Decimal]:
    rate, life = exact_at_least_zero(interest, "interest per year"), exact_above_zero(years, "years")
    if rate > 10:
        raise ConfigError("interest per year is beyond any", interest, "0.1 is 10 %; at most 10")
    if not Fraction(1, 100) <= life <= 100:
        raise ConfigError("no machine is used for so long, or so short", f"{years} years", "0.01 to 100")
    return to_decimal(rate), to_decimal(life)


def _recovery(rate: Decimal, years: Decimal) -> Decimal:
    """CRF(r, L) = r (1 + r)^L / ((1 + r)^L - 1): the yearly payment for 1 borrowed; 1 / L at no interest."""
    if not rate:
        return 1 / years
    grown = (1 + rate) ** years
    return rate * grown / (grown - 1)


def owned_cost(machine: OwnedMachine) -> OwnedCost:
    """[capex CRF / 8766 + colocation x kW + kW x PUE x $/kWh (metered) + maintenance] / availability. Raises ConfigError."""
    rate, years = _term(machine.interest, machine.years)
    crf = _recovery(rate, years)
    resale_now = usd(machine.residual_usd, "residual value (USD)") / (1 + rate) ** years
    capital = (usd(machine.capex_usd, "capital cost (USD)") - resale_now) * crf / HOURS_PER_YEAR
    if capital < 0:
        raise ConfigError(
            "machine sells for more than it cost", machine.residual_usd, "check residual_usd and capex_usd"
        )
    power = to_decimal(exact_at_least_zero(machine.power_kw, "power (kW)"))
    colocation = usd(machine.colocation_usd_per_kw_month, "colocation (USD per kW-month)") * power / HOURS_PER_MONTH
    per_kwh = usd(machine.usd_per_kwh, "energy price (USD per kWh)")
    pue = exact(machine.pue, "PUE")
    if pue < 1:
        raise ConfigError("PUE is below 1", machine.pue, "facility power / IT power: 1.1-1.6 is usual")
    match machine.power_billing:
        case "included":
            energy = Decimal(0)
        case "metered":
            energy = power * to_decimal(pue) * per_kwh
        case _:
            raise ConfigError("power_billing is not known", machine.power_billing, "included or metered")
    maintenance = usd(machine.maintenance_usd_per_year, "maintenance (USD per year)") / HOURS_PER_YEAR
    up = to_decimal(exact_share(machine.availability, "availability"))
    total = (capital + colocation + energy + maintenance) / up
    return OwnedCost(capital, colocation, energy, maintenance, total, crf)


def load_owned(path: Path) -> OwnedMachine:
    """A YAML file with the fields of OwnedMachine. Raises ConfigError."""
    data = load_yaml(path)
    fields = set(OwnedMachine.__dataclass_fields__)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not an owned machine", type(data).__name__, f"keys: {', '.join(sorted(fields))}")
    if unknown := set(data) - fields:
        raise ConfigError(f"{path}: unknown key", ", ".join(sorted(unknown)), f"keys: {', '.join(sorted(fields))}")
    needed = {"capex_usd", "years", "interest", "power_kw", "power_billing"}
    if missing := needed - set(data):
        raise ConfigError(f"{path}: missing key", ", ".join(sorted(missing)), "a price that is not known is not 0")
    return OwnedMachine(**data)
