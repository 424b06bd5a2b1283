"""Intervals and draws as whole values, against formulas written anew here."""

from __future__ import annotations

import math
from dataclasses import asdict
from statistics import NormalDist

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.planner.uncertainty import (
    Assumption,
    checked,
    draw,
    quantiles,
)


def test_quantiles_are_values_that_were_drawn():
    """Never between two of them, so that an infinite one is not averaged; no NaN."""
    values = np.array([1.0, math.inf, 3.0, 2.0])
    assert quantiles(values, (0.25, 0.26, 0.75, 0.76, 1)) == [1.0, 2.0, 3.0, math.inf, math.inf]
    with pytest.raises(ConfigError, match="a draw is not a number"):
        quantiles(np.array([1.0, math.nan]), (0.5,))


# ---------------------------------------------------------------- assumptions


def test_an_assumption_is_a_declared_range_unless_told_otherwise():
    """No source, no estimate; its level is that of intervals."""
    assert asdict(Assumption("x", 1, 2, 3)) == {
        "name": "x",
        "low": 1,
        "mode": 2,
        "high": 3,
        "source": "",
        "estimate": None,
        "level": 0.9,
    }


@pytest.mark.parametrize(
    "good",
    [
        Assumption("x", 1, 1, 3),
        Assumption("x", 1, 3, 3),
        Assumption("x", 2, 2, 2),
        Assumption("x", 1, 1, 3, estimate=1),
        Assumption("x", 1, 1, 3, estimate=3, level=0.99),
        Assumption("x", 1, 2, 3, level=2),
    ],
)
def test_ranges_may_end_at_their_mode_and_estimate(good):
    """The ends belong to a range; a level without an estimate is nobody's."""
    assert checked(good) is good


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (Assumption("x", 2, 1, 3), "low <= mode"),
        (Assumption("x", 1, 4, 3), "low <= mode"),
        (Assumption("x", -math.inf, 1, 3), "low <= mode"),
        (Assumption("x", 1, 2, math.inf), "low <= mode"),
        (Assumption("x", 1, 2, 3, estimate=0.99), "not around its estimate"),
        (Assumption("x", 1, 2, 3, estimate=3.01), "not around its estimate"),
        (Assumption("x", 1, 2, 3, estimate=2, level=0), "not around its estimate"),
        (Assumption("x", 1, 2, 3, estimate=2, level=1), "not around its estimate"),
    ],
)
def test_ranges_that_are_none_are_refused(bad, word):
    """Out of order, infinite; an estimate beside its interval; a level of nothing or everything."""
    for function in (checked, lambda one: draw([one], 3)):
        with pytest.raises(ConfigError, match=word):
            function(bad)


def test_draws_are_those_of_numpy_by_name_and_seed():
    """Each name has a stream of its own: a triangle, one value, halves of two log-normals or normals."""
    end = NormalDist().inv_cdf(0.9)
    stream = {name: lambda name=name: np.random.default_rng([5, *name.encode()]) for name in "acde"}
    ranges = [
        Assumption("a", 1, 2, 6),
        Assumption("c", 4, 4, 4, estimate=4),
        Assumption("d", 2, 2, 12, estimate=4, level=0.8),
        Assumption("e", -2, 0, 12, estimate=4, level=0.8),
    ]
    drawn = draw(ranges, 50, seed=5)
    assert list(drawn) == ["a", "c", "d", "e"]
    assert (drawn["a"] == stream["a"]().triangular(1, 2, 6, 50)).all()
    assert (drawn["c"] == np.full(50, 4)).all()
    for name, expected in (
        ("d", lambda z: 4 * (2 if z < 0 else 3) ** (z / end)),
        ("e", lambda z: 4 + z * (6 if z < 0 else 8) / end),
    ):
        assert drawn[name] == pytest.approx([expected(z) for z in stream[name]().standard_normal(50)])
    assert (draw(ranges[:1], 50)["a"] == np.random.default_rng([1, *b"a"]).triangular(1, 2, 6, 50)).all()
    zero = Assumption("e", 0, 0, 12, estimate=4, level=0.8)
    assert draw([zero], 50, seed=5)["e"].min() < 0
