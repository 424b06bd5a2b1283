"""What a trace consists of: rows, good or bad, and their cells: whole numbers of tokens, and times to the nanosecond."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any

from harness.measure.plan.lengths import MAX_TOKENS

_FRACTION_DIGITS = 9
_MOST_NS = 2**62  # 146 years: an offset between two such times is still an int64


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of a trace. `time_ns` counts from wherever the format does; `line` is where it stands in the file."""

    line: int
    time_ns: int | None
    prompt_tokens: int
    output_tokens: int
    session: Hashable | None = None
    parent: Hashable | None = None
    hashes: Sequence[int] | None = None
    scope: int = 0  # hashes of different scopes have nothing to do with each other
    think_ns: int | None = None
    bound: bool = False  # output_tokens is only the most that may have been generated


@dataclass(frozen=True, slots=True)
class BadRow:
    """`failure`: the trace itself says that the request failed, which is not a fault of the file."""

    where: str  # file and line
    column: str
    value: str
    reason: str
    failure: bool = False


class BadValueError(Exception):
    def __init__(self, column: str, value: object, reason: str, *, failure: bool = False) -> None:
        super().__init__(column, value, reason)
        self.column, self.value, self.reason, self.failure = column, value, reason, failure


def shown(value: object) -> str:
    """A value in an error: its beginning."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python does not print a number of thousands of digits
        return "a number of thousands of digits"


def tokens(column: str, value: Any) -> int:
    if isinstance(value, bool):
        raise BadValueError(column, value, "a whole number of tokens is needed")
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        try:
            number = int(float(value))
            whole = number == float(value)
        except (TypeError, ValueError, OverflowError):
            whole, number = False, 0
        if not whole:
            raise BadValueError(column, value, "a whole number of tokens is needed") from None
    if isinstance(value, float) and number != value:
        raise BadValueError(column, value, "a whole number of tokens is needed")
    if number < 0:
        raise BadValueError(column, value, "a length cannot be negative")
    if number > MAX_TOKENS:
        raise BadValueError(column, value, f"a length above {MAX_TOKENS:,} tokens is absurd")
    return number


@lru_cache(maxsize=4096)
def _day_ns(text: str) -> int:
    return (date.fromisoformat(text).toordinal() - 719_163) * 86_400_000_000_000


def clock_ns(text: str) -> int:
    """`2024-05-12 00:00:00.0011630[+00:00]` -> ns since 1970, to every digit up to 9. Raises ValueError."""
    hour, minute, second = int(text[11:13]), int(text[14:16]), int(text[17:19])
    if not (text[10] in " T" and text[13] == text[16] == ":" and hour < 24 and minute < 60 and second < 61):
        raise ValueError(text)
    ns = _day_ns(text[:10]) + (hour * 3600 + minute * 60 + second) * 1_000_000_000
    rest = text[19:]
    if rest.startswith("."):
        end = 1
        while end < len(rest) and rest[end].isdigit():
            end += 1
        ns += int(rest[1:end][:_FRACTION_DIGITS].ljust(_FRACTION_DIGITS, "0"))
        rest = rest[end:]
    return ns - _zone_ns(rest) if rest else ns


@lru_cache(maxsize=64)
def _zone_ns(text: str) -> int:
    if text in ("Z", " UTC"):
        return 0
    sign, digits = text[0], text[1:].replace(":", "")
    if sign not in "+-" or len(digits) != 4:
        raise ValueError(text)
    return (1 if sign == "+" else -1) * (int(digits[:2]) * 60 + int(digits[2:])) * 60_000_000_000


_SCALE = {"s": Decimal(10**9), "ms": Decimal(10**6)}


def instant_ns(column: str, value: Any, unit: str) -> int:
    try:
        text = str(value)
        if unit == "clock" or (unit == "any" and ":" in text):
            ns = clock_ns(text)
            if abs(ns) < _MOST_NS:
                return ns
            raise BadValueError(column, value, "a date more than 146 years from 1970")
        number = Decimal(text) * _SCALE["ms" if unit == "ms" else "s"]
        if number.is_finite() and abs(number) < _MOST_NS:
            return int(number.to_integral_value())
    except (ValueError, IndexError, ArithmeticError):  # what Decimal raises is an ArithmeticError
        pass
    raise BadValueError(column, value, "not a time" if unit != "clock" else "not a date and time of day")
