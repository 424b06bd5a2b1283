"""Boxes of a fleet as a factor of a comparison: what cancels within a box, and what cannot be told apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.base.errors import NotComparableError
from harness.judge.compare.comparison import compare
from harness.judge.compare.sides import side
from harness.judge.compare.significance import blocked_t, welch_t
from harness.records import Load
from tests.judge.compare_campaigns import run

C4 = Load(concurrency=4)
TPOT = "tpot_s.p50"


def on_boxes(values, boxes, campaign="20261124T100000Z"):
    """A side of one cell: a value and a box for each repetition; None: a run of no fleet."""
    placed = zip(values, boxes, strict=True)
    return side("results/e", [
        run({TPOT: value}, k, load=C4, campaign=campaign, environment={"host_sha256": "m"} | ({"box": {"name": box}} if box else {}))
        for k, (value, box) in enumerate(placed, 1)
    ])  # fmt: skip


@given(seed=st.integers(0, 10_000), n=st.integers(3, 9), boxes=st.integers(1, 4))
def test_it_is_the_linear_model_of_side_and_box(seed, n, boxes):
    """Effect, error, degrees of freedom and p equal least squares with a column a box and one for the side; no test where the side is
    a sum of boxes."""
    rng = np.random.default_rng(seed)
    base, new = rng.normal(size=n), rng.normal(0.3, 1, n + 1)
    where = [[f"box{k}" for k in rng.integers(0, boxes, size)] for size in (n, n + 1)]
    got = blocked_t(base, new, (where[0], where[1]))
    names = sorted({*where[0], *where[1]})
    sides = np.repeat([0.0, 1.0], [n, n + 1])
    columns = np.column_stack([sides, *[[float(box == name) for box in (*where[0], *where[1])] for name in names]])
    values = np.concatenate([base, new])
    df = len(values) - np.linalg.matrix_rank(columns)
    if np.linalg.matrix_rank(columns) < columns.shape[1] or df < 1:
        assert got is None
        return
    solved, *_ = np.linalg.lstsq(columns, values, rcond=None)
    left = values - columns @ solved
    error = math.sqrt(left @ left / df * np.linalg.inv(columns.T @ columns)[0, 0])
    assert (got.effect, got.error, got.df) == pytest.approx((solved[0], error, df))
    assert got.p == pytest.approx(2 * stats.t.sf(abs(solved[0] / error), df))


def test_a_slow_box_is_no_regression_and_hides_none():
    """A box that is 10 % slower has more repetitions of the new side. Without a change nothing is found, where a plain test finds one;
    with 3 % more time a token in it, these are found, although boxes differ by more."""
    rng = np.random.default_rng(3)
    slow, first, second = {"a": 1.0, "b": 1.1}, "aaaaabab", "babbbbab"

    def values(boxes, change):
        return [0.02 * change * slow[box] * math.exp(rng.normal(0, 0.003)) for box in boxes]

    base, same, worse = (
        on_boxes(values(boxes, change), boxes) for boxes, change in ((first, 1), (second, 1), (second, 1.03))
    )
    plain = [np.log([r.summary.distributions["tpot_s"].p50 for r in s.runs]) for s in (base, same)]
    assert welch_t(*plain).p < 0.2
    assert welch_t(*plain).effect > 0.03
    (effect,) = compare(base, same, metrics=[TPOT], pairing="unpaired").effects
    assert effect.verdict == "unchanged"
    assert abs(effect.change) < 0.01
    found = compare(base, worse, metrics=[TPOT], pairing="unpaired")
    assert found.effects[0].verdict == "regressed"
    assert found.effects[0].change == pytest.approx(0.03, abs=0.006)
    assert found.effects[0].note == "within boxes"
    assert any("several boxes (a, b)" in text for text in found.warnings)


def test_repetitions_on_different_boxes_are_no_pairs():
    """Of four repetitions three stand on the same box on both sides: only these are paired, and the other is named."""
    base = on_boxes([0.02, 0.021, 0.03, 0.031], "aabb")
    new = on_boxes([0.022, 0.0232, 0.02, 0.03], "aaab")
    result = compare(base, new, metrics=[TPOT], pairing="paired")
    (effect,) = result.effects
    assert (effect.paired, effect.base_count) == (True, 3)
    assert any("no pairs: 3: base b, new a" in text for text in result.warnings)


@pytest.mark.parametrize(("here", "there"), [("aab", "ccd"), ("aab", [None] * 3)])
def test_sides_without_a_common_box_are_refused(here, there):
    """Another box, or a machine of no fleet: the change and the box cannot be told apart. --ignore box tests as if there were no boxes."""
    base, new = on_boxes([0.02, 0.021, 0.0205], here), on_boxes([0.022, 0.0215, 0.021], there)
    with pytest.raises(NotComparableError) as error:
        compare(base, new, metrics=[TPOT])
    assert error.value.what == "not comparable: box differs"
    assert "a, b" in error.value.value
    ignored = compare(base, new, metrics=[TPOT], ignored=["box"], pairing="unpaired").effects[0]
    without = compare(on_boxes([0.02, 0.021, 0.0205], [None] * 3), on_boxes([0.022, 0.0215, 0.021], [None] * 3), metrics=[TPOT], pairing="unpaired")  # fmt: skip
    assert ignored.p == without.effects[0].p


def test_one_box_changes_nothing():
    """All runs on one box, or of no fleet: the tests are as ever, and nothing is said of boxes."""
    results = [
        compare(on_boxes([0.02, 0.021, 0.0205], boxes), on_boxes([0.022, 0.0215, 0.021], boxes), metrics=[TPOT])
        for boxes in ("aaa", [None] * 3)
    ]
    assert results[0].effects == results[1].effects
    assert results[0].warnings == results[1].warnings == ()
