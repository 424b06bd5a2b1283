"""What is learned of a side's latency: against servers whose latency is known."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.routing.learned import Learned, level_of


def taught(ttft_of, loads, prompts=(100,), rows=40):
    learned = Learned()
    for load in loads:
        for n in range(rows):
            prompt = prompts[n % len(prompts)]
            learned.add(load, prompt, ttft_of(load, prompt), 0.01)
    return learned


def test_a_curve_is_found_again():
    """Latency that rises with the load is predicted at each load that was seen."""
    learned = taught(lambda load, prompt: 0.1 + 0.02 * load, range(10))
    assert [learned.predict(n, 100, 5)["ttft_s"] for n in range(10)] == pytest.approx(
        [0.1 + 0.02 * n for n in range(10)]
    )


def test_prefill_is_told_from_the_load():
    """A longer prompt than any before is predicted by the slope of idle requests."""
    learned = taught(lambda load, prompt: 0.05 + 1e-4 * prompt, [0], prompts=(100, 500, 900))
    assert learned.predict(0, 2000, 5)["ttft_s"] == pytest.approx(0.25, rel=0.02)


def test_beyond_what_was_seen_it_grows_with_the_load():
    """Nothing is known of 9 others where 4 were the most: as much longer as there are more."""
    learned = taught(lambda load, prompt: 0.1, [0, 4])
    assert learned.predict(9, 100, 5)["ttft_s"] == pytest.approx(0.1 * 10 / 5)


def test_the_last_token_follows_from_the_first_and_the_gaps():
    """E2EL of 11 tokens is TTFT and 10 gaps."""
    predicted = taught(lambda load, prompt: 0.1, [0]).predict(0, 100, 11)
    assert predicted["e2el_s"] == pytest.approx(0.2)
    assert predicted["tpot_s"] == pytest.approx(0.01)


def test_a_reply_of_one_token_has_no_gap():
    """Its E2EL is its TTFT, and no TPOT is promised for it."""
    predicted = taught(lambda load, prompt: 0.1, [0]).predict(0, 100, 1)
    assert predicted["e2el_s"] == pytest.approx(0.1)
    assert "tpot_s" not in predicted


def test_nothing_is_predicted_of_nothing():
    """No row, no number."""
    assert Learned().predict(3, 100, 10) == {}


def test_one_hiccup_when_idle_does_not_close_a_side():
    """A second in which everything stood still, seen by a few idle requests, is pooled with the many that were quick under load."""
    learned = taught(lambda load, prompt: 0.1, range(1, 8))
    for _ in range(3):
        learned.add(0, 100, 2.0, 0.01)
    assert learned.predict(0, 100, 5)["ttft_s"] < 0.4


def test_old_rows_are_forgotten():
    """A server that became quicker is believed after as many rows as a level keeps."""
    learned = Learned(newest=16)
    for ttft_s in [1.0] * 40 + [0.1] * 16:
        learned.add(2, 100, ttft_s, 0.01)
    assert learned.predict(2, 100, 5)["ttft_s"] == pytest.approx(0.1)


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0.001, 10)), min_size=1, max_size=300))
def test_more_load_is_never_predicted_to_be_quicker(rows):
    """Whatever the rows say, in any order."""
    learned = Learned()
    for load, ttft_s in rows:
        learned.add(load, 100, ttft_s, ttft_s / 10)
    curve = [learned.predict(n, 100, 5)["e2el_s"] for n in range(0, 260, 3)]
    assert all(low <= high * (1 + 1e-9) for low, high in zip(curve, curve[1:], strict=False))


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_levels_rise_with_the_load(one, other):
    """And there are few of them."""
    low, high = sorted((one, other))
    assert level_of(low) <= level_of(high) < 200


def test_most_of_what_comes_is_inside_what_was_predicted():
    """Of exponential latencies, the predicted one holds for about as many as its quantile says."""
    draw = random.Random(5)
    learned = Learned(quantile=0.95, newest=500)
    for _ in range(500):
        learned.add(1, 100, draw.expovariate(10), None)
    limit = learned.predict(1, 100, 1)["ttft_s"]
    share = sum(draw.expovariate(10) <= limit for _ in range(5000)) / 5000
    assert 0.92 < share < 0.975
