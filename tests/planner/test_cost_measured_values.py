"""Capacities as whole values: every word and warning of rates, and of runs without a promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.base.errors import ConfigError
from harness.base.stats import bootstrap_mean
from harness.planner.measured import Measured, measured_capacity
from harness.planner.sweep import OfferedRate, sweep
from harness.planner.uncertainty import Interval
from harness.records import Load
from tests.planner.measured_runs import FAILED, GREW, LATE, ONE_GPU, UNKNOWN, USAGE, at, run


def of(rate, attainment=0.999, requests=10_000.0, runs=1, *, steady=True):
    return OfferedRate(float(rate), ((requests, attainment),) * runs, steady, ())


# ---------------------------------------------------------------- under a promise


def test_a_capacity_between_two_rates():
    """10/s kept, 20/s broke it, two runs of the first: everything that is said of them."""
    runs = [at(10, "a"), at(10, "b", created_utc="2026-11-02"), at(20, attainment=0.65)]
    found = sweep([of(10, runs=2), of(20, 0.65)], 0.99)
    method = "requests and runs at the highest rate that kept the promise"
    assert measured_capacity(runs) == Measured(
        plan_rps=pytest.approx(found.low_rps),
        rps=10.0,
        interval=Interval(pytest.approx(found.low_rps), 10.0, pytest.approx(found.high_rps), 0.9, method, 2),
        usage=USAGE * 2,
        run_ids=("a", "b"),
        models=("m",),
        created_utc="2026-11-02",
        how="highest offered rate that kept the promise: 10/s, 99.90% of 20,000 requests within the SLO (0.99 promised), 2 runs; 20/s broke it (65.00%)",
        warnings=(),
        ran_on=ONE_GPU,
    )


def test_a_capacity_that_nothing_broke():
    """One run of one rate, of a bursty process, UNKNOWN: a bound, with all that speaks against it."""
    found = measured_capacity([at(10, arrivals="gamma", verdict=UNKNOWN)])
    assert found == Measured(
        plan_rps=pytest.approx(sweep([of(10)], 0.99).low_rps),
        rps=10.0,
        interval=None,
        usage=USAGE,
        run_ids=("r10",),
        models=("m",),
        created_utc="2026-11-01",
        how="highest offered rate that kept the promise: 10/s, 99.90% of 10,000 requests within the SLO (0.99 promised), 1 run; nothing offered broke it: at least that",
        warnings=(
            "run r10 is UNKNOWN",
            "the capacity is at least this: nothing that was offered broke the promise",
            "one run: its repeatability is not known; repeat it 5 times",
            "arrivals were gamma, not Poisson: traffic that comes otherwise has another capacity",
        ),
        at_least=True,
        ran_on=ONE_GPU,
    )


def test_what_was_left_out_is_named():
    """Closed loops by load, runs without attainment, rates of other arrivals, a rate that was lucky: in this order."""
    closed = [run(f"c{n}", Load(concurrency=n), attainment=1.0) for n in (8, 4, 8)]
    runs = [
        at(10, "a"), at(10, "b"), at(20, attainment=0.65), at(30, attainment=0.995), *closed,
        at(5, "x", attainment=None), at(5, "y", attainment=None), at(90, "g", arrivals="gamma"), at(91, "u", arrivals="uniform"),
    ]  # fmt: skip
    found = measured_capacity(runs)
    assert found.rps == 10
    assert found.warnings == (
        "higher rates kept the promise again (30/s): luck, or the runs differ",
        "left out: c4, c8: a closed loop cannot show a capacity under an SLO",
        "left out: x, y: their attainment is not known",
        "left out: runs of other arrivals than poisson: gamma, uniform",
    )


def test_requests_that_are_not_known_give_no_interval():
    """Without the window of a run nobody knows how many were offered: the rate itself is planned with, and that is said."""
    runs = [*(replace(at(10, name), window=None) for name in "ab"), at(20, attainment=0.6)]
    found = measured_capacity(runs)
    assert "99.90% within the SLO" in found.how
    assert (found.plan_rps, found.rps, found.interval, found.at_least) == (10, 10, None, False)
    assert found.warnings == ("how many requests were offered is not known: the capacity has no interval",)


@pytest.mark.parametrize(("requests", "warned"), [(400, True), (1500, False)])
def test_few_requests_are_warned_of(requests, warned):
    """A low end more than 3 % below the rate advises a longer run, with both figures."""
    low = sweep([of(10, 0.999, requests), of(20, 0.6)], 0.99).low_rps
    assert (low < 9.7) is warned
    (first, *rest) = measured_capacity([at(10, requests=requests), at(20, attainment=0.6)]).warnings
    assert first == "one run: its repeatability is not known; repeat it 5 times"
    words = f"so few requests leave open whether 10/s kept the promise: planned with {low:.4g}/s; run longer"
    assert rest == ([words] if warned else [])


def test_the_rate_is_the_one_that_was_drawn():
    """The mean of the plans' rates where it is below the one asked for."""
    thin = [
        replace(r, scalars={**r.scalars, "scheduled_rate_rps": drawn})
        for r, drawn in ((at(10, "a"), 9.0), (at(10, "b"), 9.4))
    ]
    assert measured_capacity([*thin, at(20, attainment=0.6)]).rps == pytest.approx(9.2)


def test_a_promise_of_its_own_share():
    """Without a declared attainment 99 % is asked; 90 % where it says so."""
    half = [replace(r, config={"slo": {"ttft_s": 1}}) for r in (at(10, attainment=0.989), at(5, attainment=0.991))]
    assert measured_capacity(half).rps == 5
    less = [replace(r, config={"slo": {"ttft_s": 1, "attainment": 0.9}}) for r in half]
    assert measured_capacity(less).rps == 10


def test_only_an_attainment_is_a_promise_too():
    """A run that has one, or a goodput, promised something although its limits are not kept; a share alone promises nothing."""
    assert not measured_capacity([replace(at(10, slo=False), scalars={"attainment": 0.999})]).is_upper_bound
    with pytest.raises(ConfigError, match="closed loops show no capacity"):
        measured_capacity([replace(at(10, slo=False), scalars={"goodput_rps": 9.99})])
    share = replace(at(10, attainment=None), config={"slo": {"attainment": 0.99, "ttft_s": None}})
    share = replace(share, scalars={"request_rps": 10.0})
    assert measured_capacity([share]).is_upper_bound


def test_a_queue_that_grew_and_an_overload_broke_the_promise():
    """Whatever their attainment, or without one; a client that was late as well is left out."""
    for broken in (at(20, verdict=GREW), at(20, verdict=FAILED), at(20, attainment=None, verdict=FAILED)):
        found = measured_capacity([at(10), broken])
        assert (found.rps, found.at_least) == (10, False)
    late = measured_capacity([at(10), at(20, verdict=LATE)])
    assert (late.rps, late.at_least) == (10, True)


def test_no_rate_kept_it_says_the_lowest():
    """Of two rates, the lower one with its share."""
    with pytest.raises(ConfigError, match="no offered rate kept") as error:
        measured_capacity([at(20, attainment=0.5), at(10, attainment=0.75)])
    assert error.value.value == "10/s, the lowest offered: 75.00% within the SLO, 0.99 promised"


def test_closed_loops_alone_are_refused_with_a_rate_to_search_from():
    """The best goodput, and a hundredth where there is none; the runs in order."""
    for goodputs, start in (((3.0, 7.25), "7.25"), ((None, None), "0.01")):
        runs = [
            run(name, Load(concurrency=4), goodput=g, attainment=0.99) for name, g in zip("ba", goodputs, strict=True)
        ]
        runs = [replace(r, scalars={**r.scalars, "goodput_rps": g}) for r, g in zip(runs, goodputs, strict=True)]
        with pytest.raises(ConfigError, match="closed loops show no capacity") as error:
            measured_capacity(runs)
        assert error.value.value == "a, b"
        assert f"start_rps: {start}}}" in error.value.advice


# ---------------------------------------------------------------- without a promise


def served(name, rps, load=4, **words):
    made = run(name, Load(concurrency=load), slo=False)
    return replace(made, scalars={"request_rps": rps}, **words)


def test_throughput_at_saturation():
    """The load with the highest mean over its runs, one of them UNKNOWN: an upper bound with its bootstrap."""
    runs = [served("a", 8.0), served("b", 9.0, verdict=UNKNOWN, created_utc="2026-11-03"), served("c", 3.0, load=1), served("d", None)]  # fmt: skip
    ends = bootstrap_mean([8.0, 9.0], 0.9)
    interval = Interval(ends[0], 8.5, ends[1], 0.9, "bootstrap over runs: Student's t x standard error", 2)
    assert measured_capacity(runs) == Measured(
        plan_rps=interval.low,
        rps=8.5,
        interval=interval,
        usage=USAGE * 2,
        run_ids=("a", "b"),
        models=("m",),
        created_utc="2026-11-03",
        how="throughput at saturation, no SLO declared (an upper bound): highest request_rps over loads: c4, 2 runs",
        warnings=(
            "run b is UNKNOWN",
            "no SLO was declared: the capacity is throughput at saturation, at any latency, an upper bound",
        ),
        is_upper_bound=True,
        ran_on=ONE_GPU,
    )


def test_one_run_without_a_promise():
    """Its rate, no interval, and what is not known of it."""
    found = measured_capacity([served("a", 8.0), served("c", 3.0, load=1)])
    assert (found.plan_rps, found.rps, found.interval) == (8.0, 8.0, None)
    assert found.how.endswith("over loads: c4, 1 run")
    assert found.warnings == (
        "no SLO was declared: the capacity is throughput at saturation, at any latency, an upper bound",
        "one run: its repeatability is not known; repeat it 5 times",
    )
    with pytest.raises(ConfigError, match="runs have no rate") as error:
        measured_capacity([served("a", 0.0), served("b", None)])
    assert error.value.value == "request_rps of a"


def test_usage_is_needed_and_its_lack_named():
    """By the first run of the load."""
    with pytest.raises(ConfigError, match="no usage") as error:
        measured_capacity([served("a", 8.0, usage=()), served("b", 8.0, usage=())])
    assert error.value.value == "a"
