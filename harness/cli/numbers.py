"""Numbers of a command line: `inf` and `nan` are words that Python reads as numbers, and no price, time or rate."""

from __future__ import annotations

import math
from typing import Any

import click


class _Finite(click.ParamType[Any]):
    """click's own number, refused where it is not finite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Float(_Finite, click.types.FloatParamType):
    """Any finite number."""


class FloatRange(_Finite, click.FloatRange):
    """A finite number between ends."""
