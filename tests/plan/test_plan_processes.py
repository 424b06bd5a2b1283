"""Arrival processes: their laws, their burstiness, their mean rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.config.load import LoadSpec
from harness.measure.plan.arrivals import arrivals, burstiness, demand_shapes, gamma_quantiles, parse

VARYING = ["onoff:5:20", "onoff:2:4:0.3", "diurnal:reason/deepseek-r1:600", "ramp", "ramp:3-1", "step:1,0,3"]


def ks(values, cumulative):
    """Greatest distance of the empirical distribution from `cumulative`, times the square root of the count."""
    values = np.sort(values)
    steps = np.arange(len(values) + 1) / len(values)
    expected = cumulative(values)
    return max((steps[1:] - expected).max(), (expected - steps[:-1]).max()) * math.sqrt(len(values))


def gamma_cumulative(shape):
    """P(shape, shape x) by Simpson's rule on its density in ln x: another way than the code's series and fraction."""
    grid = np.linspace(-300, math.log(shape + 60 + 12 * math.sqrt(shape)), 600_001)
    density = np.exp(shape * grid - np.exp(grid) - math.lgamma(shape))
    sums = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2) * (grid[1] - grid[0])))
    return lambda x: np.interp(np.log(np.maximum(x, 1e-300) * shape), grid, sums)


@pytest.mark.parametrize("shape", [0.1, 0.5, 1.0, 4.0, 50.0])
def test_gamma_gaps_follow_their_law(shape):
    """200,000 gaps: mean 1 / rate, CV 1 / sqrt(shape), the distribution by Kolmogorov-Smirnov at 0.1 %, neighbours
    uncorrelated. (Mean and CV to 5 standard errors.)"""
    gaps = np.diff(arrivals(f"gamma:{shape}", 50.0, 3, 200_001, None)) * 50 / 1e9
    cv = 1 / math.sqrt(shape)
    assert abs(gaps.mean() - 1) < 5 * cv / math.sqrt(len(gaps))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=5 * math.sqrt((0.5 + 3 * cv * cv) / len(gaps)))
    assert ks(gaps[gaps > 1e-6], _above(gamma_cumulative(shape), 1e-6)) < 1.95
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 5 / math.sqrt(len(gaps))


def _above(cumulative, least):
    """The same law given that the value is above `least` (gaps are whole nanoseconds)."""
    below = float(cumulative(np.array([least]))[0])
    return lambda x: (cumulative(x) - below) / (1 - below)


@settings(max_examples=30)
@given(st.floats(0.005, 1000))
def test_gamma_tables_are_distributions_of_mean_one(shape):
    """For every shape allowed: levels rise from 0 to 1, values do not fall, the table's own mean is 1."""
    levels, values = gamma_quantiles(round(shape, 3) or 0.005)
    assert (levels[0], levels[-1]) == (0, 1)
    assert (np.diff(levels) > 0).all()
    assert (np.diff(values) >= 0).all()
    assert float((np.diff(levels) * (values[1:] + values[:-1])).sum()) / 2 == pytest.approx(1, abs=1e-8)


def test_on_off_dispersion_is_the_modulated_poissons():
    """Index of dispersion over windows of 10 s, against the closed form for a two-state process, within 8 %:
    1 + 2 r^2 p (1 - p) c / m (1 - c (1 - exp(-t / c)) / t), with c = 1 / (1 / on + 1 / off), r the rates' difference,
    p the share of time on, m the mean rate (Fischer and Meier-Hellstern, 1993)."""
    on_s, off_s, rate, window = 2.0, 6.0, 10.0, 10
    measured = [burstiness(arrivals("onoff:2:6", rate, seed, 60_000, None)).dispersion_10s for seed in range(12)]
    p, c = on_s / (on_s + off_s), 1 / (1 / on_s + 1 / off_s)
    jump = rate / p
    expected = 1 + 2 * jump**2 * p * (1 - p) * c / rate * (1 - c * (1 - math.exp(-window / c)) / window)
    assert np.mean(measured) == pytest.approx(expected, rel=0.08)


def test_a_poisson_process_has_dispersion_one():
    """Burstiness of Poisson arrivals is 1 in every figure, of constant ones 0."""
    found = burstiness(arrivals("poisson", 20.0, 1, 200_000, None))
    assert found.mean_rate_rps == pytest.approx(20, rel=0.02)
    assert found.gap_cv == pytest.approx(1, rel=0.02)
    for value, windows in ((found.dispersion_1s, 10_000), (found.dispersion_10s, 1000), (found.dispersion_60s, 166)):
        assert value == pytest.approx(1, abs=5 * math.sqrt(2 / windows))
    still = burstiness(arrivals("constant", 20.0, 1, 200_000, None))
    assert (still.gap_cv, still.dispersion_1s, still.dispersion_10s) == (0, 0, 0)


@pytest.mark.parametrize("window_s", [1, 10, 60])
def test_bursts_as_far_apart_as_a_window_are_even_in_it(window_s):
    """Five requests at the beginning of each window: as many in every one of them, so the dispersion at that window is 0."""
    times = np.repeat(np.arange(40, dtype=np.int64) * window_s * 1_000_000_000, 5)
    assert getattr(burstiness(times), f"dispersion_{window_s}s") == 0


def test_burstiness_says_nothing_where_there_is_nothing_to_say():
    """One request, or all at once, has no rate; fewer than 10 windows have no dispersion."""
    assert burstiness(np.zeros(1, np.int64)) == burstiness(np.zeros(9, np.int64))
    assert burstiness(np.zeros(9, np.int64)).mean_rate_rps is None
    short = burstiness(arrivals("constant", 1.0, 1, 50, None))
    assert (short.dispersion_1s, short.dispersion_10s, short.dispersion_60s) == (pytest.approx(0), None, None)


@pytest.mark.parametrize("kind", VARYING)
def test_varying_rates_have_the_mean_asked_for(kind):
    """Over many cycles the mean rate is the one asked for, within 5 standard errors of the counts; offsets do not
    decrease, and a longer plan of a cyclic process begins with the shorter one."""
    rate, span = 20.0, 6000.0
    counts = [len(arrivals(kind, rate, seed, None, span)) for seed in range(20)]
    scatter = max(np.std(counts), math.sqrt(rate * span)) / math.sqrt(len(counts))
    assert abs(np.mean(counts) - rate * span) < 5 * scatter
    offsets = arrivals(kind, rate, 1, 2000, None)
    assert (np.diff(offsets) >= 0).all()
    if not kind.startswith(("ramp", "step")):  # these spread over the plan's own length
        assert (arrivals(kind, rate, 1, 2500, None)[:2000] == offsets).all()


def test_rates_follow_their_shape():
    """A ramp from 0 to twice the mean has a quarter of its requests in the first half; steps of 1, 0, 3 have a quarter
    in the first third and none in the second; a day's hours have their shares of the requests (chi-square, 0.1 %)."""
    ramp = arrivals("ramp", 100.0, 1, None, 600.0) / 600e9
    assert (ramp < 0.5).mean() == pytest.approx(0.25, abs=0.01)
    assert ks(ramp, lambda x: x * x) < 1.95
    step = np.bincount((arrivals("step:1,0,3", 100.0, 1, None, 600.0) // 200_000_000_000), minlength=3)
    assert step[1] == 0
    assert step[0] / step.sum() == pytest.approx(0.25, abs=0.01)
    shape = np.array(demand_shapes()["shapes"]["language/m-small"])
    hours = np.bincount(arrivals("diurnal:language/m-small:2400", 50.0, 1, None, 2400.0) // 100_000_000_000)
    expected = hours.sum() * shape / shape.sum()
    assert ((hours - expected) ** 2 / expected).sum() < 49.7  # 23 degrees of freedom


def test_a_batch_is_sent_at_once():
    """All offsets are 0; a batch of a duration means nothing."""
    assert arrivals("batch", 1.0, 1, 7, None).tolist() == [0] * 7
    with pytest.raises(ConfigError, match="no duration"):
        arrivals("batch", 1.0, 1, None, 5.0)


@pytest.mark.parametrize(
    "text",
    ["gamma", "gamma:0", "gamma:2000", "onoff:5", "onoff:0:5", "onoff:1:1:2", "diurnal:nowhere", "ramp:0-0", "step:0,0",
     "step:", "trace:0", "poisson:3", "bursty", "gamma:nan", "batch:4"],
)  # fmt: skip
def test_words_that_are_no_arrivals(text):
    """Each is a ConfigError."""
    with pytest.raises(ConfigError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    ["poisson", "constant", "gamma:0.5", "onoff:5:20:0.1", "diurnal:language/m-mid:3600", "ramp:1-3", "step:1,2", "trace:2"],
)  # fmt: skip
def test_a_config_takes_what_the_plan_takes(text):
    """An experiment file's `arrivals` are the same words; those of the plan that need no rate need none there."""
    spec = {"arrivals": text, "rate": [3.0], "requests": 10}
    assert LoadSpec.model_validate(spec).points()[0].arrivals == text
    assert parse(text)
    if text.startswith("trace"):
        point = LoadSpec.model_validate({"arrivals": text}).points()[0]
        assert (point.rate_rps, point.concurrency, point.name) == (None, None, text)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("onoff:5:20:1", (5, 20, 1)), ("onoff:5:20", (5, 20, 0)), ("gamma:0.005", (0.005,)), ("gamma:1000", (1000,)),
     ("trace", (1,)), ("trace:2.5", (2.5,)), ("ramp", (0, 2)), ("ramp:3-0", (3, 0)), ("diurnal:language/m-mid", (86_400,))],
)  # fmt: skip
def test_numbers_of_arrivals_and_their_ends(text, numbers):
    """What is left out has its documented value, and the ends of each range belong to it."""
    assert parse(text).numbers == numbers


def test_on_off_begins_in_its_stationary_state():
    """Of 800 seeds a quarter begins on where a quarter of the time is on (5 standard errors), and what is left of the
    state begun in is as long as any other: exponential times have no memory."""
    firsts, lasted = [], []
    for seed in range(800):
        seconds = arrivals("onoff:5:15", 10.0, seed, 600, None) / 1e9  # 40 a second while on
        firsts.append(seconds[0])
        if seconds[0] < 0.5:
            lasted.append(seconds[np.argmax(np.diff(seconds) > 0.5)])
    on = len(lasted) / len(firsts)
    begun_off = 0.75 * (1 - math.exp(-0.5 / 15))  # these, too, may soon have their first arrival
    assert on == pytest.approx(0.25 + begun_off, abs=5 * math.sqrt(0.25 * 0.75 / 800))
    assert np.mean(lasted) == pytest.approx(5.0, abs=5 * 5.0 / math.sqrt(len(lasted)))
