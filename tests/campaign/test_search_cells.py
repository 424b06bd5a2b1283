"""Capacity searches as cells of two campaigns, from the config to the history: the joints, whatever the searches find on this machine."""

from __future__ import annotations

import pytest
from campaign_values import run, small, states

from harness.base.errors import InvalidRunError
from harness.judge.compare.comparison import compare
from harness.judge.compare.sides import load_side
from harness.judge.runs import analyse, history_of, index_runs, run_data
from harness.pipeline import results_of
from harness.planner.measured import measured
from harness.store import history

pytestmark = pytest.mark.timing
VERDICTS = {"found": "VALID", "censored_above": "UNKNOWN", "censored_below": "UNKNOWN", "undecided": "INVALID"}


def test_two_nights_of_searches(golden, tmp_path):
    """A server without a limit, a promise that only a machine at its end breaks: whole cells with what was found, compared as one metric, a row
    each in the history with their verdict, the probes' rows behind them, a fleet's capacity, a report."""
    search = {"start_rps": 20, "max_rps": 40, "probe_s": [1, 2], "probes": 3}
    experiment = small(golden.url, loads=[{"capacity": search}], slo={"ttft_s": 5.0, "attainment": 0.9})
    out = tmp_path / "t"
    nights = [run(experiment, out).campaign_id for _ in range(2)]
    assert set(states(out).values()) == {"complete"}
    found = {}
    for night in nights:
        analysis = analyse(out, night)
        assert (len(analysis.capacities), analysis.problems) == (2, ())
        found |= {search.directory.name: search.result for search in analysis.capacities}
        assert len(run_data(analysis, analysis.summaries)) == len(analysis.summaries)
        assert [row.run_id for row in history_of(analysis)] == [search.directory.name for search in analysis.capacities]
        assert results_of(analysis).files["html"].stat().st_size > 10_000
    sides = [load_side(f"{out}@{night}") for night in nights]
    undecided = [all(run.verdict.state == "INVALID" for run in side.runs) for side in sides]
    if any(undecided):  # this machine sent no probe on time
        with pytest.raises(InvalidRunError):
            compare(*sides)
    else:
        (effect,) = compare(*sides).effects
        assert effect.metric == "capacity_rps"
    if all(result.state in ("found", "censored_above") for result in found.values()):
        assert measured(out).rps == pytest.approx(40.0, rel=0.5)
    assert index_runs(tmp_path).written == 4
    rows = dict(history.sql(tmp_path, "SELECT run_id, verdict FROM runs WHERE load = 'capacity'").rows)
    assert rows == {name: VERDICTS[result.state] for name, result in found.items()}
