"""`harness cost reconcile`: stored runs against a vendor's export, from the files on both sides to the exit code; and commands that agree."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal as D

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.config.price_ref import PriceRef
from harness.records import Cell, Load, Plan, PlannedRequest
from harness.store.writer import RunWriter
from tests.judge import run_builder
from tests.judge.run_builder import BASE_NS
from tests.price import vendor_ledger as ledger
from tests.price.vendor_ledger import FIRST, PRICES, Booked, write

MINI, HAIKU = PRICES
BEGAN_S = int(datetime(2026, 11, 3, 10, tzinfo=UTC).timestamp())


def records_of(model):
    """400 answered requests, the first 8 of them warm-up, with cached and (of Haiku) written tokens; and one that was cut."""
    writes = {"cache_written_5m_tokens": 30, "cache_written_1h_tokens": 10} if model == HAIKU else {}
    rows = [replace(r, cached_prompt_tokens=48, **writes) for r in run_builder.closed_loop(4, 400, gap_s=0.01)]
    rows = [replace(r, phase="warmup", seq=-1 - n) if n < 8 else r for n, r in enumerate(rows)]
    return [*rows, run_builder.failed(replace(rows[-1], seq=400, request_id="cut"), "reset")]


def booked_of(model):
    """The same in the vendor's book: the cut one is not in it."""
    five, hour = (30, 10) if model == HAIKU else (0, 0)
    return [Booked(FIRST, model, 128 - 48 - five - hour, 48, five, hour, 8)] * 400


def store(results, model, *, kind="hosted", request=None):
    """A run on disk whose clock began at 10:00 UTC of the first day."""
    records = records_of(model)
    ref = PriceRef(provider=PRICES[model][0], model=model)
    target = {"name": "t", "kind": kind, "model": "deployment", "request": request or {}}
    target |= {"url": "https://llm.example.net/v1", "price": ref.model_dump(mode="json")} if kind == "hosted" else {}
    cell = Cell("t", "fixed:128x8", Load(concurrency=4), 0)
    run_id = f"20261103T100000Z_{kind}_{model}"
    manifest = run_builder.run(
        records, cell.load, kind=kind, cell=cell, run_id=run_id, campaign_id="20261103T100000Z", created_utc="20261103T100000Z",
        plan_sha256="p", drive={"anchors": [[BASE_NS, BEGAN_S * 10**9 - BASE_NS, 5]]}, state="running",
        config={"slo": None, "driver": "wire", "targets": [target], "cost": {}},
    ).manifest  # fmt: skip
    manifest = replace(manifest, target={"kind": kind, "model": "deployment", "metrics_url": None})
    planned = tuple(PlannedRequest(r.seq, None, 128, 8, None, 1) for r in records if r.phase == "measure")
    folder = results / f"{kind}_{model}" / run_id
    with RunWriter.create(folder, manifest) as writer:
        writer.write_plan(Plan(planned, (), cell.load, "fixed:128x8", 1, "p"))
        writer.add("requests", records)
        writer.add("host", run_builder.host(records))
        writer.finish("complete")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A hosted run of each model, and one of ours, which bills nobody."""
    root = tmp_path_factory.mktemp("results")
    for model in PRICES:
        store(root, model)
    store(root, MINI, kind="adopt")
    return root


def harness(*words):
    done = CliRunner().invoke(cli, ["cost", *map(str, words)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value or 0, done.stdout


EXPORTS = {
    "openai usage json": (ledger.openai_usage_json, MINI),
    "openai costs json": (ledger.openai_costs_json, MINI),
    "openai usage csv": (ledger.openai_usage_csv, MINI),
    "anthropic usage json": (ledger.anthropic_usage_json, HAIKU),
    "anthropic costs json": (ledger.anthropic_costs_json, HAIKU),
    "anthropic console csv": (ledger.anthropic_console_csv, HAIKU),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_vendor_s_export_of_our_runs_agrees(results, tmp_path, name):
    """Warm-up included, the cut request unknown: exit 0, and the sentence says that they agree."""
    make, model = EXPORTS[name]
    code, out = harness(
        "reconcile", write(tmp_path / "export", make(booked_of(model))), "--results", results, "--model", model
    )
    assert code == 0, out
    assert "Agrees to the cent" in out


@pytest.mark.parametrize("name", EXPORTS)
def test_more_in_the_export_than_here_does_not(results, tmp_path, name):
    """Somebody used the key for 1,000 requests more: exit 9, in red and in words."""
    make, model = EXPORTS[name]
    rows = [*booked_of(model), *[replace(booked_of(model)[0], output=4000)] * 1000]
    code, out = harness("reconcile", write(tmp_path / "export", make(rows)), "--results", results, "--model", model)
    assert code == 9
    assert "Does NOT agree in 1 of 1" in out


def test_the_json_has_the_table_with_exact_dollars(results, tmp_path):
    """A usage and a costs export together: ours and theirs by part, each cause with its dollars, runs, files and columns not read."""
    usage = write(tmp_path / "usage.csv", ledger.openai_usage_csv(booked_of(MINI)))
    costs = write(tmp_path / "costs.json", ledger.openai_costs_json([replace(r, output=16) for r in booked_of(MINI)]))
    code, out = harness("reconcile", usage, costs, "--results", results, "--model", MINI, "--json")
    found = json.loads(out)
    (line,) = found["lines"]
    assert (code, found["agrees"], line["agrees"]) == (9, False, False)
    assert D(line["ours_usd"]) == sum(r.usd for r in booked_of(MINI))
    assert [cause["name"] for cause in line["causes"]] == ["price differs"]
    assert D(line["causes"][0]["usd"]) == D(line["difference_usd"]) == 400 * 8 * D(2) / 1_000_000
    assert line["ours"]["unknown_requests"] == 1
    assert D(line["ours"]["unknown_usd"]) == (128 * D("0.25") + 8 * 2) / 1_000_000
    assert line["ours"]["run_ids"] == ["20261103T100000Z_hosted_gpt-5-mini"]
    assert [(f["format"], f["columns_not_read"]) for f in found["files"]] == [
        ("OpenAI usage", ["input_audio_tokens"]),
        ("OpenAI costs", []),
    ]


def test_a_run_or_an_experiment_will_do_for_our_side(results, tmp_path):
    """The run's directory, the experiment's, and that of all give the same."""
    file = write(tmp_path / "usage.json", ledger.openai_usage_json(booked_of(MINI)))
    experiment = results / "hosted_gpt-5-mini"
    run = next(experiment.iterdir())
    outs = {harness("reconcile", file, "--results", where, "--model", MINI)[1] for where in (results, experiment, run)}
    assert len(outs) == 1


def test_a_server_of_ours_is_in_no_invoice(tmp_path):
    """A run against an adopted server: nothing of ours, all of the file is somebody else's."""
    store(tmp_path / "results", MINI, kind="adopt")
    file = write(tmp_path / "usage.json", ledger.openai_usage_json(booked_of(MINI)))
    code, out = harness("reconcile", file, "--results", tmp_path / "results")
    assert code == 9
    assert "rows missing here" in out


def test_declared_columns_reach_the_comparison(results, tmp_path):
    """--column for each: an invoice in German, to the cent; a word that is none of ours is an error with the nearest one."""
    file = write(tmp_path / "r.csv", ledger.own_csv(booked_of(MINI)))
    pairs = {
        "day": "Datum",
        "model": "Modell",
        "requests": "Anfragen",
        "input_tokens": "Eingabe",
        "output_tokens": "Ausgabe",
        "usd": "Betrag",
    }
    words = [word for ours, theirs in pairs.items() for word in ("--column", f"{ours}={theirs}")]
    assert harness("reconcile", file, "--results", results, "--model", MINI, *words)[0] == 0
    with pytest.raises(Exception, match="did you mean usd") as error:
        harness("reconcile", file, "--results", results, "--column", "us=Betrag")
    assert error.value.exit_code == 2


# ---------------------------------------------------------------- the same dollars wherever they are printed


@pytest.mark.parametrize("model", PRICES)
@pytest.mark.parametrize("service", [None, "batch"])
def test_every_command_prints_the_same_dollars_of_a_hosted_run(tmp_path, model, service):
    """cost, report and the FOCUS export of one run against an API, with its cache, its writes and its service: equal to the digit."""
    run = store(tmp_path, model, request={"service_tier": service})
    name = f"{PRICES[model][0]}/{model}" + (f" ({service})" if service else "")
    cost = json.loads(harness("of", run, "--json", "--allow-invalid")[1])
    (priced,) = cost["costs"]
    assert priced["hosted_basis"] == {name: "measured"}
    lines = {line["name"]: D(line["usd"]) for line in priced["hosted"][name]}
    report = CliRunner().invoke(cli, ["report", str(run), "--json", "--allow-invalid"], standalone_mode=False)
    assert json.loads(report.stdout)["costs"] == cost["costs"]
    rows = list(csv.DictReader(io.StringIO(harness("export", run, "--format", "focus", "--allow-invalid")[1])))
    assert sum(D(row["EffectiveCost"]) for row in rows) == pytest.approx(lines["hosted_usd_window"], rel=D("1e-11"))
    half = D("0.5") if service else 1
    assert lines["hosted_usd_run"] == pytest.approx(sum(r.usd for r in booked_of(model)) * half, rel=D("1e-11"))
    markdown = next(tmp_path.rglob("report.md")).read_text(encoding="utf-8")
    assert f"`{name}`, measured" in markdown
