"""Capacity for a fleet out of runs and searches: never above what the server was seen to keep, and nothing taken silently."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.base.errors import ConfigError, InvalidRunError
from harness.planner.measured import measured_capacity
from harness.records import (
    Cell,
    Load,
    Reason,
    Verdict,
)
from tests.planner.measured_values import HERE, PROBE, SLO, closed, offered, result, searches
from tests.price.cost_summaries import summary

# ---------------------------------------------------------------- rates


def test_goodput_beyond_the_promise_is_no_capacity():
    """10/s kept at 99.5 % and 20/s broken at 65 %: 10/s, although more good requests a second came out at 20/s."""
    found = measured_capacity([offered(10, 0.995), offered(20, 0.65)])
    assert (found.rps, found.plan_rps) == (10, 10)
    assert found.interval.low <= 10 <= found.interval.high < 20
    assert found.run_ids == ("r10-0",)
    assert "20/s broke it (65.00%)" in found.how
    assert not found.at_least


def test_nothing_that_failed_makes_a_bound():
    """Only kept rates: at least the highest, said in words and by a flag."""
    found = measured_capacity([offered(5, 1.0), offered(10, 0.999)])
    assert (found.rps, found.at_least, found.interval) == (10, True, None)
    assert "at least" in found.how


def test_a_rate_that_kept_it_by_luck_above_a_broken_one_does_not_count():
    """8/s broke it, 10/s kept it: the capacity is below 8/s, and the contradiction is said."""
    found = measured_capacity([offered(5, 0.999), offered(8, 0.97), offered(10, 0.995)])
    assert found.rps == 5
    assert any("kept the promise again (10/s)" in w for w in found.warnings)


def test_attainment_is_over_all_runs_of_a_rate():
    """One of three repetitions above the target does not keep the promise for the other two."""
    runs = [offered(5, 1.0), *(offered(10, share, repetition=k) for k, share in enumerate((0.992, 0.985, 0.985)))]
    assert measured_capacity(runs).rps == 5


def test_few_requests_are_planned_with_less():
    """100 % of 100 requests does not show 99 %: planned with less than the rate, and a longer run is advised."""
    found = measured_capacity([offered(10, 1.0, requests=100), offered(20, 0.5)])
    assert found.rps == 10
    assert found.plan_rps == found.interval.low < 9
    assert any("run longer" in w for w in found.warnings)


def test_a_plan_that_was_drawn_thinner_was_less_load():
    """Asked for 10/s, drawn 9.2/s: the rate that was kept is 9.2/s."""
    run = offered(10, 0.999)
    thin = replace(run, scalars={**run.scalars, "scheduled_rate_rps": 9.2})
    assert measured_capacity([thin, offered(20, 0.6)]).rps == pytest.approx(9.2)
    dense = replace(run, scalars={**run.scalars, "scheduled_rate_rps": 10.9})
    assert measured_capacity([dense, offered(20, 0.6)]).rps == 10


def test_no_rate_kept_the_promise():
    """Broken at the lowest rate: no capacity, whatever its goodput."""
    with pytest.raises(ConfigError, match="no offered rate kept"):
        measured_capacity([offered(10, 0.98), offered(20, 0.65)])


def test_a_growing_queue_keeps_no_promise():
    """Attainment of a queue that still grew is not that of the rate; a run INVALID by overload alone has broken it too."""
    grew = Verdict("UNKNOWN", (Reason("queue_growing", "unknown", "grew", ""),))
    failed = Verdict("INVALID", (Reason("too_many_failures", "invalid", "failed", ""),))
    for verdict in (grew, failed):
        found = measured_capacity([offered(10, 0.999), offered(20, 0.995, verdict=verdict)])
        assert (found.rps, found.at_least) == (10, False)


# ---------------------------------------------------------------- closed loops, no promise


def test_a_closed_loop_shows_no_capacity_under_a_promise():
    """Alone it is refused with a rate to search from; beside rates it changes nothing and is named."""
    with pytest.raises(ConfigError, match="closed loops show no capacity") as refused:
        measured_capacity([closed(16, 37.0), closed(4, 12.0)])
    assert "start_rps: 37" in refused.value.advice
    alone = measured_capacity([offered(10, 0.999), offered(20, 0.6)])
    beside = measured_capacity([offered(10, 0.999), closed(16, 37.0), offered(20, 0.6)])
    assert (beside.plan_rps, beside.rps) == (alone.plan_rps, alone.rps)
    assert any("c16" in w for w in beside.warnings)


def test_without_a_promise_it_is_throughput_and_said_so():
    """No SLO: throughput at saturation by name, an upper bound by a flag and in words, the low end of its repetitions planned."""
    runs = [
        replace(summary(goodput_rps=None, request_rps=rps), run_id=f"n{k}")
        for k, rps in enumerate((7.8, 8, 8.2, 7.9, 8.1))
    ]
    found = measured_capacity(runs)
    assert found.is_upper_bound
    assert "throughput at saturation" in found.how
    assert any("upper bound" in w for w in found.warnings)
    assert found.rps == pytest.approx(8.0)
    assert 7.7 < found.plan_rps == found.interval.low < 8.0
    assert any("one run" in w for w in measured_capacity(runs[:1]).warnings)
    with pytest.raises(ConfigError, match="no rate"):
        measured_capacity([summary(goodput_rps=None, request_rps=0.0)])


# ---------------------------------------------------------------- searches


def test_a_search_comes_before_the_runs_beside_it():
    """Its capacity and 95 % interval are taken, the low end planned; usage is its probe's."""
    found = measured_capacity([PROBE, offered(8, 0.999), closed(64, 50.0)], searches=searches(result()))
    assert (found.plan_rps, found.rps, found.interval.high, found.interval.level) == (9.8, 10.0, 10.2, 0.95)
    assert found.usage == PROBE.usage
    assert found.how.startswith("capacity search: 10/s (95% interval 9.8 to 10.2)")


def test_searches_that_were_repeated_are_one_mean_and_never_the_largest():
    """Three nights: their mean, with an interval that holds their spread."""
    nights = [result(capacity=c, low=c * 0.99, high=c * 1.01) for c in (9.0, 10.0, 11.0)]
    found = measured_capacity([PROBE], searches=searches(*nights))
    assert found.rps == pytest.approx(990 ** (1 / 3))
    assert found.plan_rps < 9
    assert found.interval.runs == 3
    assert "3 repetitions" in found.how


def test_a_search_that_nothing_failed_is_at_least():
    """Its bound is planned with, and named a bound."""
    found = measured_capacity([PROBE], searches=searches(result("censored_above", None, 12.0, None)))
    assert (found.plan_rps, found.at_least, found.interval) == (12.0, True, None)
    assert "at least" in found.how


@pytest.mark.parametrize("state", ["censored_below", "undecided"])
def test_a_search_without_an_answer_is_refused(state):
    """The runs beside it are not taken in its place."""
    with pytest.raises(ConfigError, match="found no rate"):
        measured_capacity([PROBE, offered(8, 0.999)], searches=searches(result(state, None, None, 3.0)))


def test_a_run_that_contradicts_the_search_is_said():
    """A rate kept above the search's interval, or broken below it, is a warning; one that agrees is none."""
    for run, said in (
        (offered(12, 0.999), True),
        (offered(9, 0.9), True),
        (offered(9, 0.999), False),
        (offered(12, 0.5), False),
    ):
        found = measured_capacity([PROBE, run], searches=searches(result()))
        assert any("contradicts" in w for w in found.warnings) == said
        assert found.plan_rps == 9.8


# ---------------------------------------------------------------- whose capacity


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("GPUs", {"gpus": [{"name": "A100"}]}),
        ("GPUs", {"gpus": [{"name": "H100"}] * 2}),
        ("GPUs", {"gpus": []}),
        ("machines", {"host_sha256": "b2"}),
        ("CPUs", {"cpu_model": "y"}),
        ("CPU core counts", {"cores": {"usable": 4}}),
        ("server versions", {"server": {"server_version": "0.10.0", "flags": {"max_num_seqs": 64}}}),
        ("server flags", {"server": {"server_version": "0.11.0", "flags": {"max_num_seqs": 256}}}),
    ],
)
def test_runs_of_another_server_are_refused_by_name(name, other):
    """What differs is named with both values; the same run with nothing changed is taken."""
    runs = [offered(10, 0.999), offered(20, 0.6)]
    measured_capacity(runs)
    with pytest.raises(ConfigError, match=f"several {name}"):
        measured_capacity([*runs, replace(offered(5, 1.0), environment={**HERE, **other})])
    with pytest.raises(ConfigError, match=f"several {name}"):
        measured_capacity([PROBE, replace(offered(5, 1.0), environment={**HERE, **other})], searches=searches(result()))


def test_runs_of_another_promise_model_or_target_are_refused():
    """Each named; a target or workload may be chosen."""
    run = offered(10, 0.999)
    with pytest.raises(ConfigError, match="several promises"):
        measured_capacity([run, replace(run, config={"slo": {**SLO, "ttft_from_schedule_s": 9}})])
    with pytest.raises(ConfigError, match="several models"):
        measured_capacity([run, replace(run, model="other")])
    second = replace(offered(30, 0.999), cell=Cell("fast", "w", Load(rate_rps=30), 0))
    with pytest.raises(ConfigError, match="several targets"):
        measured_capacity([run, second])
    assert measured_capacity([run, second], target="t").rps == 10
    easy = replace(offered(90, 0.999), cell=Cell("t", "easy", Load(rate_rps=90), 0))
    with pytest.raises(ConfigError, match="several workloads"):
        measured_capacity([run, easy])
    assert measured_capacity([run, easy], "w").rps == 10
    for words in ({"workload": "chat"}, {"target": "u"}):
        with pytest.raises(ConfigError, match="no run of this"):
            measured_capacity([run], **words)


def test_a_hosted_api_has_no_capacity_of_ours():
    """Refused alone; beside our own runs it is left out of the capacity, and its attainment is told."""
    api = replace(offered(50, 1.0, target_kind="hosted"), cell=Cell("api", "w", Load(rate_rps=50), 0), model="gpt")
    with pytest.raises(ConfigError, match="hosted API has no capacity"):
        measured_capacity([api])
    with pytest.raises(ConfigError, match="hosted API has no capacity"):
        measured_capacity([api, offered(10, 0.999)], target="api")
    for words in ({}, {"target": "t"}):
        found = measured_capacity([api, offered(10, 0.999)], **words)
        assert (found.rps, [one.lowest.mean for one in found.apis]) == (10, [1.0])


def test_runs_that_cannot_be_used():
    """INVALID runs are left out, and refused where there are no others; so are runs without usage."""
    invalid = Verdict("INVALID", (Reason("send_lag", "invalid", "the client was late", ""),))
    with pytest.raises(InvalidRunError):
        measured_capacity([offered(10, 0.999, verdict=invalid)])
    assert measured_capacity([offered(10, 0.999), offered(15, 0.999, verdict=invalid)]).rps == 10
    with pytest.raises(ConfigError, match="no usage"):
        measured_capacity([replace(offered(10, 0.999), usage=())])
