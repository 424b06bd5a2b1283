"""Arrivals whose rate is meant to change: what is counted stands for all that was sent, or the run is UNKNOWN."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from harness.judge.columns import measured
from harness.judge.window import find_window
from harness.records import Load, RequestRecord
from tests.judge.run_builder import frame, request
from tests.judge.serving import Engine, Offered
from tests.judge.steady import MAX_OFF, Case, moving_case, off_the_plan, summary_of

SLOWS = Engine(step_s=0.02, per_sequence_s=0.001, prefill_s_per_token=0.0001)


def at(seconds, arrivals):
    """Requests of 1 s each, sent at these seconds."""
    records = [request(n, float(t), ttft_s=1.0, tokens=1, scheduled_s=float(t)) for n, t in enumerate(seconds)]
    return find_window(measured(frame(records, RequestRecord)), Load(rate_rps=1.0, arrivals=arrivals))[0]


def test_three_percent_by_hand():
    """Two sends a second, and at both ends, where a settling time of 1 s is cut off, fewer or more of them: of 403 sends in 201 s or so the
    part's two a second are up to 3 % of the rate of all, and then they are not."""
    middle = np.arange(0, 200, 0.5)
    for left_out_s, told in (
        (5.9, False),
        (6.3, True),
    ):  # silent after the first: (n - 1) / span is 3 % below 2 at 6.1 s
        sends = [*(middle + 0.0), 200 + left_out_s]
        for name in ("onoff:5:5", "step:1,2"):
            window = at(sends, name)
            assert (window.lacking == "window_too_short") == told, (name, left_out_s)
            assert not told or re.search(r"came at a rate 3\.[0-9]% above that of all", window.rule)
        assert at(sends, "poisson").lacking is None
    for more, told in ((10, False), (14, True)):  # within the last half second: 414 in 200 s are 3.4 % more
        sends = [*middle, *np.linspace(199.6, 200, more)]
        window = at(sends, "ramp")
        assert (window.lacking == "window_too_short") == told, more
        assert not told or re.search(r"came at a rate 3\.[0-9]% below that of all", window.rule)


@pytest.mark.parametrize("arrivals", ["ramp:3-1", "diurnal:flat", "onoff:1:1", "step:1"])
def test_a_tenth_left_out_by_hand(arrivals):
    """Ten sends a second, of which those of the first and last second are cut off, at the rate of all: 20 of 191 are too many, 20 of 211 not."""
    for seconds, told in ((19, True), (21, False)):
        window = at(np.arange(0, seconds + 0.01, 0.1), arrivals)
        assert (window.lacking == "window_too_short") == told
        assert f"changes by {arrivals}: the steady part leaves out" in window.rule or not told
    assert at(np.arange(0, 19.01, 0.1), "constant").lacking is None


@pytest.mark.parametrize("arrivals", ["step:7,1,1,1", "step:1,1,1,7"])
def test_a_peak_that_is_cut_off_is_said_and_a_longer_run_has_it(arrivals):
    """Seven tenths of the requests within a quarter of 30 s at the beginning or the end, at 0.84 of what the server can do: the part
    without the ends has another rate; UNKNOWN, with what
    suffices after a few times, as the peak of a longer run slows the server down for longer."""
    rate = SLOWS.capacity_rps(64, 50) * 0.3
    one = Case(SLOWS, Offered("fixed:64x50", Load(rate_rps=rate, arrivals=arrivals), duration_s=30), 0.3)
    for seed in range(4):
        summary = summary_of(one, seed)
        assert summary.verdict.state == "UNKNOWN"
        assert f"changes by {arrivals}" in summary.window.rule or "the queue grows" in summary.window.rule
    if arrivals == "step:1,1,1,7":
        return  # its latency rises to the end, however long
    window, tries = summary.window, 0
    while window.lacking is not None:
        tries += 1
        seconds = next(float(word) for word in window.advice.split() if word.isdigit())
        window = summary_of(replace(one, offered=replace(one.offered, duration_s=seconds)), 1).window
        assert tries <= 6


@pytest.mark.parametrize("seed", range(6))
def test_a_valid_run_has_the_rates_of_its_plan(seed):
    """Random arrivals that change, engines, loads and durations: requests and output tokens a second of a VALID run are those of all that was
    sent to 3 %, counted here."""
    rng = random.Random(f"moving {seed}")
    valid = 0
    while valid < 4:
        one = moving_case(rng)
        if (off := off_the_plan(one, seed)) is not None:
            valid += 1
            assert abs(off) <= MAX_OFF, str(one)
