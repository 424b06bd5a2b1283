"""VALID means right: runs of simulated servers against the steady state of the same server, from the plan to the dollar."""

import os
import random
from dataclasses import replace

import pytest

from harness.records import Load
from tests.judge.serving import Engine, Offered
from tests.judge.steady import Case, judged, random_case, summary_of

PLAIN = Engine(step_s=0.02)
LONG = "HARNESS_LONG" in os.environ  # `make bench-window` has thousands


def case(workload, load, **size):
    return Case(PLAIN, Offered(workload, load, **size), None)


@pytest.mark.parametrize("seed", range(12 if LONG else 6))
def test_no_valid_run_is_more_than_3_percent_off(seed):
    """Of random loads, engines, lengths and durations: every number of the VALID runs is the steady state's to 3 %, or to half of its
    own sampling error where that is more; and goodput is never above throughput, VALID or not."""
    rng = random.Random(f"steady {seed}")
    found = [judged(random_case(rng), range(1000 * seed + n, 1000 * seed + n + 6)) for n in range(0, 60, 20)]
    beyond = [
        f"{o.number} {o.by:+.1%} of {o.allowed:.1%}: {o.case}"
        for _, offs in found
        for o in offs
        if abs(o.by) > o.allowed
    ]
    assert not beyond, beyond


@pytest.mark.parametrize(("duration_s", "state"), [(8, "UNKNOWN"), (12, "UNKNOWN"), (24, "VALID"), (60, "VALID")])
def test_long_replies_in_a_short_open_loop(duration_s, state):
    """20 requests/s of 4 s each: too short a schedule is UNKNOWN, and a VALID one has the rate and the tokens of the load, to 1 %."""
    load = Load(rate_rps=20, arrivals="constant")
    summary = summary_of(case("fixed:128x200", load, duration_s=duration_s), 1)
    assert summary.verdict.state == state
    if state == "VALID":
        assert summary.scalars["request_rps"] == pytest.approx(20, rel=0.01)
        assert summary.scalars["output_tps"] == pytest.approx(4000, rel=0.01)


@pytest.mark.parametrize("requests", [16, 31, 32, 40, 47, 48, 63, 64, 79, 80, 81, 95, 96, 333])
def test_closed_loops_of_every_length(requests):
    """Sixteen streams of equal replies: however many requests, VALID has the true rate to 1 %, and below five waves of 4 s there is none."""
    engine = Engine(step_s=0.02, prefill_s_per_token=0.0005)
    summary = summary_of(Case(engine, Offered("fixed:128x200", Load(concurrency=16), requests=requests), None), 1)
    assert (summary.verdict.state == "VALID") == (requests >= 80)
    if requests >= 80:
        assert summary.scalars["request_rps"] == pytest.approx(16 / (128 * 0.0005 + 199 * 0.02), rel=0.01)


@pytest.mark.parametrize("load", [1.3, 1.6, 3])
@pytest.mark.parametrize("engine", [Engine(slots=8), Engine(step_s=0.02, per_sequence_s=0.001)])
def test_overload_is_never_valid(load, engine):
    """Offered 1.3 times what the server does, or more, for thirty replies' time: its queue grows, and the run is UNKNOWN."""
    rate = load * engine.capacity_rps(64, 50)
    summary = summary_of(Case(engine, Offered("fixed:64x50", Load(rate_rps=rate), duration_s=60), load), 3)
    assert summary.verdict.state == "UNKNOWN"
    assert "queue_growing" in {reason.code for reason in summary.verdict.reasons}


@pytest.mark.parametrize("seed", range(8 if LONG else 4))
def test_what_is_advised_does_suffice(seed):
    """A run without a steady part names seconds or requests; who follows that has one after a few
    times: the longest replies, and the slowest ones of a server that fills up, were yet to come."""
    rng = random.Random(f"advice {seed}")
    checked = 0
    while checked < 3:
        one = random_case(rng)
        window = summary_of(one, seed).window
        if (one.load or 0) > 0.7 or window is None or window.lacking != "window_too_short":
            continue
        size = "duration_s" if one.offered.duration_s else "requests"
        tries = 0
        while window.lacking is not None:
            tries += 1
            seconds, requests = (int(word) for word in window.advice.split() if word.isdigit())
            offered = replace(one.offered, **{size: float(seconds) if size == "duration_s" else requests})
            window = summary_of(replace(one, offered=offered), seed).window
            assert tries <= 6, one
        checked += 1
