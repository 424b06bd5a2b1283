"""One price at a date: whatever command shows it (catalogue, bill, instances, scenario, a run's cost) shows the same. And one price of a
hosted API: whatever asks what its target costs (spend cap, forecast, run cost, hybrid, a replayed day) is told the same."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal as D

import pytest
from click.testing import CliRunner
from genai_prices import data_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base import clock
from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.cli import cli
from harness.config.experiment import CostSpec, ExperimentSpec
from harness.config.price_ref import PriceRef
from harness.measure.campaign.forecast import price_of
from harness.measure.hybrid import hosted_usd_of
from harness.measure.spending import price_of_requests
from harness.planner.day_terms import _hosted_usd
from harness.planner.instances import candidates
from harness.planner.scenario.run import run_scenario
from harness.price.hosted import bill, find_price, price_at
from harness.price.hosted_service import service_price
from harness.price.hybrid_cost import hosted_half
from harness.price.machine_price import declared_hardware
from harness.price.prices import age_words, catalogue, day_of, instance_price, instances, stale_after_days
from harness.price.run_cost import cost_run
from harness.records import MEASURED, SideOfRun
from tests.planner.scenario_values import scenario
from tests.price.cost_summaries import summary

FIRST, LAST = date(2025, 1, 1), date(2027, 12, 31)
MODELS = {
    f"{provider.id}/{model.id}": model
    for provider in data_snapshot.get_snapshot().providers
    for model in provider.models
    if (price := model.get_prices(datetime(2026, 11, 24, tzinfo=UTC))).input_mtok is not None
    and price.output_mtok is not None
}
DATED = sorted(name for name, model in MODELS.items() if isinstance(model.prices, list))
PRICED = sorted(i.full_name for i in instances(datetime(2026, 11, 24, tzinfo=UTC)) if i.usd_per_hour is not None)
moments = st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive


def shown_by_the_catalogue(name, at, kind):
    return next(row for row in catalogue(name, at) if (row.name, row.kind) == (name, kind))


@settings(max_examples=120, deadline=None)
@given(st.one_of(st.sampled_from(DATED), st.sampled_from(sorted(MODELS))), moments)
def test_the_catalogue_shows_what_is_billed(name, at):
    """Random models and moments, those with dated prices half the time: a million tokens each way cost what `prices show` says."""
    provider, _, model = name.partition("/")
    shown = shown_by_the_catalogue(name, at, "hosted").usd
    price = price_at(MODELS[name], at)
    if price.input_mtok is None or price.output_mtok is None:
        assert "-" in shown.split(" / ")
        return
    found = find_price(PriceRef(provider=provider, model=model), at)
    assert found.inputs["price source"].endswith(f": {name}")
    short = [bill(found, [(1, 0, 0, 0)]), bill(found, [(0, 0, 1, 0)])]
    assert shown == " / ".join(str(p) for p in (first(price.input_mtok), first(price.output_mtok)))
    assert [b.total_usd - b.fees_usd for b in short] == [D(part) / 1_000_000 for part in shown.split(" / ")]


def first(price):
    return getattr(price, "base", price)


def test_no_model_shows_a_price_that_is_not_in_force():
    """Google's prices of 2027 are shown from 1 January 2027, and not before."""
    for day, usd in (
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), "0.75 / 3.75"),
        (datetime(2027, 1, 1, tzinfo=UTC), "1.5 / 7.5"),
    ):
        assert shown_by_the_catalogue("google/gemini-3.8-flash", day, "hosted").usd == usd


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PRICED), st.dates(FIRST, LAST))
def test_every_command_prices_an_instance_alike(name, day):
    """Catalogue, candidates of `instances`, a scenario and a run's own cost: one price, one date, at any day."""
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    machine = instance_price(name, at)
    row = shown_by_the_catalogue(name, at, "instance")
    assert (row.usd, row.as_of) == (machine.usd_per_hour, machine.as_of)
    assert row.dated == f"{machine.as_of}, {age_words(machine.as_of, at, stale_after_days(name))}"
    options, _ = candidates(measured={name: 1}, table=instances(at))
    assert [(c.usd_per_hour, c.as_of) for c in options if c.purchase == "on-demand"] == [(D(row.usd), row.as_of)]
    config = {"targets": [{"name": "t", "kind": "vllm", "hardware": name}]}
    run = replace(summary(created_utc=day.strftime("%Y%m%dT120000Z")), config=config)
    assert declared_hardware(run) == machine
    (line, *_) = cost_run(run, declared_hardware(run), CostSpec()).own
    assert (line.inputs["price"], line.inputs["price as of"]) == (f"{row.usd} USD per hour", row.as_of)


@pytest.mark.parametrize("day", ["2026-07-01", "2026-11-08", "2026-11-09", "2026-11-24"])
def test_a_scenario_prices_its_machine_as_the_catalogue_does(day):
    """RunPod's H100 before and after its price rose on 2026-11-09."""
    spec = scenario(as_of=day, machine={"declared": None, "instance": "runpod/secure_h100_sxm"})
    at = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    want = D(shown_by_the_catalogue("runpod/secure_h100_sxm", at, "instance").usd)
    assert run_scenario(spec).figure("machine_usd_per_hour") == want == D("3.99" if day >= "2026-11-09" else "3.49")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("azure/NC96ads_A100_v4", "14.692", "19.108"),
        ("azure/NC80adis_H100_v5", "13.96", "17.64"),
        ("runpod/secure_h100_sxm", "3.49", "3.99"),
        ("runpod/secure_a100_sxm", "1.59", "1.79"),
    ],
)
def test_the_newest_price_that_is_not_in_the_future_wins(name, old, new):
    """Four machines got dearer by 2026-11-09: the old price up to the day before, the new one from that day on."""
    assert instance_price(name, day_of("20261108T235959Z")).usd_per_hour == old
    assert instance_price(name, day_of("20261109T000000Z")).usd_per_hour == new
    assert instance_price(name, day_of("20300101T000000Z")).usd_per_hour == new


HEADER = (
    "provider,instance,region,gpu_model,gpu_count,gpu_mem_gb_total,on_demand_usd_h,source,source_date,confidence,notes"
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 99)), min_size=1, max_size=6), st.integers(-10, 410))
def test_the_price_at_a_date_against_a_search_by_hand(tmp_path_factory, rows, at_day):
    """Rows of one machine in any order: the newest that is not after the day, of one date the last written, else the earliest."""
    table = tmp_path_factory.mktemp("table") / "t.csv"
    day = lambda n: (FIRST + timedelta(days=n)).isoformat()  # noqa: E731
    table.write_text("\n".join([HEADER, *(f"p,x,r,A10G,1,24,{usd},s,{day(n)},high," for n, usd in rows)]))
    past = [row for row in rows if row[0] <= at_day]
    best = max(n for n, _ in past) if past else min(n for n, _ in rows)
    same = [usd for n, usd in rows if n == best]
    want = same[-1] if past else same[0]
    at = datetime(2025, 1, 1, 12, tzinfo=UTC) + timedelta(days=at_day)
    assert instance_price("x", at, table).usd_per_hour == str(want)


def test_no_note_of_the_table_holds_a_price_that_no_row_has():
    """A newer price belongs in a row of its own: every dated amount in a note stands in a row of that date or of that amount."""
    import csv
    import re

    with (data_dir("configs") / "prices" / "instances.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    have = {
        (r["provider"], r["instance"], r["source_date"], D(r["on_demand_usd_h"])) for r in rows if r["on_demand_usd_h"]
    }
    noted = [
        (r["provider"], r["instance"], day, D(usd))
        for r in rows
        for usd, day in re.findall(r"(\d+\.\d+) on (\d{4}-\d{2}-\d{2})", r["notes"])
    ]
    assert len(noted) >= 8
    assert [one for one in noted if one not in have] == []


def test_stale_limits_are_those_of_the_seller():
    """120 days for the three hyperscalers and what a user declares; 45 for smaller clouds, marketplaces and spot."""
    limits = {
        name: stale_after_days(name)
        for name in ("aws/p5.48xlarge", "gcp/x (1 x L4, any, on demand)", "azure/y", "our own box", "rack 3/4 in Oslo")
    }
    assert set(limits.values()) == {120}
    for name, source in (
        ("runpod/secure_h200", ""),
        ("lambda/gpu_1x_a10", ""),
        ("aws spot p5", ""),
        ("box", "vast.ai"),
        ("aws/p5", "spot"),
    ):
        assert stale_after_days(name, source) == 45, name


def invoke(*words):
    return CliRunner().invoke(cli, list(words), catch_exceptions=False).output


def test_every_table_with_an_instance_price_shows_its_age():
    """`prices show`, `cost instances` and their --json, 128 days after the AWS price and 66 after Lambda's."""
    at = ("--at", "2026-11-25")
    table = " ".join(invoke("prices", "show", *at, "p5.48xlarge").split())
    assert "2026-07-20, 128 days old, STALE (limit" in table
    (row,) = json.loads(invoke("prices", "show", *at, "--json", "aws/p5.48xlarge"))
    assert (row["age_days"], row["stale"], row["usd"]) == (128, True, "55.04")
    words = ("cost", "instances", *at, "--rps", "20", "--measured", "p5.48xlarge=40", "--measured", "gpu_1x_h100_sxm=9")
    text = " ".join(invoke(*words).split())
    assert "2026-07-20, 128 days old, STALE (limit 120)" in text
    assert "2026-09-20, 66 days old, STALE (limit 45)" in text
    assert (
        "warning: stale price of lambda/gpu_1x_h100_sxm (on-demand): dated 2026-09-20, 66 days before the run" in text
    )
    shown = json.loads(invoke(*words, "--json"))
    assert len(shown["warnings"]) == 2


def test_a_forecast_bills_with_the_price_of_now():
    """`run --dry-run` takes the price that the catalogue shows at the same moment."""
    spec = ExperimentSpec.model_validate(
        {
            "experiment": "x", "workloads": ["fixed:8x8"], "loads": [{"concurrency": [1], "requests": 1}],
            "targets": [{"name": "t", "kind": "hosted", "url": "https://api.openai.com/v1", "model": "gpt-5"}],
        }
    )  # fmt: skip
    price = price_of(spec, spec.targets[0])
    shown = shown_by_the_catalogue("openai/gpt-5", clock.utc_now(), "hosted").usd
    assert f"{price.model.input_mtok} / {price.model.output_mtok}" == shown


# ---------------------------------------------------------------- a hosted API

WHOSE = {
    "https://api.openai.com/v1": "openai",
    "https://api.groq.com/openai/v1": "groq",
    "https://llm.acme.example/v1": "acme",  # nobody of the book, so known by its name
    "https://gateway.example/v1": None,
}
IN_THE_BOOK = {("openai", "gpt-5-mini"), ("groq", "llama-3.1-8b-instant")}
NAMES = ["gpt-5-mini", "llama-3.1-8b-instant", "my-deployment"]
PROMPT, OUTPUT = 1000, 200
refs = st.builds(
    lambda provider, model, usd: PriceRef(
        provider=provider, model=model, input_usd_per_million=usd, output_usd_per_million=usd and 2 * usd
    ),
    st.sampled_from(["openai", "groq", "acme", "other"]), st.sampled_from(NAMES), st.sampled_from([None, None, 1.0, 3.0]),
)  # fmt: skip


def by_the_rule(url, model, declared, listed):
    """The rule in words, by hand."""
    same = [ref for ref in listed if ref.model == model]
    if declared is not None:
        return declared
    if at := [ref for ref in same if ref.provider == WHOSE[url]]:
        return at[0]
    if (WHOSE[url], model) in IN_THE_BOOK:
        return PriceRef(provider=WHOSE[url], model=model)
    if WHOSE[url] in ("openai", "groq"):
        return None
    return next((ref for ref in same if ref.input_usd_per_million is not None), None)


def told(ask):
    """Dollars; None: no price; `refused`: ConfigError."""
    try:
        found = ask()
    except ConfigError:
        return "refused"
    return None if found is None else round(float(found), 12)


def of_day(run):
    try:
        return _hosted_usd(run, None, day_of(run.created_utc))(PROMPT, OUTPUT)
    except ConfigError as error:
        if "no price of the hosted side" in error.what:
            return None
        raise


def of_run_cost(run, spec):
    report = cost_run(run, None, CostSpec())
    if any("not billed at its own API" in warning for warning in report.warnings):
        return "refused"
    found = [report.bills[name].total_usd for name, basis in report.basis.items() if basis == MEASURED]
    return told(lambda: found[0] if found else None)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(WHOSE)), st.sampled_from(NAMES), st.one_of(st.none(), st.none(), refs),
    st.lists(refs, max_size=4, unique_by=lambda ref: ref.name), st.sampled_from([None, None, "flex"]),
)  # fmt: skip
def test_any_two_commands_agree_on_the_price_of_an_api(url, model, declared, listed, service):
    """Random targets (price declared or not), cost.hosted and services: the dollars of one request of 1,000 + 200 tokens are those of the
    rule in words, wherever they are asked for."""
    hosted = {"name": "t", "kind": "hosted", "url": url, "model": model, "request": {"service_tier": service}}
    if declared is not None:
        hosted["price"] = declared.model_dump()
    own = {"name": "own", "kind": "adopt", "url": "http://127.0.0.1:1/v1", "model": model}
    spec = ExperimentSpec.model_validate(
        {
            "experiment": "x", "workloads": ["fixed:8x8"], "loads": [{"rate": [1], "requests": 1}],
            "targets": [hosted, own, {"name": "mix", "kind": "hybrid", "sides": ["own", "t"], "policy": {"rule": "share", "hosted_share": 0.5}}],
            "cost": {"hosted": [ref.model_dump() for ref in listed]},
        }
    )  # fmt: skip
    target, now = spec.targets[0], clock.utc_now()
    usage = ((PROMPT, 0, OUTPUT, 0),)
    run = replace(summary(kind="hosted", usage=usage, created_utc=now.isoformat()), model=model)
    run = replace(run, config=spec.model_dump(mode="json"))
    sides = (SideOfRun("own", 0, None), SideOfRun("t", 1, None, usage=usage))
    mixed = replace(run, target_kind="hybrid", sides=sides, cell=replace(run.cell, target="mix"))

    ref = by_the_rule(url, model, declared, listed)
    want = told(lambda: None if ref is None else bill(service_price(ref, now, service), usage).total_usd)

    def billed(price):
        return None if price is None else bill(price, usage).total_usd

    capped, side = (lambda: price_of_requests(spec, target)), (lambda: hosted_usd_of(spec, target))
    made = {
        "spend cap": told(lambda: billed(one.prices[0] if (one := capped()) else None)),
        "forecast": told(lambda: billed(price_of(spec, target))),
        "run cost": of_run_cost(run, spec),
        "hybrid, routed": told(lambda: usd(PROMPT, OUTPUT) if (usd := side()) else None),
        "hybrid, billed": told(lambda: half.bill.total_usd if (half := hosted_half(mixed, []).made) else None),
        "planner": told(lambda: of_day(run)),
    }
    assert made == dict.fromkeys(made, want)
