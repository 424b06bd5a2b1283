"""Arrival processes to the nanosecond: words and their parameters, and offsets against the definition of each process.

Offset i of a process of varying rate is where the integral of its rate reaches the i-th time of a Poisson process of rate 1.
"""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest
import yaml

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.measure.plan.arrivals import Burstiness, Process, arrivals, burstiness, gamma_quantiles, parse
from harness.measure.plan.streams import Purpose, raw, uniform

SEED = 11


def exponentials(purpose, count):
    return -np.log1p(-uniform(raw(SEED, purpose, count)))


def operational(count):
    """Times of a Poisson process of rate 1, in billionths."""
    return np.cumsum(np.rint(exponentials(Purpose.ARRIVALS, count) * 1e9)) / 1e9


def reached(offsets_ns, pieces):
    """Integral of the rate up to each offset: pieces (seconds, requests/s) one after another, for ever."""
    edges = [0.0, *np.cumsum([length for length, _ in pieces])]
    mass = [0.0, *np.cumsum([length * rate for length, rate in pieces])]
    t = np.asarray(offsets_ns) / 1e9
    whole = np.floor(t / edges[-1])
    return whole * mass[-1] + np.interp(t - whole * edges[-1], edges, mass)


SHAPES = yaml.safe_load((data_dir("workloads") / "demand" / "shapes.yaml").read_text())["shapes"]


@pytest.mark.parametrize(
    ("text", "process"),
    [
        ("poisson", Process("poisson", (), (), None)),
        ("constant", Process("constant")),
        ("batch", Process("batch")),
        ("trace", Process("trace", (1.0,))),
        ("trace:2.5", Process("trace", (2.5,))),
        ("gamma:0.005", Process("gamma", (0.005,))),
        ("gamma:1000", Process("gamma", (1000.0,))),
        ("onoff:5:20", Process("onoff", (5.0, 20.0, 0.0))),
        ("onoff:0.5:0.25:1", Process("onoff", (0.5, 0.25, 1.0))),
        ("diurnal:language/m-mid", Process("rates", (86_400.0,), tuple(SHAPES["language/m-mid"]), 3600.0)),
        ("diurnal:language/m-mid:48", Process("rates", (48.0,), tuple(SHAPES["language/m-mid"]), 2.0)),
        ("ramp", Process("ramp", (0.0, 2.0))),
        ("ramp:1-0", Process("ramp", (1.0, 0.0))),
        ("ramp:0-0.5", Process("ramp", (0.0, 0.5))),
        ("step:1,0,3.5", Process("rates", (), (1.0, 0.0, 3.5), None)),
        ("step:2", Process("rates", (), (2.0,))),
    ],
)
def test_what_a_word_means(text, process):
    """Kind, numbers, relative rates and the length of a piece; what is left out has its documented value."""
    assert parse(text) == process


@pytest.mark.parametrize(
    ("text", "what"),
    [("gamma:0.004", "gamma shape"), ("gamma:1001", "gamma shape"), ("gamma:0", "gamma shape"), ("onoff:0:1", "on/off"),
     ("onoff:1:0", "on/off"), ("onoff:1:1:1.1", "on/off"), ("diurnal:x", "unknown diurnal shape"), ("ramp:0-0", "without any rate"),
     ("step:0,0", "without any rate"), ("trace:0", "out of range"), ("diurnal:language/m-mid:0", "out of range"),
     ("poisson:1", "unknown"), ("constant:1", "unknown"), ("batch:1", "unknown"), ("ramp:1", "unknown"),
     ("ramp:1-2-3", "unknown"), ("gamma:-1", "unknown"), ("gamma:1e3", "unknown"), ("step:1,", "unknown"), ("step", "unknown"),
     ("onoff:1", "unknown"), ("onoff:1:2:3:4", "unknown"), ("preset", "unknown"), ("", "unknown")],
)  # fmt: skip
def test_words_beyond_their_ends(text, what):
    """What lies beyond a range, or is no word, is refused with the word."""
    with pytest.raises(ConfigError, match=what) as caught:
        parse(text)
    assert caught.value.value == ("x" if text == "diurnal:x" else text)


def test_poisson_and_constant_offsets():
    """Poisson: sums of whole nanoseconds, a gap before the first request. Constant: i / rate, the first at 0."""
    gaps = np.rint(exponentials(Purpose.ARRIVALS, 300) * (1e9 / 0.7))
    found = arrivals("poisson", 0.7, SEED, 300, None)
    assert np.abs(found - np.cumsum(gaps)).max() <= 2
    assert arrivals("constant", 0.3, SEED, 4, None).tolist() == [0, 3_333_333_333, 6_666_666_667, 10_000_000_000]
    assert (found.dtype, arrivals("constant", 0.3, SEED, 4, None).dtype) == (np.int64, np.int64)


def test_gamma_offsets():
    """Gaps are the quantiles of the gamma distribution of mean 1 at the seed's numbers."""
    levels, values = gamma_quantiles(2.5)
    gaps = np.rint(np.interp(uniform(raw(SEED, Purpose.ARRIVALS, 200)), levels, values) * (1e9 / 0.8))
    assert np.abs(arrivals("gamma:2.5", 0.8, SEED, 200, None) - np.cumsum(gaps)).max() <= 2


@pytest.mark.parametrize(("requests", "duration_s"), [(400, None), (None, 500.0)])
def test_steps_and_days(requests, duration_s):
    """Steps share the run among them (requests / rate, or the duration) and have its mean rate; a day's hours are repeated."""
    rate = 0.8
    span = duration_s or requests / rate
    found = arrivals("step:1,0,3", rate, SEED, requests, duration_s)
    pieces = [(span / 3, rate * relative * 3 / 4) for relative in (1, 0, 3)]
    assert reached(found, pieces) == pytest.approx(operational(len(found)), rel=1e-7, abs=1e-6)
    found = arrivals("diurnal:language/m-mid:48", rate, SEED, requests, duration_s)
    shape = SHAPES["language/m-mid"]
    pieces = [(2.0, rate * relative * 24 / sum(shape)) for relative in shape]
    assert reached(found, pieces) == pytest.approx(operational(len(found)), rel=1e-7, abs=1e-6)


@pytest.mark.parametrize("ends", [(0.0, 2.0), (3.0, 1.0), (1.0, 0.0), (2.0, 2.0)])
def test_ramps(ends):
    """The rate goes from one end to the other over the run and then begins again; its mean is the one asked for."""
    rate, requests = 0.8, 400
    span = requests / rate
    found = arrivals(f"ramp:{ends[0]:g}-{ends[1]:g}", rate, SEED, requests, None)
    assert found[-1] > span * 1e9 or operational(requests)[-1] < requests
    t = found / 1e9
    cycle = np.floor(t / span)
    inside = t - cycle * span
    begin, end = (2 * rate * one / sum(ends) for one in ends)
    mass = cycle * requests + begin * inside + (end - begin) * inside**2 / (2 * span)
    assert mass == pytest.approx(operational(requests), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("words", ["onoff:5:20", "onoff:20:5:0.25"])
def test_on_and_off(words):
    """Exponential times on and off in turn from the seed's other stream, the first on with the share of time on; the off state
    has its share of the on state's rate, and the mean is the one asked for."""
    on_s, off_s, share = parse(words).numbers
    rate, count = 2.0, 300
    on_rate = rate * (on_s + off_s) / (on_s + share * off_s)
    u = uniform(raw(SEED, Purpose.ARRIVAL_STATES, 400))
    lasts = exponentials(Purpose.ARRIVAL_STATES, 400)[1:]
    is_on, pieces = bool(u[0] < on_s / (on_s + off_s)), []
    for one in lasts:
        pieces.append((one * (on_s if is_on else off_s), on_rate if is_on else on_rate * share))
        is_on = not is_on
    found = arrivals(words, rate, SEED, count, None)
    assert reached(found, pieces) == pytest.approx(operational(count), rel=1e-7, abs=1e-5)


def test_states_are_drawn_until_they_suffice():
    """Long off times and short on times: more states than the first guess, with the same beginning."""
    for seed in range(30):
        short, long = (arrivals("onoff:1:30:0.01", 0.05, seed, count, None) for count in (40, 400))
        assert long[:40].tolist() == short.tolist()
        assert (np.diff(long) >= 0).all()


def test_a_duration_and_its_ends():
    """What is sent before the duration's end, not at it; a plan without any request is refused, and so is one of too many."""
    assert arrivals("constant", 2.0, SEED, None, 1.5).tolist() == [0, 500_000_000, 1_000_000_000]
    assert len(arrivals("constant", 2.0, SEED, None, 1.500000001)) == 4
    whole = arrivals("poisson", 3.0, SEED, 1000, None)
    assert arrivals("poisson", 3.0, SEED, None, 60.0).tolist() == whole[whole < 60e9].tolist()
    last = int(whole[99])
    assert len(arrivals("poisson", 3.0, SEED, None, last / 1e9)) == 99
    with pytest.raises(ConfigError, match="no request would be sent") as caught:
        arrivals("poisson", 0.001, SEED, None, 0.5)
    assert caught.value.value == f"rate 0.001/s for 0.5 s, seed {SEED}"
    with pytest.raises(ConfigError, match="plan too large") as caught:
        arrivals("constant", 1000.0, SEED, None, 10_001.0)
    assert caught.value.value == "10001000 requests"
    with pytest.raises(ConfigError, match="batch") as caught:
        arrivals("batch", 1.0, SEED, None, 2.5)
    assert caught.value.value == "2.5 s"
    with pytest.raises(ConfigError, match="need a trace") as caught:
        arrivals("trace", 1.0, SEED, 3, None)
    assert caught.value.value == "trace"


GOLDEN = {
    "gamma:0.02": "70dc73b345e7a45f",
    "gamma:0.5": "8fa599130003f2f0",
    "gamma:2": "8ea2ed762dc898c2",
    "gamma:2.1": "bf66b5a091ad4e92",
    "gamma:400": "a45c5f39483a854f",
    "onoff:5:20": "f4cad29d6c02032a",
    "onoff:20:5:0.25": "1178aa95d8a044eb",
    "ramp:3-1": "4aa3d4f6c0c52290",
    "step:1,0,3": "f05ebdd10b9a04fb",
    "diurnal:language/m-mid:48": "748903816c37ada8",
}


@pytest.mark.parametrize("text", GOLDEN)
def test_golden_digests_of_arrivals(text):
    """The same words give the same nanoseconds on every machine, and in every release: the tables behind them are part of that."""
    offsets = arrivals(text, 3.0, 1, 2000, None).astype("<i8")
    assert hashlib.sha256(offsets.tobytes()).hexdigest()[:16] == GOLDEN[text]


def test_as_many_requests_as_one_may(monkeypatch):
    """As many as a plan may hold are drawn, one more is refused."""
    monkeypatch.setattr("harness.measure.plan.arrivals.MAX_REQUESTS", 50)
    for words in ((50, None), (None, 25.0)):
        assert len(arrivals("constant", 2.0, SEED, *words)) == 50
    for words in ((51, None), (None, 25.5)):
        with pytest.raises(ConfigError, match="plan too large") as caught:
            arrivals("constant", 2.0, SEED, *words)
        assert caught.value.value == "51 requests"


def test_burstiness_by_hand():
    """Rate (n - 1) / span, CV of the gaps with n - 1 of them, dispersion of counts in whole windows: 10 of them are enough."""
    times = np.array([3.0, 3.5, 4.0, 6.0, 13.0]) * 1e9
    gaps = [0.5, 0.5, 2.0, 7.0]
    mean = sum(gaps) / 4
    cv = math.sqrt(sum((g - mean) ** 2 for g in gaps) / 4) / mean
    counts = [2, 1, 0, 1, 0, 0, 0, 0, 0, 0]  # from 3 s on; the last request is at the end of the tenth window
    variance = sum((n - 0.4) ** 2 for n in counts) / 10
    found = burstiness(times.astype(np.int64))
    assert found == Burstiness(pytest.approx(0.4), pytest.approx(cv), pytest.approx(variance / 0.4), None, None)
    assert burstiness(np.array([3, 3 + 10 * 10**9 - 1])).dispersion_1s is None
    assert burstiness(np.array([3, 3 + 10 * 10**9])).dispersion_1s == pytest.approx(0.9)  # one request in ten windows
    assert burstiness(np.array([], np.int64)) == Burstiness(None, None, None, None, None)


def test_burstiness_in_words():
    """Every figure with its unit, `-` where there are too few to say."""
    assert Burstiness(12.3456, 0.987, 1.234, None, 5.0).words() == (
        "mean rate 12.35/s, CV of gaps 0.99, index of dispersion at 1 s 1.23, index of dispersion at 10 s -, "
        "index of dispersion at 60 s 5.00"
    )
    assert Burstiness(None, None, None, 2.0, None).words() == (
        "mean rate -, CV of gaps -, index of dispersion at 1 s -, index of dispersion at 10 s 2.00, index of dispersion at 60 s -"
    )


def test_quantiles_of_the_gamma_distribution():
    """At 0.5, 1 and 2 the distribution has a closed form: every point of the table lies on it, scaled by the table's own mean."""
    forms = {
        0.5: lambda x: math.erf(math.sqrt(x)),
        1.0: lambda x: -math.expm1(-x),
        2.0: lambda x: 1 - math.exp(-x) * (1 + x),
        3.0: lambda x: 1 - math.exp(-x) * (1 + x + x * x / 2),
    }
    for shape, cumulative in forms.items():
        levels, values = gamma_quantiles(shape)
        inner = list(zip(levels[1:-1], values[1:-1], strict=True))
        factor = shape * (1 + 1e-4)
        assert all(cumulative(v * shape * 0.999) - 1e-9 <= level <= cumulative(v * factor) + 1e-9 for level, v in inner)
        assert len(inner) > 1000
        assert (values[0] == 0) == (shape <= 2)
        assert levels[1] < 1e-5
        assert levels[-2] > 1 - 1e-11
        assert all(b - a < 0.02 for a, b in pairwise(levels))
