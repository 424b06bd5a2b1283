"""Reads a run directory back: finished, going on, or killed at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.base.errors import StoreError
from harness.records import RunData, RunState
from harness.store.columns import to_table
from harness.store.manifest import NAME, holds_capacity, is_alive, read_manifest, refuse_newer, refuse_pruned
from harness.store.parts import SCRATCH, final_path, list_parts
from harness.store.schema import PANDAS_DTYPES, TABLES, defaults_of, schema_of


def _dtype(arrow_type: Any) -> Any:
    name = PANDAS_DTYPES.get(arrow_type)
    return None if name is None else pd.api.types.pandas_dtype(name)


def _frame(data: Any) -> pd.DataFrame:
    frame: pd.DataFrame = data.to_pandas(types_mapper=_dtype, ignore_metadata=True)
    return frame


def frame_of(table: str, rows: Sequence[Any]) -> pd.DataFrame:
    """Records as the data frame that `read_run` would give for them."""
    return _frame(to_table(table, rows))


def _conform(data: Any, table: str, path: Path) -> Any:
    """The columns of our schema in its order; a column that an older file lacks is null, or the record's default. Raises
    StoreError."""
    refuse_newer((data.schema.metadata or {}).get(b"schema_version"), str(path))
    schema = schema_of(table)
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


def _read_file(path: Path, table: str) -> Any:
    """pyarrow.Table of one file. Raises FileNotFoundError as it is, StoreError for what cannot be read."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows = _conform(file.read(), table, path)
        rows.validate(full=True)
        return rows
    except (FileNotFoundError, StoreError):
        raise
    except Exception as error:  # damaged bytes make pyarrow raise whatever it stumbles over
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise StoreError("file cannot be read", path, f"{why}; it is damaged") from None


def _read_table(run_dir: Path, table: str, notes: list[str], tries: int = 3) -> Any | None:
    """A table from its final file, else from its parts; None if there is neither."""
    final = final_path(run_dir, table)
    if final.exists():
        return _read_file(final, table)
    pieces: list[Any] = []
    skipped: list[str] = []
    for path in list_parts(run_dir, table):
        try:
            pieces.append(_read_file(path, table))
        except FileNotFoundError:  # its run is ending: merged and removed while we read
            if tries:
                return _read_table(run_dir, table, notes, tries - 1)
            raise StoreError("part file vanished while it was read", path, "the run is ending: try again") from None
        except StoreError as error:
            if "newer" in error.what:
                raise
            skipped.append(f"skipped {path.name}: {error.advice}")
    if not pieces and final.exists():
        return _read_file(final, table)
    notes += skipped
    return pa.concat_tables(pieces) if pieces else None


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
    read = {table: _read_table(run_dir, table, notes) for table in TABLES}
    counts = {table: data.num_rows for table, data in read.items() if data is not None}
    if notes:
        manifest = replace(manifest, error="; ".join([*filter(None, [manifest.error]), *notes]))
    if manifest.state != RunState.COMPLETE:
        manifest = replace(manifest, row_counts=counts)
    elif any(counts.get(table, 0) != n for table, n in manifest.row_counts.items()):
        rows = f"{run_dir}: {counts}, manifest: {dict(manifest.row_counts)}"
        raise StoreError(
            "rows are missing or too many", rows, "the directory was changed after the run; run the cell again"
        )
    frames = {table: None if data is None else _frame(data) for table, data in read.items()}
    for table in ("requests", "plan"):
        if frames[table] is None:
            frames[table] = frame_of(table, [])
    return RunData(str(run_dir), manifest, **frames)


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
