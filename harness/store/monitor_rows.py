"""A monitor's rows as columns: a sequence of records for who wants one, NumPy arrays for who wants them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness.records import HourUsage, ServerReading
from harness.store.columns import to_table
from harness.store.schema import MONITOR_TABLES, schema_of

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Row = TypeVar("Row", ServerReading, HourUsage)


class Rows(Sequence[Row], Generic[Row]):
    """Rows of one of MONITOR_TABLES. `warnings`: files that could not be read, by name; `began_ns`: pool -> when it was first watched,
    where rows before these are known."""

    def __init__(
        self, table: Any, name: str, warnings: Sequence[str] = (), began_ns: Mapping[str, int] | None = None
    ) -> None:
        self.table, self.of = table, name
        self.warnings, self.began_ns = tuple(warnings), dict(began_ns or {})

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Rows[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | Rows[Row]:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            return self.take(np.arange(start, stop, step, dtype=np.int64))
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return next(iter(self.take(np.array([at % len(self)], dtype=np.int64))))

    def __iter__(self) -> Iterator[Row]:
        record: Any = MONITOR_TABLES[self.of]
        names = [f.name for f in fields(record)]
        lists = {name for name in names if pa.types.is_list(self.table.schema.field(name).type)}
        for batch in self.table.to_batches(max_chunksize=1000):
            columns = [batch.column(name).to_pylist() for name in names]
            columns = [[tuple(v) for v in c] if name in lists else c for name, c in zip(names, columns, strict=True)]
            for values in zip(*columns, strict=True):
                yield record(**dict(zip(names, values, strict=True)))

    def take(self, indices: IntArray) -> Rows[Row]:
        return Rows(self.table.take(pa.array(indices)), self.of, self.warnings, self.began_ns)

    def where(self, mask: Any) -> Rows[Row]:
        return Rows(self.table.filter(pa.array(mask)), self.of, self.warnings, self.began_ns)

    def stamps(self, name: str) -> IntArray:
        """An int column; -1 for null."""
        column = self.table.column(name)
        return np.asarray(column.fill_null(-1).to_numpy(), dtype=np.int64)

    def numbers(self, name: str) -> FloatArray:
        """A float column; NaN for null."""
        return np.asarray(self.table.column(name).to_numpy(), dtype=np.float64)

    def words(self, name: str) -> tuple[IntArray, list[str]]:
        """A text column as codes, and the texts that they stand for, sorted."""
        column = self.table.column(name).combine_chunks().dictionary_encode()
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        names = column.dictionary.to_pylist()
        order = sorted(range(len(names)), key=names.__getitem__)
        place = np.empty(len(names), dtype=np.int64)
        place[order] = np.arange(len(names))
        return place[np.asarray(column.indices.to_numpy(), dtype=np.int64)], [names[i] for i in order]

    def lists(self, name: str) -> tuple[FloatArray, IntArray]:
        """A list column as its values in one array, and the n + 1 offsets of its rows in it."""
        column = self.table.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            if column.num_chunks == 0:
                return np.zeros(0), np.zeros(1, dtype=np.int64)
            column = column.chunk(0)
        offsets = np.asarray(column.offsets.to_numpy(), dtype=np.int64)
        return np.asarray(column.values.to_numpy(), dtype=np.float64), offsets


def readings_of(rows: Sequence[ServerReading]) -> Rows[ServerReading]:
    """Readings as columns, if they are not yet."""
    return rows if isinstance(rows, Rows) else Rows(to_table("readings", rows), "readings")


def hours_of(rows: Sequence[HourUsage]) -> Rows[HourUsage]:
    """Hours as columns, if they are not yet."""
    return rows if isinstance(rows, Rows) else Rows(to_table("hours", rows), "hours")


def empty(name: str) -> Rows[Any]:
    return Rows(schema_of(name).empty_table(), name)


def joined(parts: Sequence[Rows[Row]]) -> Rows[Row]:
    """Rows of all, with all their warnings and what any of them knows of a pool's first watching."""
    began: dict[str, int] = {}
    for part in parts:
        began |= {pool: min(at, began.get(pool, at)) for pool, at in part.began_ns.items()}
    tables = [part.table.replace_schema_metadata(None) for part in parts]
    warnings = dict.fromkeys(warning for part in parts for warning in part.warnings)
    return Rows(pa.concat_tables(tables), parts[0].of, tuple(warnings), began)
