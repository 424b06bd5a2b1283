"""Policies over a replayed day beside the planner's optimum, and the sides out of measured runs."""

from __future__ import annotations

import functools
import os
import random
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.cli.policies import policy_of_words
from harness.config.policy import PolicySpec
from harness.planner.demand import shaped
from harness.planner.modelled_sides import batching_of, latencies_of
from harness.planner.policies import DayTerms, arrivals_of, capacity_rps, policies_over
from harness.records import Load
from harness.routing.sides import Batching
from tests.judge.run_builder import request, run

DRAW = random.Random(1)
LENGTHS = [(int(DRAW.lognormvariate(5, 0.4)), max(2, int(DRAW.lognormvariate(3.7, 0.5)))) for _ in range(200)]
TERMS = DayTerms(
    own=Batching(slots=32, step_s=0.010, step_per_request_s=0.0004, first_s=0.02, prefill_s=0.00005),
    latencies=[(0.2, 0.01), (0.25, 0.012)],
    lengths=LENGTHS,
    replica_usd_per_hour=2.0,
    hosted_usd=lambda prompt, output: (prompt * 0.1 + output * 0.4) * 1e-6,
    promise={"ttft_from_schedule_s": 0.5, "tpot_s": 0.03},
)
DAY = replace(shaped("m-large", 30), peak_hour_to_mean=None)


LONG = "HARNESS_LONG" in os.environ


@pytest.fixture(scope="module", autouse=True)
def known_capacities():
    """What so many replicas serve is found once for all tests: it hangs on neither the demand nor a price."""
    found = functools.cache(lambda replicas: capacity_rps(TERMS, replicas))
    with mock.patch("harness.planner.policies.capacity_rps", lambda _terms, replicas=1, _seed=1: found(replicas)):
        yield


@pytest.fixture(scope="module")
def table(known_capacities):
    policies = {
        "own": PolicySpec(rule="share", hosted_share=0.0),
        "slo": PolicySpec(rule="slo"),
        "cost": PolicySpec(rule="cost"),
        "clock": PolicySpec(rule="clock", hosted_hours=[0, 1, 2, 3]),
    }
    return policies_over(DAY, TERMS, policies, days=2, day_s=300)


def result(table, name):
    return next(one for one in table.results if one.name == name)


def test_the_cost_policy_keeps_the_promise_that_the_own_side_alone_breaks(table):
    """With replicas of which a plan by averages has some demand left over."""
    assert table.optimum.replicas >= 1
    assert result(table, "cost").holds
    assert not result(table, "own").holds


@pytest.mark.parametrize(
    ("shape", "mean_rps", "dearer"),
    [("m-large", 30, 4), ("m-mid", 40, 1), ("deepseek-r1", 40, 4)]
    + [(shape, rps, dearer) for shape in ("m-large", "deepseek-r1", "m-small") for rps in (30, 45) for dearer in (0.5, 1, 2, 4) if LONG],
)  # fmt: skip
def test_the_cost_policy_is_within_five_percent_of_the_optimum(shape, mean_rps, dearer):
    """At the hosted price and at multiples of it, on days that a machine's capacity runs through the middle of (the first), that leave a
    quarter over, and that two machines carry but for their peaks. Below the optimum is no wonder: it hosts requests as they come, and the
    policy those that save the own side most time a dollar."""
    terms = replace(TERMS, hosted_usd=lambda prompt, output: TERMS.hosted_usd(prompt, output) * dearer)
    day = replace(shaped(shape, mean_rps), peak_hour_to_mean=None)
    days, day_s = (3, 1800) if LONG else (1, 450)
    (cost,) = policies_over(day, terms, {"cost": PolicySpec(rule="cost")}, days=days, day_s=day_s).results
    assert cost.holds
    assert -0.1 < cost.over_optimum < 0.05


def test_the_clock_pays_for_what_was_paid(table):
    """Hours 0 to 3 are hosted for more than they cost, while the peak breaks the promise."""
    clock = result(table, "clock")
    hours = sum(DAY.rps[:4]) / sum(DAY.rps)
    assert clock.hosted_share == pytest.approx(hours, rel=0.1)
    assert clock.usd_per_request > result(table, "cost").usd_per_request
    assert not clock.holds


def test_dollars_are_a_runs_dollars(table):
    """Own machine hours and the hosted bill over all requests: by hand for the side alone."""
    own = result(table, "own")
    usd = table.optimum.replicas * 2.0 * 300 / 3600 * 2
    assert own.usd_per_request == pytest.approx(usd / own.requests)
    assert own.hosted_share == 0
    assert own.usd_per_good_request == pytest.approx(usd / (own.attainment * own.requests))


def test_intervals_are_over_days(table):
    """The mean of the days lies inside, and one day has none."""
    cost = result(table, "cost")
    assert cost.low_usd < cost.usd_per_request < cost.high_usd
    (one,) = policies_over(DAY, TERMS, {"cost": PolicySpec(rule="cost")}, days=1, day_s=60).results
    assert (one.low_usd, one.high_usd) == (None, None)


def test_the_capacity_is_what_is_served_within_the_promise(table):
    """Below what the server can do with every slot busy, and more than two thirds of it: the promise is not tight."""
    prompt, output = (sum(lengths) / len(lengths) for lengths in zip(*LENGTHS, strict=True))
    highest = TERMS.own.highest_rps(prompt, output)
    assert 0.67 * highest < table.capacity_rps < 1.02 * highest


def test_arrivals_follow_the_curve():
    """Each step has its share of the requests, within four standard deviations."""
    day = arrivals_of(DAY, TERMS, 2400, seed=3)
    counts = np.bincount([int(at_s / 100) for at_s, _ in day], minlength=24)
    expected = np.array(DAY.rps) * 100
    assert (abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_a_promise_that_no_rate_keeps_is_refused():
    """A first token sooner than the server's own."""
    with pytest.raises(ConfigError, match="at no rate"):
        capacity_rps(replace(TERMS, promise={"ttft_s": 0.001}))


def test_too_many_requests_are_refused():
    """A replay that would take days says so."""
    with pytest.raises(ConfigError, match="too many requests"):
        policies_over(replace(DAY, rps=(1e5,) * 24), TERMS, days=10, day_s=86_400)


# ---------------------------------------------------------------- sides as measured


def batching_run(model, slots_flag=8):
    """Constant loads one after the other, every request as the model says."""
    rows, at_s = [], 0.0
    for running in (1, 2, 4, 8):
        for n in range(30):
            prompt = 100 + 50 * (n % 5)
            for _ in range(running):
                gap_s = model.step_s + model.step_per_request_s * running
                first_s = model.first_s + model.prefill_s * prompt
                rows.append(
                    request(len(rows), at_s, ttft_s=first_s, tokens=20, gap_s=gap_s, prompt=prompt, scheduled_s=at_s)
                )
            at_s += 2.0
    made = run(rows, Load(rate_rps=1.0), slo={"ttft_s": 1.0})
    target = {**made.manifest.target, "flags": {"--max-num-seqs": slots_flag}}
    return replace(made, manifest=replace(made.manifest, target=target))


def test_a_servers_model_is_found_in_its_rows():
    """The step, what each running request adds, the first token and the prefill: as the rows were made."""
    truth = Batching(slots=8, step_s=0.010, step_per_request_s=0.002, first_s=0.03, prefill_s=0.0002)
    found = batching_of([batching_run(truth)])
    assert found.slots == 8
    for name in ("step_s", "step_per_request_s", "first_s", "prefill_s"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.02), name


def test_a_server_without_known_slots_needs_them():
    """No flag, no number: the words say what to give."""
    made = batching_run(TERMS.own)
    bare = replace(made, manifest=replace(made.manifest, target={"kind": "adopt"}))
    with pytest.raises(ConfigError, match="not known") as refused:
        batching_of([bare])
    assert "--slots" in refused.value.advice
    assert batching_of([bare], slots=5).slots == 5


def test_latencies_are_those_of_ok_requests():
    """(TTFT, TPOT) of each, as stamped."""
    made = run(
        [request(n, n / 10, ttft_s=0.05, gap_s=0.01, scheduled_s=n / 10) for n in range(60)], Load(rate_rps=10.0)
    )
    assert np.array(latencies_of([made])) == pytest.approx(np.array([(0.05, 0.01)] * 60))
    with pytest.raises(ConfigError, match="too few"):
        latencies_of([replace(made, requests=made.requests.head(10))])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("slo", PolicySpec(rule="slo")),
        ("cost:0.9", PolicySpec(rule="cost", margin=0.9)),
        ("concurrency:12", PolicySpec(rule="concurrency", own_in_flight=12)),
        ("share:0.25", PolicySpec(rule="share", hosted_share=0.25)),
        ("clock:0,1,2,3", PolicySpec(rule="clock", hosted_hours=[0, 1, 2, 3])),
    ],
    ids=["slo", "cost", "concurrency", "share", "clock"],
)
def test_policies_are_named_in_words(words, expected):
    """RULE:VALUE is the rule's own key."""
    assert policy_of_words(words) == expected


@pytest.mark.parametrize("words", ["fastest", "share", "share:2", "clock:25"])
def test_bad_words_of_a_policy_are_told(words):
    """Three lines with the words in them."""
    with pytest.raises(ConfigError, match=f"policy {words}"):
        policy_of_words(words)
