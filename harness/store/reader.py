"""Reads a run directory back: finished, going on, or killed at any moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.base.errors import StoreError
from harness.records import RunData, RunState
from harness.store.chunks import ChunkRows, from_columns
from harness.store.columns import to_table
from harness.store.manifest import NAME, holds_capacity, is_alive, read_manifest, refuse_newer, refuse_pruned
from harness.store.parts import SCRATCH, final_path, list_parts
from harness.store.schema import PANDAS_DTYPES, TABLES, defaults_of, schema_of

_CHUNKS = ("chunk_ns", "chunk_tokens")
_CHUNKS_AT_ONCE = 1 << 18  # of them decoded together, about
_OF_NO_NUMBER = {  # facts for who looks into one request
    "requests": frozenset(
        {
            "request_id",
            "worker",
            "connect_ns",
            "tls_ns",
            "first_byte_ns",
            "response_bytes",
            "connection_reused",
            "routed_why",
        }
    ),
    "plan": frozenset({"scheduled_ns", "target_output_tokens", "session_id", "think_ns"}),
}

_T = TypeVar("_T")


def _dtype(arrow_type: Any) -> Any:
    name = PANDAS_DTYPES.get(arrow_type)
    return None if name is None else pd.api.types.pandas_dtype(name)


def _frame(data: Any) -> pd.DataFrame:
    frame: pd.DataFrame = data.to_pandas(types_mapper=_dtype, ignore_metadata=True)
    return frame


def frame_of(table: str, rows: Sequence[Any]) -> pd.DataFrame:
    """Records as the data frame that `read_run` would give for them."""
    return _frame(to_table(table, rows))


def _conform(data: Any, schema: Any, table: str, path: Path) -> Any:
    """The columns of `schema`, which are some of the table's, in its order; a column that an older file lacks is null, or the record's
    default. Raises StoreError."""
    columns = []
    for f in schema:
        if f.name in data.column_names:
            columns.append(data.column(f.name).cast(f.type))
        elif f.nullable:
            columns.append(pa.nulls(data.num_rows, f.type))
        elif f.name in (defaults := defaults_of(table)):
            columns.append(pa.array([defaults[f.name]] * data.num_rows, f.type))
        else:
            raise StoreError("column missing", f"{path}: {f.name}", "not written by this harness, or damaged")
    return pa.Table.from_arrays(columns, schema=schema)


def _read_file(path: Path, table: str, without: frozenset[str] = frozenset()) -> Any:
    """pyarrow.Table of one file. Raises FileNotFoundError as it is, StoreError for what cannot be read."""
    return _opened(path, lambda file: _columns_of(file, path, table, without))


def _read_judged(path: Path) -> tuple[Any, list[ChunkRows]]:
    """Of a file of requests what numbers are made of: a pyarrow.Table without the chunks, and those. Raises as `_read_file`."""
    without = _OF_NO_NUMBER["requests"].union(_CHUNKS)
    return _opened(path, lambda file: (_columns_of(file, path, "requests", without), _chunks_of(file, path)))


def _opened(path: Path, read: Callable[[Any], _T]) -> _T:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return read(file)
    except (FileNotFoundError, StoreError):
        raise
    except Exception as error:  # damaged bytes make pyarrow raise whatever it stumbles over
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise StoreError("file cannot be read", path, f"{why}; it is damaged") from None


def _columns_of(file: Any, path: Path, table: str, without: frozenset[str]) -> Any:
    refuse_newer((file.schema_arrow.metadata or {}).get(b"schema_version"), str(path))
    schema = schema_of(table)
    if without:
        schema = pa.schema([f for f in schema if f.name not in without], schema.metadata)
    rows = _conform(file.read([name for name in file.schema_arrow.names if name not in without]), schema, table, path)
    rows.validate(full=True)
    return rows


def _chunks_of(file: Any, path: Path) -> list[ChunkRows]:
    """A piece at a time, so that the lists never stand in memory together. Raises StoreError."""
    schema = pa.schema([schema_of("requests").field(name) for name in _CHUNKS])
    names = [name for name in _CHUNKS if name in file.schema_arrow.names]
    pieces = []
    for batch in file.iter_batches(_rows_at_once(file.metadata), columns=names):
        rows = _conform(pa.Table.from_batches([batch]), schema, "requests", path).combine_chunks()
        rows.validate(full=True)
        stamps, tokens = (rows.column(name).chunk(0) for name in _CHUNKS)
        pieces.append(from_columns(stamps, tokens))
    return pieces


def _rows_at_once(metadata: Any) -> int:
    """Of a file of requests, by how long its lists are on average."""
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    rows = int(metadata.num_rows)
    values = sum(max(int(group.column(at).num_values) for at in range(group.num_columns)) for group in groups)
    return max(1, _CHUNKS_AT_ONCE * rows // max(1, values))


def _pieces(run_dir: Path, table: str, notes: list[str], read: Callable[[Path], _T], tries: int = 3) -> list[_T]:
    """What `read` gives of a table's final file, else of each of its parts; none if there is neither."""
    final = final_path(run_dir, table)
    if final.exists():
        return [read(final)]
    pieces: list[_T] = []
    skipped: list[str] = []
    for path in list_parts(run_dir, table):
        try:
            pieces.append(read(path))
        except FileNotFoundError:  # its run is ending: merged and removed while we read
            if tries:
                return _pieces(run_dir, table, notes, read, tries - 1)
            raise StoreError("part file vanished while it was read", path, "the run is ending: try again") from None
        except StoreError as error:
            if "newer" in error.what:
                raise
            skipped.append(f"skipped {path.name}: {error.advice}")
    if not pieces and final.exists():
        return [read(final)]
    notes += skipped
    return pieces


def _read_table(run_dir: Path, table: str, notes: list[str], without: frozenset[str] = frozenset()) -> Any | None:
    """A table from its final file, else from its parts; None if there is neither. `without`: columns that are not read."""
    pieces = _pieces(run_dir, table, notes, lambda path: _read_file(path, table, without))
    return pa.concat_tables(pieces) if pieces else None


def _judged_requests(run_dir: Path, notes: list[str]) -> tuple[Any | None, list[ChunkRows]]:
    """As `_read_judged`, of all files."""
    files = _pieces(run_dir, "requests", notes, _read_judged)
    table = pa.concat_tables([rows for rows, _ in files]) if files else None
    return table, [rows for _, of_file in files for rows in of_file]


def _without_empty_lists(data: Any | None) -> Any | None:
    """Without list columns that have nothing in any row: each of their rows would be an array of its own."""
    if data is None:
        return None
    return data.select(
        [f.name for f in data.schema if not pa.types.is_list(f.type) or len(pc.list_flatten(data.column(f.name)))]
    )


def read_columns(run_dir: Path, table: str, names: Sequence[str]) -> list[list[Any]]:
    """Some columns of a table as Python values, from its final file, else from its parts; empty if there is neither. Raises
    StoreError as `read_run`."""
    data = _read_table(run_dir, table, [])
    return [[] if data is None else data.column(name).to_pylist() for name in names]


def read_run(path: Path | str) -> RunData:
    """A run as it stands on disk: final files, else part files read as one, never both.

    Frames have nullable dtypes (Int64, Float64, boolean, string) and NumPy arrays in list columns. `requests` and `plan`
    are empty frames where the run was killed before their first row; the others are None. Of a run that still says
    running though its process is gone, `state` is interrupted and `error` says so; skipped parts are named there too,
    and `row_counts` are what could be read.
    Raises StoreError: not a run, a pruned one, a damaged final file, a newer schema version.
    """
    return _read(path, judged=False)


def read_judged(path: Path | str) -> RunData:
    """A run as `read_run` gives it, but of its requests only what numbers are made of: without columns that only name and describe a request,
    and with the chunks flat, in `chunks`, row for row. A tenth of the memory."""
    return _read(path, judged=True)


def _read(path: Path | str, *, judged: bool) -> RunData:
    run_dir = Path(path)
    manifest = read_manifest(run_dir)
    refuse_pruned(run_dir)
    notes: list[str] = []
    if manifest.state == RunState.RUNNING and not is_alive(manifest.owner_pid, manifest.owner_start_ticks):
        manifest = read_manifest(run_dir)  # it may have ended since
        if manifest.state == RunState.RUNNING:
            manifest = replace(manifest, state=RunState.INTERRUPTED.value)
            notes.append("its process ended without finishing the run")
            if next(run_dir.glob(f"{SCRATCH}/drive-*"), None):
                notes.append(f"replies that it had not stored: harness recover {run_dir}")
    frames: dict[str, Any] = {}
    chunks: list[ChunkRows] | None = None
    for table in TABLES:  # one after the other: with its frame a table is there twice
        if not judged:
            data = _read_table(run_dir, table, notes)
        elif table == "requests":
            data, chunks = _judged_requests(run_dir, notes)
        else:
            data = _without_empty_lists(_read_table(run_dir, table, notes, _OF_NO_NUMBER.get(table, frozenset())))
        frames[table] = None if data is None else _frame(data)
        del data
        pa.default_memory_pool().release_unused()
    counts = {table: len(frame) for table, frame in frames.items() if frame is not None}
    if notes:
        manifest = replace(manifest, error="; ".join([*filter(None, [manifest.error]), *notes]))
    if manifest.state != RunState.COMPLETE:
        manifest = replace(manifest, row_counts=counts)
    elif any(counts.get(table, 0) != n for table, n in manifest.row_counts.items()):
        rows = f"{run_dir}: {counts}, manifest: {dict(manifest.row_counts)}"
        raise StoreError(
            "rows are missing or too many", rows, "the directory was changed after the run; run the cell again"
        )
    for table in ("requests", "plan"):
        if frames[table] is None:
            frames[table] = frame_of(table, [])
    return RunData(str(run_dir), manifest, **frames, chunks=chunks)


def is_run(path: Path | str) -> bool:
    """True if the directory holds a manifest.json, and is not that of a capacity search, whose runs are its probes."""
    return (Path(path) / NAME).is_file() and not holds_capacity(Path(path))


def find_capacities(path: Path) -> list[Path]:
    """Directories of finished capacity searches at `path`: itself or its children, sorted by name."""
    if holds_capacity(path):
        return [path]
    return sorted(child for child in path.iterdir() if child.is_dir() and holds_capacity(child))


def find_runs(path: Path | str) -> list[Path]:
    """Run directories at `path`: itself, or its children, sorted by name; empty if it holds none.

    Raises StoreError if there is no such directory.
    """
    directory = Path(path)
    if is_run(directory):
        return [directory]
    try:
        return sorted(child for child in directory.iterdir() if is_run(child))
    except OSError as error:
        advice = f"{error.strerror}; give a run directory or an experiment directory under results/"
        raise StoreError("no such run or experiment directory", directory, advice) from None
