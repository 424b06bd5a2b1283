"""Demand curves: named shapes, files, quantiles inside a step."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.planner.demand import (
    curve,
    days_of,
    find_demand,
    flat,
    load_above,
    read_demand,
    scaled,
    shaped,
    shapes,
    shapes_file,
)


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


def test_a_csv_without_a_name_for_its_rates_has_them_last(tmp_path):
    """hour,requests of a log: the last column, with a header or without; a named one wherever it stands."""
    for name, text in (
        ("bare", "0,5\n1,6\n2,7\n"),
        ("head", "hour,load\n0,5\n1,6\n2,7\n"),
        ("named", "rps,hour\n5,0\n6,1\n7,2\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
        assert read_demand(tmp_path / f"{name}.csv").rps == (5, 6, 7), name


@pytest.mark.parametrize("step_s", [1, 600, 3600, 5400])
def test_requests_are_rate_times_seconds(step_s):
    """Rates of 1, 2 and 3 over three steps: 6 requests for every second of a step, in that many hours."""
    demand = curve("d", [1, 2, 3], step_s=step_s)
    assert demand.requests == pytest.approx(6 * step_s)
    assert demand.hours == pytest.approx(3 * step_s / 3600)
    assert demand.mean_rps * demand.hours * 3600 == pytest.approx(demand.requests)


def test_the_highest_hour_is_the_traces(tmp_path):
    """1.86 x the mean for m-large at any size; the own peak where nothing was averaged, or the trace's is lower; a file may say it."""
    assert shaped("m-large", 195.8).highest_rps == pytest.approx(1.86 * 195.8)
    assert shaped("m-large", 195.8).peak_factor == pytest.approx(1.86 / shaped("m-large", 1).peak_to_mean)
    assert shaped("mm-image", 10).highest_rps == shaped("mm-image", 10).peak_rps
    assert curve("low", [1, 3], peak_hour_to_mean=1.2).highest_rps == 3
    (tmp_path / "own.yaml").write_text("{rps: [1, 3], peak_hour_to_mean: 4}")
    assert read_demand(tmp_path / "own.yaml").highest_rps == 8
    assert scaled(read_demand(tmp_path / "own.yaml"), 1).highest_rps == 4


@pytest.mark.parametrize("name", ["m-large", "m-mid", "m-small"])
def test_days_differ_as_the_trace_does(name):
    """Two weeks with the averaged day's mean in every hour, the trace's highest hour, and no two days alike."""
    day = shaped(name, 100)
    weeks = days_of(day)
    assert (len(weeks.rps), weeks.step_s) == (14 * 24, 3600)
    assert weeks.mean_rps == pytest.approx(100)
    assert weeks.peak_rps == pytest.approx(day.highest_rps, rel=1e-9)
    for hour in range(24):
        assert sum(weeks.rps[hour::24]) / 14 == pytest.approx(day.rps[hour])
    assert len({round(weeks.rps[n * 24], 6) for n in range(14)}) == 14


def test_days_of_what_is_no_average_are_itself():
    """A user's own two weeks, a single day's trace and a steady rate are not spread again."""
    for demand in (
        flat(3),
        curve("own", [1, 5]),
        shaped("deepseek-r1", 1),
        curve("same", [1, 3], peak_hour_to_mean=1.5),
    ):
        assert days_of(demand) is demand


def test_days_are_checked_by_two_weeks_of_m_large():
    """The published two weeks: 9 replicas of 22.58 rps are too few in 40 % of hours; here 39 %, on the averaged day 50 %."""
    over = [rate > 9 * 0.7 * 32.26 for rate in days_of(shaped("m-large", 195.8)).rps]
    assert sum(over) / len(over) == pytest.approx(0.40, abs=0.03)


def busiest_by_the_second(rates, step_s, window_s):
    """Mean rate of the fullest window of whole seconds, by trying every second of the cycle as its first."""
    line = [rate for rate in rates for _ in range(step_s)]
    series = line * (window_s // len(line) + 2)
    total = sum(series[:window_s])
    best = total
    for first in range(len(line)):
        total += series[first + window_s] - series[first]
        best = max(best, total)
    return best / window_s


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any), st.sampled_from([600, 3600, 7000, 43200]), st.sampled_from([0, 2.5]))  # fmt: skip
def test_the_busiest_day_is_found_whatever_the_step(rates, step_s, level):
    """Of curves shorter and longer than a day: the fullest 24 hours by trying them all, above a level too."""
    demand = curve("any", rates, step_s=step_s)
    load = load_above(demand, level)
    over = [max(rate - level, 0) for rate in rates]
    assert load.peak_rps == max(over)
    assert load.mean_rps == pytest.approx(sum(over) / len(over))
    assert load.day_rps == pytest.approx(busiest_by_the_second(over, step_s, 86400), rel=1e-6)


def test_what_a_level_leaves_over_of_days_that_differ():
    """m-large above its averaged peak: nothing on the averaged day, but its trace bursts up to 1.86 x the mean."""
    day = shaped("m-large", 100)
    load = load_above(day, 120)
    assert max(day.rps) < 120
    assert load.peak_rps == pytest.approx(66)
    assert 0 < load.mean_rps <= load.day_rps
    assert load_above(day).mean_rps == pytest.approx(100)
    assert load_above(day).day_rps == pytest.approx(100)


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


def test_flat_is_refused_at_nothing():
    """No demand is not a demand."""
    with pytest.raises(ConfigError):
        flat(0)
