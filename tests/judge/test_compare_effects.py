"""The comparison itself: tests, correction, verdicts, false alarms and changes found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.base.errors import ConfigError
from harness.judge.compare.comparison import compare
from harness.judge.compare.sides import side
from harness.judge.compare.significance import holm, holm_levels, is_paired, paired_t, welch_t
from harness.records import Load
from tests.judge.compare_campaigns import INVALID, campaign, loads, noise, run

C4 = Load(concurrency=4)
TPOT = "tpot_s.p50"


def one(base, new, key=TPOT, **kw):
    """The only effect of two campaigns of one cell and metric."""
    (effect,) = compare(
        campaign({C4: {key: base}}), campaign({C4: {key: new}}, campaign="n"), metrics=[key], **kw
    ).effects
    return effect


def around(level, spread=0.001, n=6, seed=1):
    return (level * np.exp(np.random.default_rng(seed).normal(0, spread, n))).tolist()


@pytest.mark.parametrize("test", [paired_t, welch_t])
def test_what_is_rounding_and_what_is_a_difference_without_spread(test):
    """Equal but for 1e-12 is no difference, p = 1; more without any spread has no test; a spread of 1e-12 is rounding too, more is one."""
    zero = np.zeros(3)
    same = test(zero, zero + 1e-12)
    assert (same.effect, same.error, same.p) == (pytest.approx(1e-12), 0.0, 1.0)
    assert test(zero, zero + 1.1e-12) is None
    assert test(zero, zero + 0.5, floor=1e-12**2) is None
    assert test(zero, zero + 0.5, floor=1.1e-12**2).p < 1e-9
    assert test(zero, zero + 1000, floor=1e-9**2) is None  # of large effects the rounding is as large


def test_both_tests_are_scipys():
    """p-values and intervals equal scipy's paired and Welch t tests."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 7), rng.normal(0.4, 2, 7)
    theirs = stats.ttest_rel(b, a)
    mine = paired_t(a, b)
    assert (mine.p, mine.df) == pytest.approx((theirs.pvalue, theirs.df))
    assert mine.between(0.9) == pytest.approx(tuple(theirs.confidence_interval(0.9)))
    theirs = stats.ttest_ind(b[:5], a, equal_var=False)
    mine = welch_t(a, b[:5])
    assert (mine.p, mine.df) == pytest.approx((theirs.pvalue, theirs.df))
    assert mine.between(0.99) == pytest.approx(tuple(theirs.confidence_interval(0.99)))


def test_holm_by_hand():
    """Four p-values and their corrected ones; order of the input is kept."""
    assert holm([0.04, 0.001, 0.02, 0.9]) == pytest.approx([0.08, 0.004, 0.06, 0.9])
    assert holm([]) == []


def test_corrected_intervals_exclude_no_change_exactly_where_holm_rejects():
    """Over random contrasts: interval outside 0 and corrected p below alpha are the same set."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        tests = [welch_t(rng.normal(0, 1, 4), rng.normal(rng.choice([0, 4, 9]), 1, 4)) for _ in range(12)]
        p = [t.p for t in tests]
        rejected = [c <= 0.05 for c in holm(p)]
        edges = [t.between(level) for t, level in zip(tests, holm_levels(p, 0.05), strict=True)]
        assert [low > 0 or high < 0 for low, high in edges] == rejected


@pytest.mark.parametrize(
    ("key", "factor", "verdict"),
    [
        (TPOT, 1.1, "regressed"),
        (TPOT, 0.9, "improved"),
        ("output_tps", 1.1, "improved"),
        ("output_tps", 0.9, "regressed"),
        ("ttft_s.p99", 1.1, "regressed"),
        ("goodput_rps", 0.9, "regressed"),
        ("energy_per_output_token_j", 1.1, "regressed"),
    ],
)
def test_direction_of_each_metric(key, factor, verdict):
    """More seconds or joules is worse, more throughput is better; the change is the factor."""
    effect = one(around(0.02), around(0.02 * factor, seed=2), key)
    assert effect.verdict == verdict
    assert effect.change == pytest.approx(factor - 1, abs=0.01)
    assert effect.corrected_low < effect.change < effect.corrected_high


def test_a_sure_change_below_the_minimum_is_no_regression():
    """+1 % with a spread of 0.1 %: excluded from no change, within 2 %, so unchanged; with --min-effect 0.5 % regressed."""
    base, new = around(0.02), around(0.0202, seed=2)
    effect = one(base, new)
    assert effect.p_corrected < 0.05
    assert effect.verdict == "unchanged"
    assert one(base, new, min_effect=0.005).verdict == "regressed"


def test_a_wide_interval_is_unclear():
    """+5 % with a spread of 10 % in 3 repetitions says nothing."""
    assert one([1.0, 1.1, 0.9], [1.05, 1.2, 0.95]).verdict == "unclear"


def test_one_repetition_is_unclear_and_not_counted():
    """A change without an interval, no p, and no part in the correction."""
    result = compare(campaign({C4: {TPOT: [0.02]}}), campaign({C4: {TPOT: [0.03]}}, campaign="n"), metrics=[TPOT])
    (effect,) = result.effects
    assert (effect.verdict, effect.p, effect.corrected_low, result.tests) == ("unclear", None, None, 0)
    assert effect.change == pytest.approx(0.5)


def test_what_the_plans_share_cancels_in_pairs():
    """Plans that differ by 20 % hide a change of 5 %, unless repetitions are paired: chosen here, not without the plans."""
    level = np.exp(np.random.default_rng(1).normal(0, 0.2, 8))
    base, new = (0.02 * level).tolist(), (0.021 * level * np.exp(np.random.default_rng(2).normal(0, 0.002, 8))).tolist()
    effect = one(base, new)
    assert (effect.paired, effect.verdict, effect.df) == (True, "regressed", 7)
    assert one(base, new, pairing="unpaired").verdict == "unclear"
    assert not one(base, new, ignored=["plan"]).paired


def test_another_order_of_repetitions_is_not_paired():
    """Repetition 2 was run first on one side: drift of the day does not cancel."""
    values = around(0.02, 0.2, 8)
    times = [2, 1, 3, 4, 5, 6, 7, 8]
    new = [
        run({TPOT: v * 1.05}, k, created=f"2026-11-25T10:{t:02d}")
        for k, (v, t) in enumerate(zip(values, times, strict=True), 1)
    ]
    (effect,) = compare(campaign({C4: {TPOT: values}}), side("n", new), metrics=[TPOT], pairing="paired").effects
    assert not effect.paired


def test_unrelated_sides_are_not_paired():
    """Independent repetitions keep the degrees of freedom that pairing would cost; nearly equal ones are paired."""
    rng = np.random.default_rng(1)
    cells = [(rng.normal(size=5), rng.normal(size=5)) for _ in range(12)]
    assert not is_paired(cells, 72, 0.05)
    assert is_paired([(a, a + rng.normal(0, 0.1, 5)) for a, _ in cells], 72, 0.05)
    assert not is_paired([(a[:2], a[:2]) for a, _ in cells], 72, 0.05)


def test_invalid_repetitions_are_left_out():
    """The INVALID repetition of base takes no part; its pair in new does not either."""
    values = around(0.02, 0.1, 6)
    base = [run({TPOT: v}, k) for k, v in enumerate(values, 1)]
    base[2] = run({TPOT: 99.0}, 3, verdict=INVALID)
    slower = around(1.1, 0.001, 6)
    new = side("n", [run({TPOT: v * f}, k) for k, (v, f) in enumerate(zip(values, slower, strict=True), 1)])
    result = compare(side("b", base), new, metrics=[TPOT], pairing="paired")
    assert (result.effects[0].base_count, result.effects[0].new_count, result.base.invalid) == (5, 5, 1)
    assert result.effects[0].change == pytest.approx(0.1, abs=0.005)


def test_attainment_is_in_points_and_never_surer_than_its_counts():
    """100 % three times against 99 % three times, of 400 requests each: one point, unclear; against 60 %: regressed."""
    assert one([1.0] * 3, [0.99] * 3, "attainment").verdict == "unclear"
    effect = one([1.0] * 3, [0.6] * 3, "attainment")
    assert (effect.verdict, effect.change) == ("regressed", pytest.approx(-0.4))
    assert one([1.0] * 3, [1.0] * 3, "attainment").verdict == "unchanged"


def test_goodput_that_falls_to_zero_is_a_regression():
    """0 has no logarithm: the change is the difference over base, -100 %."""
    effect = one(around(5.0, 0.01, 5), [0.0] * 5, "goodput_rps")
    assert (effect.verdict, effect.change) == ("regressed", pytest.approx(-1.0))


def test_zero_in_base_has_no_ratio():
    """Goodput from 0 to something: unclear, and it says why."""
    effect = one([0.0] * 5, around(5.0, 0.01, 5), "goodput_rps")
    assert (effect.verdict, effect.change) == ("unclear", None)
    assert "0 in base" in effect.note


def test_values_equal_to_the_last_digit_are_not_certain():
    """Two repetitions without any spread and another value: no p-value from nothing."""
    effect = one([0.02, 0.02], [0.03, 0.03])
    assert (effect.verdict, effect.p) == ("unclear", None)


def test_another_slo_leaves_its_metrics_out():
    """Goodput under another promise is not compared, the rest is; a warning says so."""
    values = {C4: {"goodput_rps": around(5.0), TPOT: around(0.02)}}
    new = campaign(values, config={"slo": {"tpot_s": 0.1}})
    result = compare(campaign(values), new, metrics=["goodput_rps", TPOT])
    assert [e.metric for e in result.effects] == [TPOT]
    assert any("SLO" in w for w in result.warnings)


def test_worst_comes_first():
    """Regressed by size, then unclear, unchanged, improved."""
    spread = {"tpot_s.p50": 0.001, "ttft_s.p50": 0.001, "e2el_s.p50": 0.001, "output_tps": 0.2, "request_rps": 0.001}
    factor = {"tpot_s.p50": 1.1, "ttft_s.p50": 1.3, "e2el_s.p50": 0.8, "output_tps": 1.0, "request_rps": 1.0}
    base = {k: around(1.0, s, seed=1) for k, s in spread.items()}
    new = {k: around(factor[k], s, seed=2) for k, s in spread.items()}
    result = compare(campaign({C4: base}), campaign({C4: new}), metrics=list(spread))
    assert [e.metric for e in result.effects] == ["ttft_s.p50", "tpot_s.p50", "output_tps", "request_rps", "e2el_s.p50"]


def test_unknown_words_are_refused():
    """A metric, key or pairing that does not exist is a ConfigError."""
    s = campaign({C4: {TPOT: [0.02, 0.021]}})
    for words in ({"metrics": ["x"]}, {"ignored": ["x"]}, {"pairing": "x"}):
        with pytest.raises(ConfigError):
            compare(s, s, **words)


def simulated(rng, n, plan_spread, slower=0.0):
    keys = ("output_tps", "ttft_s.p50", TPOT)
    plan = noise(rng, n, 4, 3) * plan_spread
    sides = []
    for factor in (0.0, slower):
        logs = plan + noise(rng, n, 4, 3) * 0.015
        logs[:, 0, 2] += math.log1p(factor)
        cells = {
            load: {k: np.exp(logs[:, c, m]).tolist() for m, k in enumerate(keys)} for c, load in enumerate(loads(4))
        }
        sides.append(campaign(cells))
    return compare(*sides, metrics=keys)


@pytest.mark.parametrize("plan_spread", [0.0, 0.03])
def test_false_alarms_of_a_whole_campaign(plan_spread):
    """100 campaigns of two equal sides, 12 comparisons each: at most 8 with a regression (5 % and two standard errors)."""
    rng = np.random.default_rng(11)
    alarms = sum(any(e.verdict == "regressed" for e in simulated(rng, 5, plan_spread).effects) for _ in range(100))
    assert alarms <= 8


def test_a_slow_down_is_found_and_named():
    """TPOT of one cell 5 % slower in 10 repetitions of 1.5 % spread: found in at least 45 of 50, as that cell's TPOT."""
    rng = np.random.default_rng(12)
    hits = 0
    for _ in range(50):
        first = simulated(rng, 10, 0.0, 0.05).effects[0]
        hits += (first.verdict, first.metric, first.load.name) == ("regressed", TPOT, "c1")
    assert hits >= 45


def test_the_verdict_is_of_the_corrected_p():
    """One of 12 cells is 5 % slower with p near 0.01: sure alone, and of 12 comparisons unclear, with an interval that says so."""
    still = [around(0.02, 0.03, 5, seed) for seed in range(1, 25)]
    ordered = np.linspace(-1, 1, 5)
    base = (0.02 * np.exp(0.03 * ordered)).tolist()
    new = (0.021 * np.exp(0.03 * ordered)).tolist()
    cells = [{TPOT: still[2 * at]} for at in range(11)], [{TPOT: still[2 * at + 1]} for at in range(11)]
    sides = [
        campaign(dict(zip(loads(12), [*others, {TPOT: mine}], strict=True)), campaign=name)
        for others, mine, name in ((cells[0], base, "b"), (cells[1], new, "n"))
    ]
    result = compare(*sides, metrics=[TPOT], pairing="unpaired")
    effect = next(e for e in result.effects if e.load == loads(12)[-1])
    assert 0.05 / 12 < effect.p < 0.05 < effect.p_corrected
    assert effect.verdict == "unclear"
    assert effect.corrected_low < 0 < effect.low
    assert one(base, new, pairing="unpaired").verdict == "regressed"
