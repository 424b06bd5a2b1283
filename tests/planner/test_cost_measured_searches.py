"""Searches as whole values, and which runs are one server's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.base.errors import ConfigError, InvalidRunError
from harness.planner.measured import Measured, measured_capacity
from harness.planner.uncertainty import Interval
from harness.records import Cell, Load, SearchedCapacity
from tests.planner.measured_runs import BOARD, FAILED, LATE, ONE_GPU, USAGE, at, run


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


@pytest.mark.parametrize("words", [{"state": "censored_above"}, {"capacity_rps": None}, {"high_rps": None}])
def test_a_search_without_both_ends_is_a_bound(words):
    """Not found, no estimate, or open above: no interval, at least the low end."""
    found = measured_capacity([PROBE], searches=[search(**words)])
    assert (found.plan_rps, found.interval, found.at_least) == (9.8, None, True)
    assert found.rps == (9.8 if "capacity_rps" in words else 10.0)


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


def test_a_search_needs_the_usage_of_its_probes():
    """Its lack is named by the search."""
    with pytest.raises(ConfigError, match="no usage") as error:
        measured_capacity([at(10, "p", usage=())], searches=[search()])
    assert error.value.value == "s1"


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
