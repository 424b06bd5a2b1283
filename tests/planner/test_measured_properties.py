"""A measured capacity against a truth that is known, and from stored searches to the fleet."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from harness.base.errors import ConfigError, StoreError
from harness.judge.runs import analyse, run_data
from harness.planner.measured import measured, measured_capacity
from harness.planner.sweep import OfferedRate, sweep
from harness.records import (
    CapacityResult,
    Cell,
    Load,
    Plan,
    PlannedRequest,
    ProbeResult,
)
from harness.store.manifest import write_capacity
from harness.store.writer import RunWriter
from tests.judge import run_builder
from tests.planner.measured_values import SLO, closed, offered, result, searches


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
    analysis = analyse(tmp_path)
    rows = run_data(analysis, analysis.summaries)  # each in the directory of its search
    assert [run.manifest.run_id for run in rows] == [s.run_id for s in analysis.summaries]
    assert sum(len(run.requests) for run in rows) == 1200
    alone = measured(next(p for p in sorted(tmp_path.iterdir())))
    assert (alone.rps, alone.plan_rps) == (11.0, pytest.approx(10.89))
    with pytest.raises(StoreError):
        measured(tmp_path / "none")


@pytest.mark.parametrize("damaged", ["capacity.json", "*_probe01/requests.parquet"])
def test_a_damaged_search_is_named_and_the_others_reach_the_fleet(tmp_path, damaged):
    """Of three repetitions on disk one has a damaged capacity.json, or a damaged probe: analysis and capacity come of what can be read."""
    for repetition, capacity in enumerate((11.0, 12.0, 13.0), 1):
        path = stored_search(tmp_path, repetition, capacity)
    (bad,) = path.glob(damaged)
    bad.write_bytes(bad.read_bytes()[:40])
    analysis = analyse(tmp_path)
    (problem,) = analysis.problems
    assert bad.parent.name in problem
    of = (11.0, 12.0) if damaged == "capacity.json" else (11.0, 12.0, 13.0)
    assert [search.result.capacity_rps for search in analysis.capacities] == list(of)
    found = measured(tmp_path)
    assert found.rps == pytest.approx(math.prod(of) ** (1 / len(of)))
    assert f"not read: {problem}" in found.warnings
    assert len(analysis.summaries) == 2


def test_searches_of_two_promises_are_not_taken_together(tmp_path):
    """One at 99 % and one at 95 %: an error that names both."""
    for repetition in (1, 2):
        path = stored_search(tmp_path, repetition, 11.0) / "capacity.json"
        if repetition == 2:
            path.write_text(json.dumps({**json.loads(path.read_text()), "attainment": 0.95}))
    with pytest.raises(ConfigError, match="several promises"):
        measured(tmp_path)
