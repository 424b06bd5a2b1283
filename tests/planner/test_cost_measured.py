"""Capacity for a fleet out of runs and searches: never above what the server was seen to keep, and nothing taken silently."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from harness.base.errors import ConfigError, InvalidRunError, StoreError
from harness.judge.capacity.orders import over_repetitions
from harness.judge.repeats import LEVEL
from harness.planner.measured import measured, measured_capacity
from harness.planner.sweep import OfferedRate, sweep
from harness.records import (
    CapacityResult,
    Cell,
    Load,
    Plan,
    PlannedRequest,
    ProbeResult,
    Reason,
    SearchedCapacity,
    Verdict,
    Window,
)
from harness.store.manifest import write_capacity
from harness.store.writer import RunWriter
from tests.judge import run_builder
from tests.price.cost_summaries import summary

SLO = {"ttft_from_schedule_s": 0.5, "attainment": 0.99}
HERE = {
    "gpus": [{"name": "H100"}],
    "cpu_model": "x",
    "cores": {"usable": 8},
    "host_sha256": "a1",
    "server": {"server_version": "0.11.0", "flags": {"max_num_seqs": 64}},
}


def offered(rate, attainment, requests=10_000, repetition=0, **words):
    """An open-loop run at a Poisson rate, `attainment` of its requests good."""
    cell = Cell("t", "w", Load(rate_rps=rate), repetition)
    found = summary(attainment=attainment, goodput_rps=rate * attainment, request_rps=rate)
    return replace(
        found, run_id=f"r{rate:g}-{repetition}", cell=cell, config={"slo": SLO}, environment=HERE,
        window=Window(0, 1, "", requests / rate, 0, 0), usage=((10, 0, 5, 0),) * 3,
        **{"target_kind": "vllm", **words},
    )  # fmt: skip


def closed(concurrency, goodput, **words):
    cell = Cell("t", "w", Load(concurrency=concurrency), 0)
    found = summary(attainment=1.0, goodput_rps=goodput, request_rps=goodput)
    return replace(found, run_id=f"c{concurrency}", cell=cell, config={"slo": SLO}, environment=HERE, **words)


def searches(*results, target="t", workload="w", probes=("probe",)):
    """What judge.runs.searched makes of these results."""
    mean = over_repetitions(results)
    return [
        SearchedCapacity(
            target, workload, 0.99, mean.state, mean.repetitions, mean.mean_rps, mean.low_rps, mean.high_rps, LEVEL, ("s1",), probes,
            "2026", "; ".join(r.why for r in results),
        )
    ]  # fmt: skip


def result(state="found", capacity=10.0, low=9.8, high=10.2, probes=(), why="because"):
    return CapacityResult(state, capacity, low, high, 320.0, 0.99, 0.03, 600.0, probes, why)


PROBE = replace(offered(9.7, 0.995), run_id="probe")


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


# ---------------------------------------------------------------- properties


def simulated(rng, truth, slope, rate, requests, repetition=0):
    """A run of a server whose odds of a miss are the target's at `truth` and rise with the rate to the power `slope`."""
    odds = 0.01 / 0.99 * (rate / truth) ** slope
    misses = rng.binomial(requests, odds / (1 + odds))
    return offered(rate, 1 - misses / requests, requests, repetition)


def test_no_plan_is_above_the_truth():
    """1,000 monotone servers by sweeps, repeated sweeps and searches, with closed loops beside them: the plan is above the true
    capacity by more than 3 % in at most one of 20, and never by more than a quarter."""
    rng = np.random.default_rng(1)
    over = []
    for case in range(1000):
        truth, slope = float(np.exp(rng.uniform(-2, 5))), float(rng.uniform(2, 40))
        runs = [closed(16, truth * 3)]
        found = []
        if case % 4 == 3:
            nights = np.log(truth) + rng.normal(0, 0.02, int(rng.integers(1, 5)))
            found = searches(*(result(capacity=c, low=c * 0.96, high=c * 1.04) for c in np.exp(nights).tolist()))
            runs.append(replace(offered(truth * 0.95, 0.995), run_id="probe"))
        for rate in truth * np.exp(np.sort(rng.uniform(-1.5, 1, int(rng.integers(1, 6))))):
            for repetition in range(1 + 2 * (case % 2)):
                runs.append(simulated(rng, truth, slope, float(rate), int(rng.integers(100, 5000)), repetition))
        with contextlib.suppress(ConfigError):  # no rate that was offered kept the promise
            over.append(measured_capacity(runs, searches=found).plan_rps / truth - 1)
    assert len(over) > 600
    assert np.mean(np.array(over) > 0.03) <= 0.05
    assert max(over) < 0.25


def test_load_above_the_capacity_never_raises_the_plan():
    """500 sweeps, each again with runs at rates that break the promise, and with closed loops: the plan does not rise."""
    rng = np.random.default_rng(2)
    for _ in range(500):
        truth, slope = float(np.exp(rng.uniform(-2, 5))), float(rng.uniform(1, 40))
        runs = [
            simulated(rng, truth, slope, truth * f, int(rng.integers(100, 5000)))
            for f in (0.4, *rng.uniform(0.5, 1.5, 2))
        ]
        more = [offered(truth * f, float(rng.uniform(0, 0.98))) for f in rng.uniform(1.01, 4, 2)] + [
            closed(8, truth * 9)
        ]
        try:
            before = measured_capacity(runs)
        except ConfigError:
            with pytest.raises(ConfigError):
                measured_capacity(runs + more)
            continue
        for count in (1, 2, 3):
            assert measured_capacity(runs + more[:count]).plan_rps <= before.plan_rps * (1 + 1e-9)


def test_a_sweeps_interval_holds_the_truth():
    """Servers of slope 10 seen at their capacity and 30 % above: the interval's low end is below the truth in 93 % or more."""
    rng = np.random.default_rng(3)
    below = total = 0
    for _ in range(600):
        seen = [
            OfferedRate(f, ((2000.0, 1 - float(rng.binomial(2000, o / (1 + o))) / 2000),))
            for f in (0.9, 1.02, 1.3)
            for o in (0.01 / 0.99 * f**10,)
        ]
        found = sweep(seen, 0.99)
        if found is not None and found.low_rps is not None:
            total += 1
            below += found.low_rps <= 1.0
            assert found.low_rps <= found.kept.rate_rps <= (found.high_rps or math.inf)
    assert below >= 0.93 * total > 400


# ---------------------------------------------------------------- from files


def stored_search(folder, repetition, capacity):
    """A search's directory as `harness run` leaves it: capacity.json, and one probe as a run in a folder of its own."""
    cell = Cell("t", "fixed:128x8", Load(arrivals="capacity"), repetition)
    campaign = "20261124T100000Z"
    records = run_builder.open_loop(10, 400)
    search_dir = folder / f"{campaign}_{cell.name}"
    probe_cell = replace(cell, load=Load(rate_rps=10.0))
    probe_id = f"{campaign}_{probe_cell.name}_probe01"
    for path, own, name in ((search_dir, cell, search_dir.name), (search_dir / probe_id, probe_cell, probe_id)):
        data = run_builder.run(
            records, own.load, cell=own, campaign_id=campaign, run_id=name, state="running", slo=SLO, plan_sha256=name
        )
        with RunWriter.create(path, data.manifest) as writer:
            writer.write_plan(
                Plan(
                    tuple(PlannedRequest(r.seq, None, 128, 8, None, 1) for r in records),
                    (),
                    own.load,
                    own.workload,
                    1,
                    name,
                )
            )
            if path != search_dir:
                writer.add("requests", records)
                writer.add("server", run_builder.edges(records))
                writer.add("host", run_builder.host(records))
            writer.finish("complete")
    probe = ProbeResult(
        1,
        10.0,
        10.0,
        40.0,
        400,
        400,
        ((400, 400),),
        1.0,
        0.99,
        1.0,
        400.0,
        3200,
        10.0,
        "pass",
        "clearly above",
        probe_id,
    )
    low, high = capacity * 0.99, capacity * 1.01
    write_capacity(search_dir, CapacityResult("found", capacity, low, high, 80.0, 0.99, 0.03, 40.0, (probe,), "within"))
    return search_dir


def test_stored_searches_reach_the_fleet_together(tmp_path):
    """Three repetitions of a search on disk: the mean of all with usage of their probes, not the largest nor a probe's rate; one
    search's own directory: its own interval."""
    for repetition, capacity in enumerate((11.0, 12.0, 13.0), 1):
        stored_search(tmp_path, repetition, capacity)
    found = measured(tmp_path)
    assert found.rps == pytest.approx((11 * 12 * 13) ** (1 / 3))
    assert found.plan_rps == found.interval.low < 11
    assert len(found.run_ids) == 3
    assert len(found.usage) > 300
    alone = measured(next(p for p in sorted(tmp_path.iterdir())))
    assert (alone.rps, alone.plan_rps) == (11.0, pytest.approx(10.89))
    with pytest.raises(StoreError):
        measured(tmp_path / "none")


def test_searches_of_two_promises_are_not_taken_together(tmp_path):
    """One at 99 % and one at 95 %: an error that names both."""
    for repetition in (1, 2):
        path = stored_search(tmp_path, repetition, 11.0) / "capacity.json"
        if repetition == 2:
            path.write_text(json.dumps({**json.loads(path.read_text()), "attainment": 0.95}))
    with pytest.raises(ConfigError, match="several promises"):
        measured(tmp_path)
