"""The planner's whole answer against the same expectation by scipy's distributions and a plain search."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import digamma, ndtr, polygamma, stdtrit
from scipy.stats import chi2

from harness.base.errors import ConfigError
from harness.base.stats import inside_variance
from harness.judge.compare.detect import chance, detect, repetitions_needed, shared_variances, smallest_change
from harness.judge.compare.sides import ComparedRun, side
from harness.judge.summary import summarise
from harness.records import Cell, ComparedSide, Detectable, Detection, Load
from tests.judge.compare_campaigns import INVALID, campaign, loads, run
from tests.judge.run_builder import closed_loop
from tests.judge.run_builder import run as stored

TPOT, TTFT = "tpot_s.p50", "ttft_s.p99"
QUANTILES = (np.arange(99) + 0.5) / 99
C1, C2, C4 = loads(3)


@cache
def spread_of_variances(df):
    """Quantiles of an estimated variance over the true one."""
    return chi2.ppf(QUANTILES, df) / df


def power(effect, variance, known_df, n, least, alpha, *, tails=1.5, paired=False):
    """The mean over quantiles of the true variance and of the one that will be seen."""
    df = n - 1 if paired else 2 * n - 2
    truths = np.array([variance]) if math.isinf(known_df) else variance / spread_of_variances(known_df / tails)
    error, seen = np.meshgrid(np.sqrt(2 * truths / n), np.sqrt(spread_of_variances(df / tails)))
    threshold = np.maximum(-stdtrit(df, alpha / 2) * seen * error, least)
    return float(ndtr((effect - threshold) / error).mean())


def needed(variance, df, change, least, alpha, limit=60, wanted=0.9):
    effect, smallest = math.log1p(change), math.log1p(least)
    return next((n for n in range(2, limit + 1) if power(effect, variance, df, n, smallest, alpha) >= wanted), None)


def smallest(variance, df, n, least, alpha, wanted=0.9):
    return math.expm1(
        brentq(lambda effect: power(effect, variance, df, n, math.log1p(least), alpha) - wanted, 1e-9, math.log(20))
    )


def moderated(variances, degrees):
    """Smyth 2004, section 6.2."""
    v, d = np.array(variances), np.array(degrees, float)
    e = np.log(v) - digamma(d / 2) + np.log(d / 2)
    excess = e.var(ddof=1) - polygamma(1, d / 2).mean()
    if excess <= 1e-3:
        return [((v * d).sum() / d.sum(), d.sum())] * len(v)
    d0 = 2 * brentq(lambda y: polygamma(1, y) - excess, 1e-3, 1e3)
    s0 = math.exp(e.mean() + digamma(d0 / 2) - math.log(d0 / 2))
    return [((d0 * s0 + di * vi) / (d0 + di), d0 + di) for vi, di in zip(v, d, strict=True)]


@pytest.mark.parametrize("known_df", [2.0, 8.0, math.inf])
@pytest.mark.parametrize("n", [2, 3, 12])
@pytest.mark.parametrize(("effect", "least", "alpha"), [(0.03, 0.02, 0.05), (0.05, 0.0, 0.001), (0.2, 0.19, 0.05)])
def test_the_chance_to_see_a_change(known_df, n, effect, least, alpha):
    """Welch's and in pairs, with heavy tails by default and without."""
    for how in ({}, {"paired": True}, {"tails": 1.0}):
        assert chance(effect, 0.01**2, known_df, n, least, alpha, **how) == pytest.approx(
            power(effect, 0.01**2, known_df, n, least, alpha, **how), rel=1e-9
        )


def test_the_smallest_number_and_the_smallest_change():
    """By a plain search; 2 where that is enough, the limit itself where just that is, None beyond; no change above a factor of 20."""
    for variance, df in ((0.01**2, 6.0), (0.03**2, 20.0)):
        assert repetitions_needed(variance, df, 0.05, 0.02, 0.01, 0.9) == needed(variance, df, 0.05, 0.02, 0.01)
        assert smallest_change(variance, df, 4, 0.02, 0.01, 0.9) == pytest.approx(
            smallest(variance, df, 4, 0.02, 0.01), rel=1e-3
        )
    assert repetitions_needed(1e-8, 50.0, 0.05, 0.02, 0.01, 0.9) == 2
    n = needed(0.02**2, 20.0, 0.05, 0.02, 0.01)
    assert [repetitions_needed(0.02**2, 20.0, 0.05, 0.02, 0.01, 0.9, limit) for limit in (n - 1, n)] == [None, n]
    assert smallest_change(10.0, 2.0, 2, 0.02, 0.01, 0.9) is None
    for sd, limit in ((0.15002, 200), (0.1504, 201)):  # the limit is 200 where none is given
        assert needed(sd**2, math.inf, 0.05, 0.0, 0.05, 201) == limit
        assert repetitions_needed(sd**2, math.inf, 0.05, 0.0, 0.05, 0.9) == (limit if limit == 200 else None)


def test_variances_drawn_together():
    """By moments of their logarithms; of two, or with one that is 0, each alone, the 0 as 1e-16."""
    variances, degrees = [1e-4, 9e-4, 4e-5, 2e-3], [2.0, 4.0, 3.0, 2.0]
    got = shared_variances(np.array(variances), np.array(degrees))
    assert np.array(got) == pytest.approx(np.array(moderated(variances, degrees)), rel=1e-6)
    assert shared_variances(np.array(variances[:2]), np.array(degrees[:2])) == [(1e-4, 2.0), (9e-4, 4.0)]
    assert shared_variances(np.array([0.0, 1e-4, 1e-3]), np.full(3, 2.0)) == [(1e-16, 2.0), (1e-4, 2.0), (1e-3, 2.0)]


SERIES = {
    C1: {TPOT: [0.02, 0.0202, 0.0201], TTFT: [0.1, 0.103, 0.099]},
    C2: {TPOT: [0.03, 0.0309, 0.0301, 0.0305], TTFT: [0.2, 0.21, 0.22, 0.2]},
    C4: {TPOT: [0.04, 0.044, 0.039]},
    Load(concurrency=8): {TPOT: [0.05]},
}


def variance_of(values):
    return float(np.var(np.log(values), ddof=1))


def test_the_plan_as_a_whole():
    """Three cells of TPOT share their spread, two of TTFT stand alone; a cell of one repetition and what no pilot tells are skipped."""
    found = detect(campaign(SERIES), 0.06, metrics=[TPOT, TTFT, "attainment"], limit=50)
    tpot = moderated([variance_of(SERIES[c][TPOT]) for c in (C1, C2, C4)], [2.0, 3.0, 2.0])
    ttft = [(variance_of(SERIES[C1][TTFT]), 2.0), (variance_of(SERIES[C2][TTFT]), 3.0)]
    expected = []
    for key, label, cells, spreads in ((TPOT, "TPOT p50", (C1, C2, C4), tpot), (TTFT, "TTFT p99", (C1, C2), ttft)):
        for load, (variance, df) in zip(cells, spreads, strict=True):
            n = len(SERIES[load][key])
            expected.append(
                Detectable("a", "fixed:128x32", load, key, label, n, pytest.approx(math.sqrt(variance)), None,
                           pytest.approx(smallest(variance, df, n, 0.02, 0.01), rel=1e-3), needed(variance, df, 0.06, 0.02, 0.01, 50))
            )  # fmt: skip
    expected.sort(key=lambda row: -(row.needed or 51))
    assert {row.needed is None for row in expected} == {True, False}
    assert found == Detection(
        ComparedSide("results/e", "20261124T100000Z", None, 11, 0, 0),
        0.06,
        0.02,
        0.05,
        0.9,
        5,
        50,
        tuple(expected),
        found.skipped,
    )
    assert len(found.skipped) == 3
    assert found.skipped[0].startswith("a fixed:128x32 c8 TPOT p50: ")
    assert found.skipped[1].startswith("attainment: ")
    assert found.skipped[2].startswith("pairs: ")
    assert (
        detect(
            campaign(SERIES), 0.06, metrics=[TPOT, TTFT, "attainment"], limit=50, alpha=0.05, power=0.9, min_effect=0.02
        )
        == found
    )
    assert detect(campaign(SERIES), 0.06, metrics=[TPOT]).limit == 200


def test_what_refuses_a_plan():
    """A change equal to the minimum; one repetition; every run INVALID; and of metrics that are not positive there is no plan."""
    with pytest.raises(ConfigError, match="does not count"):
        detect(campaign(SERIES), 0.05, min_effect=0.05)
    with pytest.raises(ConfigError, match="spread"):
        detect(campaign({C1: {TPOT: [0.0, 0.02]}}), 0.05)
    with pytest.raises(Exception, match="no run of DIR"):
        detect(campaign(SERIES, verdict=INVALID), 0.05)


def in_pairs(variance, df, together, change, least, alpha, limit):
    middle, cells = float(np.median(together)), len(together)
    for n in range(2, limit + 1):
        enough = 1 - (stdtrit(2 * n - 2, alpha / 2) / stdtrit(n - 1, alpha / 2)) ** 2
        seen = power(math.log1p(change), variance, df, n, math.log1p(least), alpha, paired=True)
        if middle - 1 / math.sqrt(n * cells) > enough and seen >= 0.9:
            return n
    return None


def test_the_plan_in_pairs_as_a_whole():
    """Of a second campaign of the same plans: half the variance of the differences in place of the spread, where pairs would be tested."""
    rng = np.random.default_rng(5)
    level = {
        load: 0.02 * np.exp(rng.normal(0, 0.1, n)) for load, n in ((C1, 4), (C2, 3), (C4, 5), (Load(concurrency=8), 2))
    }
    sides = [
        {load: {TPOT: (v * np.exp(rng.normal(0, 0.02, len(v)))).tolist()} for load, v in level.items()}
        for _ in range(2)
    ]
    found = detect(campaign(sides[0]), 0.035, again=campaign(sides[1]), metrics=[TPOT], limit=60)
    logs = {load: [np.log(s[load][TPOT]) for s in sides] for load in level}
    spreads = moderated([v[0].var(ddof=1) for v in logs.values()], [len(v[0]) - 1.0 for v in logs.values()])
    known = [load for load in level if len(level[load]) > 2]
    off = moderated(
        [(logs[load][1] - logs[load][0]).var(ddof=1) / 2 for load in known], [len(level[load]) - 1.0 for load in known]
    )
    together = [np.corrcoef(*logs[load])[0, 1] for load in known]
    expected = {}
    for load, (variance, df) in zip(level, spreads, strict=True):
        alone = needed(variance, df, 0.035, 0.02, 0.05 / 4)
        paired = in_pairs(*off[known.index(load)], together, 0.035, 0.02, 0.05 / 4, 60) if load in known else None
        expected[load] = min((n for n in (alone, paired) if n is not None), default=None)
        assert paired is None or alone is None or paired < alone
    assert {row.load: row.needed for row in found.rows} == expected
    assert found.skipped == ()
    assert found.rows[0].needed == max(expected.values(), key=lambda n: n or 61)


def repetition(number, gap_s, **changes):
    """A stored run whose requests have each their own TTFT and gap."""
    records = closed_loop(4, 60, gap_s=gap_s, stagger_s=0.001)
    shifted = []
    for r in records:
        more, slower = r.seq * 7 % 11 * 10**6, 1 + r.seq * 5 % 13 / 20
        stamps = tuple(r.first_token_ns + more + round((c - r.first_token_ns) * slower) for c in r.chunk_ns)
        shifted.append(
            replace(r, first_token_ns=stamps[0], last_token_ns=stamps[-1], ended_ns=stamps[-1] + 1000, chunk_ns=stamps)
        )
    load = Load(concurrency=4)
    data = stored(shifted[::-1], load, cell=Cell("a", "fixed:128x8", load, number), run_id=f"r{number}", **changes)
    return ComparedRun(summarise(data), data.manifest, data)


def test_what_the_requests_inside_explain():
    """The mean variance of each run's statistic by blocks of its ok requests of the window, over that between runs; 1 at most, and
    None for rates and where no requests are stored."""
    runs = [repetition(1, 0.01), repetition(2, 0.011), repetition(3, 0.0091)]
    keys = [TPOT, "tpot_s.mean", "output_tps"]
    found = {row.metric: row for row in detect(side("d", runs), 0.03, metrics=keys).rows}

    def inside(r, statistic):
        window = r.summary.window
        rows = [
            x
            for x in zip(
                *(r.data.requests[c].tolist() for c in ("sent_ns", "first_token_ns", "last_token_ns")), strict=True
            )
            if window.start_ns < x[0] <= window.end_ns
        ]
        values = np.array([(last - first) / 7e9 for _, first, last in sorted(rows)])
        return inside_variance(values, lambda v: math.log(float(statistic(v))))

    for key, statistic in ((TPOT, np.median), ("tpot_s.mean", np.mean)):
        values = [getattr(r.summary.distributions["tpot_s"], key.partition(".")[2]) for r in runs]
        share = np.mean([inside(r, statistic) for r in runs]) / variance_of(values)
        assert found[key].inside_share == pytest.approx(min(1.0, share), rel=1e-6)
        assert 0 < found[key].inside_share < 1
    assert found["output_tps"].inside_share is None
    without = [replace(r, data=None) for r in runs]
    assert {row.inside_share for row in detect(side("d", without), 0.03, metrics=keys).rows} == {None}
    alike = [repetition(n, 0.01 + n * 1e-8) for n in (1, 2)]
    assert [row.inside_share for row in detect(side("d", alike), 0.03, metrics=["tpot_s.mean"]).rows] == [1.0]


def test_repetitions_that_were_run_again_are_planned_with_once():
    """The newest run of a repetition counts; INVALID ones are not in the spread."""
    runs = [run({TPOT: v}, k, load=C1) for k, v in enumerate((0.02, 0.0202, 0.0206), 1)]
    again = [
        run({TPOT: 0.03}, 2, load=C1, created="2026-11-24T09:00:00+00:00"),
        run({TPOT: 0.9}, 4, load=C1, verdict=INVALID),
    ]
    assert (
        detect(side("d", [*again, *runs]), 0.05, metrics=[TPOT]).rows
        == detect(side("d", runs), 0.05, metrics=[TPOT]).rows
    )
