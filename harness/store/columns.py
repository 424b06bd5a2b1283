"""Rows -> Arrow, a column at a time."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from harness.base import redaction
from harness.base.errors import StoreError
from harness.store.schema import schema_of

_SAID_BY_A_SERVER = ("error", "finish_reason", "metric", "labels")
_CONVERSION_ERRORS = (pa.ArrowException, OverflowError, TypeError, ValueError)


_MALLOC = {-3: 1 << 18, -8: 1, -1: 1 << 20}  # of glibc's malloc.h: M_MMAP_THRESHOLD, M_ARENA_MAX, M_TRIM_THRESHOLD


class _NoPandas:
    """A finder that has none."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ImportError(name)


def without_pandas() -> None:
    """For a process that goes on for months: PyArrow looks once whether there is pandas, and would import it, 45 MiB for nothing. Frames are not
    to be had in this process any more; nothing happens where it is imported already."""
    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas)
        try:
            pa.array([None])
        finally:
            sys.meta_path.remove(_NoPandas)


def give_memory_back() -> None:
    """For such a process too: large blocks go back to the system when they are freed, and threads share one heap. glibc and Arrow otherwise keep
    what the largest moment took, once a thread; elsewhere nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC.items():
            mallopt(option, value)
        pa.set_memory_pool(pa.system_memory_pool())


def release() -> None:
    """What was freed goes back to the system, also from between what is in use: in a process that goes on, the next large moment then begins
    lower."""
    pa.default_memory_pool().release_unused()


def _lists(values: list[Any], arrow_type: Any) -> Any:
    """A list column from tuples through one flat buffer: three times as fast as pyarrow's own nested conversion."""
    present = [v for v in values if v is not None]
    lengths = np.fromiter((0 if v is None else len(v) for v in values), np.int32, len(values))
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    kind = np.int64 if arrow_type.value_type == pa.int64() else np.float64
    flat = np.fromiter(chain.from_iterable(present), kind, int(offsets[-1]))
    mask = None
    if len(present) < len(values):
        mask = pa.array([v is None for v in values], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=arrow_type, mask=mask)


def _column(values: list[Any], column: Any) -> Any:
    array = _lists(values, column.type) if pa.types.is_list(column.type) else pa.array(values, column.type)
    if array.null_count and not column.nullable:
        raise ValueError(f"{column.name} may not be null")
    return array


def _convert(table: str, rows: Sequence[Any]) -> Any:
    schema = schema_of(table)
    columns = [list(map(attrgetter(c.name), rows)) for c in schema]
    for at, column in enumerate(schema):
        if column.name in _SAID_BY_A_SERVER:
            columns[at] = [redaction.text(v) if isinstance(v, str) else v for v in columns[at]]
    return pa.Table.from_arrays([_column(values, c) for values, c in zip(columns, schema, strict=True)], schema=schema)


def _repaired(row: Any, schema: Any) -> Any:
    """The row with what a server can break made storable: unencodable text replaced, impossible numbers null and named
    in the row's `error`. Raises StoreError where a value that may not be null is impossible."""
    changes: dict[str, Any] = {}
    lost: list[str] = []
    for column in schema:
        value = getattr(row, column.name)
        try:
            _column([value], column)
        except _CONVERSION_ERRORS as error:
            if isinstance(value, str) and column.type == pa.string():
                changes[column.name] = value.encode("utf-8", "replace").decode()
            elif column.nullable:
                changes[column.name] = None
                lost.append(f"{column.name} not storable: {value!r:.60}")
            else:
                where = f"{column.name} = {value!r:.200}"
                raise StoreError("row cannot be stored", where, f"expected {column.type}: {error}") from None
    if lost and "error" in {f.name for f in fields(row)}:
        changes["error"] = "; ".join([*filter(None, [changes.get("error", row.error)]), *lost])
    return replace(row, **changes)


def to_table(table: str, rows: Sequence[Any]) -> Any:
    """pyarrow.Table of records of one kind. Raises StoreError for a row that cannot be stored even after repair."""
    try:
        return _convert(table, rows)
    except _CONVERSION_ERRORS:
        return _convert(table, [_repaired(row, schema_of(table)) for row in rows])


def together(tables: Sequence[Any]) -> Any:
    """Several pyarrow.Tables of one schema as one, nothing copied."""
    return pa.concat_tables(tables)
