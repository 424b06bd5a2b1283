"""The cost report of a period out of a store: totals, files, FOCUS rows that reconcile, and the same by --json and by SQL."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from decimal import Decimal

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.cli import cli, main
from harness.config.monitor import load_monitor
from harness.monitor.paid import paid_servers
from harness.monitor.period import period
from harness.monitor.view import view
from harness.monitor.window import roll_up
from harness.records import ServerReading
from harness.report.monitor import csv as figures_csv
from harness.report.monitor import focus, page, tables
from harness.store import history, readings
from harness.store.root import open_root
from tests.judge.test_compare_command import store as store_run
from tests.monitor.known_fleet import HARDWARE, HOSTED, HOUR_NS, NS, START_NS, hours, measured, spec, usage, whole

MINUTE_NS = 60 * NS
LISTS = {f"{name}_{part}": () for name in ("ttft", "tpot", "queue", "e2el") for part in ("le_s", "counts")}


def reading(server, at_ns, requests, *, model="m", pool="chat", tenant=""):
    """A page's counters after so many requests of 100 + 20 tokens."""
    numbers = dict.fromkeys(("cached_tokens", "errors", "preemptions", "draft_tokens", "accepted_tokens"), 0.0)
    nothing = dict.fromkeys(("running", "waiting", "kv_cache_use", "energy_j", "power_w", "sm_util_pct"))
    return ServerReading(
        read_utc_ns=at_ns, server=server, model=model, tenant=tenant, pool=pool, monitor="one", engine="vllm", incarnation=0,
        started_utc_ns=START_NS - 10**15, scrapes=4, missed=0, prompt_tokens=100.0 * requests, output_tokens=20.0 * requests,
        requests=float(requests), **numbers, **nothing, **LISTS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two listed servers read every minute for 3 h and before, 2 requests/s on the one and 1 on the other; two hours are rolled up."""
    root = tmp_path_factory.mktemp("monitored")
    store = open_root(root / "monitor")
    rows = [
        reading(server, START_NS + at * MINUTE_NS - 1, 60 * (at + 9) * rate)
        for server, rate in (("a:8000", 2), ("b:8000", 1))
        for at in range(-9, 181)
    ]
    readings.write(store, rows)
    roll_up(store, START_NS + 2 * HOUR_NS + 1000 * NS, 15)
    config = {
        "name": "prod", "store": str(root / "monitor"), "results": str(root),
        "pools": [{"name": "chat", "servers": ["http://a:8000/metrics", "http://b:8000/metrics"], "hardware": HARDWARE, "hosted": [HOSTED]}],
    }  # fmt: skip
    (root / "monitor.yaml").write_text(yaml.safe_dump(config))
    store_run(root / "x", "20261031T000000Z", [0.010])
    return root


@pytest.fixture
def harness(stored, monkeypatch, capsys):
    def run(*words):
        monkeypatch.chdir(stored)
        monkeypatch.setattr(sys, "argv", ["harness", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


PERIOD = ("--from", "2026-11-01", "--to", "2026-11-01T03:00")


def test_a_period_out_of_the_store(harness, stored, tmp_path):
    """Rolled hours and readings together: 3 h at 3 requests/s on two machines at $4, in every file the same."""
    code, out, err = harness("monitor", "report", "monitor.yaml", *PERIOD, "--out", str(tmp_path), "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    every = {line["name"]: line["value"] for line in document["view"]["groups"][0]["lines"]}
    assert every["requests"] == 3 * 3600 * 3
    assert every["output_tokens"] == 20 * 3 * 3600 * 3
    assert every["usd"] == 24
    assert every["usd_per_million_output_tokens"] == pytest.approx(24 / (20 * 3 * 3600 * 3) * 1e6)
    assert [step["requests"] for step in document["view"]["steps"]] == [10800] * 3
    assert sorted(document["files"]) == ["csv", "focus", "html", "markdown"]
    with (tmp_path / "focus.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(Decimal(row["EffectiveCost"]) for row in rows) == 24
    assert sum(Decimal(row["ConsumedQuantity"]) for row in rows) == 6
    assert {row["ConsumedUnit"] for row in rows} == {"Hours"}
    assert "$24.00" in (tmp_path / "report.html").read_text()
    assert "$24.00" in (tmp_path / "report.md").read_text()


def test_a_period_on_the_terminal(harness):
    code, out, _ = harness("monitor", "report", "monitor.yaml", *PERIOD)
    assert code == 0
    assert "$24.00 were paid for machines" in out
    assert "6.00 machine-hours" in out
    assert "no advice above its noise" in out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--from", "2026-11-02", "--to", "2026-11-01"), 2, "this period has no length"),
        (("--from", "2026-10-01", "--to", "2026-10-02"), 5, "the first reading is of 2026-10-31T23:50:59Z"),
    ],
)
def test_a_period_with_nothing_in_it(harness, words, code, says):
    found, out, err = harness("monitor", "report", "monitor.yaml", *words)
    assert found == code
    assert says in err
    assert out == ""


def test_a_period_that_begins_before_the_first_reading(stored):
    """Asked for, the dollars of the hours before it are in and that is said; by default the period begins with it."""
    made, begin = load_monitor(stored / "monitor.yaml"), START_NS - 10 * HOUR_NS
    asked = period(made, begin, START_NS + 3 * HOUR_NS, ())
    assert asked.groups[0].value("usd") == 2 * 4 * 13
    assert asked.warnings[0].startswith("nothing was read before 2026-10-31T23:50:59Z")
    usual = period(made, begin, START_NS + 3 * HOUR_NS, (), since_first=True)
    assert usual.groups[0].value("usd") == pytest.approx(2 * 4 * (3 + 9 / 60), rel=1e-6)
    assert not [line for line in usual.warnings if "nothing was read" in line]


def test_a_day_that_cannot_be_read_is_named_and_left_out(stored, tmp_path):
    """The rest of the period counts, of which the report and SQL do; a page that is damaged inside is found too."""
    shutil.copytree(stored / "monitor", tmp_path / "monitor")
    (bad,) = (tmp_path / "monitor" / "readings" / "day=2026-10-31").iterdir()
    bad.write_bytes(b"PAR1 no more")
    shutil.rmtree(tmp_path / "monitor" / "hours" / "day=2026-10-31")
    made = load_monitor(stored / "monitor.yaml").model_copy(update={"store": str(tmp_path / "monitor")})
    seen = period(made, START_NS - 600 * NS, START_NS + 3 * HOUR_NS, ())
    assert any(bad.name in line for line in seen.warnings)
    assert seen.groups[0].value("requests") == 3 * 3600 * 3
    rows = sum(
        pq.ParquetFile(path).metadata.num_rows
        for path in (tmp_path / "monitor" / "readings").rglob("*.parquet")
        if path != bad
    )
    counted = history.sql(tmp_path, "SELECT count(*) FROM readings")
    assert counted.rows == ((rows,),)
    (said,) = counted.warnings
    assert bad.name in said
    shown = CliRunner().invoke(
        cli, ["history", "sql", "SELECT count(*) AS n FROM readings", "--results", str(tmp_path), "--json"]
    )
    assert json.loads(shown.stdout) == [{"n": rows}]
    assert bad.name in shown.stderr
    hours = next(iter((tmp_path / "monitor" / "hours" / "day=2026-11-01").iterdir()))
    whole = hours.read_bytes()
    hours.write_bytes(whole[: len(whole) // 4] + bytes(2000) + whole[len(whole) // 4 + 2000 :])
    assert hours.name in history.sql(tmp_path, "SELECT sum(list_sum(ttft_counts)), max(server) FROM hours").warnings[-1]
    with pytest.raises(ConfigError, match="SQL that cannot be run"):
        history.sql(tmp_path, "SELECT nothing FROM hours")


def test_nightly_capacity_joins_production_load(harness, stored):
    """runs, readings and hours in one SELECT; requests is a column there and no table."""
    harness("history", "index", ".")
    query = (
        "SELECT r.model, max(r.request_rps) AS measured_rps, max(h.requests) / 3600 AS served_rps FROM runs r JOIN hours h ON h.model = r.model "
        "GROUP BY ALL"
    )
    code, out, err = harness("history", "sql", query, "--results", ".", "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    assert row["model"] == "m"
    assert row["served_rps"] == 2
    assert row["measured_rps"] > 0
    _, out, _ = harness(
        "history", "sql", "SELECT count(*) AS n, max(read_utc) AS last FROM readings", "--results", ".", "--json"
    )
    assert json.loads(out) == [{"n": 380, "last": "2026-11-01 02:59:59.999999"}]
    _, out, _ = harness(
        "history", "sql", "DESCRIBE hours", "--results", ".", "--monitor", str(stored / "none"), "--json"
    )
    assert json.loads(out)[0]["column_name"] == "from_utc"


# ---------------------------------------------------------------- pages of a view


def _seen(steps=None, **more):
    made = spec({"servers": ["http://a:8000/metrics"], "hosted": [HOSTED], "slo": {"ttft_s": 0.5}} | more)
    steps = steps or hours([3.0] * 96)
    end = max(one.to_ns for one in steps)
    usages = whole(steps)
    return view(
        made,
        usages,
        paid_servers(made, usages, START_NS, end),
        from_ns=START_NS,
        to_ns=end,
        steps=steps,
        measured=[measured()],
    )


def test_the_page_loads_nothing_and_escapes_everything():
    """A model's name is what a server says it is."""
    evil = "<script>alert(1)</script>|"
    seen = _seen([usage(model=evil, requests=10, prompt=100, output=100)])
    text = page.html(seen)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert 'src="' not in text
    assert text.count("http://") == text.count("http://www.w3.org/")
    assert page.html(seen) == text


def test_focus_rows_are_split_among_tenants_and_days():
    """Two days, two tenants with 3 to 1 of the tokens: four rows whose dollars and hours are those of the machine."""
    steps = [
        usage(tenant=name, start=START_NS + at * HOUR_NS, end=START_NS + (at + 1) * HOUR_NS, requests=part, prompt=100.0 * part, output=20.0 * part)
        for at in range(48)
        for name, part in (("x", 3.0), ("y", 1.0))
    ]  # fmt: skip
    seen = _seen(steps)
    rows = focus.rows(seen)
    assert len(rows) == 4
    assert sum(Decimal(row["EffectiveCost"]) for row in rows) == 48 * 4
    assert sum(Decimal(row["PricingQuantity"]) for row in rows) == 48
    assert sum(Decimal(row["EffectiveCost"]) for row in rows if '"tenant":"x"' in row["AllocatedTags"]) == 36 * 4
    assert {row["ChargePeriodStart"] for row in rows} == {"2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"}
    assert {row["BilledCost"] for row in rows} == {"0.0"}
    two = focus.rows(
        _seen(hours([3.0] * 24), servers=["http://a:8000/metrics", "http://b:8000/metrics"], servers_per_machine=2)
    )
    assert sum(Decimal(row["PricingQuantity"]) for row in two) == 24
    assert sum(Decimal(row["EffectiveCost"]) for row in two) == 24 * 4
    assert json.loads(rows[0]["AllocatedMethodDetails"])["Elements"][0]["AllocatedRatio"] == 0.75


def test_every_figure_is_in_the_csv():
    seen = _seen()
    rows = list(csv.DictReader(figures_csv.text(seen).splitlines()))
    assert len(rows) == sum(len(group.lines) for group in seen.groups)
    usd = next(row for row in rows if (row["kind"], row["figure"]) == ("all", "usd"))
    assert float(usd["value"]) == 96 * 4


def test_what_is_not_known_is_not_0():
    """No histogram, no tokens: a dash in the table, the reason among the formulas, an empty cell in the CSV."""
    seen = _seen()
    (row,) = tables.times(seen).rows
    assert set(row[1:]) == {"-"}
    assert "its pages have no such histogram" in page.html(seen)
    rows = csv.DictReader(figures_csv.text(seen).splitlines())
    assert next(r for r in rows if r["figure"] == "ttft_p50_low_s")["value"] == ""


def test_a_band_without_an_end_is_written_so():
    steps = [usage(requests=10, prompt=100, output=100, times=[9.0] * 10)]
    made = spec({})
    seen = view(
        made, steps, paid_servers(made, steps, START_NS, START_NS + HOUR_NS), from_ns=START_NS, to_ns=START_NS + HOUR_NS
    )
    pool = next(g for g in seen.groups if g.kind == "pool")
    assert pool.value("ttft_p50_high_s") == math.inf
    assert tables.band_text(pool, "ttft_p50") == "> 2.50 s"


def test_a_gap_breaks_the_line_of_a_plot():
    """Hours that nobody read are steps of which nothing is known."""
    steps = [one for one in hours([3.0] * 24) if not 5 <= (one.from_ns - START_NS) // HOUR_NS < 8]
    seen = _seen(steps)
    assert len(seen.steps) == 24
    assert [at for at, step in enumerate(seen.steps) if step.requests is None] == [5, 6, 7]
    assert "<svg" in page.html(seen)
