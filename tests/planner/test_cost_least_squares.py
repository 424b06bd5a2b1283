"""Fits of one and two columns against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from harness.planner.attribution.split import left_out, weighted_fit


@pytest.mark.parametrize("resolution", [0.0, 0.05, 1e6])
def test_rows_are_weighted_by_their_noise(resolution):
    """A twentieth of a value and the clock's resolution, squared and added: of 1 and 3 the mean by the inverse of that."""
    y = np.array([1.0, 3.0])
    weight = 1 / (resolution**2 + (0.05 * y) ** 2)
    said = () if resolution == 0 else (resolution,)
    assert weighted_fit(np.ones((2, 1)), y, *said) == pytest.approx([np.sum(weight * y) / np.sum(weight)])


@pytest.mark.parametrize("resolution", [0.0, 0.1])
def test_each_shape_is_predicted_from_the_others(resolution):
    """Totals: a's 1 + 2 by the fit of b's 4 alone and c's 6, and so on, over what was measured."""
    shapes, y = ["a", "a", "b", "c"], np.array([1.0, 2.0, 4.0, 6.0])

    def mean(*values):
        each = np.array(values)
        weight = 1 / (resolution**2 + (0.05 * each) ** 2)
        return np.sum(weight * each) / np.sum(weight)

    said = () if resolution == 0 else (resolution,)
    found = left_out(shapes, np.ones((4, 1)), y, *said)
    assert list(found) == ["a", "b", "c"]
    assert found == pytest.approx(
        {"a": 2 * mean(4.0, 6.0) / 3 - 1, "b": mean(1.0, 2.0, 6.0) / 4 - 1, "c": mean(1.0, 2.0, 4.0) / 6 - 1}
    )


def test_one_shape_leaves_nothing_to_predict_it_from():
    """Two do."""
    assert left_out(["a", "a"], np.ones((2, 1)), np.array([1.0, 2.0])) == {}
    assert left_out(["b", "a"], np.ones((2, 1)), np.array([1.0, 2.0])) == pytest.approx({"a": -0.5, "b": 1.0})
