"""Percentiles and promises out of buckets: the truth is inside the stated band in every simulated case."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.monitor.quantiles import attainment, band, burn, merged, within
from harness.records.monitor import Histogram
from tests.monitor.known_fleet import histogram

BOUNDS = st.lists(st.floats(0.001, 100), min_size=1, max_size=12, unique=True).map(lambda le: (*sorted(le), math.inf))
TIMES = st.lists(st.floats(0, 200), min_size=1, max_size=60)


@given(BOUNDS, TIMES, st.sampled_from((0.5, 0.9, 0.99)))
@settings(max_examples=150, deadline=None)
def test_the_true_percentile_is_in_its_band(le_s, times, q):
    """By the definitions between the two neighbouring values, whatever the buckets are."""
    found = band(histogram(times, le_s), q)
    for definition in ("inverted_cdf", "linear", "lower", "higher", "nearest"):
        true = float(np.quantile(times, q, method=definition))
        assert found.low_s * (1 - 1e-9) <= true <= found.high_s * (1 + 1e-9), definition
    assert found.low_s in {0.0, *le_s}
    assert found.high_s in le_s


@given(BOUNDS, BOUNDS, TIMES, TIMES)
@settings(max_examples=80, deadline=None)
def test_servers_with_other_buckets_are_added_at_their_common_bounds(le_a, le_b, times_a, times_b):
    """What is merged counts every request once, and its band still holds the truth of both together."""
    both = merged([histogram(times_a, le_a), histogram(times_b, le_b)])
    assert both.counts[-1] == len(times_a) + len(times_b)
    assert set(both.le_s) == set(le_a) & set(le_b)
    true = float(np.quantile([*times_a, *times_b], 0.9))
    found = band(both, 0.9)
    assert found.low_s * (1 - 1e-9) <= true <= found.high_s * (1 + 1e-9)


@given(
    BOUNDS,
    st.lists(st.tuples(st.floats(0, 200), st.floats(0, 50), st.booleans()), min_size=1, max_size=60),
    st.floats(0.01, 150),
    st.floats(0.01, 40),
)
@settings(max_examples=150, deadline=None)
def test_true_attainment_is_between_its_ends(le_s, requests, ttft_s, e2el_s):
    """Requests of two times and errors: which is in which bucket of both is not known, and still the truth is inside."""
    good = sum(first <= ttft_s and last <= e2el_s and not failed for first, last, failed in requests)
    seen = {"ttft": histogram([r[0] for r in requests], le_s), "e2el": histogram([r[1] for r in requests], le_s)}
    errors = float(sum(failed for *_, failed in requests))
    low, high = attainment(seen, {"ttft": ttft_s, "e2el": e2el_s}, float(len(requests)), errors)
    assert low - 1e-9 <= good / len(requests) <= high + 1e-9


def test_a_limit_on_a_bound_is_exact():
    assert within(histogram([0.1, 0.2, 0.6], (0.2, 0.5, math.inf)), 0.5) == (2, 2)
    assert within(histogram([0.1, 0.3, 0.6], (0.2, 0.5, math.inf)), 0.4) == (1, 2)
    assert attainment({"ttft": histogram([0.1, 0.3, 0.6], (0.2, 0.5, math.inf))}, {"ttft": 0.5}, 3.0, 0.0) == (
        2 / 3,
        2 / 3,
    )


def test_what_no_histogram_can_say_is_said():
    """No histogram, no promise, a histogram of tokens: a reason or a bound of nothing, never a number made up."""
    assert "no promise" in attainment({}, {}, 3.0, 0.0)
    assert "no histogram of ttft" in attainment({}, {"ttft": 1.0}, 3.0, 0.0)
    tokens = Histogram((0.1, math.inf), (900.0, 1000.0))
    low, high = attainment({"ttft": histogram([0.05] * 10), "tpot": tokens}, {"ttft": 0.1, "tpot": 0.1}, 10.0, 0.0)
    assert (low, high) == (0.0, 1.0)
    assert band(Histogram((), ()), 0.5) is None
    assert band(Histogram((1.0, math.inf), (0.0, 0.0)), 0.5) is None


def test_the_last_bucket_has_no_upper_bound():
    found = band(histogram([9.0, 9.0], (1.0, math.inf)), 0.5)
    assert (found.low_s, found.high_s) == (1.0, math.inf)


def test_the_error_budget_burns_as_fast_as_what_is_missed():
    """98 to 99.5 % attained where 99 % is promised: half the budget to twice of it."""
    low, high = burn((0.98, 0.995), 0.99)
    assert math.isclose(low, 0.5)
    assert math.isclose(high, 2.0)
    assert burn((0.9, 1.0), 1.0) is None
