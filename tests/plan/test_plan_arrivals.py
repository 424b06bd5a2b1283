"""When requests of an open loop are sent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import arrivals

RATES = st.floats(0.01, 1e5)


@given(RATES, st.integers(1, 500))
def test_constant_arrivals_are_exactly_i_over_rate(rate, count):
    """Request i is sent at i / rate to the nearest nanosecond, however many came before."""
    offsets = arrivals("constant", rate, 1, count, None)
    assert all(abs(offset - i * 1e9 / rate) <= 0.5 for i, offset in enumerate(offsets.tolist()))


@given(RATES, st.integers(1, 500), st.integers(0, 2**63 - 1))
def test_poisson_arrivals_do_not_decrease_and_grow_at_the_end_only(rate, count, seed):
    """Offsets are whole, positive or 0 and not decreasing; more requests continue the same arrivals."""
    offsets = arrivals("poisson", rate, seed, count, None)
    assert len(offsets) == count
    assert offsets[0] >= 0
    assert (np.diff(offsets) >= 0).all()
    assert (arrivals("poisson", rate, seed, count + 7, None)[:count] == offsets).all()


def test_poisson_gaps_are_independent_exponentials():
    """Two million gaps of 40 seeds: mean and CV to 4 standard deviations, the distribution by Kolmogorov-Smirnov at 0.1 %,
    neighbouring gaps and neighbouring seeds uncorrelated, and the seeds' means scattered as independent ones are."""
    by_seed = np.stack([np.diff(arrivals("poisson", 50.0, seed, 50_001, None)) for seed in range(40)]) * 50 / 1e9
    gaps = np.sort(by_seed.ravel())
    count = len(gaps)
    assert abs(gaps.mean() - 1) < 4 / np.sqrt(count)
    assert abs(gaps.std() / gaps.mean() - 1) < 4 / np.sqrt(count)
    expected = 1 - np.exp(-gaps)
    steps = np.arange(count + 1) / count
    distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    assert distance < 1.95 / np.sqrt(count)
    for one, other in ((by_seed[:, 1:], by_seed[:, :-1]), (by_seed[1:], by_seed[:-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(count)
    scatter = np.var((by_seed.mean(axis=1) - 1) * np.sqrt(by_seed.shape[1]))
    assert 0.43 < scatter < 1.8  # chi-square of 39 degrees of freedom, 0.1 % at either end


@given(st.sampled_from(["constant", "poisson"]), st.floats(0.5, 500), st.floats(1, 20), st.integers(0, 1000))
def test_duration_takes_every_arrival_before_it(kind, rate, duration_s, seed):
    """With a duration, the plan is the arrivals before it: all of them, none at or after it."""
    try:
        offsets = arrivals(kind, rate, seed, None, duration_s)
    except ConfigError:
        assert arrivals(kind, rate, seed, 1, None)[0] >= duration_s * 1e9
        return
    longer = arrivals(kind, rate, seed, len(offsets) + 1, None)
    assert (longer[:-1] == offsets).all()
    assert offsets[-1] < duration_s * 1e9 <= longer[-1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("bursty", 1.0, 1, 5, None), "unknown arrivals"),
        (("constant", 1e6, 1, None, 3600.0), "too large"),
        (("poisson", 1e-9, 1, None, 0.001), "no request"),
    ],
)
def test_arrivals_that_cannot_be_drawn(arguments, word):
    """An unknown process, a plan beyond the limit, and one without any request are ConfigErrors."""
    with pytest.raises(ConfigError, match=word):
        arrivals(*arguments)
