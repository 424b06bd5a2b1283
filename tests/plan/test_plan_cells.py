"""Cells of a trace: numbers of tokens, clock times and instants, to their ends."""

from __future__ import annotations

import pytest

from harness.measure.plan.traces.values import BadValueError, clock_ns, instant_ns, tokens


def test_values_that_are_numbers_of_tokens():
    """Whole numbers, as text or with a fraction of 0, from 0 to ten million."""
    for value in (5, "5", 5.0, "5.0", "5e0", " 5 ", True and 5):
        assert tokens("x", value) == 5
    assert (tokens("x", 0), tokens("x", "10000000")) == (0, 10_000_000)
    for value, reason in (("5.5", "whole"), (5.5, "whole"), (None, "whole"), ("", "whole"), ("inf", "whole"), ([], "whole"),
                          (-1, "negative"), ("-1.0", "negative"), (10_000_001, "absurd")):  # fmt: skip
        with pytest.raises(BadValueError, match=reason) as caught:
            tokens("x", value)
        assert (caught.value.column, caught.value.value, caught.value.failure) == ("x", value, False)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01 00:00:00", 0),
        ("1970-01-02T01:02:03.000000004", (86_400 + 3723) * 10**9 + 4),
        ("1970-01-01 23:59:60.5", 86_400 * 10**9 + 5 * 10**8),  # a leap second
        ("1970-01-01 00:00:00.1234567891", 123_456_789),
        ("1970-01-01 02:30:00+02:30", 0),
        ("1970-01-01 02:30:00+0230", 0),
        ("1970-01-01 00:00:00.25-01:15", 4500 * 10**9 + 25 * 10**7),
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01 00:00:01 UTC", 10**9),
        ("1969-12-31 23:59:59", -(10**9)),
        ("2000-03-01 00:00:00", 951_868_800 * 10**9),
    ],
)
def test_clock_times_to_the_nanosecond(text, ns):
    """Nanoseconds since 1970, zones taken off."""
    assert clock_ns(text) == ns
    assert instant_ns("x", text, "clock") == ns
    assert instant_ns("x", text, "any") == ns


@pytest.mark.parametrize(
    "text", ["1970-01-01 24:00:00", "1970-01-01 00:60:00", "1970-01-01 00:00:61", "1970-01-01 00.00:00", "1970-01-01 00:00.00",
             "1970-01-01_00:00:00", "1970-02-30 00:00:00", "1970-01-01 00:00:00x", "1970-01-01 00:00:00*01:00",
             "1970-01-01 00:00:00+1", "1970-01-01 00:00", "yesterday", ""],
)  # fmt: skip
def test_what_is_no_clock_time(text):
    """Refused as such, never guessed."""
    with pytest.raises(BadValueError, match="not a date and time of day"):
        instant_ns("x", text, "clock")


def test_instants_by_their_unit():
    """Seconds and milliseconds as decimal fractions, exact; clock times only where the format may have them."""
    assert instant_ns("t", 1.1, "s") == 1_100_000_000
    assert instant_ns("t", "0.000000001", "s") == 1
    assert instant_ns("t", "1.5", "ms") == 1_500_000
    assert instant_ns("t", "12", "any") == 12_000_000_000
    assert instant_ns("t", -2, "s") == -2_000_000_000
    assert instant_ns("t", "4611686018.427387903", "s") == 2**62 - 1
    for value, unit in (
        ("nan", "s"),
        ("inf", "s"),
        ("4611686018.427387904", "s"),
        ("1970-01-01 00:00:00", "s"),
        (None, "any"),
        ("x:y", "any"),
    ):
        with pytest.raises(BadValueError, match="not a time") as caught:
            instant_ns("t", value, unit)
        assert (caught.value.column, caught.value.value) == ("t", value)
