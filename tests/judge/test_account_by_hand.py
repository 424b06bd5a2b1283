"""What an account sustains, and how a run is judged that was held to its limits or driven into them: runs made in code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.summary import summarise
from harness.records import LimitSample, Load
from harness.report.run.hosted import account_sentences
from tests.judge.run_builder import failed, frame, ns, open_loop, request, run

R10 = Load(rate_rps=10)
OPEN = open_loop(10, 300)  # 128 + 8 tokens each, 30 s


def judged(records, load=R10, limits=None, heads=(), **target):
    data = run(records, load)
    name = data.manifest.cell.target
    asked = {"name": name, **target} | ({} if limits is None else {"limits": limits})
    manifest = replace(data.manifest, config=dict(data.manifest.config) | {"targets": [asked]})
    return summarise(replace(data, manifest=manifest, limits=frame(heads, LimitSample) if heads else None))


def paced_to(rate, records=OPEN, late_s=0.001):
    """The same requests, let go `rate` a second, each sent `late_s` after that."""
    held = []
    for i, record in enumerate(records):
        at_ns = max(record.scheduled_ns, ns(i / rate))
        moved = request(i, (at_ns - ns(0)) / 1e9 + late_s, scheduled_s=i / 10)
        held.append(replace(moved, released_ns=at_ns))
    return held


def codes(summary):
    return {reason.code: reason.severity for reason in summary.verdict.reasons}


def test_a_paced_run_is_believed_and_says_so():
    """10 a second offered, 5 let go: no client is blamed; TTFT stays 50 ms, from schedule it holds the wait; 300 a minute are sustained."""
    found = judged(paced_to(5), limits={"rpm": 300})
    assert codes(found) == {"paced": "warning"}
    assert found.distributions["ttft_s"].p50 == pytest.approx(0.05)
    assert found.distributions["ttft_from_schedule_s"].maximum > 20
    account = found.account
    assert (account.mode, account.feasible, account.bound_by) == ("paced", False, "requests a minute")
    assert account.feasible_rps == pytest.approx(5)
    assert account.requests_per_min == pytest.approx(300, rel=0.02)
    assert account.tokens_per_min == pytest.approx(300 * 136, rel=0.02)
    (limit,) = account.limits
    assert (limit.declared, limit.told, limit.allowed) == (300, None, 300)
    assert limit.demand == pytest.approx(600, rel=0.01)
    assert limit.most_admitted == 300


@pytest.mark.parametrize(("count", "shown"), [(599, False), (602, True)])
def test_a_burst_that_a_limit_lets_in_is_no_rate(count, shown):
    """10 a second, every tenth refused: what a minute sustains is told once a minute was offered, in the report too."""
    rows = [replace(failed(row), http_status=429) if i % 10 == 5 else row for i, row in enumerate(open_loop(10, count))]
    found = judged(rows)
    assert (found.account.requests_per_min is not None) == (found.account.tokens_per_min is not None) == shown
    (told,) = account_sentences([found])
    assert ("takes a minute or more to see" in told) != shown
    assert ("sustained" in told) == shown
    assert f"{found.account.refused} of {count} were refused (429)" in told


def test_a_client_that_is_late_after_it_was_let_go_is_blamed():
    """Held by the pacing and then sent 200 ms late: send_lag, as without pacing."""
    assert codes(judged(paced_to(5, late_s=0.2), limits={"rpm": 300}))["send_lag"] == "invalid"


def test_a_paced_run_within_its_limits_says_nothing():
    """Nothing was held: nothing to say, and the load is feasible."""
    found = judged(paced_to(100), limits={"rpm": 1000})
    assert codes(found) == {}
    assert (found.account.feasible, found.account.held) == (True, 0)


def refused(records, every):
    return [
        replace(failed(r), http_status=429, retry_after_s=2.0) if i % every == 0 else r for i, r in enumerate(records)
    ]


def test_429s_by_choice_and_not_by_choice():
    """A fifth refused: driven into by choice it is a warning; else too many failed, and the advice is about limits."""
    by_choice = judged(refused(OPEN, 5), limits={"pace": False})
    assert codes(by_choice) == {"driven_into_limits": "warning"}
    assert (by_choice.account.refused, by_choice.account.requests, by_choice.account.retry_after_p50_s) == (
        60,
        300,
        2.0,
    )
    other = judged(refused(OPEN, 5))
    assert codes(other)["too_many_failures"] == "invalid"
    assert "limits:" in next(r.advice for r in other.verdict.reasons if r.code == "too_many_failures")
    assert other.account.refused == 60


def test_what_heads_told_and_what_was_declared():
    """The smaller of both counts; tokens are prompt + max_tokens; the limit that binds first is named."""
    heads = [
        LimitSample(ns(1), 1, "requests", 60.0, 6000, 5999, 1.0, "anthropic"),
        LimitSample(ns(1), 1, "tokens", None, 40_000, 39_000, 3.0, "x-ratelimit"),
    ]
    account = judged(OPEN, limits={"rpm": 9000, "pace": False}, heads=heads).account
    assert {(one.kind, one.declared, one.told, one.allowed) for one in account.limits} == {
        ("requests", 9000, 6000, 6000), ("tokens", None, 40_000, 40_000),
    }  # fmt: skip
    assert (account.bound_by, account.feasible) == ("tokens a minute", False)
    assert account.feasible_rps == pytest.approx(40_000 / 136 / 60)


def test_concurrency_by_littles_law():
    """One in flight, 120 ms each: at most 8.3 a second."""
    account = judged(OPEN, limits={"concurrency": 1, "pace": False}).account
    assert account.feasible_rps == pytest.approx(1 / 0.12, rel=0.01)
    assert account.limits[0].most_admitted == 2


def test_without_limits_there_is_no_account():
    """Nothing declared, told or refused."""
    assert judged(OPEN).account is None


def test_fresh_connections_are_no_lateness_of_the_client():
    """Each set up in 40 ms before its send, by choice: no send_lag; kept ones that late are."""
    records = [
        replace(r, sent_ns=r.sent_ns + 40_000_000, connect_started_ns=r.sent_ns, connect_ns=r.sent_ns + 39_000_000)
        for r in open_loop(10, 300, ttft_s=0.1)
    ]
    assert "send_lag" not in codes(judged(records, connections="fresh"))
    assert codes(judged(records))["send_lag"] == "invalid"
