"""Demand curves: named shapes, files, quantiles inside a step."""

import json
from math import sqrt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cost.demand import (
    burst_quantile_rps,
    coarsened,
    curve,
    find_demand,
    flat,
    read_demand,
    scaled,
    shaped,
    shapes,
    shapes_file,
)
from harness.errors import ConfigError


@pytest.mark.parametrize("name", ["m-large", "m-mid", "m-small", "mm-image", "deepseek-r1"])
def test_shapes_have_a_day_and_the_mean_asked_for(name):
    """Every published shape is 24 hours, positive, and exactly as large as asked."""
    day = shaped(name, 195.8)
    assert (len(day.rps), day.hours) == (24, 24)
    assert min(day.rps) > 0
    assert day.mean_rps == pytest.approx(195.8, rel=1e-12)
    assert day.requests == pytest.approx(195.8 * 86400)
    assert "ServeGen" in day.source


def test_an_averaged_day_is_smoother_than_its_trace():
    """The shape's own peak is below that of the trace behind it, which is kept beside it."""
    for name, shape in shapes().items():
        day = shaped(name, 1)
        if shape["peak_hour_to_mean"] is not None:
            assert day.peak_to_mean <= shape["peak_hour_to_mean"] + 0.01
    assert shaped("m-large", 1).peak_to_mean == pytest.approx(1.143, abs=1e-3)
    assert shaped("m-large", 1).peak_hour_to_mean == 1.86
    assert json.loads(shapes_file().read_text())["source"]


def test_files(tmp_path):
    """A CSV with or without a header, a YAML list or mapping: the same curve."""
    (tmp_path / "plain.csv").write_text("1\n2\n3\n")
    (tmp_path / "named.csv").write_text("# two weeks\nhour,rps,note\n0,1,a\n1,2,b\n2,3,c\n")
    (tmp_path / "list.yaml").write_text("[1, 2, 3]")
    (tmp_path / "full.yaml").write_text("rps: [1, 2, 3]\nstep_s: 600\nname: mine\nsource: our proxy's log\n")
    for file in tmp_path.iterdir():
        assert read_demand(file).rps == (1, 2, 3), file
    mine = read_demand(tmp_path / "full.yaml")
    assert (mine.name, mine.step_s, mine.hours, mine.source) == ("mine", 600, 0.5, "our proxy's log")
    assert find_demand(str(tmp_path / "plain.csv"), None).mean_rps == 2
    assert find_demand(str(tmp_path / "plain.csv"), 4).rps == (2, 4, 6)
    assert find_demand("flat", 3).rps == (3,) * 24


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "empty.csv"),
        ("rps\n", "header.csv"),
        ("1\nmany\n", "word.csv"),
        ("1\nnan\n", "nan.csv"),
        ("1\n-2\n", "negative.csv"),
        ("0\n0\n", "nothing.csv"),
        ("a,rps\n1,2\n3\n", "short.csv"),
        ("rps: 3", "scalar.yaml"),
        ("rps: [1]\nstep: 60", "key.yaml"),
        ("rps: [1]\nstep_s: 0", "step.yaml"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, name):
    """What is not a curve is an error of three lines that names it."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as error:
        read_demand(tmp_path / name)
    assert str(error.value).count("\n") == 2


def test_unknown_shapes_and_missing_sizes_are_refused():
    """A misspelt shape names the nearest one; a shape alone has no size."""
    with pytest.raises(ConfigError, match="m-large"):
        shaped("m-larg", 1)
    with pytest.raises(ConfigError, match="mean-rps"):
        find_demand("m-large", None)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_demand(Path("no-such-file.csv"))


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=50), st.floats(0.01, 1e4))
def test_scaling_keeps_the_shape(rates, mean):
    """Another mean, the same peak to mean."""
    demand = curve("any", rates)
    again = scaled(demand, mean)
    assert again.mean_rps == pytest.approx(mean)
    assert again.peak_to_mean == pytest.approx(demand.peak_to_mean)


def test_quantile_inside_a_step():
    """An hour of six ten-minute bins is planned at their quantile: the mean would hide the burst."""
    fine = curve("fine", [1, 1, 1, 1, 1, 7, 2, 2, 2, 2, 2, 2], step_s=600)
    assert coarsened(fine, 6, 1).rps == (7, 2)
    assert coarsened(fine, 6, 0.5).rps == (1, 2)
    assert coarsened(fine, 6, 0).rps == (1, 2)
    assert coarsened(fine, 6, 1).step_s == 3600
    with pytest.raises(ConfigError):
        coarsened(fine, 5, 1)


def test_bursts_of_a_known_dispersion():
    """The quantile has the mean and variance asked for: near-normal far from 0, and wider when burstier."""
    q = burst_quantile_rps(100, 0.975, dispersion=1, window_s=60)
    assert q == pytest.approx(100 + 1.96 * sqrt(100 / 60), rel=2e-3)
    burstier = burst_quantile_rps(100, 0.975, dispersion=160, window_s=60)
    assert burstier > q
    # mean of the quantile function is the mean rate
    steps = [burst_quantile_rps(100, (n + 0.5) / 400, dispersion=160, window_s=60) for n in range(400)]
    assert sum(steps) / 400 == pytest.approx(100, rel=2e-3)
    for bad in (0, 1, float("nan")):
        with pytest.raises(ConfigError):
            burst_quantile_rps(100, bad, dispersion=1, window_s=60)


def test_flat_is_refused_at_nothing():
    """No demand is not a demand."""
    with pytest.raises(ConfigError):
        flat(0)
