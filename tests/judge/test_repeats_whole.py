"""Points, intervals over repetitions with every field, and runs by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.base.errors import ConfigError
from harness.judge.repeats import DEFAULT_KEYS, LEVEL, POINTS, Point, by_cell, intervals, points, usable
from harness.records import CellInterval, Load
from tests.judge.compare_campaigns import INVALID, run

C4, C8 = Load(concurrency=4), Load(concurrency=8)


def test_the_points_that_are_compared():
    """Keys, labels, units and directions of all; the default ones."""
    table = {key: (p.label, p.unit, p.higher_is_better, p.is_share) for key, p in POINTS.items()}
    assert table == {
        "output_tps": ("output throughput", "tokens/s", True, False), "total_tps": ("total throughput", "tokens/s", True, False),
        "request_rps": ("request throughput", "1/s", True, False), "ttft_s.p50": ("TTFT p50", "s", False, False),
        "ttft_s.p90": ("TTFT p90", "s", False, False), "ttft_s.p99": ("TTFT p99", "s", False, False),
        "ttft_from_schedule_s.p50": ("TTFT from schedule p50", "s", False, False),
        "ttft_from_schedule_s.p99": ("TTFT from schedule p99", "s", False, False), "tpot_s.mean": ("TPOT mean", "s", False, False),
        "tpot_s.p50": ("TPOT p50", "s", False, False), "tpot_s.p99": ("TPOT p99", "s", False, False), "itl_s.p99": ("ITL p99", "s", False, False),
        "e2el_s.p50": ("E2EL p50", "s", False, False), "e2el_s.p99": ("E2EL p99", "s", False, False), "goodput_rps": ("goodput", "1/s", True, False),
        "attainment": ("attainment", "", True, True), "energy_per_output_token_j": ("GPU energy per output token", "J/token", False, False),
        "capacity_rps": ("capacity", "1/s", True, False),
    }  # fmt: skip
    assert DEFAULT_KEYS == (
        "output_tps",
        "ttft_s.p50",
        "ttft_s.p99",
        "tpot_s.p50",
        "itl_s.p99",
        "attainment",
        "capacity_rps",
    )
    assert [p.key for p in points([])] == list(DEFAULT_KEYS)
    assert list(points(["all"])) == list(POINTS.values())
    assert [p.key for p in points(["itl", "ttft_s", "itl_s.p99"])] == [
        "itl_s.p99",
        "ttft_s.p50",
        "ttft_s.p90",
        "ttft_s.p99",
    ]
    with pytest.raises(ConfigError) as error:
        points(["all", "x"])
    assert (error.value.value, error.value.advice) == ("x", f"all, or some of: {', '.join(POINTS)}")
    values = run({"ttft_s.p90": 0.5, "output_tps": 7.0}, 1).summary
    assert [Point("ttft_s", "p90").of(values), Point("ttft_s", "p99").of(values), Point("itl_s", "p99").of(values), Point("output_tps").of(values), Point("attainment").of(values)] == [
        0.5, None, None, 7.0, None,
    ]  # fmt: skip


def student(values, level):
    n = len(values)
    half = stats.t.isf((1 - level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    return np.mean(values) - half, np.mean(values) + half


def test_an_interval_as_a_whole():
    """On logarithms where all are positive; on the values themselves where one is not; attainment cut to 0..1."""
    rows = {
        "output_tps": [90.0, 120.0, 100.0],
        "goodput_rps": [0.0, 3.0, 6.0],
        "attainment": [0.9, 1.0, 0.95],
        "tpot_s.p50": [0.02, None, 0.03],
    }
    runs = [run({key: values[k] for key, values in rows.items()}, k + 1).summary for k in range(3)]
    runs.append(run({"output_tps": 1.0}, 4, verdict=INVALID).summary)
    logs = student(np.log(rows["output_tps"]), 0.95)
    pair = student(np.log([0.02, 0.03]), 0.95)
    cell = ("a", "fixed:128x32", C4)
    assert LEVEL == 0.95
    assert intervals(runs[::-1], ("output_tps", "goodput_rps", "attainment", "tpot")) == (
        CellInterval(*cell, "output_tps", "output throughput", "tokens/s", (1, 2, 3), (90.0, 120.0, 100.0), 1, "log", pytest.approx(1080000 ** (1 / 3)),
                     pytest.approx(math.exp(logs[0])), pytest.approx(math.exp(logs[1])), 0.95),
        CellInterval(*cell, "goodput_rps", "goodput", "1/s", (1, 2, 3), (0.0, 3.0, 6.0), 1, "linear", 3.0, *map(pytest.approx, student([0, 3, 6], 0.95)), 0.95),
        CellInterval(*cell, "attainment", "attainment", "", (1, 2, 3), (0.9, 1.0, 0.95), 1, "linear", pytest.approx(0.95),
                     pytest.approx(student([0.9, 1.0, 0.95], 0.95)[0]), 1.0, 0.95),
        CellInterval(*cell, "tpot_s.p50", "TPOT p50", "s", (1, 3), (0.02, 0.03), 1, "log", pytest.approx(math.sqrt(0.0006)),
                     pytest.approx(math.exp(pair[0])), pytest.approx(math.exp(pair[1])), 0.95),
    )  # fmt: skip
    (narrow,) = intervals(runs, ["output_tps"], level=0.5)
    assert (narrow.level, narrow.low) == (0.5, pytest.approx(math.exp(student(np.log(rows["output_tps"]), 0.5)[0])))
    (apart,) = intervals([run({"output_tps": v}, k).summary for k, v in ((1, 1e-150), (2, 1e150))], ["output_tps"])
    assert (apart.high, apart.low) == (math.exp(700), 0.0)
    lows = [run({"attainment": v}, k).summary for k, v in ((1, 0.0), (2, 0.9))]
    assert (intervals(lows, ["attainment"])[0].low, intervals(lows, ["attainment"])[0].high) == (0.0, 1.0)
    (alone,) = intervals(lows[1:], ["attainment"])
    assert (alone.mean, alone.low, alone.high) == (0.9, None, None)


def test_runs_by_cell_and_repetition():
    """Cells in the order of their first repetition, runs by repetition and then by when they were made; the newest valid one counts."""
    one, two = run({"output_tps": 1.0}, 1).summary, run({"output_tps": 2.0}, 2).summary
    again = run({"output_tps": 3.0}, 1, created="2026-11-24T20:00:00+00:00").summary
    lost = run({"output_tps": 4.0}, 1, created="2026-11-24T21:00:00+00:00", verdict=INVALID).summary
    other = run({"output_tps": 5.0}, 1, load=C8).summary
    assert by_cell([two, lost, again, other, one]) == {
        ("a", "fixed:128x32", C4): [one, again, lost, two],
        ("a", "fixed:128x32", C8): [other],
    }
    assert usable([two, lost, again, one]) == [again, two]
