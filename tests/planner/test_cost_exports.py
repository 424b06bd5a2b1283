"""Exports: FOCUS rows that bill nothing, OpenCost-style metrics, and the command that writes them."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal as D

import duckdb
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from harness.base.errors import ConfigError, StoreError
from harness.cli import cli
from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.planner.focus import (
    COLUMNS,
    MANDATORY,
    EstimatedCharge,
    charges_of_run,
    charges_of_scenario,
    column_kind,
    focus_csv,
    focus_rows,
)
from harness.planner.scenario.run import run_scenario
from harness.price.opencost import opencost_text
from harness.price.run_cost import cost_run
from harness.records import Hardware
from tests.planner.scenario_values import hosted, scenario
from tests.planner.step_simulator import simulate
from tests.price.cost_summaries import summary

BOX = Hardware("box", "3.60", "quote", "2026-11-01")
SPEC = CostSpec(utilisation=0.5, hosted=[PriceRef(provider="openai", model="gpt-5.5")])


def run(**changes):
    s = summary(**changes)
    return s, cost_run(s, BOX, SPEC)


def rows_of(charges):
    return list(csv.DictReader(io.StringIO(focus_csv(focus_rows(charges)))))


# ---------------------------------------------------------------- FOCUS


def test_focus_has_every_mandatory_column_and_bills_nothing():
    """21 mandatory columns; BilledCost 0 and "estimate" in every row; only known or x_ columns."""
    assert len(MANDATORY) == 21
    rows = rows_of(charges_of_run(*run()))
    assert len(rows) == 4  # input and output, of the machine and of one hosted price
    for row in rows:
        assert tuple(row) == COLUMNS
        assert D(row["BilledCost"]) == 0
        assert "estimate" in row["ChargeDescription"]
        assert row["BillingCurrency"] == "USD"
        assert row["BillingAccountId"] == "estimate"  # no account of a provider's
        for name in MANDATORY:
            assert row[name] != "" or name == "ChargeClass", name  # ChargeClass is for corrections: null


def test_focus_rows_add_up_to_the_machine_and_to_the_bill():
    """100 s of a $3.60/h machine at half use are $0.20, split once; the hosted bill is $11.00."""
    rows = rows_of(charges_of_run(*run()))
    own = [r for r in rows if r["ServiceProviderName"] == "self-hosted"]
    assert sum(D(r["EffectiveCost"]) for r in own) == pytest.approx(D("0.2"), rel=D("1e-9"))
    assert sum(D(r["EffectiveCost"]) for r in rows if r not in own) == D(11)
    ratios = [json.loads(r["AllocatedMethodDetails"])["Elements"][0]["AllocatedRatio"] for r in own]
    assert sum(ratios) == pytest.approx(1)
    assert all(r["AllocatedMethodId"] == "x-price-ratio" for r in own)


def test_focus_unit_price_times_quantity_is_the_cost():
    """To 1e-9, the tolerance of the specification's own validator."""
    for row in rows_of(charges_of_run(*run())):
        assert D(row["ListUnitPrice"]) * D(row["PricingQuantity"]) == pytest.approx(D(row["ListCost"]), rel=D("1e-9"))


def test_focus_periods_are_utc_and_nested():
    """The hour of the run inside its month, both in UTC with Z."""
    row = rows_of(charges_of_run(*run()))[0]
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == ("2026-11-24T11:00:00Z", "2026-11-24T12:00:00Z")


def test_focus_of_a_scenario_holds_each_feasible_option():
    """Tokens and dollars of a month for each option; alternatives, each adding up by itself."""
    result = run_scenario(scenario(demand={"requests_per_month": 3e8}, hosted=[hosted(0.5)]))
    rows = rows_of(charges_of_scenario(result))
    assert sum(o.infeasible is None for o in result.options) == 3
    for option in result.options:
        mine = sum(D(r["EffectiveCost"]) for r in rows if r["HostProviderName"] == option.name)
        assert mine == pytest.approx(option.usd_per_month, rel=D("1e-9"))


def of_phase(rows):
    return {r["x_Phase"]: (D(r["PricingQuantity"]), D(r["EffectiveCost"]), r["PricingUnit"]) for r in rows}


def close(found, want):
    assert found.keys() == want.keys()
    for phase, (count, usd, unit) in want.items():
        assert found[phase][2] == unit
        assert found[phase][:2] == (pytest.approx(D(count), rel=D("1e-9")), pytest.approx(D(usd), rel=D("1e-9"))), phase


def test_focus_of_a_scenario_splits_hosted_as_billed():
    """2 M requests of 8,192 + 512 tokens at gpt-5: $20,480 of input and $10,240 of output, not 16 to 1 by tokens ($28,913 / $1,807)."""
    spec = scenario(
        demand={"requests_per_month": 2e6}, workload={"input_tokens": 8192, "output_tokens": 512},
        hosted=[{"provider": "openai", "model": "gpt-5", "same_model": False}],
    )  # fmt: skip
    rows = [r for r in rows_of(charges_of_scenario(run_scenario(spec))) if r["ServiceProviderName"] == "hosted"]
    close(of_phase(rows), {"input": ("16384e6", "20480", "Tokens"), "output": ("1024e6", "10240", "Tokens")})
    assert {r["AllocatedMethodId"] for r in rows} == {""}


def test_focus_of_a_scenario_bills_cache_and_commitment_apart():
    """Haiku: 6,144 of 8,192 read and 2,048 written, 10 % off, 1,000 requests for at least $10: five rows that sum to the $10."""
    haiku = {
        "provider": "anthropic", "model": "claude-haiku-4-5", "same_model": False, "cached_input_tokens": 6144,
        "cache_write_5m_tokens": 2000, "discount": 0.1, "minimum_usd_per_month": 10,
    }  # fmt: skip
    spec = scenario(
        demand={"requests_per_month": 1000}, workload={"input_tokens": 8192, "output_tokens": 512}, hosted=[haiku]
    )
    rows = [r for r in rows_of(charges_of_scenario(run_scenario(spec))) if r["ServiceProviderName"] == "hosted"]
    used = {"input": "0.048", "cached input": "0.6144", "cache writes": "2.5", "output": "2.56"}
    counts = {"input": 48_000, "cached input": 6_144_000, "cache writes": 2_000_000, "output": 512_000}
    want = {phase: (counts[phase], D(usd) * D("0.9"), "Tokens") for phase, usd in used.items()}
    unused = 10 - sum(usd for _, usd, _ in want.values())
    close(of_phase(rows), {**want, "unused commitment": (1, unused, "Months")})
    assert sum(D(r["EffectiveCost"]) for r in rows) == pytest.approx(D(10), rel=D("1e-9"))


def test_focus_of_a_run_has_a_row_for_every_part_of_the_bill():
    """Perplexity with a declared cache of its own: input, cached input, output, and the fee of $12 per 1,000 requests."""
    ref = PriceRef(provider="perplexity", model="sonar", cached_input_tokens=400)
    s = replace(summary(), config={"cost": {"hosted": [ref.model_dump()]}})
    rows = [
        r
        for r in rows_of(charges_of_run(s, cost_run(s, BOX, CostSpec(hosted=[ref]))))
        if r["ServiceProviderName"] == "perplexity"
    ]
    want = {
        "input": (600_000, "0.6", "Tokens"), "cached input": (400_000, "0.4", "Tokens"), "output": (200_000, "0.2", "Tokens"),
        "requests": (1000, 12, "Requests"),
    }  # fmt: skip
    close(of_phase(rows), want)
    assert (
        next(r for r in rows if r["x_Phase"] == "requests")["ChargeDescription"]
        == "estimate, not billed: requests of sonar"
    )


def test_focus_refuses_what_is_not_known():
    """No usage, no charge, NaN: errors, and never a row of 0."""
    s, report = run()
    with pytest.raises(ConfigError, match="no usage"):
        charges_of_run(replace(s, usage=()), report)
    with pytest.raises(ConfigError, match="nothing to export"):
        focus_rows([])
    day = datetime(2026, 11, 24, tzinfo=UTC)
    bad = EstimatedCharge("m", "input", day, day, D(1), D("NaN"), "p", "h", None, None, "2026-11-01", "s")
    with pytest.raises(ConfigError, match="no usd"):
        focus_rows([bad])


def test_focus_parquet_is_the_csv_with_types(tmp_path):
    """Every value of the CSV stands in the Parquet file: decimals exact to 18 places, UTC instants, nulls where it is empty."""
    out = tmp_path / "x.parquet"
    assert invoke("export", "agent-fleet", "--format", "focus", "--out", str(out)).exit_code == 0
    texts = list(csv.DictReader(io.StringIO(invoke("export", "agent-fleet", "--format", "focus").output)))
    table = duckdb.sql(f"select * from '{out}'")
    kinds = dict(zip(table.columns, map(str, table.types), strict=True))
    assert tuple(kinds) == COLUMNS
    wanted = {"decimal": "DECIMAL(38,18)", "whole": "BIGINT", "utc": "TIMESTAMP WITH TIME ZONE", "text": "VARCHAR"}
    assert {name: wanted[column_kind(name)] for name in COLUMNS} == kinds
    rows = table.fetchall()
    assert len(rows) == len(texts) > 0
    for text, row in zip(texts, rows, strict=True):
        for name, value in zip(COLUMNS, row, strict=True):
            if text[name] == "":
                assert value is None, name
            elif column_kind(name) == "decimal":
                assert abs(value - D(text[name])) <= D("1e-18"), name
            elif column_kind(name) == "utc":
                assert value == datetime.fromisoformat(text[name]), name
            else:
                assert str(value) == text[name], name


def test_focus_parquet_that_cannot_be_written_leaves_nothing(tmp_path):
    """No such directory: an error of the store, and no half a file."""
    failed = invoke("export", "startup-chat", "--format", "focus", "--out", str(tmp_path / "no" / "x.parquet"))
    assert isinstance(failed.exception, StoreError)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- OpenCost


def test_opencost_metrics_parse_and_say_their_method():
    """A Prometheus parser reads them; allocation is usage / utilisation; split samples name their method."""
    families = {f.name: f for f in text_string_to_metric_families(opencost_text([run()]))}
    assert set(families) == {"llm_total_hourly_cost", "llm_cost_per_million_tokens", "llm_cache_savings_fraction"}
    assert families["llm_total_hourly_cost"].samples[0].value == 3.6
    by = {(s.labels["phase"], s.labels["cost_basis"]): s for s in families["llm_cost_per_million_tokens"].samples}
    assert set(by) == {(p, b) for p in ("", "prompt", "generation") for b in ("usage", "allocation")}
    for phase in ("", "prompt", "generation"):
        assert by[phase, "allocation"].value == pytest.approx(2 * by[phase, "usage"].value)
        assert by[phase, "usage"].labels["allocation_method"] == ("price-ratio" if phase else "none")


def test_opencost_input_and_output_are_the_whole_once():
    """Input and output at their prices are the blended price times the tokens: nothing is charged twice."""
    families = {f.name: f for f in text_string_to_metric_families(opencost_text([run()]))}
    usd = {
        s.labels["phase"]: s.value
        for s in families["llm_cost_per_million_tokens"].samples
        if s.labels["cost_basis"] == "usage"
    }
    assert usd["prompt"] * 1.0 + usd["generation"] * 0.2 == pytest.approx(usd[""] * 1.2)


def test_opencost_absent_is_not_zero():
    """Without a price of the machine there is no cost sample; with neither price nor usage nothing to export."""
    s = summary()
    text = opencost_text([(s, cost_run(s, None, CostSpec()))])
    assert "llm_cost_per_million_tokens" not in text
    bare = summary(usage=())
    with pytest.raises(ConfigError, match="nothing to export"):
        opencost_text([(bare, cost_run(bare, None, CostSpec()))])


def test_opencost_labels_are_escaped():
    """A quote, a backslash or a new line in a model's name is read back as it was."""
    s, report = run()
    for model in ('a"b\\c', "back\\nslash", "line\nbreak"):
        text = opencost_text([(replace(s, model=model), report)])
        assert next(iter(text_string_to_metric_families(text))).samples[0].labels["model_name"] == model


# ---------------------------------------------------------------- command line


def invoke(*words):
    return CliRunner().invoke(cli, ["cost", *words], catch_exceptions=True)


def test_commands_print_json_that_agrees_with_the_functions():
    """scenario and decide with --json: parsed, complete, money as text."""
    shown = json.loads(invoke("scenario", "seed-chat", "--json").output)
    assert shown["claims"][0]["published"] == "8167.680"
    assert shown["outlook"]["permanent"]["middle"] == "inf"
    assert json.loads(invoke("decide", "internal-code", "--json").output)["choice"] == "self-hosted"


def test_commands_print_words():
    """Without --json: the verdict and the reason."""
    assert "cheapest: hosted $1,205 a month" in re.sub(r"\s+", " ", invoke("scenario", "seed-chat").output)
    assert "the constraints cost" in invoke("decide", "internal-code").output


def test_export_writes_files(tmp_path):
    """xlsx needs a file; focus goes to stdout or a file."""
    out = tmp_path / "s.xlsx"
    assert invoke("export", "seed-chat", "--format", "xlsx", "--out", str(out)).exit_code == 0
    assert zipfile.is_zipfile(out)
    assert invoke("export", "seed-chat", "--format", "focus").output.startswith("BilledCost,")
    assert isinstance(invoke("export", "seed-chat", "--format", "xlsx").exception, ConfigError)
    assert isinstance(invoke("export", "seed-chat", "--format", "opencost").exception, ConfigError)


def test_attribute_reads_server_logs(tmp_path):
    """Two logs, a shape each: shares, left-out errors and the reminder that it is a joint cost."""
    paths = []
    for name, shape in {"chat": (1155, 211, 10), "code": (2048, 28, 8)}.items():
        path = tmp_path / f"{name}.log"
        path.write_text("\n".join(simulate(*shape).lines))
        paths.append(str(path))
    shown = json.loads(invoke("attribute", *paths, "--json").output)
    assert shown["fit"]["r2"] > 0.99
    assert set(shown["fit"]["left_out_error"]) == {"chat", "code"}
    assert "joint cost" in invoke("attribute", *paths).output
    assert isinstance(invoke("attribute", str(tmp_path / "none.log")).exception, ConfigError)
