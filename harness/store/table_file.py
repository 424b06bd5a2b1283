"""A flat table of texts as one Parquet file with types, for exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from harness.base import redaction
from harness.base.errors import StoreError
from harness.base.files import whole_file

Kind = Literal["text", "decimal", "whole", "utc"]
_TYPES = {
    "text": pa.string(),
    "decimal": pa.decimal128(38, 18),
    "whole": pa.int64(),
    "utc": pa.timestamp("us", tz="UTC"),
}


_PLACES, _WIDE = Decimal("1e-18"), Context(prec=38)


def _value(text: str, kind: Kind) -> Any:
    if not text:
        return None
    match kind:
        case "decimal":
            return Decimal(text).quantize(_PLACES, context=_WIDE)
        case "whole":
            return int(text)
        case "utc":
            return datetime.fromisoformat(text)
        case "text":
            return redaction.known(text)


def write_table_file(path: Path, kinds: Mapping[str, Kind], rows: Sequence[Mapping[str, str]]) -> None:
    """Write `rows` (texts; an empty one is null) with the columns and types of `kinds`, whole or not at all. Raises StoreError.

    decimal: 20 digits before the point and 18 behind; utc: ISO 8601 with its zone.
    """
    try:
        columns = [pa.array([_value(row[name], kind) for row in rows], _TYPES[kind]) for name, kind in kinds.items()]
        with whole_file(path) as part:
            pq.write_table(pa.Table.from_arrays(columns, names=list(kinds)), part)
    except (OSError, pa.ArrowException, ArithmeticError, ValueError) as error:
        raise StoreError("table cannot be written", path, str(error)) from None
