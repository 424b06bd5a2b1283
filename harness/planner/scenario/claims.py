"""Published arithmetic beside the right one: both are evaluated, neither is typed in as a result."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, DivisionByZero, InvalidOperation

from harness.base.errors import ConfigError

Values = Mapping[str, Decimal | None]

_BINARY: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_CALLS: dict[str, Callable[..., Decimal]] = {"ceil": lambda x: Decimal(math.ceil(x)), "max": max, "min": min}


class _Unknown(Exception):  # noqa: N818 (not an error: a figure that does not exist)
    """A figure that is None: never crossed, not computed."""


def evaluate(text: str, values: Values) -> Decimal | None:
    """Arithmetic over decimal numbers and the names in `values`: + - * / ceil max min. None if a figure in it is None.

    Raises ConfigError: not such arithmetic, an unknown name, a division by 0.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, values)
    except _Unknown:
        return None
    except (SyntaxError, ValueError, DivisionByZero, InvalidOperation, TypeError) as error:
        raise ConfigError("not arithmetic", text, str(error) or f"numbers, + - * / ceil max min; names: {', '.join(sorted(values))}") from None  # fmt: skip


def _value(node: ast.expr, values: Values) -> Decimal:
    match node:
        case ast.Constant(value=bool() | str() | bytes() | None):
            raise ValueError(f"{node.value!r} is not a number")
        case ast.Constant(value=int() | float()):
            return Decimal(str(node.value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, values)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS and args:
            return _CALLS[name](*(_value(arg, values) for arg in args))
        case ast.Name(id=name) if name in values:
            figure = values[name]
            if figure is None:
                raise _Unknown
            return figure
        case ast.Name(id=name):
            raise ValueError(f"unknown name {name}; known: {', '.join(sorted(values))}")
        case _:
            raise ValueError("numbers, names, + - * / ceil max min only")


@dataclass(frozen=True, slots=True)
class Claim:
    """What was published, its arithmetic worked out again, and the right figure with its own arithmetic and the reason.

    `published` None: a number without arithmetic. `right` None: there is no such number (never crossed, cannot be known).
    """

    row: int | None
    says: str
    stated: str
    arithmetic: str
    published: Decimal | None
    right_arithmetic: str
    right: Decimal | None
    unit: str
    reason: str


def compare(
    row: int | None, says: str, stated: str, arithmetic: str, ours: str, unit: str, reason: str, values: Values
) -> Claim:
    """Evaluate both sides. The published side may use numbers only: nothing of ours gets into it."""
    return Claim(
        row=row,
        says=says,
        stated=stated,
        arithmetic=arithmetic,
        published=evaluate(arithmetic, {}) if arithmetic else None,
        right_arithmetic=ours,
        right=evaluate(ours, values) if ours else None,
        unit=unit,
        reason=reason,
    )
