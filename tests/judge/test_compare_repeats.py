"""Repetitions gathered by cell, and intervals over them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.judge.repeats import intervals, points
from harness.records import Load
from harness.records.metrics import METRICS
from tests.judge.compare_campaigns import INVALID, run


def summaries(values, **kw):
    return [run({"output_tps": v}, k, **kw).summary for k, v in enumerate(values, 1)]


def test_interval_is_students_t_on_logarithms():
    """Three repetitions: the geometric mean, times and over exp(t(2) s / sqrt 3) by hand."""
    (found,) = intervals(summaries([90.0, 100.0, 120.0]), ["output_tps"])
    logs = np.log([90.0, 100.0, 120.0])
    half = 4.302652729911275 * logs.std(ddof=1) / math.sqrt(3)
    assert found.mean == pytest.approx(math.exp(logs.mean()))
    assert (found.low, found.high) == pytest.approx((math.exp(logs.mean() - half), math.exp(logs.mean() + half)))
    assert found.repetitions == (1, 2, 3)


def test_one_repetition_has_no_interval():
    """A mean, and None for both ends."""
    (found,) = intervals(summaries([90.0]), ["output_tps"])
    assert (found.mean, found.low, found.high) == (pytest.approx(90.0), None, None)


def test_invalid_runs_are_left_out_and_counted():
    """The INVALID one of three changes neither mean nor count."""
    runs = [*summaries([90.0, 100.0]), run({"output_tps": 1.0}, 3, verdict=INVALID).summary]
    (found,) = intervals(runs, ["output_tps"])
    assert (found.values, found.left_out) == ((90.0, 100.0), 1)


def test_a_repetition_that_was_run_again_counts_once():
    """Of two valid runs of repetition 1 the newest is used."""
    again = run({"output_tps": 80.0}, 1, created="2026-11-24T12:00:00+00:00").summary
    (found,) = intervals([again, *summaries([90.0, 100.0])], ["output_tps"])
    assert found.values == (80.0, 100.0)


def test_attainment_is_not_put_on_a_logarithm():
    """Arithmetic mean, interval inside 0..1, a repetition of 0 kept."""
    runs = [run({"attainment": v}, k).summary for k, v in enumerate([0.0, 1.0, 1.0], 1)]
    (found,) = intervals(runs, ["attainment"])
    assert found.mean == pytest.approx(2 / 3)
    assert (found.scale, found.low, found.high) == ("linear", 0.0, 1.0)


def test_cells_are_apart():
    """Two loads are two intervals, a metric that no run has is none."""
    runs = [*summaries([1.0, 2.0]), *summaries([3.0, 4.0], load=Load(concurrency=8))]
    assert [(i.load.name, i.metric) for i in intervals(runs)] == [("c4", "output_tps"), ("c8", "output_tps")]


def test_every_point_reads_a_metric_of_the_table():
    """Keys resolve to metrics.METRICS; a bare metric means all its points; an unknown word is refused with the list."""
    assert all(p.metric in METRICS for p in points(["all"]))
    assert [p.key for p in points(["tpot"])] == ["tpot_s.mean", "tpot_s.p50", "tpot_s.p99"]
    with pytest.raises(ConfigError) as error:
        points(["latency"])
    assert "tpot_s.p99" in error.value.advice
