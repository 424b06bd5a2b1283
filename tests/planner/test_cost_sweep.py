"""Capacity out of several rates: Wilson's interval, the odds that carry it over to a rate, and which rates count."""

from __future__ import annotations

import math
from statistics import variance

import pytest

from harness.planner.sweep import LEVEL, OfferedRate, Sweep, sweep


def rate(rps, *attained, requests=4000, **words):
    """A run for each attainment."""
    return OfferedRate(rps, tuple((requests, share) for share in attained), **words)


def wilson(misses, n):
    """The two roots of (p - x)^2 = z^2 x (1 - x) / n."""
    z2 = 1.645**2
    a, b, c = 1 + z2 / n, -(2 * misses + z2 / n), misses**2
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def odds(share):
    return share / (1 - share)


def carried(misses, target, slope):
    """The rate at which the target is met, over that of the misses."""
    return (odds(1 - target) / odds(misses)) ** (1 / slope)


# ---------------------------------------------------------------- one rate


def test_all_requests_of_a_rate_together():
    """100 at 99 % and 300 at 95 %: 96 %; where the number of one run is not known, every run counts the same."""
    both = OfferedRate(5, ((100, 0.99), (300, 0.95)))
    assert (both.requests, both.attainment) == (400, pytest.approx(0.96))
    unknown = OfferedRate(5, ((100, 0.99), (None, 0.95)))
    assert (unknown.requests, unknown.attainment) == (None, pytest.approx(0.97))
    nothing = OfferedRate(5, ((0, 0.99), (0, 0.95)))
    assert (nothing.requests, nothing.attainment) == (0, pytest.approx(0.97))
    assert OfferedRate(5, ((0, 0.5), (100, 0.9))).attainment == 0.9
    assert (OfferedRate(5, ((7, 1.0),)).steady, OfferedRate(5, ((7, 1.0),)).run_ids) == (True, ())


@pytest.mark.parametrize(
    ("attained", "steady", "kept"),
    [
        (0.99, True, True),
        (0.99 - 0.9e-9, True, True),
        (0.99 - 2e-9, True, False),
        (1.0, True, True),
        (1.0, False, False),
    ],
)
def test_a_promise_that_is_kept(attained, steady, kept):
    """To a billionth, and not where a queue grew."""
    assert rate(5, attained, steady=steady).keeps(0.99) is kept
    assert rate(5, 0.0).keeps(1e-9)  # that billionth included


@pytest.mark.parametrize("attained", [0.99, 0.5, 0.1])
def test_the_misses_of_one_run(attained):
    """Wilson's interval of a quarter of its requests: neighbours share a queue."""
    assert rate(5, attained).misses_between() == pytest.approx(wilson(1 - attained, 1000))


@pytest.mark.parametrize("attained", [1.0, 0.0])
def test_no_misses_and_nothing_else(attained):
    """Within 0 and 1."""
    low, high = rate(5, attained).misses_between()
    edge = 1.645**2 / 1000 / (1 + 1.645**2 / 1000)
    assert (low, high) == ((0.0, pytest.approx(edge)) if attained == 1.0 else (pytest.approx(1 - edge), 1.0))


def test_runs_that_differ_by_more_than_their_requests_say():
    """Three runs of 4,000: their variance over that of single requests says how many of those tell as much as one."""
    shares = (0.9, 0.94, 0.98)
    crowded = variance(shares) * 4000 / (0.94 * 0.06)
    assert crowded > 4
    assert rate(5, *shares).misses_between() == pytest.approx(wilson(0.06, 12_000 / crowded))
    alike = (0.939, 0.94, 0.941)
    assert variance(alike) * 4000 / (0.94 * 0.06) < 4
    assert rate(5, *alike).misses_between() == pytest.approx(wilson(0.06, 3000))
    assert rate(5, 0.9, 0.98).misses_between() == pytest.approx(wilson(0.06, 2000))  # two show no spread
    assert rate(5, 1.0, 1.0, 1.0).misses_between() == pytest.approx((0, 1.645**2 / (3000 + 1.645**2)))
    assert rate(5, 0.0, 0.0, 0.0).misses_between() == pytest.approx((3000 / (3000 + 1.645**2), 1))


@pytest.mark.parametrize("runs", [((None, 0.9),), ((0, 0.9),), ((None, 0.9), (10, 0.9))])
def test_misses_of_nobody_knows_how_many(runs):
    """No interval."""
    assert OfferedRate(5, runs).misses_between() is None


# ---------------------------------------------------------------- several


def test_the_walk_ends_at_the_first_that_broke_it():
    """In the order of rates, whatever order they come in; what kept it again further up is named; the level is 90 %."""
    two, five, eight, nine, ten = rate(2, 1.0), rate(5, 0.995), rate(8, 0.9), rate(9, 0.8), rate(10, 0.995)
    found = sweep([ten, five, nine, two, eight], 0.99)
    assert (found.kept, found.broke, found.again) == (five, eight, (ten,))
    assert LEVEL == 0.9
    assert sweep([eight, ten], 0.99) is None
    assert sweep([], 0.99) is None


def test_nothing_that_broke_it():
    """No high end; the low one by the slope that is taken at least, 7."""
    five = rate(5, 0.995)
    low = 5 * min(1.0, carried(wilson(0.005, 1000)[1], 0.99, 7))
    assert sweep([five], 0.99) == Sweep(five, None, pytest.approx(low), None, ())
    assert low < 5


def test_a_rate_that_surely_kept_it_has_itself_for_a_low_end():
    """Where all that the misses may be is within the promise; and a lower rate's sureness is a floor under a higher one's doubt."""
    sure, doubtful = rate(5, 1.0, requests=40_000), rate(6, 0.99, requests=100)
    assert sweep([sure], 0.99).low_rps == 5
    assert sweep([doubtful], 0.99).low_rps == pytest.approx(6 * carried(wilson(0.01, 25)[1], 0.99, 7))
    assert sweep([doubtful], 0.99).low_rps < 5
    assert sweep([sure, doubtful], 0.99).low_rps == 5
    unsure = rate(5, 0.99, requests=100)
    assert sweep([unsure, doubtful], 0.99).low_rps < 5


def test_between_two_rates():
    """The misses at 5/s may be as few as Wilson says: so far up the odds carry, and never beyond what broke it."""
    five, six, eight = rate(5, 0.993), rate(5.0001, 0.9), rate(8, 0.9)
    low, high = wilson(0.007, 1000)
    found = sweep([five, eight], 0.99)
    slope = math.log(odds((0.1 * 4000 + 0.5) / 4001) / odds((0.007 * 4000 + 0.5) / 4001)) / math.log(8 / 5)
    assert 1 < slope < 7
    assert (found.low_rps, found.high_rps) == pytest.approx(
        (5 * carried(high, 0.99, slope), 5 * carried(low, 0.99, slope))
    )
    near = sweep([five, six], 0.99)  # steep: no steeper than 7 is believed
    assert near.low_rps == pytest.approx(5 * carried(high, 0.99, 7))
    assert near.high_rps == 5.0001


def test_the_flattest_of_the_rates_above_counts():
    """A rate far up that misses little more says that the odds rise slowly: to the power of 1 at least."""
    five, eight, far = rate(5, 0.993), rate(8, 0.9), rate(50, 0.989)
    flat = sweep([five, eight, far], 0.99)
    assert flat.low_rps == pytest.approx(5 * carried(wilson(0.007, 1000)[1], 0.99, 1))
    assert flat.high_rps == 8
    again = sweep([five, rate(8, 0.985), rate(9, 0.999)], 0.99)  # less than 0: 1
    assert again.low_rps == pytest.approx(flat.low_rps)


def test_rates_of_one_size_have_no_slope():
    """Two of the same rate, one of which a queue grew in: 1, whatever they missed."""
    kept, grew = rate(5, 0.993), rate(5, 0.5, steady=False)
    found = sweep([kept, grew], 0.99)
    assert found.low_rps == pytest.approx(5 * carried(wilson(0.007, 1000)[1], 0.99, 1))
    assert found.high_rps == 5


def test_requests_of_which_the_number_is_not_known():
    """No interval of the capacity where that of the kept rate is not known; a broken rate counts as 1,000."""
    unknown = OfferedRate(5, ((None, 0.995),))
    assert sweep([unknown, rate(8, 0.9)], 0.99) == Sweep(unknown, rate(8, 0.9), None, None, ())
    five, broken = rate(5, 0.993), OfferedRate(8, ((None, 0.9),))
    slope = math.log(odds((0.1 * 1000 + 0.5) / 1001) / odds((0.007 * 4000 + 0.5) / 4001)) / math.log(8 / 5)
    found = sweep([five, broken], 0.99)
    assert found.low_rps == pytest.approx(5 * carried(wilson(0.007, 1000)[1], 0.99, slope))
    lower = OfferedRate(2, ((None, 1.0),))  # nor is it a floor
    assert sweep([lower, five, broken], 0.99).low_rps == found.low_rps


def test_odds_of_nothing_are_those_of_a_millionth():
    """A target of everything, and misses that may be all."""
    all_of_them = rate(5, 1.0)
    found = sweep([all_of_them, rate(8, 0.5)], 1.0)
    slope = min(7, math.log(odds((0.5 * 4000 + 0.5) / 4001) / odds(0.5 / 4001)) / math.log(8 / 5))
    edge = 1.645**2 / (1000 + 1.645**2)
    assert found.low_rps == pytest.approx(5 * (odds(1e-6) / odds(edge)) ** (1 / slope))
    assert found.high_rps == 5
    none_of_them = sweep([rate(5, 0.0), rate(8, 0.0, steady=False)], 0.0)
    assert (none_of_them.low_rps, none_of_them.high_rps) == (5, 8)
