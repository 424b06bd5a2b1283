"""The time line against simulated clocks whose offset is known: how far it is off, and whether the uncertainty that it gives holds."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from harness.measure.nodes.time_line import RATE_MAX, RoundTrip, TimeLine, _corridor
from tests.nodes.clocks import NS, Clocks, errors, jitter, line_of, quiet

LONG = bool(os.environ.get("HARNESS_LONG"))
SECONDS, TRIALS = (600.0, 200) if LONG else (30.0, 200)


def test_a_quiet_link_is_within_200_us_and_drift_is_corrected_over_ten_minutes():
    """100 ppm of drift with 3 ppm of wander, trips of 60 µs and more: 10 minutes, every stamp within 0.2 ms, and the drift itself found."""
    clocks, rng = Clocks(drift_ppm=100, wander_ppm=3), np.random.default_rng(1)
    line = line_of(clocks.trips(rng, quiet, seconds=600))
    wrong, given_ns = errors(line, clocks, clocks.instants(rng, 5_000, 600))
    assert wrong.max() <= 200_000
    assert given_ns.max() <= 200_000
    assert (wrong <= given_ns).all()
    assert line.drift_ppm == pytest.approx(100, abs=line.drift[1])
    assert line.drift[1] < 1


def test_the_uncertainty_covers_the_truth_under_20_ms_of_uneven_delay():
    """200 trials of other drifts, wanders and delays, each way its own part of 20 ms and its own jitter: in 198 of them at least every stamp is
    within the uncertainty that was given, while the trips were still coming and after."""
    rng = np.random.default_rng(20)
    covered, tight = 0, []
    for _ in range(TRIALS):
        clocks = Clocks(drift_ppm=rng.uniform(-150, 150), wander_ppm=rng.uniform(0, 5), period_s=rng.uniform(60, 300))
        one, two = rng.uniform(0, 0.02, 2)
        there, back = jitter(one, one + rng.uniform(0, 0.02)), jitter(two, two + rng.uniform(0, 0.02))
        trips = clocks.trips(rng, there, back, SECONDS)
        half = line_of(trips[: len(trips) // 2])
        edge = clocks.begin_ns + round(SECONDS / 2 * NS)
        wrong, given_ns = errors(half, clocks, edge + rng.integers(-NS, 2 * NS, 20))
        after, given_after = errors(line_of(trips), clocks, clocks.instants(rng, 100, SECONDS))
        covered += bool((wrong <= given_ns).all() and (after <= given_after).all())
        tight.append(given_after.mean() / ((one + two) * 0.5e9 + 1))
    assert covered >= 198
    assert np.median(tight) < 1.5  # an uncertainty that covers since it is endless would be none


@settings(max_examples=40 if not LONG else 1000)
@given(
    st.integers(0, 2**32),
    st.floats(-400, 400),
    st.floats(0, 9),
    st.floats(1e-6, 0.1),
    st.floats(0.3, 20),
    st.integers(1, 8),
    st.integers(1, 40),
)
def test_no_stamp_lies_outside_of_its_uncertainty(seed, drift, wander, most_s, every_s, questions, bursts):
    """Whatever the delays, the rhythm and the rate (within what a clock can do): the truth is inside, before, within and after the trips."""
    rng = np.random.default_rng(seed)
    clocks = Clocks(drift_ppm=drift, wander_ppm=wander, period_s=rng.uniform(1, 1000))
    seconds = every_s * bursts
    line = line_of(clocks.trips(rng, jitter(0, most_s), jitter(0, most_s / 7), seconds, questions, every_s))
    wrong, given_ns = errors(line, clocks, clocks.instants(rng, 60, seconds) + round(rng.uniform(-1, 1) * NS))
    assert (wrong <= given_ns).all()


@pytest.mark.parametrize(
    "clocks",
    [
        Clocks(step_s=30.3, step_ns=5 * NS, drift_ppm=40),
        Clocks(slew_ppm=-1_000_000, slewed_s=(30.3, 30.9), drift_ppm=-40),  # stood still
        Clocks(step_s=30.004, step_ns=2_000_000),  # within a burst
        Clocks(step_s=30.3, step_ns=400_000, drift_ppm=10, wander_ppm=2),
        Clocks(slew_ppm=400, slewed_s=(20.2, 35.7), drift_ppm=10),
    ],
    ids=["forward 5 s", "suspended", "in a burst", "0.4 ms", "slewed"],
)
def test_a_step_is_said_and_the_uncertainty_grows_around_it(clocks):
    """A suspended or migrated machine, a clock slewed by its discipline: the break is in the facts, where and by how much; stamps at it have
    room for both lines; those away from it are as sure as ever."""
    rng = np.random.default_rng(3)
    line = line_of(clocks.trips(rng, quiet))
    at_s = min(clocks.step_s, 30.3)
    instants = np.append(clocks.instants(rng, 3_000), clocks.begin_ns + round(at_s * NS) - 50_000)
    wrong, given_ns = errors(line, clocks, instants)
    assert (wrong <= given_ns).all()
    breaks = line.facts()["breaks"]
    moved_us = 600_000 if clocks.slew_ppm < -1e5 else -clocks.step_ns / 1000
    if moved_us:
        assert len(breaks) == 1
        assert breaks[0]["moved_us"] == pytest.approx(moved_us, abs=300)
        assert line.error_max_ns >= abs(moved_us) * 500
    else:
        assert 1 <= len(breaks) <= 8
    s = (instants - clocks.begin_ns) / NS
    assert given_ns[(s < 19) | (s > 38)].max() < 200_000


def test_a_step_within_the_jitter_is_said_as_soon_as_a_trip_contradicts_it():
    """12 ms of step under 20 ms of jitter: found later than it was, so that no stamp in between is called surer than it is."""
    for seed in range(10):
        clocks, rng = Clocks(step_s=31.7, step_ns=12_000_000, drift_ppm=20), np.random.default_rng(seed)
        line = line_of(clocks.trips(rng, jitter(0.0001, 0.02)))
        wrong, given_ns = errors(line, clocks, clocks.instants(rng, 1_000))
        assert (wrong <= given_ns).all()
        assert len(line.breaks) == 1


def test_a_clock_that_goes_back_is_never_sure_again():
    """CLOCK_MONOTONIC does not; if it did (another machine under the same name), every stamp has that much room from then on."""
    line = line_of(Clocks().trips(np.random.default_rng(0), quiet, seconds=3))
    last = line.last_ns
    line.add(RoundTrip(100 * NS, last - NS, 100 * NS + 50_000))
    assert line.facts()["went_back_us"] > 900_000
    assert line.offset(last)[1] > 900_000_000


def test_the_corridor_is_what_a_linear_programme_finds():
    """Bounds of offset and rate against scipy's HiGHS, open and closed corridors; here is an end, the middle, or beside all intervals."""
    rng = np.random.default_rng(5)
    closed = 0
    for _ in range(60):
        x = np.sort(rng.uniform(-5, 5, rng.integers(1, 12)))
        if rng.random() < 0.7:
            x -= rng.choice(x)
        middle = rng.uniform(-1e5, 1e5) + rng.uniform(-1e5, 1e5) * x + rng.normal(0, 5e3, len(x))
        low, high = middle - rng.uniform(0, 2e4, len(x)), middle + rng.uniform(0, 2e4, len(x))
        found = _corridor(x, low, high, 0.0)
        rows = np.column_stack([np.ones(len(x)), x])
        ends = [
            linprog(
                goal,
                A_ub=np.vstack([rows, -rows]),
                b_ub=np.append(high + 1, -(low - 1)),
                bounds=[(None, None), (-RATE_MAX, RATE_MAX)],
            )
            for goal in ([1, 0], [-1, 0], [0, 1], [0, -1])
        ]
        closed += found is None
        assert (found is None) == (ends[0].status == 2)
        if found is not None:
            truth = [ends[0].fun, -ends[1].fun, ends[2].fun, -ends[3].fun]
            assert [found.low, found.high, found.rate_low, found.rate_high] == pytest.approx(truth, abs=0.1)
    assert 5 < closed < 55


def test_to_node_is_the_way_back():
    """The node's clock at the parent's instant, as a start is told: mapped back it is that instant."""
    clocks, rng = Clocks(drift_ppm=-80, origin_ns=-(10**15)), np.random.default_rng(6)
    line = line_of(clocks.trips(rng, quiet, seconds=10))
    for instant in clocks.instants(rng, 20, 10).tolist():
        node_ns = line.to_node(instant)
        assert abs(node_ns + line.offset(node_ns)[0] - instant) <= 2
        assert abs(node_ns - int(clocks.node(np.array([instant]))[0])) <= line.offset(node_ns)[1]


def test_one_trip_is_half_its_length_and_none_is_refused():
    """The plainest bound; drift is not known of one burst; without an answer there is no offset, and the facts say so."""
    line = TimeLine()
    assert line.facts() == {"round_trips": 0}
    with pytest.raises(ValueError, match="no question"):
        line.offset(0)
    line.add(RoundTrip(1_000, 50_500, 2_000))
    offset, error = line.offset(50_500)
    assert (offset, error) == (-49_000, pytest.approx(500, abs=5))
    assert line.drift_ppm is None
    assert line.offset(50_500 + NS)[1] == pytest.approx(
        500 + RATE_MAX, rel=0.05
    )  # a second later it may have drifted by 500 ppm
    json.dumps(line.facts())
    with pytest.raises(ValueError, match="before its question"):
        line.add(RoundTrip(2_000, 0, 1_000))


def test_origins_of_any_size_cost_no_precision():
    """A node up for 30 years beside a parent just started: to the nanosecond of a trip of 1 µs."""
    clocks, rng = Clocks(begin_ns=NS, origin_ns=10**18), np.random.default_rng(8)
    line = line_of(clocks.trips(rng, lambda _, count: np.full(count, 500), seconds=5))
    wrong, given_ns = errors(line, clocks, clocks.instants(rng, 50, 4))
    assert wrong.max() <= 10
    assert given_ns[0] < 6_000
