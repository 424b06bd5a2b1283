"""FOCUS rows column by column, and the charges behind them: of a run, of several, of a scenario's options."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.planner.focus import (
    COLUMNS,
    EstimatedCharge,
    charges_of_run,
    charges_of_runs,
    charges_of_scenario,
    column_kind,
    focus_csv,
    focus_row,
    focus_rows,
)
from harness.planner.measured import Measured
from harness.planner.scenario.run import run_scenario
from harness.price.run_cost import cost_run
from harness.records import Hardware
from tests.planner.scenario_values import hosted, scenario
from tests.price.cost_summaries import RUN_ID, summary

BOX = Hardware("box", "3.60", "quote", "2026-11-01")
HOUR = datetime(2026, 11, 24, 11, tzinfo=UTC), datetime(2026, 11, 24, 12, tzinfo=UTC)
MONTH = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
HOST = PriceRef(
    provider="host", model="org/m", input_usd_per_million=2, output_usd_per_million=7, source="list", as_of="2026-11-02"
)


def test_every_column_of_a_joint_charge():
    """A third of a machine's cost, with all that is known of it: 1,500 tokens at $0.03, a price of $0.00002 each."""
    charge = EstimatedCharge(
        model="m", phase="input", start=HOUR[0], end=HOUR[1], tokens=D(1500), usd=D("0.03"), provider="self-hosted", host="box",
        method_id="x-price-ratio", ratio=D("0.3"), price_as_of="2026-11-01", price_source="quote", run_id="r", utilisation=0.5,
        slo_attainment=0.99, replicas=2, usd_low=D("0.02"), usd_high=D("0.04"), energy_kwh=D("0.001"),
    )  # fmt: skip
    row = focus_row(charge)
    assert tuple(row) == COLUMNS
    assert row == {
        "BilledCost": "0.0", "BillingAccountId": "estimate", "BillingAccountName": "Benchmark estimates, not billed",
        "BillingCurrency": "USD", "BillingPeriodStart": "2026-11-01T00:00:00Z", "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "ChargeCategory": "Usage", "ChargeClass": "", "ChargeDescription": "estimate, not billed: input tokens of m",
        "ChargePeriodStart": "2026-11-24T11:00:00Z", "ChargePeriodEnd": "2026-11-24T12:00:00Z", "ContractedCost": "0.03",
        "EffectiveCost": "0.03", "HostProviderName": "box", "InvoiceIssuerName": "self-hosted", "ListCost": "0.03",
        "PricingQuantity": "1500.0", "PricingUnit": "Tokens", "ServiceCategory": "AI and Machine Learning", "ServiceName": "m",
        "ServiceProviderName": "self-hosted", "ServiceSubcategory": "Generative AI", "InvoiceId": "", "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": "1500.0", "ConsumedUnit": "Tokens", "PricingCategory": "Standard", "ListUnitPrice": "0.00002",
        "ContractedUnitPrice": "0.00002", "SkuId": "self-hosted/m/input", "SkuPriceId": "self-hosted/m/input/2026-11-01",
        "AllocatedMethodId": "x-price-ratio",
        "AllocatedMethodDetails": '{"Elements":[{"AllocatedRatio":0.3,"UsageUnit":"Tokens","UsageQuantity":1500}]}',
        "AllocatedResourceId": "self-hosted/m/input", "AllocatedResourceName": "m", "AllocatedTags": "", "x_Phase": "input",
        "x_UtilizationFraction": "0.5", "x_SLOAttainment": "0.99", "x_Replicas": "2", "x_CostLow": "0.02", "x_CostHigh": "0.04",
        "x_PriceAsOf": "2026-11-01", "x_PriceSource": "quote", "x_BenchmarkRunId": "r", "x_EnergyKWh": "0.001",
    }  # fmt: skip
    details = json.loads(row["AllocatedMethodDetails"])
    assert details["Elements"][0]["AllocatedRatio"] == 0.3


def test_a_charge_of_a_price_list_leaves_empty_what_is_not_known():
    """No split, no run, no tokens (a month's commitment): the rest is as for any charge, and one of 0 is no error."""
    charge = EstimatedCharge(
        "m", "unused commitment", *MONTH, D(1), D(10), "host", "host", None, None, "2026-11-02", "list", unit="Months"
    )
    row = focus_row(charge)
    empty = {
        "ChargeClass", "InvoiceId", "AllocatedMethodId", "AllocatedMethodDetails", "AllocatedResourceId", "AllocatedResourceName",
        "AllocatedTags", "x_UtilizationFraction", "x_SLOAttainment", "x_Replicas", "x_CostLow", "x_CostHigh", "x_BenchmarkRunId",
        "x_EnergyKWh",
    }  # fmt: skip
    assert {name for name, value in row.items() if value == ""} == empty
    assert row["ChargeDescription"] == "estimate, not billed: unused commitment of m"
    assert (row["PricingQuantity"], row["PricingUnit"], row["ConsumedUnit"]) == ("1.0", "Months", "Months")
    nothing = focus_row(replace(charge, tokens=D(0), usd=D(0)))
    assert (nothing["ListUnitPrice"], nothing["EffectiveCost"], nothing["PricingQuantity"]) == ("0.0", "0.0", "0.0")


@pytest.mark.parametrize("bad", [{"tokens": D("NaN")}, {"tokens": D(-1)}, {"usd": D("Infinity")}, {"usd": D("-0.01")}])
def test_a_charge_is_an_amount(bad):
    """Tokens and dollars are finite and 0 or more; else the charge is named."""
    (what,) = bad
    charge = EstimatedCharge("m", "input", *MONTH, D(1), D(1), "p", "h", None, None, "2026-11-02", "list")
    with pytest.raises(ConfigError, match=f"charge has no {what}") as error:
        focus_row(replace(charge, **bad))
    assert error.value.value == f"m input: {bad[what]}"


@pytest.mark.parametrize(
    ("start", "first", "after"),
    [
        (datetime(2026, 12, 31, 23, 59, 58, 7, tzinfo=UTC), "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        (datetime(2028, 2, 29, 5, tzinfo=UTC), "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        (datetime(2027, 1, 31, 5, tzinfo=UTC), "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"),
    ],
)
def test_a_billing_period_is_the_month(start, first, after):
    """From its first instant to that of the next, whatever its length."""
    row = focus_row(EstimatedCharge("m", "input", start, start, D(1), D(1), "p", "h", None, None, "2026-11-02", "list"))
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == (first, after)


def test_the_columns_and_their_types():
    """46 columns; 13 are decimals, one is whole, four are instants, the rest texts; the file begins with their names."""
    kinds = {kind: {c for c in COLUMNS if column_kind(c) == kind} for kind in ("decimal", "whole", "utc", "text")}
    assert kinds["decimal"] == {
        "BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity", "ConsumedQuantity", "ListUnitPrice",
        "ContractedUnitPrice", "x_UtilizationFraction", "x_SLOAttainment", "x_CostLow", "x_CostHigh", "x_EnergyKWh",
    }  # fmt: skip
    assert kinds["whole"] == {"x_Replicas"}
    assert kinds["utc"] == {"BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"}
    assert len(kinds["text"]) == len(COLUMNS) - 18 == 28
    charge = EstimatedCharge("m", "input", *MONTH, D(1), D(1), "p", "h", None, None, "2026-11-02", "list")
    text = focus_csv(focus_rows([charge]))
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert (text.count("\n"), text.count("\r")) == (2, 0)


# ---------------------------------------------------------------- a run


def run(**more):
    """$0.20 of a machine, split 5 : 4 at a price ratio of 4; 3.6 MJ; hosted as its config says."""
    s = summary(attainment=0.8, energy_j=3_600_000.0, created_utc="2026-11-24T11:59:58.765432+00:00", **more)
    s = replace(s, config={"cost": {"hosted": [{"provider": "z", "model": "z"}, HOST.model_dump()]}})
    return s, cost_run(s, BOX, CostSpec(utilisation=0.5, input_output_price_ratio=4, hosted=[HOST]))


def test_the_charges_of_a_run():
    """The hour it was made in; the machine's window by the price ratio with energy and attainment; the hosted bill as billed."""
    found = charges_of_run(*run())
    five, four = D("111111.111111") / D("199999.9999998"), D("88888.8888888") / D("199999.9999998")
    own = [
        EstimatedCharge(
            "m", phase, *HOUR, D(tokens), D("0.2") * ratio, "self-hosted", "box", "x-price-ratio", ratio, "2026-11-01", "quote",
            run_id=RUN_ID, utilisation=0.5, slo_attainment=0.8, replicas=1, energy_kwh=D("3600000.0") * ratio / 3_600_000,
        )
        for phase, tokens, ratio in (("input", 1_000_000, five), ("output", 200_000, four))
    ]  # fmt: skip
    billed = [
        EstimatedCharge("org/m", phase, *HOUR, D(tokens), D(usd), "host", "host", None, None, "2026-11-02", "list", run_id=RUN_ID)
        for phase, tokens, usd in (("input", 1_000_000, 2), ("output", 200_000, "1.4"))
    ]  # fmt: skip
    assert found == [*own, *billed]
    assert (round(five * 9, 9), round(four * 9, 9)) == (5, 4)


def test_a_free_machine_is_charged_0_for_each_phase():
    """$0 an hour: both phases are there at $0, shared by their tokens."""
    s, _ = run()
    found = charges_of_run(s, cost_run(s, replace(BOX, usd_per_hour="0"), CostSpec()))
    assert [(c.phase, c.usd, round(c.ratio, 9)) for c in found] == [
        ("input", 0, D("0.833333333")), ("output", 0, D("0.166666667")),
    ]  # fmt: skip
    assert focus_rows(found)[0]["EffectiveCost"] == "0.0"


@pytest.mark.parametrize("lacking", [{"window": False}, {"input_tps": None}])
def test_a_run_without_its_machine_s_cost_has_the_hosted_charges_alone(lacking):
    """No window, or no rates to split by: what the machine's tokens cost is not known."""
    assert {c.provider for c in charges_of_run(*run(**lacking))} == {"host"}


def test_what_is_not_measured_is_none():
    """No power meter, no promise, no machine: no energy, no attainment, no charge of a machine."""
    s = summary()
    (first, _) = charges_of_run(s, cost_run(s, BOX, CostSpec()))
    assert (first.energy_kwh, first.slo_attainment) == (None, None)
    assert charges_of_run(s, cost_run(s, None, CostSpec())) == []


def test_a_hosted_price_that_the_config_does_not_declare_is_the_book_s():
    """provider/model with a slash in the model's name is found in the price book."""
    ref = PriceRef(provider="huggingface_nscale", model="Qwen/Qwen3-8B")
    s = replace(summary(), config={"cost": {}})
    found = charges_of_run(s, cost_run(s, None, CostSpec(hosted=[ref])))
    assert {(c.provider, c.host, c.model) for c in found} == {("huggingface_nscale",) * 2 + ("Qwen/Qwen3-8B",)}


def test_runs_without_charges_are_named():
    """Usage that does not add up, and none at all: left out with the reason; the others' charges are there."""
    good, odd, none = run(), run(usage=((5, 6, 1, 0),)), run(usage=())
    charges, left_out = charges_of_runs([good, odd, none])
    assert charges == charges_of_run(*good)
    assert left_out[0].startswith(f"{RUN_ID}: usage does not add up")
    assert left_out[1:] == [f"{RUN_ID}: it has no usage"]


# ---------------------------------------------------------------- a scenario


def test_the_charges_of_a_scenario():
    """300 M requests: 24 machines, 23 always on and the rest hosted, $0.5/M hosted, units at $1; alternatives, each whole."""
    dedicated = {"usd_per_unit_hour": 1, "unit_requests_per_s": 4, "source": "contract"}
    spec = scenario(
        as_of="2026-11-24", demand={"requests_per_month": 3e8},
        hosted=[hosted(0.5, dedicated=dedicated), hosted(0.5, model="slow", meets_slo=False)],
    )  # fmt: skip
    result = run_scenario(spec)
    tokens = {"input": D("300000000.0") * 800, "output": D("300000000.0") * 200}

    def one_price(kind, name, month, as_of, source):
        return [
            EstimatedCharge(
                "m",
                phase,
                *MONTH,
                count,
                D(month) * share,
                kind,
                name,
                "x-one-price-for-all-tokens",
                share,
                as_of,
                source,
            )
            for (phase, count), share in zip(tokens.items(), (D("0.8"), D("0.2")), strict=True)
        ]

    billed = [
        EstimatedCharge("m", phase, *MONTH, count, count * D("0.5") / 1_000_000, "hosted", "host/m", None, None, "2026-11-01", "list")
        for phase, count in tokens.items()
    ]  # fmt: skip
    assert 22 < 3e8 / (730.5 * 3600) / 5 < 23  # of a machine's usable rate; twice that over 4 is 57.04 units
    assert charges_of_scenario(result) == [
        *one_price("self-hosted", "24 machines, box", 24 * 4 * D("730.5"), "2026-11-01", "quote"),
        *billed,
        *one_price("hybrid", "23 machines always on, the rest to host/m", 23 * 4 * D("730.5"), "2026-11-01", "list"),
        *one_price("dedicated", "58 units of host/m", 58 * D("730.5"), "2026-11-24", "contract"),
    ]  # fmt: skip


def test_a_scenario_of_a_measured_run_is_charged_by_its_requests():
    """Measured requests of 1,000 + 100 tokens, one of two: 250 M input and 25 M output tokens hosted; a free price has $0 of each."""
    usage = ((1000, 0, 100, 0), (0, 0, 0, 0))
    seen = Measured(8.0, 8.0, None, usage, ("r",), ("m",), "20261120T000000Z", "measured", ())
    spec = scenario(
        demand={"requests_per_month": 5e5}, capacity={"requests_per_s": None, "run": "x", "source": ""}, hosted=[hosted(2.0), hosted(0)]
    )  # fmt: skip
    rows = [c for c in charges_of_scenario(run_scenario(spec, seen), seen) if c.provider == "hosted"]
    assert [(c.phase, c.tokens, c.usd) for c in rows] == [
        ("input", D(250_000_000), 500), ("output", D(25_000_000), 50), ("input", D(250_000_000), 0), ("output", D(25_000_000), 0),
    ]  # fmt: skip
