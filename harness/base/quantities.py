"""Numbers from people, checked where they come in: finite, in range, named in the error. Money is Decimal.

A float is taken as its shortest decimal text (0.1 is a tenth, not 0.1000000000000000055): what the user typed.
"""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from harness.base.errors import ConfigError

Number = float | int | Decimal | Fraction | str

HOURS_PER_MONTH = Decimal("730.5")  # a mean month: 8766 h / 12
HOURS_PER_YEAR = Decimal(8766)  # a mean year, leap days in

_SMALLEST, _LARGEST = -21, 16  # powers of ten: no price, rate or count of people is outside, nor a board's FLOP/s


def exact(value: Number, what: str) -> Fraction:
    """`value` as an exact fraction of its decimal text. Raises ConfigError unless it is a finite number."""
    try:
        if isinstance(value, Fraction):
            return value
        number = Decimal(str(value))  # "True" is no number
        if number.is_finite():
            if number and not _SMALLEST < number.adjusted() < _LARGEST:
                raise ConfigError(f"{what} is beyond any", f"{value!s:.40}", "give a number between 1e-20 and 1e16")
            return Fraction(number)
    except (InvalidOperation, ValueError):
        pass
    raise ConfigError(f"{what} is not a number", f"{value!s:.80}", "give a finite number")


def as_fraction(value: float) -> Fraction:
    """A rate or time that was computed in floats, however small, as the fraction of its text. Raises ConfigError for inf and NaN."""
    if not math.isfinite(value):
        raise ConfigError("a computed rate or time is beyond any number", value, "check the units of the rates")
    return Fraction(str(value))


def exact_at_least_zero(value: Number, what: str) -> Fraction:
    """`value` as an exact fraction, 0 or more. Raises ConfigError."""
    number = exact(value, what)
    if number < 0:
        raise ConfigError(f"{what} is negative", value, "give 0 or more")
    return number


def at_least_zero(value: Number, what: str) -> float:
    """`value` as a float, 0 or more. Raises ConfigError."""
    exact_at_least_zero(value, what)
    return float(value)


def exact_above_zero(value: Number, what: str) -> Fraction:
    """`value` as an exact fraction above 0. Raises ConfigError."""
    number = exact(value, what)
    if number <= 0:
        raise ConfigError(f"{what} is {'0' if number == 0 else 'negative'}", value, "give a number above 0")
    return number


def above_zero(value: Number, what: str) -> float:
    """`value` as a float above 0. Raises ConfigError."""
    exact_above_zero(value, what)
    return float(value)


def exact_share(value: Number, what: str, *, zero: bool = False) -> Fraction:
    """`value` as an exact fraction in (0, 1], or [0, 1] with `zero`. Raises ConfigError."""
    number = exact(value, what)
    if number < 0 or number > 1 or (number == 0 and not zero):
        raise ConfigError(f"{what} is out of range", value, f"give {'0 or' if zero else 'a number'} above 0, at most 1")
    return number


def share(value: Number, what: str, *, zero: bool = False) -> float:
    """`value` as a float in (0, 1], or [0, 1] with `zero`. Raises ConfigError."""
    exact_share(value, what, zero=zero)
    return float(value)


def whole(value: Number, what: str, *, least: int = 0) -> int:
    """`value` as an int, `least` or more. Raises ConfigError."""
    number = exact(value, what)
    if number.denominator != 1 or number < least:
        raise ConfigError(f"{what} is not a whole number of at least {least}", value, "give a count")
    return int(number)


def usd(value: Number | None, what: str) -> Decimal:
    """Dollars, 0 or more. Raises ConfigError; a price that is missing (None) is never 0."""
    if value is None:
        raise ConfigError(f"{what} is missing", "None", "a price that is not known is not 0: give it with its source")
    number = exact(value, what)
    if number < 0:
        raise ConfigError(f"{what} is negative", value, "a price is 0 or more")
    return value if isinstance(value, Decimal) else to_decimal(number)


def exact_usd(value: Number, what: str) -> Fraction:
    """Dollars, 0 or more, as an exact fraction. Raises ConfigError."""
    usd(value, what)
    return exact(value, what)


def to_decimal(number: Fraction | float) -> Decimal:
    """A fraction to the 28 digits of Decimal; a float as its shortest text."""
    if isinstance(number, float):
        return Decimal(repr(number))
    return Decimal(number.numerator) / Decimal(number.denominator)


def to_float(number: Fraction, what: str) -> float:
    """The nearest float. Raises ConfigError where there is none."""
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if math.isinf(value):
        raise ConfigError(f"{what} is beyond any number", "more than 1e308", "check the units of the prices and rates")
    return value
