"""An account's limits from the config to the report: paced, driven into, learned from heads; against a server that enforces them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.base.errors import ConfigError
from harness.config.experiment import parse_experiment
from harness.judge.account import told
from harness.measure.drive.pacing import SLACK_SHARE
from harness.store.reader import find_runs, read_run
from tests.fakes.golden_server import GoldenServer
from tests.fakes.limited_account import LimitedAccount, Rule
from tests.test_run_targets import error_of, experiment, harness

pytestmark = pytest.mark.timing
ALLOWED, WINDOW_S = 20, 4.0
N = 50


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def ran(tmp_path: Path, account: LimitedAccount, limits: dict, *, driver: str = "wire", **more):
    """(run, its entry of --json, what stderr says, the server) of 50 requests, 100 a second, at an account."""
    with GoldenServer(0.01, 0.002, account=account) as server:
        target = {
            "name": "api",
            "kind": "hosted",
            "url": server.url,
            "model": "golden",
            "limits": limits,
            "region": "eu-1",
        }
        config = experiment(
            tmp_path, [target], loads=[{"rate": [100], "requests": N}], driver=driver, warmup_requests=2,
            observe={"network_s": 0.5}, **more,
        )  # fmt: skip
        done = harness("run", str(config), "--results", "results", "--json", cwd=tmp_path)
        assert done.stdout, done.stderr
        (path,) = find_runs(tmp_path / "results" / "t")
        return read_run(path), json.loads(done.stdout), done, server


def paced(tmp_path: Path, held: dict[str, int], allowed: int, limits: dict, *, tells: str | bool, **more):
    """(run, its JSON, the account that allows what is `held`) where not more than `allowed` went out in any window. None in place of the account on a machine
    whose server sees each time what was sent only when the next window has begun: it may refuse what was paced."""
    for attempt in range(3):
        account = LimitedAccount([Rule(kind, most, WINDOW_S) for kind, most in held.items()], tells=tells)
        run, document, _, _ = ran(folder(tmp_path, str(attempt)), account, limits, **more)
        sent = sorted(run.requests.sent_ns / 1e9)
        assert all(later - early > WINDOW_S for early, later in zip(sent, sent[allowed:], strict=False))
        if max(seen - was for seen, was in zip(sorted(account.seen), sent, strict=True)) < SLACK_SHARE * WINDOW_S:
            return run, document, account
    return run, document, None


@pytest.mark.parametrize("driver", ["wire", "sdk"])
def test_paced_by_what_the_heads_tell(tmp_path, driver):
    """Nothing declared, pace: true: the first head tells 20 in 4 s, and 50 requests that were due at once go out without a 429; the run
    says that they waited, how long, and that the load is not feasible."""
    run, document, account = paced(tmp_path, {"requests": ALLOWED}, ALLOWED, {}, tells="ietf", driver=driver)
    if account is None:
        return
    rows = run.requests[run.requests.phase == "measure"]
    assert account.answers == [200] * len(run.requests)
    assert set(rows.outcome) == {"ok"}
    assert told(run) == {("requests", WINDOW_S): ALLOWED}
    assert rows.released_ns.notna().all()
    assert (rows.released_ns <= rows.sent_ns).all()
    assert (rows.sent_ns - rows.scheduled_ns).max() > 3e9
    (entry,) = document["runs"]
    assert "paced" in {reason["code"] for reason in entry["reasons"]}
    assert "achieved_below_scheduled" not in {reason["code"] for reason in entry["reasons"]}
    found = entry["account"]
    assert (found["mode"], found["refused"], found["feasible"]) == ("paced", 0, False)
    assert found["feasible_rps"] == pytest.approx(ALLOWED / WINDOW_S)
    (limit,) = found["limits"]
    assert (limit["told"], limit["declared"], limit["window_s"]) == (ALLOWED, None, WINDOW_S)
    assert limit["most_admitted"] <= ALLOWED


def test_paced_by_what_is_declared(tmp_path):
    """300 a minute, held over 4 s, and 6,000 tokens of which each takes 30: no 429, though the heads tell nothing."""
    held, limits = {"requests": ALLOWED, "tokens": 400}, {"rpm": 300, "tpm": 6_000, "enforced_over_s": WINDOW_S}
    run, document, account = paced(tmp_path, held, 400 // 30, limits, tells=False)
    if account is None:
        return
    assert account.answers == [200] * len(run.requests)
    found = document["runs"][0]["account"]
    assert found["bound_by"] == "tokens a minute"
    assert found["feasible_rps"] == pytest.approx(6_000 / 30 / 60)


def test_driven_into_the_limits_every_429_is_a_row(tmp_path):
    """pace: false: the server answers each request once, its 429s are rows with their retry-after, and no failure of the run."""
    account = LimitedAccount([Rule("requests", ALLOWED, WINDOW_S)], tells="ietf")
    run, document, _, _ = ran(tmp_path, account, {"pace": False})
    assert len(account.answers) == len(run.requests)
    refused = run.requests[run.requests.http_status == 429]
    assert len(refused) == account.answers.count(429) > 10
    assert set(refused.outcome) == {"http_error"}
    assert refused.retry_after_s.gt(0).all()
    assert told(run) == {("requests", WINDOW_S): ALLOWED}
    (entry,) = document["runs"]
    codes = {reason["code"] for reason in entry["reasons"]}
    assert "driven_into_limits" in codes
    assert "too_many_failures" not in codes
    assert entry["account"]["mode"] == "driven"
    assert entry["account"]["refused"] == (refused.phase == "measure").sum()


def test_the_path_is_in_the_report_of_a_hosted_run(tmp_path):
    """Round trips before, during and after, the region and the hour: in the table, in --json and on the page."""
    run, document, _, server = ran(tmp_path, LimitedAccount([Rule("requests", 500, 1.0)]), {"pace": False})
    trips = run.network
    assert trips[trips.edge.notna()].edge.tolist() == ["start", "end"]
    assert trips.round_trip_s.notna().all()
    assert len(server.log) == len(run.requests)
    found = document["runs"][0]["network"]
    assert (found["region"], found["connections"]) == ("eu-1", "kept")
    assert 0 < found["round_trip_p50_s"] < found["ttft_p50_s"]
    assert found["ttft_less_path_s"] == pytest.approx(found["ttft_p50_s"] - found["round_trip_p50_s"])
    page = (tmp_path / "results" / "t" / "derived" / "report.html").read_text()
    words = (tmp_path / "results" / "t" / "derived" / "report.md").read_text()
    for text in (page, words):
        assert "Network path" in text
        assert "Account limits" in text
        assert "eu-1" in text


def test_a_request_that_no_minute_can_hold_is_refused_before_any_send(tmp_path):
    """30 tokens a request under 20 a minute: three lines that name the limit, and nothing was sent."""
    account = LimitedAccount([])
    with GoldenServer(account=account) as server:
        target = {"name": "api", "kind": "hosted", "url": server.url, "model": "golden", "limits": {"tpm": 20}}
        done = harness("run", str(experiment(tmp_path, [target])), "--results", "results", cwd=tmp_path)
    assert done.returncode != 0
    assert any("tpm is 20" in line for line in error_of(done)), done.stderr
    assert account.answers == []


def test_a_capacity_search_is_not_paced():
    """It would find the pacing: refused, with what to give instead."""
    data = {
        "experiment": "e", "workloads": ["fixed:24x6"], "slo": {"ttft_s": 1.0, "attainment": 0.9},
        "targets": [{"name": "a", "kind": "hosted", "url": "http://h/v1", "model": "m", "limits": {"rpm": 60}}],
        "loads": [{"capacity": {"start_rps": 1}}],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="pace: false"):
        parse_experiment(data, "x")
    data["targets"][0]["limits"]["pace"] = False
    assert parse_experiment(data, "x").targets[0].limits.rpm == 60
