"""How many repetitions see a change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.base.errors import ConfigError, NotComparableError
from harness.judge.compare.detect import chance, detect, repetitions_needed, shared_variances, smallest_change
from harness.records import Load
from tests.bench.bench_compare import power, small
from tests.judge.compare_campaigns import campaign, loads

C4 = Load(concurrency=4)
TPOT = "tpot_s.p50"


@pytest.mark.parametrize("n", [4, 10, 30])
def test_power_is_the_noncentral_ts(n):
    """With the variance known, no minimum effect and normal tails: scipy's noncentral t within half a point."""
    df, effect, variance = 2 * n - 2, 0.03, 0.015**2
    shift = effect / math.sqrt(variance * 2 / n)
    exact = stats.nct.sf(stats.t.isf(0.005, df), df, shift)
    assert chance(effect, variance, math.inf, n, 0.0, 0.01, tails=1.0) == pytest.approx(exact, abs=0.005)


def test_power_by_simulation_with_a_minimum_effect():
    """20,000 draws of normal repetitions: rejected and above 2 % as often as computed, within a point."""
    rng, n = np.random.default_rng(1), 8
    a, b = rng.normal(0, 0.015, (20000, n)), rng.normal(0.03, 0.015, (20000, n))
    off = b.mean(1) - a.mean(1)
    error = np.sqrt((a.var(1, ddof=1) + b.var(1, ddof=1)) / n)
    seen = np.mean(off > np.maximum(stats.t.isf(0.01, 2 * n - 2) * error, 0.02))
    assert chance(0.03, 0.015**2, math.inf, n, 0.02, 0.02, tails=1.0) == pytest.approx(seen, abs=0.01)


def test_needed_is_the_smallest_that_suffices():
    """One repetition fewer has less than the power, the number itself has it; both ways agree."""
    how = {"variance": 0.015**2, "known_df": 24.0}
    n = repetitions_needed(**how, change=0.03, min_effect=0.02, alpha=0.05 / 72, power=0.9)
    effect, least = math.log1p(0.03), math.log1p(0.02)
    assert chance(effect, n=n, least=least, alpha=0.05 / 72, **how) >= 0.9
    assert chance(effect, n=n - 1, least=least, alpha=0.05 / 72, **how) < 0.9
    assert smallest_change(**how, n=n, min_effect=0.02, alpha=0.05 / 72, power=0.9) <= 0.03


def test_a_smaller_change_a_wider_spread_and_a_shorter_pilot_ask_for_more():
    """Each of the three alone raises the number; what no number shows is None."""
    plain = repetitions_needed(0.01**2, 20.0, 0.05, 0.02, 0.01, 0.9)
    assert repetitions_needed(0.01**2, 20.0, 0.03, 0.02, 0.01, 0.9) > plain
    assert repetitions_needed(0.03**2, 20.0, 0.05, 0.02, 0.01, 0.9) > plain
    assert repetitions_needed(0.01**2, 3.0, 0.05, 0.02, 0.01, 0.9) > plain
    assert repetitions_needed(0.5**2, 20.0, 0.05, 0.02, 0.01, 0.9) is None


def test_cells_share_what_they_know_of_a_spread():
    """Equal true spreads of 12 cells: each is drawn to the common one; a cell alone stays as it is."""
    rng = np.random.default_rng(1)
    variances = rng.normal(0, 0.02, (3, 12)).var(0, ddof=1)
    shared = shared_variances(variances, np.full(12, 2.0))
    values = np.array([v for v, _ in shared])
    assert values.std() < variances.std() / 3
    assert all(df > 4 for _, df in shared)
    assert shared_variances(variances[:1], np.full(1, 2.0)) == [(variances[0], 2.0)]


def test_cells_of_other_spreads_keep_their_own():
    """Spreads of 1 % and 20 %: known with 10 repetitions, a cell moves by less than a third of its variance."""
    rng = np.random.default_rng(1)
    variances = (rng.normal(0, 1, (10, 12)) * np.r_[np.full(6, 0.01), np.full(6, 0.2)]).var(0, ddof=1)
    for own, (shared, _) in zip(variances, shared_variances(variances, np.full(12, 9.0)), strict=True):
        assert shared == pytest.approx(own, rel=0.34)


def pilot(n: int, cells: int = 4):
    rng = np.random.default_rng(2)
    return campaign({c: {TPOT: (0.02 * np.exp(rng.normal(0, 0.015, n))).tolist()} for c in loads(cells)})


def test_detect_plans_every_cell():
    """A pilot of 3 repetitions and 4 cells: a row each, most repetitions first, all between 4 and 60."""
    found = detect(pilot(3), 0.03, metrics=[TPOT])
    needed = [row.needed for row in found.rows]
    assert (found.tests, len(needed)) == (4, 4)
    assert needed == sorted(needed, reverse=True)
    assert all(4 <= n <= 60 for n in needed)
    assert all(row.smallest_now > 0.03 for row in found.rows)
    assert {(row.target, row.workload, row.load, row.metric) for row in found.rows} == {
        ("a", "fixed:128x32", load, TPOT) for load in loads(4)
    }


@pytest.mark.parametrize(
    ("cells", "keys", "spread", "shared", "pilot"),
    [(1, (TPOT,), 0.01, 0.0, 5), (4, (TPOT,), 0.015, 0.0, 3), (4, (TPOT,), 0.02, 0.9, 5)],
)
def test_the_number_asked_for_sees_the_change_and_is_not_far_too_large(cells, keys, spread, shared, pilot):
    """Through compare itself, normal noise, 40 pilots each: found in 80 % or more, where 88 % to 97 % is meant."""
    seen, asked = power(40, pilot, cells, keys, spread, shared, np.inf, again=shared > 0)
    assert seen >= 0.8
    assert np.median(asked) <= 20


def test_pairs_are_planned_where_a_second_campaign_shows_that_they_pay():
    """Nine tenths of the spread are the plans': with a second campaign a third of the repetitions or fewer; without, or where the
    plans give nothing, no fewer than Welch's test needs."""
    rng = np.random.default_rng(3)
    base, new = small(rng, 6, 4, (TPOT,), 0.02, 0.9, np.inf)
    alone, twice = (np.array([r.needed for r in detect(base, 0.03, again=a, metrics=[TPOT]).rows]) for a in (None, new))
    assert (twice <= alone / 2.5).all()
    base, new = small(rng, 6, 4, (TPOT,), 0.02, 0.0, np.inf)
    alone, twice = ([r.needed for r in detect(base, 0.03, again=a, metrics=[TPOT]).rows] for a in (None, new))
    assert alone == twice


def test_a_second_campaign_of_other_plans_is_refused():
    """It shows nothing about pairs."""
    cells = {load: {TPOT: [0.02, 0.021, 0.0205]} for load in loads(2)}
    with pytest.raises(NotComparableError, match="plan"):
        detect(campaign(cells), 0.03, again=campaign(cells, plan="other"), metrics=[TPOT])


def test_one_repetition_cannot_plan():
    """No spread, no number: a ConfigError that asks for a pilot; a change below the minimum is refused too."""
    with pytest.raises(ConfigError, match="spread"):
        detect(pilot(1), 0.03, metrics=[TPOT])
    with pytest.raises(ConfigError, match="does not count"):
        detect(pilot(3), 0.02, metrics=[TPOT])


def test_variances_that_differ_no_more_than_chance_are_one():
    """Nearly equal ones of 9, 9 and 4 degrees: their mean weighted by these, known with all 22."""
    shared = shared_variances(np.array([1.0, 1.2, 0.9]), np.array([9.0, 9.0, 4.0]))
    assert shared == [(pytest.approx((9 * 1.0 + 9 * 1.2 + 4 * 0.9) / 22), 22.0)] * 3
