"""Fits of one and two columns against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from harness.planner.least_squares import left_out, nnls, weighted_fit


def test_a_coefficient_that_would_be_negative_is_0():
    """y = 3 a - b cannot be: a alone, 5 / 2, is the best of what is left; y = 0 and y < 0 are fitted with nothing."""
    x = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert nnls(x, np.array([3.0, 2.0])) == pytest.approx([2.5, 0])
    assert nnls(x, np.array([3.0, 7.0])) == pytest.approx([3, 4])
    assert nnls(x, np.array([0.0, 5.0])) == pytest.approx([0, 5])
    assert nnls(x, np.array([-1.0, -2.0])).tolist() == [0, 0]


def test_a_later_column_alone_can_be_the_best():
    """y = (b - a, 3 b - a) = (1, 2) has a = -1/2, and a alone is negative too: b alone is 7 / 10."""
    assert nnls(np.array([[-1.0, 1.0], [-1.0, 3.0]]), np.array([1.0, 2.0])) == pytest.approx([0, 0.7])


def test_columns_without_a_value_have_no_coefficient():
    """0 throughout, and so near 0 that nothing can be told of it; the next larger size has one."""
    y = np.array([1.0, 2.0])
    assert nnls(np.array([[0.0, 1.0], [0.0, 2.0]]), y) == pytest.approx([0, 1])
    assert nnls(np.array([[1e-290, 0.0], [2e-291, 1.0]]), y) == pytest.approx([0, 2])
    assert nnls(np.array([[1e-289], [2e-289]]), y) == pytest.approx([1e289])


def test_two_columns_that_say_the_same_are_fitted_with_fewest():
    """The first fit that is as good as any stays."""
    assert nnls(np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([1.0, 2.0])).tolist() == pytest.approx([1, 0])


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
