"""An owned machine's hour, part by part by the formula, and the file it comes from."""

from __future__ import annotations

from dataclasses import asdict, replace
from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.planner.owned_machine import OwnedCost, OwnedMachine, load_owned, owned_cost

LEAST = {"capex_usd": 1000, "years": 4, "interest": 0, "power_kw": 0, "power_billing": "included"}


def crf_of(interest, years):
    return owned_cost(OwnedMachine(**LEAST | {"interest": interest, "years": years})).crf


def near(value):
    return pytest.approx(D(value), rel=D("1e-20"))


def test_every_part_by_the_formula():
    """$8,766 at 10 % over two years, resold at $1,210; 2 kW at $73.05 per kW-month; metered at $0.1 with PUE 1.5; half of the hours."""
    machine = OwnedMachine(
        capex_usd=8766, years=2, interest=0.1, power_kw=2, power_billing="metered", usd_per_kwh=0.1, pue=1.5,
        colocation_usd_per_kw_month=73.05, maintenance_usd_per_year=4383, residual_usd=1210, availability=0.5,
    )  # fmt: skip
    crf = D("0.121") / D("0.21")  # 0.1 x 1.1^2 / (1.1^2 - 1)
    capital = (8766 - 1210 / D("1.21")) * crf / 8766
    parts = OwnedCost(
        near(capital),
        near("0.2"),
        near("0.3"),
        near("0.5"),
        near((capital + D("0.2") + D("0.3") + D("0.5")) * 2),
        near(crf),
    )
    assert owned_cost(machine) == parts
    included = owned_cost(replace(machine, power_billing="included"))
    assert included == replace(parts, energy_usd=D(0), total_usd_per_hour=near((capital + D("0.7")) * 2))


def test_what_is_not_said_costs_nothing():
    """No energy, colocation, maintenance or resale, a PUE of 1 and every hour usable."""
    least = OwnedMachine(**LEAST)
    assert asdict(least) == {
        **LEAST, "usd_per_kwh": 0, "pue": 1, "colocation_usd_per_kw_month": 0, "maintenance_usd_per_year": 0, "residual_usd": 0,
        "availability": 1,
    }  # fmt: skip
    hour = D(1000) / 4 / 8766
    assert owned_cost(least) == OwnedCost(hour, D(0), D(0), D(0), hour, D("0.25"))


@pytest.mark.parametrize(("interest", "years"), [(0.1, 1e9), (0.1, 1e-9), (1e9, 4), (1e-20, 1e-20)])
def test_a_term_beyond_any_is_refused(interest, years):
    """Centuries, seconds and a thousandfold interest would overflow or divide by nothing: they are an error with the value."""
    with pytest.raises(ConfigError, match=r"beyond any|so long"):
        crf_of(interest, years)


def test_the_longest_term_is_computed():
    """A hundred years at ten times a year, and no interest to speak of in four days."""
    assert crf_of(10, 100) == near("10")
    assert crf_of("1e-20", "0.01") == near("100")


def test_capital_recovery_at_its_edges():
    """No interest: a part of it each year; a year: all of it with the interest; half a year too."""
    assert crf_of(0, 8) == D("0.125")
    assert crf_of(0.25, 1) == near("1.25")
    assert crf_of("0.21", "0.5") == near(D("0.21") * D("1.1") / D("0.1"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"years": 0}, "years is 0"), ({"interest": -0.1}, "interest per year is negative"), ({"power_kw": -1}, r"power \(kW\) is negative"),
        ({"pue": 0.999}, "PUE is below 1"), ({"power_billing": "free"}, "power_billing is not known"),
        ({"capex_usd": None}, r"capital cost \(USD\) is missing"), ({"residual_usd": 1001}, "machine sells for more than it cost"),
        ({"availability": 0}, "availability is out of range"), ({"availability": 1.1}, "availability is out of range"),
        ({"residual_usd": -1}, r"residual value \(USD\) is negative"), ({"usd_per_kwh": "x"}, r"energy price \(USD per kWh\) is not a number"),
        ({"maintenance_usd_per_year": -1}, r"maintenance \(USD per year\) is negative"), ({"pue": "x"}, "PUE is not a number"),
        ({"colocation_usd_per_kw_month": -1}, r"colocation \(USD per kW-month\) is negative"), ({"years": "x"}, "years is not a number"),
        ({"interest": "x"}, "interest per year is not a number"), ({"power_kw": "x"}, r"power \(kW\) is not a number"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(change, what):
    """Each field by its name; sold for what it cost is the limit, and free of capital."""
    with pytest.raises(ConfigError, match=f"^{what}"):
        owned_cost(OwnedMachine(**{**LEAST, **change}))
    assert owned_cost(OwnedMachine(**{**LEAST, "residual_usd": 1000})).capital_usd == 0
    assert owned_cost(OwnedMachine(**{**LEAST, "capex_usd": 0})).total_usd_per_hour == 0


def test_a_file_holds_the_fields_of_a_machine(tmp_path):
    """The five needed ones are enough; a missing, an unknown key and something else are told with the keys there are."""
    file = tmp_path / "m.yaml"
    text = "capex_usd: 1000\nyears: 4\ninterest: 0\npower_kw: 0\npower_billing: included\n"
    file.write_text(text + "pue: 1.2\n")
    assert load_owned(file) == OwnedMachine(**LEAST, pue=1.2)
    keys = (
        "keys: availability, capex_usd, colocation_usd_per_kw_month, interest, maintenance_usd_per_year, power_billing, power_kw, "
        "pue, residual_usd, usd_per_kwh, years"
    )
    for bad, what, value, advice in (
        ("[1]", "not an owned machine", "list", keys),
        (text + "zeta: 1\nalpha: 2\n", "unknown key", "alpha, zeta", keys),
        ("years: 4\npower_kw: 0\npower_billing: included\n", "missing key", "capex_usd, interest", "a price that is not known is not 0"),
        *(("\n".join(line for line in text.splitlines() if not line.startswith(key)), "missing key", key, "a price that is not known is not 0")
          for key in LEAST),
    ):  # fmt: skip
        file.write_text(bad)
        with pytest.raises(ConfigError) as error:
            load_owned(file)
        assert (error.value.what, error.value.value, error.value.advice) == (f"{file}: {what}", value, advice)
