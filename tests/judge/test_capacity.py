"""Which rate is probed next, and what the probes say."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness.config.load import CapacitySpec
from harness.judge.capacity.fit import fit, near
from harness.judge.capacity.orders import _inflation, best_probe, conclude, next_probe, over_repetitions
from harness.judge.capacity.probe import LEAST_INFLATION
from harness.records import CapacityResult, ProbeResult

SPEC = CapacitySpec(start_rps=10, min_rps=1, max_rps=100, probe_s=(60, 600))


def made(rate, attainment=None, verdict="undecided", stopped="longest probe", *, n=5000, index=1, completed=None):
    """A probe of ten equal batches with that attainment."""
    if attainment is None:
        attainment = {"pass": 1.0, "fail": 0.0}[verdict]
    batches = tuple((n // 10, round(n // 10 * attainment)) for _ in range(10))
    return ProbeResult(
        index, rate, rate, 600.0, n, sum(g for _, g in batches), batches, attainment, attainment - 0.01,
        min(1.0, attainment + 0.01), n / 5, n * 32, completed, verdict, stopped, f"run{index}",
    )  # fmt: skip


def half_width(curve):
    return math.log(curve.high_rps / curve.low_rps) / 2


def drive(truth, spec=SPEC, width=1e-4):
    """Search a server that passes below `truth` and fails above it, with probabilities over `width` of rate."""
    probes = []
    while (order := next_probe(spec, 0.99, probes)) is not None:
        odds = math.log(0.01 / 0.99) + (order.rate_rps / truth - 1) / width
        miss = 1 / (1 + math.exp(-max(-40, min(40, odds))))
        verdict = "pass" if miss < 0.002 else "fail" if miss > 0.05 else "undecided"
        rng = np.random.default_rng(order.index)
        batches = tuple((1000, 1000 - int(rng.binomial(1000, miss))) for _ in range(10))
        good = sum(g for _, g in batches)
        probes.append(
            ProbeResult(order.index, order.rate_rps, order.rate_rps, order.longest_s, 10_000, good, batches, good / 10_000,
                        good / 10_000, good / 10_000, 10_000.0, 320_000, order.rate_rps, verdict, "clearly")
        )  # fmt: skip
    return conclude(spec, 0.99, probes)


@pytest.mark.parametrize("truth", [1.7, 9.9, 24.0, 90.0])
@pytest.mark.parametrize("width", [1e-4, 0.05])
def test_the_search_finds_cliffs_and_slopes(truth, width):
    """A server that breaks at once and one that degrades over 5 % of rate are both found within 3 % in 12 probes."""
    result = drive(truth, width=width)
    assert result.state == "found"
    assert result.capacity_rps == pytest.approx(truth, rel=0.03)
    assert len(result.probes) <= 12
    assert result.output_tps == pytest.approx(result.capacity_rps * 32, rel=0.01)


def test_a_limit_that_is_not_reached_is_at_least():
    """Everything passes up to max_rps: no number is made up, the capacity is at least max_rps."""
    result = drive(1e6)
    assert (result.state, result.capacity_rps, result.low_rps) == ("censored_above", None, 100)
    assert [p.rate_rps for p in result.probes] == [10, 20, 40, 80, 100]


def test_a_server_that_never_passes_is_below():
    """Everything fails down to min_rps: the capacity is below it."""
    result = drive(0.1)
    assert (result.state, result.capacity_rps, result.high_rps) == ("censored_below", None, 1)


@pytest.mark.parametrize("top", [0.999, 0.985])
def test_an_undecided_probe_bounds_nothing(top):
    """100/s is undecided, on either side of the target: the capacity is at least 80/s, the highest clear pass, and no probe
    alone makes a bound; below the target it is looked for further down."""
    clear = [made(rate, verdict="pass") for rate in (10, 20, 40, 80)]
    above = conclude(SPEC, 0.99, [*clear, made(100, top)])
    assert (above.low_rps, above.capacity_rps, above.high_rps) == (80, None, None)
    assert above.state == ("censored_above" if top > 0.99 else "undecided")
    assert (next_probe(SPEC, 0.99, [*clear, made(100, top)]) is None) == (top > 0.99)
    alone = conclude(SPEC, 0.99, [made(100, top)])
    assert (alone.state, alone.low_rps, alone.high_rps) == ("undecided", None, None)
    below = conclude(SPEC, 0.99, [made(2, verdict="fail"), made(1, 0.985)])
    assert (below.state, below.low_rps, below.high_rps) == ("censored_below", None, 2)


def test_an_undecided_probe_guides_the_search_by_its_side():
    """Below the target the next rate is lower, above it higher."""
    assert next_probe(SPEC, 0.99, [made(10, 0.985)]).rate_rps < 10
    assert next_probe(SPEC, 0.99, [made(10, 0.995)]).rate_rps > 10


def test_what_the_capacity_looks_like_is_a_probe_that_kept_the_promise():
    """The highest clear pass; an undecided one only where the search as a whole put the capacity above it, never one that missed."""
    probes = (
        made(8, verdict="pass", index=1),
        made(9.5, 0.995, index=2),
        made(9.9, 0.992, index=3),
        made(9.6, 0.985, index=4),
    )
    found = CapacityResult("found", 10.0, 9.7, 10.3, 320.0, 0.99, 0.03, 600.0, probes, "")
    assert best_probe(found).index == 2
    assert best_probe(dataclasses.replace(found, low_rps=9.0)).index == 1
    assert best_probe(dataclasses.replace(found, probes=probes[1:], low_rps=9.0)) is None


def test_an_overload_shows_where_to_look():
    """After a queue grew, the next probe lies a little below the rate at which requests ended."""
    probes = [made(80, 0.1, "fail", "queue growing", completed=20.0)]
    assert next_probe(SPEC, 0.99, probes).rate_rps == pytest.approx(17)


@pytest.mark.parametrize(("completed", "rate"), [(20.0, 17.2 / 1.03), (21.0, 8.6), (19.0, 16.15)])
def test_the_guess_from_an_overload_stays_below_what_failed(completed, rate):
    """17.2/s failed after all: the next probe is 3 % below it where the guess is nearer, half of it where the guess is above it,
    and the guess where it is lower."""
    probes = [made(80, 0.1, "fail", "queue growing", completed=completed), made(17.2, verdict="fail")]
    assert next_probe(SPEC, 0.99, probes).rate_rps == pytest.approx(rate, rel=1e-4)


def test_the_search_does_not_go_on_below_the_lowest_rate():
    """min_rps itself failed: the search is over, and a step above it the lowest rate is still probed."""
    assert next_probe(SPEC, 0.99, [made(1, verdict="fail")]) is None
    assert next_probe(SPEC, 0.99, [made(1.5, verdict="fail")]).rate_rps == 1


def test_refining_probes_lie_at_the_capacity_and_alike_to_both_sides():
    """One after another: where the curve meets the target, below, above, there again, and half as far below and above; never more
    than 6 % away."""
    spec = SPEC.model_copy(update={"tolerance": 1e-6, "probes": 20})
    around = [9.5, 10.5, 9.8, 10.2, 9.9, 10.1, 9.95]
    found = {}
    for count in range(2, 8):
        probes = [
            made(rate, 1 / (1 + math.exp(math.log(0.01 / 0.99) + 17 * math.log(rate / 10))), n=50000)
            for rate in around[:count]
        ]
        middle = conclude(spec, 0.99, probes).capacity_rps
        assert middle == pytest.approx(10, rel=0.03)
        found[count % 6] = math.log(next_probe(spec, 0.99, probes).rate_rps / middle)
    assert [found[turn] for turn in (0, 3)] == pytest.approx([0, 0], abs=6e-4)
    assert 0.03 < found[2] <= 0.0606
    assert found[1] == pytest.approx(-found[2], rel=0.1)
    assert [found[4], found[5]] == pytest.approx([found[1] / 2, found[2] / 2], rel=0.1)


def test_a_refining_probe_assumes_the_clustering_that_was_seen():
    """Requests over effective requests: the median of the probes near, where misses fell in 3 batches or more; elsewhere nobody
    knows, and 4 is assumed."""
    at = [made(rate, good) for rate, good in ((9.5, 0.995), (10.5, 0.98), (10.0, 0.99))]

    def inflation(*seen):
        probes = [dataclasses.replace(p, effective_requests=p.offered / s) for p, s in zip(at, seen, strict=True)]
        return next_probe(SPEC.model_copy(update={"tolerance": 1e-6}), 0.99, probes).inflation

    assert inflation(1.5, 9.0, 6.0) == pytest.approx(6.0)
    assert inflation(1.5, 2.0, 6.0) == pytest.approx(2.0)
    few = [
        dataclasses.replace(p, batches=((500, 500),) * 8 + ((500, 400),) * 2, effective_requests=p.offered) for p in at
    ]
    three = [
        dataclasses.replace(p, batches=((500, 500),) * 7 + ((500, 460),) * 3, effective_requests=p.offered) for p in at
    ]
    assert _inflation(few) == LEAST_INFLATION == 4.0
    assert _inflation(three) == 1.0


def test_an_invalid_probe_is_made_once_more_and_then_not_gone_beyond():
    """Invalid twice at a rate: the search stays below it, and says why when nothing failed."""
    spec = SPEC.model_copy(update={"start_rps": 40.0})
    probes = [made(40, verdict="pass"), made(80, 0.9, "invalid", "send_lag: the client was late")]
    again = next_probe(spec, 0.99, probes)
    assert again.rate_rps == pytest.approx(80, rel=0.01)
    assert again.rate_rps != 80
    probes += [made(again.rate_rps, 0.9, "invalid", "send_lag: the client was late"), made(72, verdict="pass")]
    assert next_probe(spec, 0.99, probes) is None
    result = conclude(spec, 0.99, probes)
    assert (result.state, result.low_rps) == ("censored_above", 72)
    assert "send_lag" in result.why


def test_only_invalid_probes_are_undecided():
    """Nothing that can be trusted: undecided with the reason, no rate."""
    result = conclude(SPEC, 0.99, [made(10, 0.9, "invalid", "clock_stepped: 3 ms")])
    assert (result.state, result.capacity_rps) == ("undecided", None)
    assert "clock_stepped" in result.why


def test_the_same_probes_give_the_same_next_one():
    """The search has no memory but its probes: cut off anywhere, it goes on as if it had not been."""
    whole = drive(24.0, width=0.05).probes
    for cut in range(len(whole)):
        assert next_probe(SPEC, 0.99, whole[:cut]).rate_rps == whole[cut].rate_rps


def test_no_two_probes_have_the_same_rate():
    """Equal rates would draw equal plans."""
    rates = [p.rate_rps for p in drive(24.0).probes]
    assert len(set(rates)) == len(rates)


def test_the_curve_finds_the_rate_and_covers_it():
    """Binomial misses on a known curve: the estimate is unbiased within 0.5 % and its interval covers in 90 % or more."""
    rng = np.random.default_rng(1)
    ends, covered = [], 0
    for _ in range(150):
        probes = []
        for k, rate in enumerate((9.0, 9.6, 10.0, 10.2, 10.7)):
            miss = 1 / (1 + math.exp(-(math.log(0.01 / 0.99) + 17 * math.log(rate / 10))))
            batches = tuple((400, 400 - int(rng.binomial(400, miss))) for _ in range(10))
            good = sum(g for _, g in batches)
            probes.append(
                ProbeResult(k, rate, rate, 400.0, 4000, good, batches, good / 4000, 0.0, 1.0, 4000.0, None, None, "undecided", "")
            )  # fmt: skip
        curve = fit(probes, 0.99, 9.0)
        ends.append(curve.rate_rps)
        covered += curve.low_rps <= 10 <= curve.high_rps
    assert np.mean(ends) == pytest.approx(10, rel=0.005)
    assert covered >= 135


def test_a_curve_that_knows_next_to_nothing_has_a_wide_interval_and_no_absurd_rate():
    """One cluster of misses in two probes, at any size: the rate stays near the probes, the interval is wide."""
    for misses in (1, 30, 300, 399):
        batches = ((400, 400 - misses), *[(400, 400)] * 9)
        good = sum(g for _, g in batches)
        lone = [
            ProbeResult(
                k, rate, rate, 400.0, 4000, good, batches, good / 4000, 0.0, 1.0, 40.0, None, None, "undecided", ""
            )
            for k, rate in ((1, 9.9), (2, 10.1))
        ]
        for shown in (lone, [lone[0], made(8.0, 1.0)], [made(9.0, 0.5), lone[1]]):
            curve = fit(shown, 0.99, 10.0)
            assert curve is None or (5 < curve.rate_rps < 20 and 0.03 < half_width(curve) <= 0.7)


def uneven_curve(work_cv2):
    """The curve of the same batches, misses spread evenly over them, for requests of that cv^2."""
    shown = [made(rate, share) for rate, share in ((9.5, 0.964), (10.0, 0.95), (10.5, 0.93))]
    return fit([dataclasses.replace(p, work_cv2=work_cv2) for p in shown], 0.95, 10.0)


def test_uneven_work_widens_the_interval():
    """The same batches of requests of cv^2 5: three times as wide an interval as with cv^2 1, for the same slope; what is more even,
    or not known, is as cv^2 1."""
    even, uneven = uneven_curve(1.0), uneven_curve(5.0)
    assert uneven_curve(None) == uneven_curve(0.0) == even
    load = [1 + (curve.slope - 1) / math.log(20) for curve in (even, uneven)]
    assert half_width(uneven) / half_width(even) == pytest.approx(
        3 * load[1] / load[0] * even.slope / uneven.slope, rel=0.03
    )
    assert uneven.rate_rps == pytest.approx(even.rate_rps, rel=0.02)


def test_uneven_work_makes_a_lower_slope_likelier():
    """Where the probes say little of the slope it is 10 for even work, and that over (1 + cv^2) / 2 for cv^2 7, the surer."""
    little = [made(9.99, 0.95, n=500), made(10.01, 0.95, n=500)]
    slopes = [fit([dataclasses.replace(p, work_cv2=cv2) for p in little], 0.95, 10.0).slope for cv2 in (1.0, 7.0)]
    assert slopes == pytest.approx([10.0, 2.5], rel=0.05)
    shown = [made(rate, share, n=500) for rate, share in ((9.0, 0.98), (10.0, 0.95), (11.0, 0.9))]
    slopes = [fit([dataclasses.replace(p, work_cv2=cv2) for p in shown], 0.95, 10.0).slope for cv2 in (1.0, 7.0)]
    assert slopes[0] > 8.5
    assert slopes[1] < 5.0  # 8.5 where the prior is as vague as for even work


def test_probes_that_tell_no_curve_are_no_error():
    """Two probes at nearly one rate, one all misses, far above the centre: no curve, where Fisher scoring runs away."""
    outcomes = ((0, 41, 41, 41, 41, 41, 41, 41, 41, 41), (15, 24, 0, 0, 31, 41, 0, 41, 41, 19))
    probes = [
        ProbeResult(k, rate, rate, 30.0, 410, sum(good), tuple((41, g) for g in good), sum(good) / 410, 0.0, 1.0, 30.0,
                    None, None, "undecided", "")
        for k, (rate, good) in enumerate(zip((8.4879, 8.4983), outcomes, strict=True))
    ]  # fmt: skip
    assert fit(probes, 0.95, 7.0) is None


def test_uneven_work_makes_unseen_clusters_likelier():
    """With too few misses seen to say how they cluster, the next probe takes it from (1 + cv^2) / 2 squared: for cv^2 5, nine times."""
    spread = [made(rate, share, n=100) for rate, share in ((9.9, 0.99), (10.1, 0.98))]
    spread = [dataclasses.replace(p, batches=((10, 9), *[(10, 10)] * 9)) for p in spread]
    orders = [next_probe(SPEC, 0.985, [dataclasses.replace(p, work_cv2=cv2) for p in spread]) for cv2 in (1.0, 5.0)]
    assert [order.inflation for order in orders] == [4.0, 36.0]


def test_what_says_nothing_about_the_target_takes_no_part():
    """A grown queue, an invalid probe, a far one and one that broke off at once are left out of the curve."""
    keep = made(10, 0.99)
    short = ProbeResult(
        2, 10.5, 10.5, 5.0, 50, 30, ((50, 30),), 0.6, 0.5, 0.7, 50.0, None, None, "fail", "clearly below"
    )
    others = [made(11, 0.2, "fail", "queue growing"), made(10.1, 0.9, "invalid", "x"), made(5, 1.0, "pass"), short]
    assert near([keep, *others], 10) == [keep]


def searched(state="found", capacity=10.0, low=9.8, high=10.2):
    return CapacityResult(state, capacity, low, high, 320.0, 0.99, 0.03, 600.0, (), "")


def test_repetitions_are_the_unit():
    """Mean over three nights with Student's t over them."""
    mean = over_repetitions([searched(capacity=c, low=c * 0.99, high=c * 1.01) for c in (9.0, 10.0, 11.0)])
    assert mean.mean_rps == pytest.approx((9 * 10 * 11) ** (1 / 3))
    half = 4.3027 * np.std(np.log([9, 10, 11]), ddof=1) / math.sqrt(3)
    assert mean.high_rps / mean.mean_rps == pytest.approx(math.exp(half), rel=1e-4)


def test_nights_that_agree_by_chance_are_no_surer_than_their_searches():
    """Two equal results keep the searches' own uncertainty / sqrt(2)."""
    mean = over_repetitions([searched(), searched()])
    assert math.log(mean.high_rps / mean.mean_rps) == pytest.approx(math.log(10.2 / 9.8) / 2 / math.sqrt(2), rel=1e-6)


def test_a_censored_night_makes_the_mean_a_bound():
    """One night that never failed: at least; one that is undecided: no mean at all."""
    at_least = over_repetitions([searched(), searched("censored_above", None, 12.0, None)])
    assert (at_least.state, at_least.mean_rps) == ("censored_above", None)
    assert at_least.low_rps == pytest.approx(math.sqrt(120))
    assert over_repetitions([searched(), searched("undecided", None, None, None)]).state == "undecided"


def test_tokens_per_second_of_a_capacity_over_nights():
    """Their geometric mean, also where the rate is only a bound; not known where one night does not know it."""
    known = [dataclasses.replace(searched(), output_tps=tps) for tps in (200.0, 450.0)]
    assert over_repetitions(known).output_tps == pytest.approx(300.0)
    assert over_repetitions(
        [known[0], dataclasses.replace(known[1], state="censored_above")]
    ).output_tps == pytest.approx(300.0)
    assert over_repetitions([*known, dataclasses.replace(searched(), output_tps=None)]).output_tps is None
    assert over_repetitions(known[:1]).output_tps == pytest.approx(200.0)
