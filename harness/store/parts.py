"""Part files: what a run's rows stand in until it ends.

`parts/<table>-00001.parquet`, .. hold disjoint rows in order. `<table>.parquet`, once it exists, holds them all, and
parts beside it are left over from a kill between the merge and their removal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.base.errors import StoreError
from harness.base.files import whole_file
from harness.store.columns import to_table
from harness.store.schema import parquet_options, schema_of

SCRATCH = "scratch"  # folder of a run directory that its load generator works in; gone when a phase has ended
RESERVE = "reserve.tmp"  # while a run goes on: room for its last manifest, should the disk be full by then
GROUP_ROWS = 131_072  # a row group of a merged file ends at either
GROUP_BYTES = 32 << 20


def part_path(run_dir: Path, table: str, number: int) -> Path:
    return run_dir / "parts" / f"{table}-{number:05d}.parquet"


def final_path(run_dir: Path, table: str) -> Path:
    return run_dir / f"{table}.parquet"


def list_parts(run_dir: Path, table: str) -> list[Path]:
    """Part files of a table in the order they were written; empty if there are none."""
    pattern = re.compile(re.escape(table) + r"-(\d+)\.parquet")
    numbered = [(int(m[1]), p) for p in run_dir.glob(f"parts/{table}-*.parquet") if (m := pattern.fullmatch(p.name))]
    return [p for _, p in sorted(numbered)]


def warm_up() -> None:
    """Pay for pyarrow's first conversion and first write, which load pandas (0.5 s of CPU), before a run is under way."""
    pq.write_table(to_table("host", []), pa.BufferOutputStream(), **parquet_options("host"))


def write_file(path: Path, table: str, data: Any) -> None:
    """Write a pyarrow.Table as one Parquet file, whole or not at all. Raises OSError."""
    with whole_file(
        path, synced=False
    ) as part:  # every second of a run: a sync would hold up who writes replies to the same disk
        pq.write_table(data, part, row_group_size=GROUP_ROWS, **parquet_options(table))


def append_part(run_dir: Path, table: str, rows: Sequence[Any]) -> None:
    """Add rows to a run that nobody writes any more, as one part; nothing if there are none. Raises StoreError."""
    if rows:
        append_table(run_dir, table, to_table(table, rows))


def append_table(run_dir: Path, table: str, data: Any) -> None:
    """As `append_part`, of a pyarrow.Table. Raises StoreError."""
    try:
        _part_again(run_dir, table)
    except OSError as error:
        raise StoreError("rows cannot be added", run_dir, f"{error.strerror or error}") from error
    last = max((int(path.stem.rpartition("-")[2]) for path in list_parts(run_dir, table)), default=0)
    path = part_path(run_dir, table, last + 1)
    try:
        path.parent.mkdir(exist_ok=True)
        write_file(path, table, data)
    except OSError as error:
        raise StoreError("rows cannot be written", path, f"{error.strerror or error}; free disk space") from error


def rewrite(run_dir: Path, table: str, change: Callable[[Any], Any]) -> None:
    """What `change` leaves of the rows of each part of a run that nobody writes any more. Raises StoreError."""
    try:
        _part_again(run_dir, table)
        for path in list_parts(run_dir, table):
            with pq.ParquetFile(path) as file:
                data = file.read()
            changed = change(data)
            if changed.num_rows < data.num_rows:
                write_file(path, table, changed)
    except OSError as error:
        raise StoreError("rows cannot be replaced", run_dir, f"{error.strerror or error}; free disk space") from error


def _part_again(run_dir: Path, table: str) -> None:
    """Make a merged file the first part, for parts beside a merged file are not read (those that are there are in it)."""
    final = final_path(run_dir, table)
    if final.exists():
        for part in list_parts(run_dir, table):
            part.unlink()
        final.parent.joinpath("parts").mkdir(exist_ok=True)
        final.replace(part_path(run_dir, table, 1))


def _row_groups(parts: list[Path]) -> Iterator[Any]:
    """The parts' rows, regrouped into tables of about GROUP_BYTES; at most one such and one part are in memory."""
    held: list[Any] = []
    rows = size = 0
    for part in parts:
        with pq.ParquetFile(part) as file:
            for group in range(file.num_row_groups):
                piece = file.read_row_group(group)
                if held and (rows + piece.num_rows > GROUP_ROWS or size + piece.nbytes > GROUP_BYTES):
                    yield pa.concat_tables(held)
                    held, rows, size = [], 0, 0
                held.append(piece)
                rows, size = rows + piece.num_rows, size + piece.nbytes
    if held:
        yield pa.concat_tables(held)


def merge(run_dir: Path, table: str) -> None:
    """Merge a table's parts into `<table>.parquet`, in bounded memory, then remove them; nothing if there are none.

    A kill at any moment leaves either every part, or the whole final file. Raises OSError or pa.ArrowException, parts kept.
    """
    final, parts = final_path(run_dir, table), list_parts(run_dir, table)
    if not parts:
        return
    with (
        whole_file(final) as merged,
        pq.ParquetWriter(merged, schema_of(table), **parquet_options(table)) as writer,
    ):
        for group in _row_groups(parts):
            writer.write_table(group, row_group_size=GROUP_ROWS)
    for part in parts:
        part.unlink()
