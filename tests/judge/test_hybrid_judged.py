"""A hybrid's run judged, priced and reported: known rows on both sides, numbers by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from harness.judge.summary import summarise
from harness.price.run_cost import price_runs
from harness.records import Cell, Load
from harness.report.run.cells import rows as table_rows
from harness.report.run.hybrids import as_values, policy_tables, texts
from tests.judge.run_builder import edges, open_loop, run

RATE = 10.0
TARGETS = [
    {"name": "own", "kind": "adopt", "url": "http://127.0.0.1:1/v1", "model": "m",
     "hardware": {"name": "box", "usd_per_hour": 3.6, "source": "a test", "as_of": "2026-11-01"}},
    {"name": "api", "kind": "hosted", "url": "http://127.0.0.1:2/v1", "model": "m",
     "price": {"provider": "x", "model": "m", "input_usd_per_million": 1.0, "output_usd_per_million": 10.0}},
    {"name": "mix", "kind": "hybrid", "sides": ["own", "api"], "policy": {"rule": "slo", "margin": 0.8}},
]  # fmt: skip


def hybrid(count=600, every=4, slow=None, targets=TARGETS, target="mix", kind="hybrid"):
    """`count` requests of 128 + 8 tokens at 10/s; each `every`-th was hosted, and those for which `slow` holds took a second."""
    made = open_loop(RATE, count)
    told = [replace(row, served_by="own" if row.seq % every else "api", routed_why="a test") for row in made]
    if slow is not None:
        late = 1_000_000_000
        told = [
            replace(row, first_token_ns=row.first_token_ns + late, last_token_ns=row.last_token_ns + late, ended_ns=row.ended_ns + late,
                    chunk_ns=tuple(at + late for at in row.chunk_ns)) if slow(row) else row
            for row in told
        ]  # fmt: skip
    slo = {"ttft_from_schedule_s": 0.5, "attainment": 0.99}
    own_rows = [row for row in told if row.served_by == "own"]
    if kind != "hybrid":
        told = [replace(row, served_by=None, routed_why=None) for row in told]
        own_rows = told
    config = {"targets": list(targets), "slo": slo, "cost": {}}
    cell = Cell(target, "fixed:128x8", Load(rate_rps=RATE), 1)
    return run(
        told, Load(rate_rps=RATE), kind=kind, server=edges(own_rows), config=config, cell=cell, run_id=f"r_{target}"
    )


def line(cost, name):
    return Decimal(next(one.usd for one in cost.own if one.name == name))


def test_each_side_has_its_requests():
    """A quarter of those in the window was hosted; usage is the hosted ones' alone; all are counted once."""
    summary = summarise(hybrid())
    own, api = summary.sides
    assert (own.name, api.name) == ("own", "api")
    assert api.offered / (own.offered + api.offered) == pytest.approx(0.25, abs=0.01)
    assert own.offered + api.offered == len(summary.usage)
    assert api.usage == ((128, 0, 8, 0),) * api.offered
    assert not own.sent
    assert len(api.sent) == 150


def test_good_requests_are_told_by_side():
    """Only hosted ones were late: the own side kept everything."""
    summary = summarise(hybrid(slow=lambda row: row.served_by == "api"))
    own, api = summary.sides
    assert (own.good, api.good) == (own.offered, 0)
    assert summary.scalars["attainment"] == pytest.approx(own.offered / (own.offered + api.offered))


def test_the_servers_counters_are_held_against_the_own_sides_requests():
    """The page counts what the own side did: with all rows it would seem to have lost a quarter."""
    for check in summarise(hybrid()).tokens:
        assert check.usage == check.server_counter


def test_what_is_no_hybrid_has_no_sides():
    """Nor a run that is older than the columns."""
    plain = hybrid(target="own", kind="adopt")
    old = replace(plain, requests=plain.requests.drop(columns=["served_by", "routed_why"]))
    assert summarise(plain).sides == summarise(old).sides == ()


def test_dollars_are_the_machines_hours_and_the_hosted_bill():
    """$3.60/h over 10 requests/s is $0.10 a 1,000; a quarter of them billed at $0.000208 each: $0.052 more."""
    (cost,) = price_runs([summarise(hybrid())])
    expected = Decimal("0.1") + Decimal("0.000208") * 250
    assert float(line(cost, "self_usd_per_1000_requests")) == pytest.approx(float(expected), rel=0.01)
    window = line(cost, "self_usd_window")
    summary = summarise(hybrid())
    api = summary.sides[1]
    by_hand = 3.6 * summary.window.offered_s / 3600 + 0.000208 * api.offered
    assert float(window) == pytest.approx(by_hand, rel=1e-9)


def test_utilisation_divides_the_machine_and_not_the_bill():
    """At half use the machine costs twice, the bill stays."""
    summary = summarise(hybrid())
    half = replace(summary, config={**summary.config, "cost": {"utilisation": 0.5}})
    whole, twice = (line(price_runs([one])[0], "self_usd_window") for one in (summary, half))
    machine = 3.6 * summary.window.offered_s / 3600
    assert float(twice - whole) == pytest.approx(machine, rel=1e-9)


def test_without_the_hosted_sides_price_there_are_no_dollars():
    """And the line says what to declare."""
    bare = [TARGETS[0], {k: v for k, v in TARGETS[1].items() if k != "price"}, TARGETS[2]]
    (cost,) = price_runs([summarise(hybrid(targets=bare))])
    (found,) = [one for one in cost.own if one.name == "self_usd_per_1000_requests"]
    assert found.usd is None
    assert "price of the hosted side api is not known" in found.formula


def test_policies_stand_beside_the_sides_and_the_optimum():
    """One table: the own side alone breaks the promise, the hybrid keeps it, and the planner says what it would have done."""
    alone = hybrid(target="own", kind="adopt", slow=lambda row: row.seq % 2)
    summaries = [summarise(alone), summarise(hybrid())]
    costs = price_runs(summaries, allow_invalid=True)
    (found,) = policy_tables(table_rows(summaries, costs, allow_invalid=True), costs)
    told = {row[0]: row for row in texts(found)}
    assert told["own"][1:2] + told["own"][4:5] == ("alone", "NO")
    assert told["mix"][1] == "slo, margin 0.8"
    assert (told["mix"][4], told["mix"][5][:2]) == ("yes", "25")
    # 7.5 requests/s of the own side at $3.60 an hour are $0.133 a 1,000, below the hosted $0.208: one, and the rest hosted
    assert found.optimum.replicas == 1
    assert found.optimum.hosted_share == pytest.approx(0.25, abs=0.01)
    values = as_values(found)
    mix = next(one for one in values["policies"] if one["target"] == "mix")
    assert float(mix["usd_per_1000_requests"]["median"]) == pytest.approx(0.152, rel=0.01)
    assert float(values["optimum"]["usd_per_1000_requests"]) == pytest.approx(0.152, rel=0.02)


def test_an_experiment_without_hybrids_has_no_such_table():
    """Nothing is printed where there is nothing to choose."""
    summaries = [summarise(hybrid(target="own", kind="adopt"))]
    costs = price_runs(summaries, allow_invalid=True)
    assert policy_tables(table_rows(summaries, costs, allow_invalid=True), costs) == []


def test_an_accounts_limits_are_held_against_the_hosted_side_alone():
    """300 a minute of the api, a quarter of 10/s sent to it: the most in a minute is 150, not 600; of 429s only its own are by choice."""

    def limited(**limits):
        return [TARGETS[0], {**TARGETS[1], "limits": limits}, TARGETS[2]]

    account = summarise(hybrid(targets=limited(rpm=300))).account
    (limit,) = account.limits
    assert (account.mode, account.requests, account.offered_rps) == ("paced", 150, None)
    assert (limit.allowed, limit.most_admitted, limit.demand) == (300, 150, None)
    run = hybrid(targets=limited(pace=False))
    refused = run.requests["seq"] % 3 == 0
    rows = run.requests.assign(
        outcome=run.requests["outcome"].mask(refused, "http_error"),
        http_status=run.requests["http_status"].mask(refused, 429),
    )
    summary = summarise(replace(run, requests=rows))
    (reason,) = [r for r in summary.verdict.reasons if r.code == "driven_into_limits"]
    assert (summary.account.mode, summary.account.refused) == ("driven", 50)
    assert reason.message.startswith("8.3% of 600 requests")
    assert "too_many_failures" in {r.code for r in summary.verdict.reasons}
