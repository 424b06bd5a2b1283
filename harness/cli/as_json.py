"""Results of the cost model as JSON on stdout."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any

import click


def plain(value: Any) -> Any:
    """A result as JSON values: money as decimal text, what is not finite as "inf", pydantic specs left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "spec"}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return format(value, "f") if isinstance(value, Decimal) else value


def emit(value: Any) -> None:
    click.echo(json.dumps(plain(value), indent=2, default=str))
