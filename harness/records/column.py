"""A stored column: its unit and meaning stand beside the field."""

from __future__ import annotations

from dataclasses import field
from typing import Any

SCHEMA_VERSION = 1


def col(unit: str, doc: str, **kw: Any) -> Any:
    """A stored column: `unit` as in the field's metadata ("" for none), `doc` in one sentence."""
    return field(metadata={"unit": unit, "doc": doc}, **kw)
