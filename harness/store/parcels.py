"""Rows of requests that were made on another machine: packed there, put on this one's clock, cut to what is new, without a Python object
per row or token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from harness.base.errors import StoreError
from harness.records import Outcome, RequestRecord
from harness.store.columns import to_table
from harness.store.schema import schema_of

Ints = npt.NDArray[np.int64]
# what a row's one offset is taken at: the first of these that the row has
_WHEN = ("sent_ns", "connect_started_ns", "due_ns", "scheduled_ns", "ended_ns")


def pack(rows: Sequence[RequestRecord]) -> bytes:
    """Rows of `requests` as an Arrow IPC stream. Raises StoreError for a row that cannot be stored."""
    table = to_table("requests", rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def unpack(parcel: bytes) -> Any:
    """The pyarrow.Table of a packed parcel, as views of its bytes. Raises pa.ArrowException where it is none."""
    with pa.ipc.open_stream(pa.py_buffer(parcel)) as stream:
        return stream.read_all()


def read_parcel(path: Path) -> Any:
    """The pyarrow.Table of a file with a packed parcel. Raises StoreError."""
    try:
        return unpack(path.read_bytes())
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())[:200]
        raise StoreError(
            "a part of a node's rows cannot be read", f"{path}: {why}", "copy the folder from the node again"
        ) from None


def absolute_columns() -> list[str]:
    """Columns of `requests` that hold stamps of a clock: those in ns."""
    return [field.name for field in schema_of("requests") if field.metadata[b"unit"] == b"ns"]


def numbers(table: Any, name: str) -> Ints:
    """A column of int64 as numpy, 0 where it is null."""
    column = table.column(name)
    return np.asarray(pc.fill_null(column, 0).to_numpy(), np.int64)


def when(table: Any) -> Ints:
    """An instant of each row on the clock that stamped it."""
    return np.asarray(pc.coalesce(*(table.column(name) for name in _WHEN)).to_numpy(), np.int64)


def on_our_clock(table: Any, offsets_ns: Ints, worker_of: Callable[[Ints], Ints]) -> Any:
    """The table with `offsets_ns[i]` added to every stamp of row i, so that what lies between two stamps of a row stays what it was;
    `worker_of` turns a node's worker numbers into those of the whole run."""
    per_row = pa.array(offsets_ns)
    for name in absolute_columns():
        at = table.schema.get_field_index(name)
        column = table.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], table.schema.field(name).type)
        is_list = pa.types.is_list(column.type)
        shifted = _lists_plus(column, offsets_ns) if is_list else pc.add(column, per_row)
        table = table.set_column(at, table.schema.field(name), shifted)
    at = table.schema.get_field_index("worker")
    return table.set_column(at, table.schema.field("worker"), pa.array(worker_of(numbers(table, "worker"))))


def _lists_plus(column: Any, offsets_ns: Ints) -> Any:
    bounds = column.offsets.to_numpy()
    flat = column.values.to_numpy()[bounds[0] : bounds[-1]] if len(column) else np.empty(0, np.int64)
    lengths = np.diff(bounds)
    shifted = pa.array(flat + np.repeat(offsets_ns, lengths))
    return pa.ListArray.from_arrays(pa.array((bounds - bounds[0]).astype(np.int32)), shifted, type=column.type)


def only(table: Any, keep: npt.NDArray[np.bool_]) -> Any:
    """The rows where `keep` is true."""
    return table if keep.all() else table.filter(pa.array(keep))


def records(
    table: Any, *, most: int | None = None, failed_first: bool = False, lists: bool = True
) -> list[RequestRecord]:
    """Rows as records, in their order. `most`: no more than so many, with `failed_first` those that an API
    answered with an error before others: what watches refusals needs no other. Without `lists` they are empty."""
    if most is not None and table.num_rows > most:
        rows = np.arange(table.num_rows)
        if failed_first:
            failed = pc.equal(table.column("outcome"), Outcome.HTTP_ERROR.value).to_numpy(zero_copy_only=False)
            rows = np.concatenate([rows[failed], rows[~failed]])
        table = table.take(pa.array(np.sort(rows[:most])))
    columns = []
    for name in table.schema.names:
        column = table.column(name)
        if pa.types.is_list(column.type):
            values = column.to_pylist() if lists else [()] * table.num_rows
            columns.append([None if value is None else tuple(value) for value in values])
        else:
            columns.append(column.to_pylist())
    return [RequestRecord(*values) for values in zip(*columns, strict=True)]


def warm_up() -> None:
    """Pay for the first packing and the first shift before a run is under way, as `parts.warm_up`."""
    table = unpack(pack([]))
    on_our_clock(table, when(table), lambda workers: workers)
