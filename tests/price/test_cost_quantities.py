"""Numbers from people: exact as typed, inside their bounds to the last one, refused just beyond them."""

from __future__ import annotations

from decimal import Decimal as D
from fractions import Fraction as F

import pytest

from harness.base.errors import ConfigError, nearest
from harness.base.quantities import (
    HOURS_PER_MONTH,
    HOURS_PER_YEAR,
    above_zero,
    as_fraction,
    at_least_zero,
    exact,
    exact_usd,
    share,
    to_decimal,
    to_float,
    usd,
    whole,
)


def test_a_mean_year_has_leap_days_and_12_months():
    """365.25 days of 24 hours, and a twelfth of them."""
    assert D("365.25") == HOURS_PER_YEAR / 24
    assert HOURS_PER_YEAR / 12 == HOURS_PER_MONTH


@pytest.mark.parametrize(
    ("value", "fraction"),
    [(0.1, F(1, 10)), ("0.1", F(1, 10)), (D("2.50"), F(5, 2)), (3, F(3)), ("1e-3", F(1, 1000)), (F(1, 3), F(1, 3)), (-2.0, F(-2))],
)  # fmt: skip
def test_a_number_is_its_decimal_text(value, fraction):
    """A float is what was typed, not its binary neighbour; a fraction stays itself."""
    assert exact(value, "x") == fraction


@pytest.mark.parametrize("value", [True, None, "many", "", "nan", float("nan"), float("inf"), D("-Infinity"), [1]])
def test_what_is_no_finite_number_is_refused(value):
    """Words, truth values, lists, NaN and infinity: three lines with the name of the quantity."""
    with pytest.raises(ConfigError, match="load is not a number"):
        exact(value, "load")


OVER, UNDER = "1.000000001", "-0.000000001"


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (at_least_zero, ["0", "2.5"], [UNDER, "nan"]),
        (above_zero, ["0.000000001", "2.5"], ["0", UNDER]),
        (share, ["0.000000001", "1"], ["0", UNDER, OVER]),
        (lambda value, what: share(value, what, zero=True), ["0", "1"], [UNDER, OVER]),
    ],
    ids=["at least zero", "above zero", "share", "share or zero"],
)
def test_bounds_are_taken_and_just_beyond_is_not(check, good, bad):
    """Each check at its bounds, as a float; a billionth beyond them is an error that names the quantity."""
    for value in good:
        assert check(value, "x") == float(value)
        assert type(check(value, "x")) is float
    for value in bad:
        with pytest.raises(ConfigError, match=r"^x is"):
            check(value, "x")
    with pytest.raises(ConfigError, match=r"^x is not a number"):
        check("many", "x")


def test_zero_and_negative_are_told_apart():
    """Of what must be above 0, the error says which of the two it is."""
    for value, word in (("0", "is 0"), ("-1", "is negative")):
        with pytest.raises(ConfigError, match=word):
            above_zero(value, "x")


def test_a_share_of_nothing_says_whether_it_may_be_zero():
    """The advice allows 0 only where 0 is allowed."""
    for zero, words in ((False, "give a number above 0, at most 1"), (True, "give 0 or above 0, at most 1")):
        with pytest.raises(ConfigError) as error:
            share(2, "x", zero=zero)
        assert error.value.advice == words


def test_counts_are_whole_and_not_below_their_least():
    """0 is the least unless told otherwise; 2.0 and "2" are 2; half of one, or one too few, is refused."""
    assert [whole(value, "x") for value in (0, 2.0, "2", F(4, 2))] == [0, 2, 2, 2]
    assert type(whole("2", "x")) is int
    assert whole(3, "x", least=3) == 3
    for value, least in ((-1, 0), (0.5, 0), (2, 3)):
        with pytest.raises(ConfigError, match=f"x is not a whole number of at least {least}"):
            whole(value, "x", least=least)
    with pytest.raises(ConfigError, match="x is not a number"):
        whole("many", "x")


def test_dollars_are_decimals_as_they_were_written():
    """A Decimal keeps its digits, a float its shortest text, a third has 28 digits; 0 is a price, less or nothing is none."""
    assert [str(usd(value, "x")) for value in (D("1.10"), 0.1, 0, "2.5")] == ["1.10", "0.1", "0", "2.5"]
    assert usd(F(1, 3), "x") == D(1) / D(3)
    assert exact_usd("0.1", "x") == F(1, 10)
    for price in (usd, exact_usd):
        for value, word in ((None, "missing"), (UNDER, "negative"), ("x", "not a number")):
            with pytest.raises(ConfigError, match=f"x is {word}"):
                price(value, "x")


def test_back_to_decimals_and_floats():
    """Floats by their text, fractions to Decimal's digits; what no float can hold is refused by its name."""
    assert (str(to_decimal(0.1)), to_decimal(F(1, 8))) == ("0.1", D("0.125"))
    assert to_decimal(F(2, 3)) == D(2) / D(3)
    assert to_float(F(1, 4), "x") == 0.25
    with pytest.raises(ConfigError, match="crossing is beyond any number"):
        to_float(F(10**400), "crossing")


def test_the_nearest_words_are_named():
    """At most three, the nearest first, those that share half of their letters; else the other advice."""
    assert nearest("abcd", ["abxy", "axyz"], "none") == "did you mean abxy?"
    assert nearest("abcd", ["axyz"], "look it up") == "look it up"
    four = (word for word in ("abcde", "abcd", "abcdef", "abcdefg"))
    assert nearest("abcd", four, "none") == "did you mean abcd, abcde, abcdef?"


def test_a_computed_number_is_a_fraction_unless_it_overflowed():
    """By its text, however small; infinity and NaN are an error, not a crash."""
    assert [as_fraction(value) for value in (0.1, 1e-30)] == [F(1, 10), F(1, 10**30)]
    for value in (float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="computed rate or time"):
            as_fraction(value)


def test_numbers_that_no_price_or_rate_has_are_refused():
    """From 1e-20 to just below 1e16, and 0; what lies outside, on either side of 0, is named and cut to 40 signs."""
    for value in ("1e-20", "-9.9e15", "9.9e15", "0", "0e99"):
        assert exact(value, "x") == F(value)
    for value in ("9.9e-21", "1e16", "-1e16", "1e999999", "1" * 99):
        with pytest.raises(ConfigError, match="x is beyond any") as error:
            exact(value, "x")
        assert error.value.value == value[:40]
