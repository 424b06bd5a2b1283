"""Capacities as whole values: every word and warning of rates, searches and runs without a promise."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from harness.cost.machine_match import RanOn
from harness.cost.measured import Measured, measured_capacity
from harness.cost.sweep import OfferedRate, sweep
from harness.cost.uncertainty import Interval, bootstrap_runs
from harness.errors import ConfigError, InvalidRunError
from harness.records import Cell, Load, Reason, SearchedCapacity, Verdict, Window
from tests.cost.cost_summaries import summary

USAGE = ((10, 0, 5, 0),)
BOARD = {"gpus": [{"name": "H100"}], "host_sha256": "a1"}
ONE_GPU = RanOn(1, "one, by its flags", ("H100",))
UNKNOWN = Verdict("UNKNOWN", (Reason("few_requests", "unknown", "few", ""),))
GREW = Verdict("UNKNOWN", (Reason("queue_growing", "unknown", "grew", ""),))
FAILED = Verdict("INVALID", (Reason("too_many_failures", "invalid", "failed", ""),))
LATE = Verdict("INVALID", (*FAILED.reasons, Reason("send_lag", "invalid", "late", "")))


def run(name, load, *, attainment=0.999, goodput=None, slo=True, requests=10_000, **words):
    """A run of 10,000 requests at a load; with an SLO of 99 % unless told."""
    rate = load.rate_rps or 10.0
    scalars = {
        "attainment": attainment,
        "goodput_rps": goodput or (attainment or 0) * rate,
        "scheduled_rate_rps": None,
        "request_rps": rate,
    }
    made = summary(**scalars, created_utc="2026-11-01", usage=USAGE)
    return replace(
        made, run_id=name, cell=Cell("t", "w", load, 0), environment=BOARD, config={"slo": {"ttft_s": 1, "attainment": 0.99}} if slo else {},
        window=Window(0, 1, "", requests / rate, 0, 0), **words,
    )  # fmt: skip


def at(rate, name=None, arrivals="poisson", **words):
    return run(name or f"r{rate:g}", Load(rate_rps=float(rate), arrivals=arrivals), **words)


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
    interval = bootstrap_runs([8.0, 9.0], fmean)
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
    """By the first run of the load, or the search."""
    with pytest.raises(ConfigError, match="no usage") as error:
        measured_capacity([served("a", 8.0, usage=()), served("b", 8.0, usage=())])
    assert error.value.value == "a"
    with pytest.raises(ConfigError, match="no usage") as error:
        measured_capacity([at(10, "p", usage=())], searches=[search()])
    assert error.value.value == "s1"


# ---------------------------------------------------------------- searches


def search(**words):
    known = {
        "target": "t", "workload": "w", "attainment": 0.99, "state": "found", "repetitions": 1, "capacity_rps": 10.0, "low_rps": 9.8,
        "high_rps": 10.2, "level": 0.95, "run_ids": ("s1",), "probe_ids": ("p",), "created_utc": "2026-11-05", "why": "because",
    }  # fmt: skip
    return SearchedCapacity(**{**known, **words})


PROBE = at(9.7, "p")


def test_a_search_that_found():
    """Interval, words and ids are the search's, usage its probe's, a warning that it was made once."""
    assert measured_capacity([PROBE, at(9, "r")], searches=[search()]) == Measured(
        plan_rps=9.8,
        rps=10.0,
        interval=Interval(9.8, 10.0, 10.2, 0.95, "capacity search", 1),
        usage=USAGE,
        run_ids=("s1",),
        models=("m",),
        created_utc="2026-11-05",
        how="capacity search: 10/s (95% interval 9.8 to 10.2), 0.99 of requests within the SLO",
        warnings=("one search: its repeatability from day to day is not known; repeat it",),
        ran_on=ONE_GPU,
    )


def test_a_search_that_nothing_broke():
    """Two nights: a bound in words and by a flag; no warning of its being one."""
    found = measured_capacity(
        [PROBE], searches=[search(state="censored_above", capacity_rps=None, high_rps=None, repetitions=2)]
    )
    assert (found.plan_rps, found.rps, found.interval, found.at_least) == (9.8, 9.8, None, True)
    assert found.how == (
        "capacity search: at least 9.8/s, no rate failed, 0.99 of requests within the SLO, 2 repetitions together"
    )
    assert found.warnings == ("the capacity is at least this: nothing that was offered broke the promise",)


def test_runs_beside_a_search():
    """Outside its interval on the wrong side they contradict it; at its ends they do not; closed loops are left out by name."""
    runs = [PROBE, at(10.3), at(9.7, "b", attainment=0.5), run("c4", Load(concurrency=4))]
    assert measured_capacity(runs, searches=[search(repetitions=3)]).warnings == (
        "a run at 10.3/s kept the promise (99.90%): it contradicts the search",
        "a run at 9.7/s broke the promise (50.00%): it contradicts the search",
        "left out: c4: a closed loop cannot show a capacity under an SLO",
    )
    ends = [PROBE, at(10.2), at(9.8, "b", attainment=0.5)]
    assert measured_capacity(ends, searches=[search(repetitions=3)]).warnings == ()
    open_end = search(state="censored_above", capacity_rps=None, high_rps=None, repetitions=3)
    assert len(measured_capacity([PROBE, at(99)], searches=[open_end]).warnings) == 1


@pytest.mark.parametrize(
    "words", [{"state": "undecided"}, {"state": "censored_below"}, {"low_rps": None}, {"state": "censored_above", "low_rps": None}]
)  # fmt: skip
def test_a_search_without_a_rate_is_refused_with_its_reason(words):
    """No low end, or no conclusion: what the search said."""
    with pytest.raises(ConfigError, match="found no rate") as error:
        measured_capacity([PROBE], searches=[search(**words)])
    assert error.value.value == "because"


def test_probes_that_failed_are_usage_all_the_same():
    """A search goes beyond the capacity: its INVALID probes count as its runs, others do not."""
    invalid = replace(at(12, "q", verdict=LATE), usage=((7, 0, 7, 0),))
    both = measured_capacity([PROBE, invalid], searches=[search(probe_ids=("p", "q"))])
    assert both.usage == (*USAGE, (7, 0, 7, 0))
    assert measured_capacity([PROBE, invalid], searches=[search()]).usage == USAGE


# ---------------------------------------------------------------- which runs


def test_which_workload_and_target_is_asked_by_name():
    """Several of one: their names and where to say which; one that is not there: those that are."""
    other = replace(at(30, "o"), cell=Cell("u", "v", Load(rate_rps=30.0), 0))
    for what, value in (("workload", "v, w"), ("target", "t, u")):
        runs = (
            [at(10), other] if what == "workload" else [at(10), replace(other, cell=replace(other.cell, workload="w"))]
        )
        with pytest.raises(ConfigError, match=f"runs of several {what}s") as error:
            measured_capacity(runs)
        assert error.value.value == value
        assert error.value.advice == f"name one: capacity.{what}, or give one run's directory"
        with pytest.raises(ConfigError, match=f"no run of this {what}") as error:
            measured_capacity([at(10)], **{what: "x"})
        assert (error.value.value, error.value.advice) == ("x", f"there are: {'w' if what == 'workload' else 't'}")
    assert measured_capacity([at(10), other], "v").rps == 30


def test_searches_are_of_their_workload_and_target():
    """One of another target, or another workload, is not this one's; a search alone needs no runs of it."""
    mine, theirs = search(), search(target="u", low_rps=50.0, capacity_rps=51.0, high_rps=52.0, run_ids=("s2",))
    assert measured_capacity([PROBE], target="t", searches=[mine, theirs]).rps == 10
    with pytest.raises(ConfigError, match="several targets"):
        measured_capacity([PROBE], searches=[mine, theirs])
    longer = search(workload="v", low_rps=5.0, capacity_rps=5.1, high_rps=5.2)
    with pytest.raises(ConfigError, match="several workloads"):
        measured_capacity([PROBE], searches=[mine, longer])
    assert measured_capacity([PROBE], "w", searches=[mine, longer]).rps == 10


def test_no_runs_at_all():
    """Nothing, or nothing valid: an error that names the first run, or none."""
    for runs, name in (([], "none"), ([at(10, verdict=LATE)], "r10")):
        with pytest.raises(InvalidRunError) as error:
            measured_capacity(runs)
        assert error.value.value == name
    with pytest.raises(InvalidRunError):
        measured_capacity([at(10, verdict=FAILED)])


@pytest.mark.parametrize(
    ("name", "values", "change"),
    [
        ("models", "m | n", {"model": "n"}),
        ("GPUs", "1 x H100 | 2 x A100 + 1 x L4", {"environment": {**BOARD, "gpus": [{"name": "L4"}, {"name": "A100"}, {"name": "A100"}]}}),
        ("GPUs", "1 x H100 | no GPU", {"environment": {**BOARD, "gpus": None}}),
        ("machines", "a1 | b2", {"environment": {**BOARD, "host_sha256": "b2"}}),
        ("promises", 'none | {"attainment": 0.99, "ttft_s": 1}', {"config": {}, "scalars": {"request_rps": 1.0}}),
        ("promises", 'an SLO | {"attainment": 0.99, "ttft_s": 1}', {"config": {"slo": None}}),
    ],
)  # fmt: skip
def test_what_differs_between_two_servers_is_named(name, values, change):
    """Both values in order."""
    with pytest.raises(ConfigError, match=f"runs of several {name}") as error:
        measured_capacity([at(10), replace(at(5), **change)])
    assert error.value.value == values


@pytest.mark.parametrize(
    ("name", "path"),
    [("CPUs", ("cpu_model",)), ("CPU core counts", ("cores", "usable")), ("server versions", ("server", "server_version")), ("server flags", ("server", "flags"))],
)  # fmt: skip
def test_what_a_run_does_not_say_is_not_held_against_it(name, path):
    """Missing, None and empty are unknown and fit anything; two values, texts or not, do not."""

    def saying(value):
        found = value
        for key in reversed(path):
            found = {key: found}
        return replace(at(5), environment={**BOARD, **found})

    for unknown in (None, ""):
        assert measured_capacity([saying({"b": 1}), saying(unknown), at(10)]).rps == 10
    assert measured_capacity([saying({"b": 1, "a": 2}), saying({"a": 2, "b": 1}), at(10)]).rps == 10
    for one, other, said in (({"b": 1, "a": 2}, {}, '{"a": 2, "b": 1} | {}'), *([("x", "y", "x | y"), (1, 2, "1 | 2")] if path[-1] != "flags" else [])):  # fmt: skip
        with pytest.raises(ConfigError, match=f"runs of several {name}") as error:
            measured_capacity([saying(one), saying(other)])
        assert error.value.value == said


def test_hosted_apis_are_named():
    """Each once, with its model."""
    runs = [replace(at(n, f"r{n}"), target_kind="hosted", model=m) for n, m in ((1, "z"), (2, "z"), (3, "y"))]
    with pytest.raises(ConfigError, match="hosted API") as error:
        measured_capacity(runs)
    assert error.value.value == "t (y), t (z)"
