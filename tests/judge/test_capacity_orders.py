"""Every order of a capacity search and every conclusion as a whole, worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.config.load import CapacitySpec
from harness.judge.capacity.fit import fit
from harness.judge.capacity.orders import CapacityMean, ProbeOrder, best_probe, conclude, next_probe, over_repetitions
from harness.records import CapacityResult, ProbeResult

SPEC = CapacitySpec(start_rps=10, min_rps=1, max_rps=100, probe_s=(60, 600))
CLEAR_S = math.sqrt(60 * 600)  # a probe of the bracket is as long


def probe(rate, verdict="undecided", good=None, **changes):
    """Ten batches of 500; `good` of each, by the verdict where it is not given."""
    good = {"pass": 500, "fail": 0, "invalid": 500}[verdict] if good is None else good
    share = good / 500
    made = ProbeResult(1, rate, rate, 600.0, 5000, 10 * good, ((500, good),) * 10, share, share, share, 1000.0, 160_000, None,
                       verdict, "longest probe", "r")  # fmt: skip
    return replace(made, **changes)


def passes(*rates):
    return [probe(rate, "pass") for rate in rates]


def fails(*rates):
    return [probe(rate, "fail") for rate in rates]


def grown(rate, completed):
    return probe(rate, "fail", stopped="queue growing", completed_rps=completed)


def lost(*rates):
    return [probe(rate, "invalid", stopped="late") for rate in rates]


@pytest.mark.parametrize(
    ("probes", "rate", "spec"),
    [
        ([], 10.0, {}),
        (passes(10), 20.0, {}),
        (fails(10), 5.0, {}),
        (fails(1.8), 1.0, {}),
        (fails(1.0), None, {}),
        (fails(1.0 + 1e-8), 1.0, {}),
        (passes(60), 100.0, {}),
        (passes(100), None, {}),
        (passes(100), None, {"max_rps": 103.0}),
        (passes(100), 103.1, {"max_rps": 103.1}),
        # a bracket is halved; after an overload the guess is taken where it is well inside
        ([*passes(40), *fails(80)], 56.569, {}),
        ([*passes(40), grown(80, 60.0)], 51.0, {}),
        ([*passes(40), grown(80, 51.7)], 56.569, {}),
        ([*passes(40), grown(80, 51.8)], 44.03, {}),
        ([*passes(40), grown(80, 85.6)], 56.569, {}),
        ([*passes(40), grown(80, 85.5)], 72.675, {}),
        ([*passes(40), grown(80, None)], 56.569, {}),
        ([grown(80, 60.0), *passes(40)], 56.569, {}),
        # below what failed: from the slowest overload
        ([grown(80, 40.0), grown(60, 30.0)], 25.5, {}),
        ([grown(80, 0.5)], 1.0, {}),
        ([grown(80, None)], 40.0, {}),
        # what may be undecided guides by its side
        ([probe(10, good=495)], 20.0, {}),
        ([probe(10, good=494)], 5.0, {}),
        ([probe(10, good=495, attainment=None)], 5.0, {}),
        # invalid: once more, a little beside; twice: below
        (lost(80), 80.04, {}),
        ([*passes(40), *lost(80)], 80.04, {}),
        ([*passes(40), *lost(80, 80.04)], 72.036, {}),
        ([*passes(40), *lost(80, 82.4)], 74.16, {}),
        ([*passes(40), *lost(80, 82.41)], 82.451, {}),
        ([*passes(40), *lost(80, 80.04, 72.036)], 72.072, {}),
        ([*passes(40), *lost(90, 90.04, 80, 80.04), *passes(71)], None, {}),
        ([*passes(40), *lost(90, 90.04, 80, 80.04), *passes(69)], 72.036, {}),
        (lost(10, 10.01), 4.5045, {}),
        (lost(2, 2.4, 2.4), 1.08, {}),
        (lost(2.2, 2.2), None, {}),
        (lost(2.4, 2.4), 1.08, {}),
        # a bracket of clear verdicts that is narrow enough
        ([*passes(10), grown(10.52, None)], None, {}),
        ([*passes(10), grown(10.53, None)], 10.262, {}),
        # the probes are used up
        (passes(*range(1, 13)), None, {}),
        (passes(*range(1, 12)), 22.0, {}),
    ],
)  # fmt: skip
def test_the_next_rate_where_there_is_no_curve(probes, rate, spec):
    """And the whole order: its number, the length of a probe of the bracket, nothing assumed of how misses cluster."""
    order = next_probe(SPEC.model_copy(update=spec), 0.99, probes)
    expected = None if rate is None else ProbeOrder(len(probes) + 1, rate, CLEAR_S, 60.0, 1.0, patient=False)
    assert order == (expected if expected is None else replace(expected, rate_rps=pytest.approx(rate, rel=1e-9)))


NEAR = [probe(9.6, good=497), probe(10.0, good=495), probe(10.4, good=492)]


@pytest.mark.parametrize(("probe_s", "patience_s"), [((60, 600), 180.0), ((300, 600), 300.0), ((180.1, 600), 180.1)])
def test_the_order_where_there_is_a_curve(probe_s, patience_s):
    """The longest probe, heard out for three tenths of it or the shortest, with the clustering seen: here 5,000 over 1,000."""
    order = next_probe(SPEC.model_copy(update={"probe_s": probe_s, "tolerance": 0.001}), 0.99, [*NEAR, NEAR[1]])
    curve = fit([*NEAR, NEAR[1]], 0.99, 10.0)
    turn = -0.5 * min(0.06, 1 / curve.slope)  # the fifth of the sides: 4 probes are there already
    rate = float(f"{curve.rate_rps * math.exp(turn):.5g}")
    assert order == ProbeOrder(5, rate, 600.0, patience_s, 5.0, patient=True)


@pytest.mark.parametrize(
    ("rate", "attainment", "stay_s", "lengths"),
    [
        (2, 0.99, 0.5, (60, 600)),  # no longer than a minute and ten
        (20, 0.99, 0.5, (60, 600)),
        (40, 0.99, 0.5, (30, 300)),  # 1,200 and 12,000 requests
        (200, 0.99, 0.5, (10, 60)),
        (2000, 0.99, 0.5, (10, 30)),  # a window of 5 s and its settling
        (200, 0.9, 0.5, (10, 60)),
        (200, 0.999, 0.5, (60, 600)),  # as many misses are ten times the requests
        (200, 0.99, 5, (35, 100)),  # 7 and 20 E2EL
        (200, 0.99, None, (28, 80)),  # E2EL not yet known: 4 s
        (200, 0.99, 60, (420, 600)),
        (200, 0.99, 200, (600, 600)),
    ],
)
def test_a_probe_lasts_as_long_as_its_requests_and_several_e2el(rate, attainment, stay_s, lengths):
    """Without probe_s: requests over the rate, E2ELs where they are longer, between what a window needs and ten minutes."""
    assert CapacitySpec(start_rps=10).lengths_s(rate, attainment, stay_s) == pytest.approx(lengths)


def test_a_declared_probe_s_stays_as_it_is():
    """Whatever the rate and the E2EL, and a pass asks for no number of E2ELs."""
    assert SPEC.lengths_s(200, 0.999, 60) == (60, 600)
    assert (SPEC.stays, next_probe(SPEC, 0.99, []).stays) == (0, 0)


FREE = CapacitySpec(start_rps=200)


@pytest.mark.parametrize(
    ("probes", "stay_s"),
    [
        ([], 4),
        ([probe(100, "pass", stay_s=3.0), probe(90, "pass", stay_s=2.0), probe(400, "fail", stay_s=50.0)], 3),
        ([probe(400, "fail", stay_s=50.0), probe(300, "fail", stay_s=8.0), probe(200, "invalid", stay_s=1.0)], 8),
        ([probe(100, "pass")], 4),  # of an older harness: not recorded
    ],
    ids=["none", "served", "overloads", "unrecorded"],
)
def test_the_e2el_is_that_of_a_load_that_was_served(probes, stay_s):
    """The longest of those that kept the promise, else the shortest of the overloads, never of a probe that cannot be trusted."""
    order = next_probe(FREE, 0.99, probes)
    shortest, longest = FREE.lengths_s(order.rate_rps, 0.99, stay_s)
    assert (order.shortest_s, order.longest_s, order.stays) == (shortest, math.sqrt(shortest * longest), 7)


def test_a_curve_is_fitted_within_30_percent_only():
    """13/s failed and 10/s did not: near enough for a curve; with 9.99/s the middle is probed."""
    assert next_probe(SPEC, 0.99, [probe(10.0, good=499), probe(13.0, good=480)]).patient
    order = next_probe(SPEC, 0.99, [probe(9.99, good=499), probe(13.0, good=480)])
    assert order == ProbeOrder(3, 11.396, CLEAR_S, 60.0)


def narrow(seconds=525.0, missing=15):
    """Four probes within 10 % of a curve of many requests; `missing`: of their batches hold misses."""
    found = []
    for rate, good in ((9.8, 49_600), (9.95, 49_520), (10.05, 49_450), (10.2, 49_300)):
        batches = ((50_000, good),) * 4 + ((50_000, 50_000),) * 6
        share = (4 * good + 300_000) / 500_000
        found.append(probe(rate, good=495, seconds=seconds, batches=batches, offered=500_000, attainment=share))
    if missing < 16:
        found[0] = replace(
            found[0], batches=((50_000, 49_600),) * (missing - 12) + ((50_000, 50_000),) * (22 - missing)
        )
    return found


@pytest.mark.parametrize(
    ("seconds", "missing", "over"), [(525.0, 15, True), (524.9, 15, False), (525.0, 14, False), (525.0, 16, True)]
)
def test_a_narrow_interval_is_believed_with_enough_time_and_misses_around_it(seconds, missing, over):
    """3.5 longest probes within 10 % of the capacity, and misses in 15 batches: a little less of either, and it goes on."""
    order = next_probe(SPEC.model_copy(update={"tolerance": 0.5}), 0.996, narrow(seconds, missing))
    assert (order is None) == over


def test_time_around_the_capacity_is_within_10_percent_of_it():
    """A probe 10.1 % away adds nothing, one 9.9 % away does."""
    spec = SPEC.model_copy(update={"tolerance": 0.5})
    near = narrow(524.9)
    at = fit(near, 0.996, 10.0).rate_rps
    beside = [probe(at * math.exp(-off), good=499, seconds=60.0) for off in (0.115, 0.085)]
    assert next_probe(spec, 0.996, [*near, beside[0]]) is not None
    assert next_probe(spec, 0.996, [*near, beside[1]]) is None


def test_the_search_ends_at_85_percent_of_the_tolerance():
    """The half-width over 0.85 is the tolerance at which it just ends."""
    found = conclude(SPEC, 0.996, narrow())
    just = math.log(found.high_rps / found.low_rps) / 2 / 0.85
    assert next_probe(SPEC.model_copy(update={"tolerance": just * (1 + 1e-9)}), 0.996, narrow()) is None
    assert next_probe(SPEC.model_copy(update={"tolerance": just * (1 - 1e-9)}), 0.996, narrow()) is not None


# ---------------------------------------------------------------- conclusions


def concluded(probes, attainment=0.99, **spec):
    return conclude(SPEC.model_copy(update=spec), attainment, probes)


@pytest.mark.parametrize(
    ("probes", "spec", "expected", "why"),
    [
        ([], {}, ("undecided", None, None, None, None), "no probe was made"),
        (lost(10), {}, ("undecided", None, None, None, None), "late"),
        (passes(10, 20), {}, ("censored_above", None, 20, None, 640.0), "within the probes allowed"),
        (passes(99.9), {}, ("censored_above", None, 99.9, None, 99.9 * 32), "max_rps included"),
        (passes(99.89), {}, ("censored_above", None, 99.89, None, 99.89 * 32), "within the probes allowed"),
        ([*passes(10), *lost(20, 20.01)], {}, ("censored_above", None, 10, None, 320.0), "20.01/s and above cannot be trusted: late"),
        ([replace(passes(10)[0], scheduled_rate_rps=None)], {}, ("censored_above", None, 10, None, 320.0), "within the probes allowed"),
        (fails(4, 2), {}, ("censored_below", None, None, 2, None), "within the probes allowed"),
        (fails(1.001), {}, ("censored_below", None, None, 1.001, None), "min_rps included"),
        (fails(1.0011), {}, ("censored_below", None, None, 1.0011, None), "within the probes allowed"),
        ([probe(10, good=499)], {}, ("undecided", None, None, None, None), "on which side"),
        ([probe(10, good=490)], {}, ("undecided", None, None, None, None), "on which side"),
        ([*passes(10), probe(30, good=490)], {}, ("undecided", None, 10, None, 320.0), "on which side"),
        ([*fails(30), probe(10, good=499)], {}, ("undecided", None, None, 30, None), "on which side"),
        ([*passes(10), *fails(10.5)], {}, ("found", math.sqrt(105), 10, 10.5, math.sqrt(105) * 32), "within +-3.0%"),
        ([*passes(10), *fails(40)], {}, ("found", 20, 10, 40, None), "+-69.3% is wider than +-3.0%"),
        # clear verdicts that contradict each other bound nothing
        ([*passes(10), *fails(10)], {}, ("undecided", None, None, None, None), "on which side"),
        ([*passes(20), *fails(10)], {}, ("undecided", None, None, None, None), "on which side"),
    ],
)  # fmt: skip
def test_the_conclusion_as_a_whole(probes, spec, expected, why):
    """State, rates, tokens/s (32 a request), target, tolerance, seconds, probes; and why."""
    probes = [replace(p, stopped="queue growing") if p.verdict == "fail" else p for p in probes]
    result = concluded(probes, **spec)
    state, capacity, low, high, tps = (
        each if each is None or isinstance(each, str) else pytest.approx(each) for each in expected
    )
    assert result == CapacityResult(
        state, capacity, low, high, tps, 0.99, 0.03, 600.0 * len(probes), tuple(probes), result.why
    )
    assert why in result.why


def test_the_conclusion_of_a_curve_is_the_curves():
    """Rate and interval of the curve; tokens/s by the offered requests of the probes near it, and none where one does not know."""
    probes = [NEAR[0], replace(NEAR[1], output_tokens=80_000, offered=2500), NEAR[2], *passes(5)]
    curve = fit(probes, 0.99, 10.0)
    result = concluded(probes)
    assert result.state == "found"
    assert (result.capacity_rps, result.low_rps, result.high_rps) == pytest.approx(
        (curve.rate_rps, curve.low_rps, curve.high_rps)
    )
    assert result.output_tps == pytest.approx(curve.rate_rps * 400_000 / 12_500)
    assert concluded([*probes[:3], replace(probes[3], output_tokens=None)]).output_tps == pytest.approx(
        result.output_tps
    )
    assert concluded([replace(probes[0], output_tokens=None), *probes[1:]]).output_tps is None


# ---------------------------------------------------------------- over repetitions, and the best probe


def searched(state="found", capacity=10.0, low=9.8, high=10.2, tps=320.0):
    return CapacityResult(state, capacity, low, high, tps, 0.99, 0.03, 600.0, (), "")


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([], ("undecided", 0, None, None, None, None)),
        ([searched()], ("found", 1, 10.0, 9.8, 10.2, 320.0)),
        ([searched("censored_above", None, 12.0, None)], ("censored_above", 1, None, 12.0, None, 320.0)),
        ([searched("censored_below", None, None, 12.0)], ("undecided", 1, None, None, None, None)),
        ([searched(), searched("undecided", None, 5.0, None)], ("undecided", 2, None, None, None, None)),
        ([searched(capacity=8.0, tps=200.0), searched("censored_above", None, 18.0, None, 450.0)], ("censored_above", 2, None, 12.0, None, 300.0)),
        # 12.706 of Student's t times the deviation of two logs over sqrt 2, which is half their difference
        ([searched(capacity=10.0), searched(capacity=11.0)],
         ("found", 2, math.sqrt(110), math.sqrt(110) * 1.1 ** (-12.7062047 / 2), math.sqrt(110) * 1.1 ** (12.7062047 / 2), 320.0)),
        # the searches' own: sqrt(0.2^2 + 0.4^2) / (2 x 2)
        ([searched(low=10 * math.exp(-0.1), high=10 * math.exp(0.1)), searched(low=10 * math.exp(-0.2), high=10 * math.exp(0.2), tps=None)],
         ("found", 2, 10.0, 10 * math.exp(-math.sqrt(0.2) / 4), 10 * math.exp(math.sqrt(0.2) / 4), None)),
    ],
)  # fmt: skip
def test_the_mean_over_repetitions_as_a_whole(results, expected):
    """State, repetitions, mean, interval and tokens/s."""
    close = (each if each is None or isinstance(each, str) else pytest.approx(each, rel=1e-7) for each in expected)
    assert over_repetitions(results) == CapacityMean(*close)


def test_the_best_probe_is_the_highest_that_is_within_what_was_found():
    """A clear pass up to the capacity, or without one up to the bound; undecided ones up to the bound; each with a run and above the target."""
    ten, nine = replace(probe(10.0, "pass"), run_id="ten"), replace(probe(9.0, good=496), run_id="nine")

    def best(*probes, capacity=10.0, low=9.0):
        found = best_probe(CapacityResult("found", capacity, low, 11.0, None, 0.99, 0.03, 1.0, probes, ""))
        return found and found.run_id

    assert best(ten, nine) == best(nine, ten) == "ten"
    assert best(ten, nine, capacity=9.99) == "nine"
    assert best(ten, capacity=None, low=10.0) == "ten"
    assert best(ten, capacity=None, low=9.99) is None
    assert best(ten, capacity=None, low=None) is None
    assert best(nine, low=8.99) is None
    assert best(nine, low=None) is None
    assert best(replace(nine, attainment=0.99)) == "nine"
    assert best(replace(nine, attainment=0.9899)) is None
    assert best(replace(nine, attainment=None)) is None
    assert best(replace(ten, run_id=None), nine) == "nine"
    assert best(replace(ten, verdict="fail"), nine) == "nine"
