"""A comparison as a whole: every field of every effect against scipy's tests and Holm's correction by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from harness.judge.compare.comparison import compare
from harness.judge.compare.sides import side
from harness.judge.compare.significance import holm_levels, is_paired, paired_t, welch_t, worth_pairing
from harness.records import ComparedSide, Comparison, Effect, Load
from tests.judge.compare_campaigns import INVALID, campaign, run

C4, C8 = Load(concurrency=4), Load(concurrency=8)
TPOT, TPS, GOOD = "tpot_s.p50", "output_tps", "goodput_rps"
BASE = {
    C4: {
        TPOT: [0.0200, 0.0204, 0.0197, 0.0201],
        TPS: [100.0, 103.0, 99.0, 101.0],
        "attainment": [0.99, 0.9, 1.0, 0.85],
    },
    C8: {TPOT: [0.0300, 0.0306, 0.0297, 0.0301], GOOD: [0.0, 2.0, 0.0, 1.0], TPS: [50.0, 53.0, 51.0, 52.0]},
}
NEW = {
    C4: {
        TPOT: [0.0231, 0.0229, 0.0226, 0.0230],
        TPS: [100.5, 103.9, 98.9, 101.2],
        "attainment": [0.9, 0.95, 0.85, 0.8],
    },
    C8: {TPOT: [0.0302, 0.0309, 0.0291, 0.0305], GOOD: [3.0, 2.5, 1.0, 2.0], TPS: [60.0, 66.0, 63.0, 58.0]},
}
KEYS = (TPOT, TPS, GOOD, "attainment")
LABELS = {
    TPOT: ("TPOT p50", "s"),
    TPS: ("output throughput", "tokens/s"),
    GOOD: ("goodput", "1/s"),
    "attainment": ("attainment", ""),
}


def corrected(p, alpha):
    """Holm 1979: corrected p-values, and the level that is left to each interval."""
    order, m = sorted(range(len(p)), key=lambda i: p[i]), len(p)
    adjusted = {i: max(min(1.0, p[order[r]] * (m - r)) for r in range(place + 1)) for place, i in enumerate(order)}
    rejected = [i for i in order if adjusted[i] <= alpha]
    levels = {i: 1 - alpha / (m - (order.index(i) if i in rejected else len(rejected))) for i in order}
    return [adjusted[i] for i in range(m)], [levels[i] for i in range(m)]


def expected(paired):
    """Effects of BASE against NEW in the order of cells and keys, by scipy."""
    tests = []
    for load in (C4, C8):
        for key in (k for k in KEYS if k in BASE[load]):
            b, n = np.array(BASE[load][key]), np.array(NEW[load][key])
            log = key in (TPOT, TPS)
            x, y = (np.log(b), np.log(n)) if log else (b, n)
            found = stats.ttest_rel(y, x) if paired else stats.ttest_ind(y, x, equal_var=False)
            tests.append((load, key, x, y, found, log))
    p, levels = corrected([t[4].pvalue for t in tests], 0.05)
    effects = []
    for (load, key, x, y, found, log), adjusted, level in zip(tests, p, levels, strict=True):

        def change(effect, key=key, x=x, log=log):
            return math.expm1(effect) if log else effect if key == "attainment" else effect / x.mean()

        base, new = (math.exp(v.mean()) if log else v.mean() for v in (x, y))
        low, high = (change(edge) for edge in found.confidence_interval(0.95))
        corrected_low, corrected_high = (change(edge) for edge in found.confidence_interval(level))
        better, moved = key != TPOT, change(y.mean() - x.mean())
        verdict = "unclear"
        if adjusted <= 0.05 and abs(moved) > 0.02:
            verdict = "improved" if (moved > 0) == better else "regressed"
        elif low >= -0.02 and high <= 0.02:
            verdict = "unchanged"
        numbers = (
            pytest.approx(v, rel=1e-9)
            for v in (moved, low, high, corrected_low, corrected_high, found.pvalue, adjusted)
        )
        effects.append(
            Effect("a", "fixed:128x32", load, key, *LABELS[key], better, pytest.approx(base), pytest.approx(new), 4, 4, *numbers, paired,
                   pytest.approx(found.df), verdict, "")
        )  # fmt: skip
    return effects


@pytest.mark.parametrize("pairing", ["paired", "unpaired"])
def test_the_comparison_as_a_whole(pairing):
    """Six effects with every number, worst first; the sides, the alpha, how many tests."""
    found = compare(campaign(BASE), campaign(NEW, campaign="n"), metrics=KEYS, pairing=pairing)
    effects = expected(pairing == "paired")
    places = ["regressed", "unclear", "unchanged", "improved"]
    for effect in found.effects:
        (mine,) = [e for e in effects if (e.load, e.metric) == (effect.load, effect.metric)]
        assert effect == mine
    assert len(found.effects) == len(effects) == 6

    def badness(effect):
        worse = -effect.change if effect.higher_is_better else effect.change
        return places.index(effect.verdict), -worse

    assert list(found.effects) == sorted(found.effects, key=badness)
    assert {e.verdict for e in found.effects} >= {"regressed", "unclear", "improved"}
    assert replace(found, effects=()) == Comparison(
        base=ComparedSide("results/e", "20261124T100000Z", None, 8, 0, 0), new=ComparedSide("results/e", "n", None, 8, 0, 0), effects=(),
        changes=(), warnings=(), only_base=(), only_new=(), ignored=(), alpha=0.05, min_effect=0.02, tests=6,
    )  # fmt: skip


def test_defaults_are_5_percent_2_percent_and_the_default_metrics():
    """Given as they are they change nothing."""
    sides = campaign(BASE), campaign(NEW, campaign="n")
    same = compare(
        *sides, metrics=("output_tps", TPOT, "attainment"), alpha=0.05, min_effect=0.02, pairing="auto", strict=False
    )
    assert compare(*sides) == same
    assert {e.metric for e in same.effects} == {TPS, TPOT, "attainment"}


def one(base, new, key=TPOT, **kw):
    words = {"metrics": [key], "pairing": "unpaired", **kw}
    (effect,) = compare(campaign({C4: {key: base}}), campaign({C4: {key: new}}, campaign="n"), **words).effects
    return effect


def test_an_effect_without_a_test():
    """One repetition on a side: means and change only. Equal digits: the same, and another note."""
    alone = one([0.02], [0.03, 0.04])
    nothing = (None,) * 6
    assert alone == Effect("a", "fixed:128x32", C4, TPOT, "TPOT p50", "s", False, pytest.approx(0.02), pytest.approx(math.sqrt(0.0012)), 1, 2,
                           pytest.approx(math.sqrt(3) - 1), *nothing, False, None, "unclear", "one repetition: its spread is not known")  # fmt: skip
    equal = one([0.02, 0.02], [0.03, 0.03])
    assert equal.note == "repetitions are equal to the last digit: no spread"
    assert (equal.change, equal.p, equal.low, equal.base_count) == (pytest.approx(0.5), None, None, 2)
    assert one([0.0], [2.0], GOOD).change is None
    assert one([1.0], [0.0], GOOD).change == -1.0
    assert one([0.5], [0.25], "attainment").change == -0.25
    assert one([0.0] * 3, [1.0, 2.0, 3.0], GOOD).p is None
    assert (one([0.0] * 3, [1.0, 2.0, 3.0], GOOD).new_count, one([0.02, 0.021], [0.03]).new_count) == (3, 1)


def test_a_change_counts_above_the_minimum_and_none_within_it():
    """A change equal to the minimum is no regression, and an interval that ends at it is within it, on both sides."""
    base, new = [0.02, 0.0202, 0.0201, 0.0199], [0.021, 0.0212, 0.0211, 0.0209]
    change = one(base, new).change
    assert one(base, new, min_effect=change).verdict == "unclear"
    assert one(base, new, min_effect=change * (1 - 1e-9)).verdict == "regressed"
    high = one(base, new).high
    assert one(base, new, min_effect=high).verdict == "unchanged"
    assert one(base, new, min_effect=high * (1 - 1e-9)).verdict == "unclear"
    low = one(new, base).low
    assert one(new, base, min_effect=-low).verdict == "unchanged"
    assert one(new, base, min_effect=-low * (1 - 1e-9)).verdict == "unclear"


def test_what_is_as_likely_as_alpha_is_rejected():
    """p equal to alpha regresses, p a little above it does not."""
    base, new = [0.02, 0.021, 0.022, 0.019], [0.023, 0.0245, 0.0235, 0.022]
    p = one(base, new).p
    assert one(base, new, alpha=p).verdict == "regressed"
    assert one(base, new, alpha=p * (1 - 1e-9)).verdict == "unclear"


def test_a_ratio_beyond_what_a_float_holds():
    """From 1e-200 to 1e200 and back: e^700 at most, and -100 %."""
    effect = one([1e-200, 1.1e-200], [1e200, 1.1e200])
    assert effect.change == effect.high == pytest.approx(math.expm1(700))
    assert one([1e200, 1.1e200], [1e-200, 1.1e-200]).change == -1.0


def test_a_share_is_as_uncertain_as_its_counts():
    """Two more requests, one of them good, and p (1 - p) / n of each side, where repetitions scatter less; of nothing sent there is none."""
    effect = one([1.0] * 3, [0.98] * 3, "attainment")  # 400 requests a repetition
    p = (1200 + 0.98 * 1200 + 1) / 2402
    error = math.sqrt(p * (1 - p) * 2 / 1200)
    assert effect.p == pytest.approx(2 * stats.t.sf(0.02 / error, 4))
    assert effect.high == pytest.approx(-0.02 + stats.t.isf(0.025, 4) * error)
    sides = [
        side(name, [run({"attainment": v}, k, requests=n, campaign=name) for k, v in enumerate(values, 1)])
        for name, values, n in (("b", (1.0, 1.0), 100), ("n", (0.9, 0.9), 300))
    ]
    (effect,) = compare(*sides, metrics=["attainment"], pairing="unpaired").effects
    p = (200 + 540 + 1) / 802
    assert effect.p == pytest.approx(2 * stats.t.sf(0.1 / math.sqrt(p * (1 - p) * (1 / 200 + 1 / 600)), 2))
    nobody = [campaign({C4: {"attainment": [v] * 3}}, requests=n) for v, n in ((1.0, 0), (0.9, 400))]
    assert compare(*nobody, metrics=["attainment"]).effects[0].p is None


def test_goodput_of_another_promise_is_not_compared():
    """Where the SLO differs goodput and attainment are left out and it is said; nothing is said where there are none."""
    slo = {"config": {"slo": {"ttft_s": 1.0}}}
    found = compare(campaign(BASE), campaign(NEW, **slo), metrics=KEYS)
    assert {e.metric for e in found.effects} == {TPOT, TPS}
    assert found.warnings == ("the SLO differs, so these are not compared: attainment, goodput",)
    assert compare(campaign(BASE), campaign(NEW, **slo), metrics=[TPOT]).warnings == ()
    assert len(compare(campaign(BASE, **slo), campaign(NEW, **slo), metrics=KEYS).effects) == 6


def test_problems_of_both_sides_are_warnings():
    """What could not be read, of base and then of new, after what was found."""
    base, new = (replace(campaign(v), problems=(name,)) for v, name in ((BASE, "b"), (NEW, "n")))
    assert compare(base, new, metrics=[TPOT]).warnings == ("b", "n")


def test_pairs_are_repetitions_in_the_order_of_their_measuring():
    """Those on both sides, and only where both were measured in the same order; two are enough; means are of all repetitions."""
    values = [0.02, 0.03, 0.04]
    base = side("b", [run({TPOT: v}, k) for k, v in enumerate(values, 1)])
    more = side(
        "n",
        [
            run({TPOT: v * f}, k)
            for k, (v, f) in enumerate(zip([*values, 0.05], (1.1, 1.11, 1.12, 1.0), strict=True), 1)
        ],
    )
    (effect,) = compare(base, more, metrics=[TPOT], pairing="paired").effects
    assert (effect.paired, effect.base_count, effect.new_count, effect.df) == (True, 3, 3, 2)
    assert effect.new == pytest.approx(math.exp(np.log([0.022, 0.0333, 0.0448, 0.05]).mean()))
    assert effect.change == pytest.approx((1.1 * 1.11 * 1.12) ** (1 / 3) - 1)
    two = side("n", more.runs[1:3])
    assert compare(base, two, metrics=[TPOT], pairing="paired").effects[0].df == 1
    single = side("n", more.runs[2:])
    assert not compare(base, single, metrics=[TPOT], pairing="paired").effects[0].paired
    # run again later: the newest counts, and its place in the order is the newest's
    again = side("n", [*more.runs[:3], run({TPOT: 0.025}, 1, created="2026-11-24T11:00:00+00:00")])
    assert not compare(base, again, metrics=[TPOT], pairing="paired").effects[0].paired
    lost = side("n", [run({TPOT: 9.0}, 1, verdict=INVALID, created="2026-11-24T11:00:00+00:00"), *more.runs[:3]])
    assert compare(base, lost, metrics=[TPOT], pairing="paired").effects[0].df == 2


# ---------------------------------------------------------------- the tests and the choice between them


def test_tests_need_two_values():
    """On either side; with two they are there, without a floor by default."""
    a, b = np.array([1.0, 2.0]), np.array([1.5, 3.5])
    assert paired_t(a[:1], b[:1]) is None
    assert welch_t(a[:1], b) is welch_t(a, b[:1]) is None
    assert (paired_t(a, b).df, paired_t(a, b).paired, welch_t(a, b).paired) == (1.0, True, False)
    assert welch_t(a, b) == welch_t(a, b, 0.0)
    assert paired_t(a, b) == paired_t(a, b, 0.0)
    assert welch_t(np.zeros(3), np.zeros(4)).df == 5.0


def test_levels_of_intervals_by_hand():
    """Two of four rejected: 1 - alpha / 4, / 3, and the rest / 2; all rejected: the last has alpha."""
    assert holm_levels([0.04, 0.001, 0.01, 0.9], 0.05) == pytest.approx(
        [1 - 0.05 / 2, 1 - 0.05 / 4, 1 - 0.05 / 3, 1 - 0.05 / 2]
    )
    assert holm_levels([0.01, 0.001], 0.05) == pytest.approx([0.95, 0.975])
    assert holm_levels([], 0.05) == []


def test_pairs_pay_from_a_correlation_on():
    """1 - (t(2n - 2) / t(n - 1))^2, less 1 / sqrt(n x cells): just above it they do."""
    for n, cells, alpha in ((4, 3, 0.05), (10, 1, 0.001)):
        enough = 1 - (stats.t.isf(alpha / 2, 2 * n - 2) / stats.t.isf(alpha / 2, n - 1)) ** 2 + 1 / math.sqrt(n * cells)
        assert worth_pairing(enough + 1e-9, n, cells, alpha)
        assert not worth_pairing(enough - 1e-9, n, cells, alpha)


def correlated(r, n=4):
    """Two sides of n values whose correlation is r."""
    x, y = np.linalg.qr(np.array([np.ones(n), np.arange(n), np.arange(n) ** 2.0]).T)[0].T[1:]
    return x, r * x + math.sqrt(1 - r * r) * y


def test_one_choice_for_all_cells_of_a_metric():
    """By the median correlation and the median length of cells of 3 pairs and more with any spread; alpha over all tests."""
    enough = 1 - (stats.t.isf(0.005, 6) / stats.t.isf(0.005, 3)) ** 2 + 1 / math.sqrt(4 * 3)
    above, below = correlated(enough + 1e-6), correlated(enough - 1e-6)
    rest = [correlated(0.0), correlated(0.999)]
    assert is_paired([above, *rest], 5, 0.05)
    assert not is_paired([below, *rest], 5, 0.05)
    flat = (np.ones(4), above[1])
    assert is_paired([above, *rest, flat, flat[::-1], correlated(0.99, 3)[0:1] * 2][:5], 5, 0.05)
    assert not is_paired([below, *rest, (above[0][:2], above[0][:2])], 5, 0.05)
    assert not is_paired([flat], 1, 0.05)
    assert is_paired([correlated(0.9999, 3)] * 9, 0, 0.05) is is_paired([correlated(0.9999, 3)] * 9, 1, 0.05) is True
