"""Results of the cost model as JSON on stdout."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import click

from harness.base.documents import plain


def _leaf(value: Any) -> Any:
    """Money as decimal text, what is not finite as "inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return format(value, "f") if isinstance(value, Decimal) else value


def emit(value: Any) -> None:
    """Print a result as JSON, without the pydantic specs in it."""
    click.echo(json.dumps(plain(value, _leaf, without="spec"), indent=2, default=str))
