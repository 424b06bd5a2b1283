"""Changes of level against an exhaustive search over all segmentations, and trends with every field."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from harness.judge.changepoints import MIN_NIGHTS, Change, change_points, noise, penalty
from harness.judge.trends import Night, Shift, Trend, higher_is_better, metric_of, trends_of

KEPT_MEAN = 0.43772  # of the smallest 80 % of squared standard normals


def noise_by_hand(x):
    def variance(lag):
        squares = sorted((b - a) ** 2 for a, b in zip(x, x[lag:], strict=False))
        kept = squares[: math.ceil(0.8 * len(squares))]
        return sum(kept) / len(kept) / KEPT_MEAN

    one, two = variance(1), variance(2)
    f = min(0.9, max(0.0, two / one - 1)) if one > 0 else 0.0
    return math.sqrt(one / 2 * (1 + f)) / (1 - f)


def level_by_hand(values, sd):
    middle = float(np.median(values))
    near = [v for v in values if abs(v - middle) <= 3 * sd]
    return sum(near) / len(near) if near else middle


def changes_by_hand(values, series=1):
    """The cheapest of all segmentations on the same grid of levels, by recursion over where the last segment begins."""
    positive = all(v > 0 for v in values)
    x = np.log(values) if positive else np.array(values, float)
    sd = max(noise_by_hand(x.tolist()), 0.001 * (1.0 if positive else max(abs(v) for v in values) or 1.0))
    charge = max(10.0, 13.0 + 2 * math.log(len(x) / 100)) + 2 * math.log(series)
    levels = np.linspace(x.min(), x.max(), min(4000, math.ceil((x.max() - x.min()) / (0.1 * sd)) + 1))
    losses = np.minimum(((x[:, None] - levels) / sd) ** 2, 9.0)
    sums = np.concatenate([np.zeros((1, len(levels))), losses.cumsum(0)])

    @cache
    def best(end):
        """(cost, starts) of the first `end` values."""
        if end == 0:
            return -charge, ()
        found = []
        for begin in range(end):
            cost, starts = best(begin)
            found.append((cost + charge + float((sums[end] - sums[begin]).min()), (*starts, begin)))
        return min(found, key=lambda pair: (round(pair[0], 9), len(pair[1])))

    edges = [*best(len(x))[1], len(x)]
    told = [level_by_hand(x[a:b], sd) for a, b in zip(edges, edges[1:], strict=False)]
    told = [math.exp(v) for v in told] if positive else told
    return [(at, a, b, b / a - 1 if a > 0 else None) for at, a, b in zip(edges[1:-1], told, told[1:], strict=False)]


def close(numbers):
    return tuple(None if v is None else pytest.approx(v, rel=1e-9) for v in numbers)


def series(seed, count=40, sd=0.01):
    rng = np.random.default_rng(seed)
    x = 0.02 * np.exp(sd * rng.standard_normal(count))
    for at in rng.integers(3, count - 3, 2):
        x[at:] *= rng.choice([0.9, 0.96, 1.03, 1.1])
    x[rng.integers(0, count, 2)] *= rng.choice([0.5, 1.4])
    return x


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("moved", "together"), [(0.0, 1), (-0.02, 5)])
def test_the_segmentation_is_the_cheapest_of_all(seed, moved, together):
    """Places, levels and sizes; positive values on logarithms, others as they are, with more series together."""
    values = (series(seed) + moved).tolist()
    found = [(c.index, c.before, c.after, c.size) for c in change_points(values, series=together)]
    expected = changes_by_hand(values, together)
    assert [each[0] for each in found] == [each[0] for each in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == close(theirs)


def test_those_series_have_changes():
    """None, one and two of them."""
    assert {len(changes_by_hand(series(seed).tolist())) for seed in range(12)} >= {0, 1, 2}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0] * 4 + [3.0] * 4, [(4, 2.0, 3.0, 0.5)]),
        ([2.0] * 4 + [3.0] * 3, []),  # seven nights are too few
        ([0.0] * 5 + [2.0] * 5, [(5, 0.0, 2.0, None)]),
        ([-2.0] * 5 + [2.0] * 5, [(5, -2.0, 2.0, None)]),
        ([2.0] * 5 + [-1.0] * 5, [(5, 2.0, -1.0, -1.5)]),
        ([1.0] * 10, []),
        ([0.0] * 10, []),
        ([1.0] * 10 + [1.004] * 10, [(10, 1.0, 1.004, 0.004)]),
        ([1.0] * 10 + [1.0009] * 10, []),  # 0.9 of the least noise: its square times 10 is below the penalty
        ([-1.0] * 10 + [-1.0009] * 10, []),
        ([-1000.0] * 10 + [-1004.0] * 10, [(10, -1000.0, -1004.0, None)]),
    ],
)
def test_changes_of_series_without_noise(values, expected):
    """By hand: the first index of the new level, both levels, the size as a share of the old one where that is positive."""
    assert MIN_NIGHTS == 8
    found = change_points(values)
    assert [c.index for c in found] == [each[0] for each in expected]
    assert all(isinstance(c, Change) for c in found)
    for c, each in zip(found, expected, strict=True):
        assert (c.before, c.after, c.size) == close(each[1:])


@pytest.mark.parametrize(
    "x", [[0, 1, 3, 2, 5, 4, 4, 9], [0, 1, 2], [0, 0, 0, 0], [1, -1] * 6, list(range(12)), [0, 5, 0, 1, 0, 2, 7, 1, 3]]
)
def test_the_noise_by_hand(x):
    """Trimmed differences of neighbours and of next neighbours; their ratio between 1 and 1.9."""
    assert noise(np.array(x, float)) == pytest.approx(noise_by_hand(x))


def test_the_penalty_by_hand():
    """13 at 100 nights, 2 ln of the nights and of the series more, 10 at least."""
    assert penalty(100) == penalty(100, 0) == penalty(100, 1) == 13.0
    assert penalty(1000, 30) == pytest.approx(13 + 2 * math.log(10) + 2 * math.log(30))
    assert penalty(20, 2) == pytest.approx(10 + 2 * math.log(2))
    assert penalty(23) > 10.0 == penalty(22)


# ---------------------------------------------------------------- trends


def nights(values, *, load="c1", told=None, date=True, **counts):
    return [
        SimpleNamespace(
            experiment="e", target="t", workload="w", load=load, campaign_id=f"n{k}", created_utc=datetime(2026, 1, 1 + k, 23, tzinfo=UTC) if date else None,
            valid=counts.get("valid", 3), invalid=counts.get("invalid", 1), unknown=counts.get("unknown", 2), values=value if isinstance(value, tuple) else (value,),
            provenance=told(k) if told else {},
        )
        for k, value in enumerate(values)
    ]  # fmt: skip


def test_a_trend_as_a_whole():
    """Every night with its counts, gaps included; the change with the night of the new level and what was recorded otherwise."""
    values = [2.0, 2.0, 2.0, 2.0, None, 3.0, 3.0, 3.0, 3.0]
    told = {3: {"a": "1", "b": "2", "same": "x"}, 5: {"a": "9", "c": "3", "same": "x"}}
    (trend,) = trends_of(nights(values, told=lambda k: told.get(k, {})), ["ttft_s_p99"])
    night = [Night(f"n{k}", f"2026-01-{k + 1:02d}", v, 3, 1, 2) for k, v in enumerate(values)]
    shift = Shift(
        night[5],
        pytest.approx(2.0),
        pytest.approx(3.0),
        pytest.approx(0.5),
        True,
        {"a": ("1", "9"), "b": ("2", None), "c": (None, "3")},
    )
    assert trend == Trend("e", "t", "w", "c1", "ttft_s_p99", "s", False, tuple(night), (shift,))
    assert (trend.cell, trend.seen, trend.too_few) == ("t_w_c1", tuple(night[:4] + night[5:]), False)
    assert (trend.best, trend.worst, trend.first_bad_night) == (night[0], night[5], trend.shifts[0])
    (faster,) = trends_of(nights(values), ["output_tps"])
    assert (faster.higher_is_better, faster.unit, faster.best, faster.worst) == (True, "tokens/s", night[5], night[0])
    assert (faster.shifts[0].bad, faster.first_bad_night) == (False, None)
    (neither,) = trends_of(nights(values), ["prompt_tokens_mean"])
    assert (neither.higher_is_better, neither.unit, neither.best, neither.worst, neither.shifts[0].bad) == (
        None,
        "tokens",
        None,
        None,
        None,
    )
    (undated,) = trends_of(nights([1.0], date=False), ["ttft_s_count"])
    assert (undated.nights[0].date, undated.unit, undated.too_few, undated.shifts) == ("n0", "", True, ())


def test_extremes_of_values_at_and_below_zero():
    """0 is a value: the worst throughput and the best latency."""
    values = [1.0, 0.0, 2.0]
    assert trends_of(nights(values), ["output_tps"])[0].worst.value == 0.0
    assert trends_of(nights(values), ["ttft_s_p50"])[0].best.value == 0.0
    (risen,) = trends_of(nights([0.0] * 5 + [2.0] * 5), ["output_tps"])
    assert [(s.before, s.after, s.size) for s in risen.shifts] == [(0.0, 2.0, None)]
    (none,) = trends_of(nights([None]), ["output_tps"])
    assert (none.best, none.worst, none.seen, none.too_few) == (None, None, (), True)


def shift(before, after, bad):
    return Shift(Night("n", "d", after, 1, 0, 0), before, after, None, bad, {})


@pytest.mark.parametrize(
    ("levels", "better", "found"),
    [
        ([100, 90], True, 0),
        ([100, 90, 100], True, None),  # as good as before is taken back
        ([100, 90, 99], True, 0),
        ([100, 90, 80, 95], True, 0),  # of the second loss more than all was taken back
        ([100, 90, 80], True, 1),  # the newest
        ([100, 110, 105, 120, 104], True, 3),
        ([1, 2], False, 0),
        ([1, 2, 1], False, None),
        ([1, 2, 1.1], False, 0),
    ],
)
def test_the_first_bad_night(levels, better, found):
    """The newest change for the worse that no later level took back."""
    shifts = tuple(shift(a, b, (b < a) == better) for a, b in zip(levels, levels[1:], strict=False))
    trend = Trend("e", "t", "w", "c1", "x", "", better, (), shifts)
    assert trend.first_bad_night == (None if found is None else shifts[found])


def test_cells_and_columns_that_have_something():
    """Rows by cell, columns in order; without a value only where a run was INVALID or UNKNOWN; a part of the name or a pattern chooses."""
    rows = [
        *nights([(1.0, None, 3.0)], invalid=0, unknown=0),
        *nights([(None, None, 4.0)], load="c16", invalid=0, unknown=0),
    ]
    columns = ["output_tps", "goodput_rps", "ttft_s_p50"]
    assert [(t.load, t.column, t.seen[0].value) for t in trends_of(rows, columns)] == [
        ("c1", "output_tps", 1.0),
        ("c1", "ttft_s_p50", 3.0),
        ("c16", "ttft_s_p50", 4.0),
    ]
    for counts in ({"invalid": 1, "unknown": 0}, {"invalid": 0, "unknown": 1}):
        assert [t.column for t in trends_of(nights([(1.0, None, None)], **counts), columns)] == columns
    for pattern, loads in (
        ("w_c1", {"c1", "c16"}),
        ("*_c1", {"c1"}),
        ("t_w_c?", {"c1"}),
        ("t_w_c1[6]", {"c16"}),
        ("nothing", set()),
    ):
        assert {t.load for t in trends_of(rows, columns, cell=pattern)} == loads


def test_series_of_a_call_are_judged_together():
    """A change that is seen alone is chance among a thousand series; those with too few nights do not count."""
    rng = np.random.default_rng(3)
    values = 100 * np.exp(0.01 * rng.standard_normal(30))
    values[15:] *= 0.977
    alone = [c.index for c in change_points(values.tolist())]
    least = next(n for n in range(1, 10**4) if not change_points(values.tolist(), series=n))
    assert alone
    rows = nights([(float(v),) * least for v in values])
    assert all(not t.shifts for t in trends_of(rows, ["output_tps"] * least))
    assert all(t.shifts for t in trends_of(rows, ["output_tps"] * (least - 1)))
    few = nights([(1.0,)] * 7, load="c2")
    assert all(t.shifts for t in trends_of([*rows, *few], ["output_tps"] * (least - 1)) if t.load == "c1") is (
        least > 1
    )


def test_which_way_is_better():
    """Throughput, goodput and attainment upwards; what was asked for and counts neither; everything else downwards."""
    upwards = (
        "achieved_rate_rps",
        "request_rps",
        "output_tps",
        "total_tps",
        "input_tps",
        "output_tps_whole",
        "goodput_rps",
        "goodput_tps",
        "attainment",
    )
    assert [higher_is_better(c) for c in upwards] == [True] * 9
    neither = (
        "prompt_tokens_mean",
        "output_tokens_p50",
        "offered_rate_rps",
        "scheduled_rate_rps",
        "ttft_s_count",
        "nonsense",
        "ttft_s",
        "output_tps_p50",
    )
    assert [higher_is_better(c) for c in neither] == [None] * 8
    assert [
        higher_is_better(c)
        for c in ("ttft_s_p99", "energy_j", "energy_per_output_token_j", "harness_cpu_share", "send_lag_s_mean")
    ] == [False] * 5
    assert [metric_of(c) for c in ("ttft_s_p99", "output_tps", "output_tps_p50", "ttft_s", "x_p99")] == [
        "ttft_s",
        "output_tps",
        "",
        "",
        "",
    ]
