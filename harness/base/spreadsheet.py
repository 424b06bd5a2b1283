"""Text in a CSV that a spreadsheet may open: the one rule against formulas that come from outside."""

from __future__ import annotations

import re
from typing import Any

_FORMULA = re.compile(r"[\t\r]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")  # full-width forms count too
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula with an apostrophe before it; numbers, written out too, as they are."""
    formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if formula else value
