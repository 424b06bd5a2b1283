"""Demand curves as whole values: what every constructor gives, what a file may say, and what is refused just beyond."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from statistics import NormalDist

import pytest

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.planner import demand as demands

BOOK = json.loads((data_dir("configs") / "prices" / "demand_shapes.json").read_text())


def test_a_curve_is_an_hourly_one_of_unknown_source_unless_told():
    """Rates as floats, steps of an hour, no source, nothing averaged; everything else as given."""
    assert demands.curve("x", [1, "0.5"]) == demands.Demand("x", (1.0, 0.5), 3600.0, "", None)
    told = demands.curve("x", [0, 2], step_s="60", source="a log", peak_hour_to_mean=3.0)
    assert told == demands.Demand("x", (0.0, 2.0), 60.0, "a log", 3.0)


@pytest.mark.parametrize(
    ("rates", "step_s", "word"),
    [
        ([], 3600, "'x' has no values"),
        ([0, 0], 3600, "'x' is 0 in every step"),
        ([1, -1], 3600, "'x', step 1 is negative"),
        (["nan"], 3600, "'x', step 0 is not a number"),
        ([1], 0, r"'x': step \(s\) is 0"),
    ],
)
def test_what_is_no_curve_is_refused_by_name(rates, step_s, word):
    """No rates, none above 0, a negative or missing one with its place, a step of no length."""
    with pytest.raises(ConfigError, match=word):
        demands.curve("x", rates, step_s=step_s)


def test_what_is_read_off_a_curve():
    """1, 2 and 6 rps in steps of half an hour: mean 3, peak twice that, an hour and a half, 16,200 requests."""
    own = demands.Demand("x", (1.0, 2.0, 6.0), 1800.0, "")
    assert (own.mean_rps, own.peak_rps, own.peak_to_mean, own.hours, own.requests) == (3, 6, 2, 1.5, 16_200)
    for known, factor, highest in ((None, 1, 6), (1.5, 1, 6), (2.0, 1, 6), (5.0, 2.5, 15)):
        one = replace(own, peak_hour_to_mean=known)
        assert (one.peak_factor, one.highest_rps) == (factor, highest)


def test_a_steady_day():
    """24 equal hours, named so; nothing is averaged."""
    assert demands.flat("2.5") == demands.Demand("flat", (2.5,) * 24, 3600.0, "a steady rate", None)
    with pytest.raises(ConfigError, match=r"mean rate \(rps\) is negative"):
        demands.flat(-1)


def test_shapes_are_those_of_the_published_file():
    """Every shape with the file's source, its hours and its trace's peak; of a size, hour by hour, it keeps all three."""
    assert demands.shapes_file() == data_dir("configs") / "prices" / "demand_shapes.json"
    assert demands.shapes() == {name: {**shape, "source": BOOK["source"]} for name, shape in BOOK["shapes"].items()}
    for name, shape in BOOK["shapes"].items():
        day = demands.shaped(name, 7)
        hours = pytest.approx([7 * hour * 24 / sum(shape["hourly"]) for hour in shape["hourly"]])
        assert (day.name, day.step_s, day.source) == (name, 3600, BOOK["source"])
        assert day.peak_hour_to_mean == shape["peak_hour_to_mean"]
        assert day.rps == hours
    with pytest.raises(ConfigError) as error:
        demands.shaped("zzz", 1)
    assert error.value.advice == f"known shapes: {', '.join(BOOK['shapes'])}"


def test_another_size_is_the_same_curve_otherwise():
    """Twice the mean doubles the rates and nothing else; a size of 0 is none."""
    small = demands.Demand("x", (1.0, 3.0), 60.0, "a log", 2.0)
    assert demands.scaled(small, "4") == demands.Demand("x", (2.0, 6.0), 60.0, "a log", 2.0)
    with pytest.raises(ConfigError, match=r"mean rate \(rps\) is 0"):
        demands.scaled(small, 0)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("text", "rps"),
    [
        ("5\n6\n", (5, 6)),
        ("0,5\n1,6\n", (5, 6)),
        ("# a log\n  # of two hours\n\n5\n6\n", (5, 6)),
        (" RPS ,hour\n 5 ,0\n6,1\n", (5, 6)),
        ("hour,rps,note\n0,5,x\n1,6,y\n", (5, 6)),
        ("hour,load\n0,5\n1,6\n", (5, 6)),
        ("5,#\n6,#\n", None),
    ],
)
def test_csv_forms(tmp_path, text, rps):
    """Comments, blank lines, a header in any case, `rps` wherever it stands, else the last column, which must be numbers."""
    (tmp_path / "log.CSV").write_text(text)
    if rps is None:
        with pytest.raises(ConfigError, match="step 0 is not a number"):
            demands.read_demand(tmp_path / "log.CSV")
    else:
        assert demands.read_demand(tmp_path / "log.CSV") == demands.Demand("log", rps, 3600.0, "log.CSV", None)


def test_a_short_row_names_its_column(tmp_path):
    """The second column is missing in one row: its number counts from 1."""
    (tmp_path / "log.csv").write_text("hour,rps\n0,1\n2\n")
    with pytest.raises(ConfigError, match="too short") as error:
        demands.read_demand(tmp_path / "log.csv")
    assert error.value.value == "column 2"


def test_files_that_are_not_text_are_refused(tmp_path):
    """Bytes that are no UTF-8, a directory, no file at all: an error with the path."""
    (tmp_path / "log.csv").write_bytes(b"5\n\xff\n")
    (tmp_path / "dir.csv").mkdir()
    for name in ("log.csv", "dir.csv", "none.csv"):
        with pytest.raises(ConfigError, match="cannot be read") as error:
            demands.read_demand(tmp_path / name)
        assert error.value.value == str(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 3]", demands.Demand("day", (1.0, 3.0), 3600.0, "day.yaml", None)),
        ("rps: [1, 3]", demands.Demand("day", (1.0, 3.0), 3600.0, "day.yaml", None)),
        ("{rps: [1, 3], step_s: 60, name: 7, source: 2026, peak_hour_to_mean: 2}", demands.Demand("7", (1.0, 3.0), 60.0, "2026", 2.0)),
    ],
)  # fmt: skip
def test_yaml_forms(tmp_path, text, said):
    """A list, or a mapping with all it may say; what it leaves out is the file's name, an hour, nothing averaged."""
    (tmp_path / "day.yaml").write_text(text)
    assert demands.read_demand(tmp_path / "day.yaml") == said


@pytest.mark.parametrize(
    ("text", "word", "value"),
    [
        ("rps: 3", "not a demand curve", "dict"),
        ("3", "not a demand curve", "int"),
        ("rps: [1]\nsteps: 1\nmean: 2", "unknown key", "mean, steps"),
        ("{rps: [1], peak_hour_to_mean: 0}", "peak hour to mean is 0", "0"),
    ],
)
def test_yaml_that_is_no_curve(tmp_path, text, word, value):
    """What it is instead, keys that nobody knows in order, a peak of nothing."""
    (tmp_path / "day.yaml").write_text(text)
    with pytest.raises(ConfigError, match=word) as error:
        demands.read_demand(tmp_path / "day.yaml")
    assert error.value.value == value


def test_what_a_word_of_the_command_line_means(tmp_path):
    """A file by its ending in any case, with its own size or another; `flat` and shapes only with one."""
    for name, text in (("a.csv", "1\n3\n"), ("b.yaml", "[1, 3]"), ("c.yml", "[1, 3]"), ("D.YML", "[1, 3]")):
        (tmp_path / name).write_text(text)
        assert demands.find_demand(str(tmp_path / name), None).rps == (1, 3)
        assert demands.find_demand(str(tmp_path / name), 4).rps == (2, 6)
    assert demands.find_demand("flat", 3) == demands.flat(3)
    assert demands.find_demand("m-mid", 3) == demands.shaped("m-mid", 3)
    for word in ("flat", "m-mid"):
        with pytest.raises(ConfigError, match="without a size"):
            demands.find_demand(word, None)


# ---------------------------------------------------------------- days


def test_days_are_lognormal_and_rise_and_fall_again():
    """14 days over their mean at the middles of equal shares of a lognormal, the highest 1.5; its neighbours are the next ones."""
    day = demands.curve("x", [1, 3], source="a log", step_s=60, peak_hour_to_mean=2.25)
    weeks = demands.days_of(day)
    assert replace(weeks, rps=()) == demands.Demand("x", (), 60.0, "a log", None)
    assert weeks.rps[1::2] == pytest.approx([3 * rate for rate in weeks.rps[::2]])
    days = weeks.rps[::2]
    assert [sorted(days).index(d) for d in days] == [0, 2, 4, 6, 8, 10, 12, 13, 11, 9, 7, 5, 3, 1]
    assert (max(days), sum(days)) == (pytest.approx(1.5), pytest.approx(14))
    steps = [NormalDist().inv_cdf((n + 0.5) / 14) for n in range(14)]
    logs = [math.log(d) for d in sorted(days)]
    slopes = [(b - a) / (z - y) for a, b, y, z in zip(logs, logs[1:], steps, steps[1:], strict=False)]
    assert slopes == pytest.approx([slopes[0]] * 13)


def test_days_that_hardly_differ_still_do():
    """A peak of one in a million above the averaged one is spread; one within rounding of it is not."""
    day = demands.curve("x", [1, 3])
    assert len(demands.days_of(replace(day, peak_hour_to_mean=1.5 * (1 + 1e-6))).rps) == 28
    assert len(demands.days_of(replace(day, peak_hour_to_mean=1.5 * (1 + 1e-12))).rps) == 2
    assert len(demands.days_of(demands.curve("x", [1], peak_hour_to_mean=1 + 1e-9)).rps) == 14


def test_the_load_above_a_level():
    """24 hours at 1, 3 and then 2 rps: above 1.5, the peak leaves 1.5, the day and the mean what their hours do."""
    demand = demands.curve("x", [1, 3, *[2] * 22])
    assert demands.load_above(demand) == demands.Load(3.0, 2.0, 2.0)
    assert demands.load_above(demand, 1.5) == demands.Load(
        1.5, pytest.approx((1.5 + 11) / 24), pytest.approx((1.5 + 11) / 24)
    )
    assert demands.load_above(demand, 9) == demands.Load(0.0, 0.0, 0.0)
    for rates in ([2, 1, 0, 0.5], [0.5, 0, 1, 2]):  # the fullest 24 of 40 h: all of 2 and 1, and 4 h of 0.5
        assert demands.load_above(demands.curve("x", rates, step_s=36_000)).day_rps == pytest.approx(32 / 24)
    two_days = demands.curve("x", [4, 0], step_s=86_400)
    assert demands.load_above(two_days) == demands.Load(4.0, 4.0, 2.0)
    assert demands.load_above(replace(demand, peak_hour_to_mean=2.0), 1.5).peak_rps == 2.5
