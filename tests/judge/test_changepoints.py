"""Change points and trends on series whose truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from harness.judge.changepoints import MIN_NIGHTS, change_points, noise, penalty
from harness.judge.trends import higher_is_better, metric_of, trends_of
from harness.store.history_columns import metric_columns
from tests.bench.history_nights import FIRST, night_id


def nightly(count: int, seed: int, sd: float = 0.01, level: float = 100.0) -> np.ndarray:
    return level * np.exp(sd * np.random.default_rng(seed).standard_normal(count))


def test_white_noise_of_100_nights_has_a_false_change_in_at_most_5_percent():
    """Of 200 such series at most 10 show a change (the bench says 0.2 % of 2,000)."""
    assert sum(bool(change_points(nightly(100, seed).tolist())) for seed in range(200)) <= 10


def test_a_step_of_3_percent_is_found_within_two_nights_of_its_place():
    """In at least 95 of 100 series with 1 % noise, and its size is told within 1 point."""
    right = 0
    for seed in range(100):
        values = nightly(100, seed)
        values[60:] *= 0.97
        found = change_points(values.tolist())
        right += len(found) == 1 and abs(found[0].index - 60) <= 2 and abs(found[0].size + 0.03) < 0.01
    assert right >= 95


def test_the_size_of_a_step_does_not_hang_on_the_unit():
    """Seconds or milliseconds: the same place and the same relative size."""
    values = nightly(60, 3)
    values[30:] *= 1.1
    one, other = change_points(values.tolist()), change_points((values / 1e6).tolist())
    assert [c.index for c in one] == [c.index for c in other] == [30]
    assert one[0].size == pytest.approx(other[0].size)


def test_odd_nights_are_no_change_whatever_their_size():
    """Single nights of -10 % or -99 %, at the end too, are not a change of level, and do not hide one."""
    values = nightly(80, 4)
    for at, factor in ((10, 0.9), (30, 0.01), (79, 0.5)):
        values[at] *= factor
    assert change_points(values.tolist()) == ()
    values[50:] *= 0.9
    assert [c.index for c in change_points(values.tolist())] == [50]


def test_several_changes_are_all_found():
    """Down, down and back up: three places with their sizes."""
    values = nightly(90, 5)
    for at, factor in ((20, 0.95), (45, 0.9), (70, 1.2)):
        values[at:] *= factor
    found = change_points(values.tolist())
    assert [c.index for c in found] == [20, 45, 70]
    assert [c.size for c in found] == pytest.approx([-0.05, -0.1, 0.2], abs=0.015)


def test_few_nights_and_constant_ones_give_nothing():
    """Fewer than MIN_NIGHTS are not judged; equal values have no change and no division by zero."""
    assert change_points([1.0] * (MIN_NIGHTS - 2) + [9.0]) == ()
    assert change_points([100.0] * 50) == ()
    assert change_points([0.0] * 50) == ()


def test_differences_below_a_tenth_of_a_percent_are_never_a_change():
    """A perfectly quiet series that moves by 0.05 % stays as it is; by 1 % it changed."""
    assert change_points([100.0] * 30 + [100.05] * 30) == ()
    assert [c.index for c in change_points([100.0] * 30 + [101.0] * 30)] == [30]


def test_values_that_are_not_positive_are_judged_as_they_stand():
    """A rate that falls to 0 has a place and levels, and a size of -100 %."""
    (change,) = change_points([1.0] * 20 + [0.0] * 20)
    assert (change.index, change.before, change.after, change.size) == (20, 1.0, 0.0, -1.0)


def test_the_noise_is_that_of_a_night_whatever_the_steps():
    """A step of 50 % and two outliers widen the estimate by less than a third."""
    x = 0.01 * np.random.default_rng(6).standard_normal(400)
    plain = noise(x)
    x[200:] += 0.4
    x[[50, 350]] += 1
    assert plain == pytest.approx(0.01, rel=0.3)
    assert noise(x) < plain * 1.33


def test_autocorrelated_nights_ask_for_more():
    """An AR(1) of 0.5 has a long-run noise near sqrt(3) of its nights', and the estimate says so within a third."""
    chance = np.random.default_rng(7)
    x = np.zeros(2000)
    for t in range(1, 2000):
        x[t] = 0.5 * x[t - 1] + chance.standard_normal()
    assert noise(x) == pytest.approx(2.0, rel=0.33)  # sqrt(v (1 + f) / (1 - f)), v = 1 / (1 - f^2)


def test_more_series_together_ask_for_more_but_one_odd_night_is_never_enough():
    """The penalty grows with the number of series and of nights, and never falls to K^2 = 9."""
    assert penalty(100, 30) > penalty(100) > penalty(20) > 9
    assert penalty(100) == pytest.approx(13)


# ---------------------------------------------------------------- trends


def rows(values, *, invalid=(), unknown=(), target="a", load="c16", provenance=None):
    found = []
    for night, value in enumerate(values):
        bad, lost = night in invalid, night in unknown
        told = dict((provenance or (lambda _: {"server_version": "1"}))(night))
        found.append(
            SimpleNamespace(
                experiment="e", target=target, workload="w", load=load, campaign_id=night_id(night), created_utc=FIRST.replace(day=1 + night),
                valid=int(not (bad or lost)), invalid=int(bad), unknown=int(lost), values=(None if bad or lost else value,), provenance=told,
            )
        )  # fmt: skip
    return found


def test_the_first_bad_night_is_named_with_what_changed():
    """A step down in throughput at night 15: that date, its size, and the server version that came with it."""
    values = nightly(30, 8)
    values[15:] *= 0.9
    (trend,) = trends_of(rows(values, provenance=lambda n: {"server_version": "2" if n >= 15 else "1"}), ["output_tps"])
    bad = trend.first_bad_night
    assert bad is not None
    assert (bad.night.date, bad.bad) == ("2026-01-16", True)
    assert bad.size == pytest.approx(-0.1, abs=0.02)
    assert bad.differs == {"server_version": ("1", "2")}


def test_more_seconds_are_bad_and_fewer_are_not():
    """The same rise is bad for a latency, good for a throughput, neither for a prompt length."""
    values = nightly(30, 9)
    values[15:] *= 1.1
    found = {
        c: trends_of(rows(values), [c])[0].shifts[0].bad for c in ("ttft_s_p99", "output_tps", "prompt_tokens_mean")
    }
    assert found == {"ttft_s_p99": True, "output_tps": False, "prompt_tokens_mean": None}


def test_a_loss_that_was_taken_back_is_no_bad_night_any_more():
    """Down at 10 and back up at 20: both are listed, none is the first bad night."""
    values = nightly(30, 10, sd=0.003)
    values[10:20] *= 0.9
    values[20:] *= 1.02
    (trend,) = trends_of(rows(values), ["output_tps"])
    assert [s.bad for s in trend.shifts] == [True, False]
    assert trend.first_bad_night is None


def test_invalid_nights_are_gaps_and_move_no_date():
    """Gaps before the step leave its date where it is, and are neither first, worst nor last."""
    values = nightly(30, 11)
    values[15:] *= 0.9
    values[[3, 29]] = 1.0
    (trend,) = trends_of(rows(values, invalid={3, 29}, unknown={14}), ["output_tps"])
    assert trend.first_bad_night is not None
    assert trend.first_bad_night.night.date == "2026-01-16"
    assert (len(trend.nights), len(trend.seen)) == (30, 27)
    assert trend.worst is not None
    assert trend.worst.value > 80
    assert trend.seen[-1].date == "2026-01-29"


def test_cells_are_chosen_by_part_or_pattern():
    """`c1` is a part of c1 and c16, `*_c1` only c1."""
    both = [*rows([1.0], load="c1"), *rows([2.0], load="c16")]
    assert len(trends_of(both, ["output_tps"], cell="c1")) == 2
    assert [t.load for t in trends_of(both, ["output_tps"], cell="*_c1")] == ["c1"]


def test_every_column_of_the_history_has_a_known_metric():
    """No metric column is left without its metric, and seconds are never better when higher."""
    for column in metric_columns():
        assert metric_of(column.name) == column.metric or column.statistic == "count"
        if column.unit == "s" and column.statistic != "count":
            assert higher_is_better(column.name) is False
    assert metric_of("nonsense") == ""
