"""Numbers that must be the same everywhere."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.plan.streams import Purpose, at, interpolate, mix64, neg_log, raw, uniform


def test_raw_words_are_pcg64s_own():
    """The first words of a seed are golden: NumPy guarantees PCG64 and SeedSequence, and we take nothing else from it."""
    assert raw(1, Purpose.LENGTHS, 2).tolist() == GOLDEN_WORDS
    assert raw(1, Purpose.LENGTHS, 5)[:2].tolist() == GOLDEN_WORDS


def test_mix64_is_splitmix64():
    """Stream 0 begins with the reference implementation's published numbers."""
    reference = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert at(np.zeros(3, np.uint64), np.arange(3, dtype=np.uint64)).tolist() == reference


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, min_size=2))
def test_mix64_is_a_bijection(words):
    """Distinct words stay distinct."""
    assert len(set(mix64(np.array(words, np.uint64)).tolist())) == len(words)


def test_uniform_stays_below_one():
    """The largest word is below 1, the smallest 0."""
    ends = uniform(np.array([0, 2**64 - 1], np.uint64))
    assert ends[0] == 0
    assert 0.9999999999999998 < ends[1] < 1


@given(st.floats(0, 1, exclude_max=True))
def test_neg_log_is_the_logarithm(u):
    """Our logarithm of basic arithmetic agrees with the C library's to 1e-15."""
    assert math.isclose(neg_log(np.array([u]))[0], -math.log(1 - u), rel_tol=1e-15, abs_tol=1e-16)


@given(st.floats(0, 1, exclude_max=True))
def test_interpolate_is_numpys(u):
    """The inverse distribution agrees with numpy.interp, whose last bit may differ between machines."""
    levels, values = np.array([0, 0.1, 0.7, 1.0]), np.array([2.0, 2.0, 30.0, 400.0])
    assert math.isclose(interpolate(np.array([u]), levels, values)[0], np.interp(u, levels, values), rel_tol=1e-12)


GOLDEN_WORDS = [12894911395248688958, 3215922745726220339]
