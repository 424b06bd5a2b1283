"""A hybrid from the config word to its rows: two real servers of known speed, one plan, each request on one side."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.judge.summary import summarise
from harness.measure.drive.golden.server import GoldenProcess, build
from harness.store.reader import find_runs, read_run
from tests import commands
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"name": "box", "usd_per_hour": 2.0, "source": "a test", "as_of": "2026-11-01"}
PRICE = {"provider": "x", "model": "golden", "input_usd_per_million": 1.0, "output_usd_per_million": 4.0}
TRIES = 8
STILL_NS = 100_000_000
HYBRIDS = ("by slo", "by share")
OWN_S, API_S, RATE_RPS = 0.05, 0.08, 22  # services of one at a time: 20 and 12.5 a second are the most

TURNS = {
    "source": {"name": "a test", "repository": "none", "licence": "none"},
    "sessions": {
        "context_limit_tokens": 2000, "quantile_levels": [0, 1], "calls_per_session": [2, 6], "first_prompt_tokens": [20, 30],
        "new_prompt_tokens_per_later_call": [5, 10], "output_tokens": [4, 8], "think_time_s": [0.0, 0.1],
    },
}  # fmt: skip


def harness(folder: Path, data: dict, *words: str) -> subprocess.CompletedProcess[str]:
    path = folder / "experiment.yaml"
    path.write_text(
        yaml.safe_dump({"experiment": "h", "max_usd": 100, "workloads": ["fixed:24x6"], "order": "as-written", **data})
    )
    own = {"PYTHONPATH": str(ROOT), "HARNESS_LOCK_DIR": str(folder / "locks")}
    return commands.harness("run", str(path), "--json", *words, cwd=folder, env={**os.environ, **own})


def runs_of(folder: Path) -> dict:
    return {run.manifest.cell.target: run for run in map(read_run, find_runs(folder / "results" / "h"))}


@pytest.fixture(scope="module")
def queues(tmp_path_factory):
    """Both sides alone and two hybrids over them, on two M/D/1 servers. A campaign in whose hybrids this machine sent late, which the runs say
    themselves, or a server heard late of what was sent, is no evidence of anything: it is run again."""
    binary = build(tmp_path_factory.mktemp("golden"))
    for attempt in range(TRIES):
        folder = tmp_path_factory.mktemp(f"queues{attempt}")
        runs, served, document = queued(binary, folder)
        hybrids = [runs[name] for name in HYBRIDS]
        sent_late = any(reason.code == "send_lag" for run in hybrids for reason in summarise(run).verdict.reasons)
        if not sent_late and heard_after_ns(hybrids, served) < STILL_NS:
            break
    return runs, served, document, folder / "results" / "h"


def queued(binary: Path, folder: Path) -> tuple[dict, dict, dict]:
    for name in ("own", "api"):
        (folder / name).mkdir()
    with (
        GoldenProcess(binary, 0.01, 0.002, folder / "own", OWN_S) as own,
        GoldenProcess(binary, 0.01, 0.002, folder / "api", API_S) as api,
    ):
        targets = [
            {"name": "own", "kind": "hosted", "url": own.url, "model": "golden", "hardware": MACHINE},
            {"name": "api", "kind": "hosted", "url": api.url, "model": "golden", "price": PRICE},
            {"name": "by slo", "kind": "hybrid", "sides": ["own", "api"], "policy": {"rule": "slo"}},
            {"name": "by share", "kind": "hybrid", "sides": ["own", "api"], "policy": {"rule": "share", "hosted_share": 0.25}},
        ]  # fmt: skip
        loads = [{"rate": [RATE_RPS], "requests": 160}]
        done = harness(folder, {"targets": targets, "loads": loads, "slo": {"ttft_from_schedule_s": 0.4}})
        served = {"own": own.stop(), "api": api.stop()}
    assert done.returncode in (0, 7), done.stderr
    return runs_of(folder), served, json.loads(done.stdout)


def measured(run):
    return run.requests[run.requests.phase == "measure"]


def heard_after_ns(runs, served) -> int:
    """The longest that a request was on its way to its server: they stand on this machine."""
    heard_ns = {name: one.received_ns for of_side in served.values() for name, one in of_side.items()}
    rows = [row for run in runs for row in measured(run).itertuples()]
    return max(heard_ns[row.request_id] - row.sent_ns for row in rows)


def test_the_slo_policy_keeps_what_each_side_alone_breaks(queues):
    """Below 95 % alone, 99 % or more together, of the same plan."""
    runs, *_ = queues
    assert len({run.manifest.plan_sha256 for run in runs.values()}) == 1
    kept = {name: summarise(run).scalars["attainment"] for name, run in runs.items()}
    assert max(kept["own"], kept["api"]) < 0.95
    assert kept["by slo"] >= 0.99


@pytest.mark.parametrize("name", HYBRIDS)
def test_every_request_is_one_row_and_went_to_one_side(queues, name):
    """Each of the plan once, and the side that the row names is the server that saw it."""
    runs, served, *_ = queues
    rows = measured(runs[name])
    assert sorted(rows.seq) == list(range(len(runs[name].plan)))
    for side in ("own", "api"):
        of_side = set(rows[rows.served_by == side].request_id)
        assert of_side
        assert of_side <= set(served[side])
        assert not of_side & set(served["api" if side == "own" else "own"])


def test_rows_say_why(queues):
    """The policy's own words: what was predicted, or the share."""
    runs, *_ = queues
    assert measured(runs["by slo"]).routed_why.str.contains("ttft_from_schedule_s .* of 0.4 at .* in flight").all()
    assert set(measured(runs["by share"]).routed_why) == {"share 0.25 hosted"}


def test_a_share_is_that_share(queues):
    """A quarter of the plan's requests, evenly spread."""
    runs, *_ = queues
    rows = measured(runs["by share"]).sort_values("seq")
    assert (rows.served_by == "api").sum() == len(rows) // 4


def test_both_sides_are_warmed_up_and_learned_from(queues):
    """Each gets the warm-up, in rows that say so; the first measured request knows the own side's latency."""
    runs, *_ = queues
    warm = runs["by slo"].requests[runs["by slo"].requests.phase == "warmup"]
    assert set(warm.served_by) == {"own", "api"}
    assert set(warm.routed_why) == {"warm-up"}
    assert "nothing learned" not in measured(runs["by slo"]).sort_values("seq").routed_why.iloc[0]


def test_the_report_has_the_policies_side_by_side(queues):
    """In the JSON, with dollars of both sides and the planner's optimum; and as a section of the page."""
    _, _, document, folder = queues
    (table,) = document["hybrids"]
    told = {row["target"]: row for row in table["policies"]}
    assert set(told) == {"own", "api", "by slo", "by share"}
    assert told["by slo"]["holds"]
    assert not told["own"]["holds"]
    assert (
        float(told["by slo"]["usd_per_1000_requests"]["median"]) > 2.0 / 3600 / RATE_RPS * 1000 * 0.9
    )  # the machine alone
    assert "planner's optimum at" in table["optimum_words"]
    assert "<h2>Policies: fixed:24x6" in (folder / "derived" / "report.html").read_text()


def test_a_day_is_not_replayed_on_an_overloaded_sides_latencies(queues):
    """The hosted side's only run is a queue that grows: exit 2, and the words say what to measure."""
    *_, folder = queues
    words = ("--own", "own", "--hosted", "api", "--slots", "1", "--mean-rps", "10")
    done = commands.harness("cost", "policies", str(folder), *words)
    assert done.returncode == 2
    assert "every run of the hosted side is overloaded" in done.stderr
    assert "measure it at a rate that it takes" in done.stderr


def test_what_is_no_hybrid_says_nothing_of_sides(queues):
    """Null in both columns."""
    runs, *_ = queues
    assert runs["own"].requests.served_by.isna().all()
    assert runs["own"].requests.routed_why.isna().all()


def test_the_own_sides_metrics_are_recorded_and_heard(tmp_path):
    """A vLLM-like own side: its /metrics are the run's server telemetry, and its KV cache closes it when it is full."""
    with GoldenServer(ttft_s=0.01, itl_s=0.002) as own, GoldenServer(ttft_s=0.01, itl_s=0.002) as api:
        full = own.metrics
        own.metrics = lambda: full().replace('kv_cache_usage_perc{model_name="golden"} 0.0', 'kv_cache_usage_perc{model_name="golden"} 0.97')  # fmt: skip
        targets = [
            {"name": "own", "kind": "adopt", "url": own.url, "model": "golden"},
            {"name": "api", "kind": "hosted", "url": api.url, "model": "golden"},
            {"name": "mix", "kind": "hybrid", "sides": ["own", "api"], "policy": {"rule": "slo"}},
        ]
        data = {
            "targets": targets,
            "loads": [{"rate": [20], "requests": 60}],
            "slo": {"ttft_s": 1.0},
            "observe": {"server_hz": 10},
        }
        done = harness(tmp_path, data)
    assert done.returncode in (0, 7), done.stderr
    run = runs_of(tmp_path)["mix"]
    assert (run.server.metric == "vllm:kv_cache_usage_perc").any()
    rows = measured(run)
    assert set(rows.served_by) == {"api"}
    assert rows.routed_why.str.contains("own: KV cache 97% full").all()


def test_a_side_that_refuses_is_left_and_found_again(tmp_path):
    """The own server answers 429 for a while in the middle of the run: three failures and a probe now and then are rows, the rest goes to
    the hosted side, and when it answers again it is used again."""
    with GoldenServer(ttft_s=0.01, itl_s=0.002) as own, GoldenServer(ttft_s=0.01, itl_s=0.002) as api:
        count = iter(range(10_000))

        def take_cached(_prompt):  # asked of every completion that is served
            own.reject_above = 0 if 60 < next(count) < 140 else None

        own.take_cached = api.take_cached = take_cached
        targets = [
            {"name": "own", "kind": "adopt", "url": own.url, "model": "golden"},
            {"name": "api", "kind": "hosted", "url": api.url, "model": "golden"},
            {"name": "mix", "kind": "hybrid", "sides": ["own", "api"],
             "policy": {"rule": "share", "hosted_share": 0.25, "probe_every_s": 0.2}},
        ]  # fmt: skip
        data = {"targets": targets, "loads": [{"rate": [40], "requests": 240}], "slo": {"ttft_s": 1.0}}
        done = harness(tmp_path, data, "--only", "mix_*")
    assert done.returncode in (0, 7), done.stderr
    rows = measured(runs_of(tmp_path)["mix"]).sort_values("seq")
    failed = rows[rows.outcome != "ok"]
    assert own.rejected == len(failed) >= 3
    assert set(failed.served_by) == {"own"}
    assert set(failed.http_status) == {429}
    assert rows.routed_why.str.contains(r"own is down \(\d+ failures in a row\)$").any()
    assert failed.routed_why.str.contains("asked whether it is back").any()
    later = rows[rows.seq > failed.seq.max()]
    assert (later.served_by == "own").mean() > 0.5


def test_sessions_stay_on_their_side(tmp_path):
    """Turns that wait for a reply go where that reply came from; a session's turns have one side between them."""
    with GoldenServer(ttft_s=0.01, itl_s=0.002) as own, GoldenServer(ttft_s=0.01, itl_s=0.002) as api:
        targets = [
            {"name": "own", "kind": "adopt", "url": own.url, "model": "golden"},
            {"name": "api", "kind": "hosted", "url": api.url, "model": "golden"},
            {"name": "mix", "kind": "hybrid", "sides": ["own", "api"], "policy": {"rule": "share", "hosted_share": 0.5}},
        ]  # fmt: skip
        (tmp_path / "turns.yaml").write_text(yaml.safe_dump(TURNS))
        data = {"targets": targets, "workloads": ["turns.yaml"], "loads": [{"rate": [10], "requests": 60}]}
        done = harness(tmp_path, data, "--only", "mix_*")
    assert done.returncode in (0, 7), done.stderr
    rows = measured(runs_of(tmp_path)["mix"])
    by_session = rows.groupby("session_id").served_by.nunique()
    assert len(by_session) > 5
    assert (by_session == 1).all()
    assert set(rows.served_by) == {"own", "api"}
