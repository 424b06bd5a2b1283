"""A monitor's store: readings by day, increases by hour, and the last readings before each hour. Local or object storage through fsspec.

Files are never changed: each flush is a new one, a day that is over is merged into one, and only those that were read are removed, so
that several monitors may write at once and a kill leaves at worst rows twice, which readings may be. A file that cannot be read is
named in the warnings, left where it is, and the others count.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.base.clock import DAY_NS, HOUR_NS, NS, utc_of
from harness.base.errors import StoreError
from harness.records import ServerReading
from harness.store.columns import release
from harness.store.manifest import refuse_newer
from harness.store.monitor_rows import Rows, readings_of
from harness.store.root import Root
from harness.store.schema import parquet_options, schema_of

QUARTER_NS, BLOCK_NS = 900 * NS, 300 * NS
_SPAN = re.compile(r"(\d+)-(\d+)-")  # first and last stamp in a file's name


def day_of(at_ns: int) -> str:
    """`2026-11-26`, UTC."""
    return utc_of(at_ns).strftime("%Y-%m-%d")


def hour_of(at_ns: int) -> int:
    """Begin of the hour."""
    return at_ns - at_ns % HOUR_NS


# ---------------------------------------------------------------- writing


def write(root: Root, rows: Sequence[ServerReading]) -> list[str]:
    """Store rows: one file a day that they are of, whole or not at all. Returns the files. Raises StoreError: nothing of that day stands."""
    table = readings_of(rows).table.replace_schema_metadata(schema_of("readings").metadata)
    day = table.column("read_utc_ns").to_numpy() // DAY_NS
    days = np.unique(day).tolist()
    parts = [table] if len(days) == 1 else [table.filter(pa.array(day == one)) for one in days]
    return [write_table(root, day_of(one * DAY_NS), part) for one, part in zip(days, parts, strict=True)]


def write_table(root: Root, day: str, table: Any) -> str:
    """A file of one day's rows, named by their first and last stamp; returns its path. Raises StoreError."""
    stamps = table.column("read_utc_ns").to_numpy()
    who = _file_word(table.column("monitor")[0].as_py())
    name = f"{stamps.min()}-{stamps.max()}-{who}-{secrets.token_hex(4)}.parquet"
    return put(root, f"{root.path}/readings/day={day}/{name}", table, "readings")


def _file_word(monitor: str) -> str:
    return re.sub(r"\W+", "_", monitor) or "monitor"


def put(root: Root, path: str, table: Any, name: str) -> str:
    """Write a table of MONITOR_TABLES, whole or not at all. Raises StoreError."""
    with root.writing(path) as file:
        pq.write_table(table, file, **parquet_options(name))
    return path


# ---------------------------------------------------------------- reading


def read(root: Root, from_ns: int, to_ns: int, columns: Sequence[str] | None = None) -> Rows[ServerReading]:
    """Readings stamped in [from_ns, to_ns), in no order; `columns`: those alone. Raises StoreError: the store cannot be listed."""
    return again(lambda: _read(root, _files(root, from_ns, to_ns), from_ns, to_ns, columns))


def again(read_all: Callable[[], Rows[Any]]) -> Rows[Any]:
    """Once more where a merge removed a file since it was listed."""
    for _ in range(3):
        with suppress(FileNotFoundError):
            return read_all()
    return read_all()


def _files(root: Root, from_ns: int, to_ns: int) -> list[str]:
    """Paths whose names say that they hold rows of [from_ns, to_ns), from the first on."""
    found: list[tuple[int, str]] = []
    for day_ns in days_of(root, "readings", from_ns, to_ns):
        for path in listed(root, f"readings/day={day_of(day_ns)}/*.parquet"):
            span = _SPAN.match(path.rpartition("/")[2])
            if span is None or (int(span[1]) < to_ns and int(span[2]) >= from_ns):
                found.append((int(span[1]) if span else day_ns, path))
    return [path for _, path in sorted(found)]


def days_of(root: Root, kind: str, from_ns: int, to_ns: int) -> list[int]:
    """Begins of the days that have a folder and lie in [from_ns, to_ns), or partly so."""
    first = from_ns - from_ns % DAY_NS
    if to_ns - first <= 2 * DAY_NS:
        return list(range(first, to_ns, DAY_NS))
    names = (path.rpartition("=")[2] for path in listed(root, f"{kind}/day=*"))
    begins = (round(datetime.fromisoformat(f"{name}T00:00:00+00:00").timestamp()) * NS for name in names)
    return sorted(begin for begin in begins if first <= begin < to_ns)


def listed(root: Root, pattern: str) -> list[str]:
    """Paths that match now. Raises StoreError."""
    root.fs.invalidate_cache()
    return [url.removeprefix(root.prefix) for url in root.urls(pattern)]


def _read(
    root: Root, paths: Sequence[str], from_ns: int, to_ns: int, columns: Sequence[str] | None = None
) -> Rows[ServerReading]:
    schema = schema_of("readings")
    names = list(columns) if columns is not None else schema.names
    wanted = pa.schema([schema.field(name) for name in names])
    tables, warnings = [wanted.empty_table()], []
    for path in paths:
        try:
            tables.append(_part(root, path, from_ns, to_ns, wanted))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, StoreError, pa.ArrowException) as error:
            warnings.append(unreadable(path, error))
    return Rows(pa.concat_tables(tables), "readings", warnings)


def unreadable(path: str, error: Exception) -> str:
    """The warning of a file that is left out."""
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{path} cannot be read and is left out: {why[:200]}"


def open_file(root: Root, path: str) -> Any:
    """A ParquetFile. Raises StoreError: written by a later harness; OSError, ArrowException."""
    file = pq.ParquetFile(path if root.local else root.fs.open(path, "rb"))
    refuse_newer((file.schema_arrow.metadata or {}).get(b"schema_version"), path)
    return file


def _part(root: Root, path: str, from_ns: int, to_ns: int, wanted: Any) -> Any:
    """A file's rows of [from_ns, to_ns): only the row groups that may hold some are read."""
    with open_file(root, path) as file:
        has = file.schema_arrow.names  # which takes a millisecond to say
        there = [name for name in dict.fromkeys([*wanted.names, "read_utc_ns"]) if name in has]
        table = file.read_row_groups(groups_within(file, has.index("read_utc_ns"), from_ns, to_ns), there)
    stamps = table.column("read_utc_ns").to_numpy()
    inside = (stamps >= from_ns) & (stamps < to_ns)
    return as_now(table if inside.all() else table.filter(pa.array(inside)), wanted)


def groups_within(file: Any, at: int, from_ns: int, to_ns: int) -> list[int]:
    """Row groups that may have rows whose stamp, the column at `at`, is in [from_ns, to_ns)."""
    groups = []
    for i in range(file.metadata.num_row_groups):
        span = file.metadata.row_group(i).column(at).statistics
        if span is None or not span.has_min_max or (span.min < to_ns and span.max >= from_ns):
            groups.append(i)
    return groups


def as_now(table: Any, wanted: Any) -> Any:
    """With the columns of today: one that a file of an earlier version lacks is null, or an empty list."""
    columns = []
    there = set(table.schema.names)
    for field in wanted:
        if field.name in there:
            column = table.column(field.name)
            columns.append(column if column.type == field.type else column.cast(field.type))
        elif pa.types.is_list(field.type):
            columns.append(pa.array([[]] * table.num_rows, field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=wanted)


def newest_of(root: Root, monitor: str, since_ns: int, now_ns: int) -> Rows[ServerReading]:
    """The last row of each (server, model, tenant) of one monitor, without histograms, not older than `since_ns`: where it goes on."""
    schema = schema_of("readings")
    rows = read(root, since_ns, now_ns, [field.name for field in schema if not pa.types.is_list(field.type)])
    who, names = rows.words("monitor")
    mine = rows.where(who == (names.index(monitor) if monitor in names else -1))
    return Rows(as_now(last_of(mine).table, schema), "readings", rows.warnings)


def last_of(rows: Rows[ServerReading]) -> Rows[ServerReading]:
    """Of each (server, model, tenant, monitor) the last row that has a page."""
    codes = [rows.words(name)[0] for name in ("server", "model", "tenant", "monitor")]
    stamps, count = rows.stamps("read_utc_ns"), rows.stamps("incarnation")
    order = np.lexsort((count, stamps, *codes))
    order = order[rows.stamps("scrapes")[order] > 0]
    if not len(order):
        return rows.take(order)
    ends = np.ones(len(order), dtype=bool)
    ends[:-1] = np.any([code[order][1:] != code[order][:-1] for code in codes], axis=0)
    return rows.take(order[ends])


def first_stamp(root: Root) -> int | None:
    """The stamp of the first reading in the store, by the names of its files."""
    days = sorted({path.rpartition("/")[0] for path in listed(root, "readings/day=*/*.parquet")})
    for day in days:
        spans = [
            _SPAN.match(path.rpartition("/")[2])
            for path in listed(root, f"readings/{day.rpartition('/')[2]}/*.parquet")
        ]
        if known := [int(span[1]) for span in spans if span]:
            return min(known)
    return None


def first_after(root: Root, at_ns: int) -> Rows[ServerReading]:
    """The rows of the first minute that anybody read from `at_ns` on; none where there is none yet."""
    days = sorted({path.rpartition("/")[0].rpartition("=")[2] for path in listed(root, "readings/day=*/*.parquet")})
    for day in (day for day in days if day >= day_of(at_ns)):
        day_ns = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * NS
        rows = read(root, max(at_ns, day_ns), day_ns + DAY_NS, ("read_utc_ns",))
        if len(rows):
            first = int(rows.stamps("read_utc_ns").min())
            return read(root, first, first + 60 * NS)
    return Rows(schema_of("readings").empty_table(), "readings")


# ---------------------------------------------------------------- days that are over


def days_in_pieces(root: Root, before_ns: int) -> list[int]:
    """Begins of the days before `before_ns` that have several files of readings or of hours. Raises StoreError."""
    counts: dict[str, int] = {}
    for kind in ("readings", "hours"):
        for path in listed(root, f"{kind}/day=*/*.parquet"):
            folder = path.rpartition("/")[0]
            counts[folder] = counts.get(folder, 0) + 1
    days = {folder.rpartition("=")[2] for folder, count in counts.items() if count > 1}
    begins = (round(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * NS for day in days)
    return sorted(begin for begin in begins if begin + DAY_NS <= before_ns)


def compact(root: Root, day_ns: int) -> list[str]:
    """Merge a day's files into one, its rows by time and each once, a quarter of an hour a row group; removes those that were read. Returns
    warnings. Raises StoreError.
    """
    day_ns -= day_ns % DAY_NS
    return _merge(root, listed(root, f"readings/day={day_of(day_ns)}/*.parquet"), day_ns, DAY_NS, "day", QUARTER_NS)


def compact_own(root: Root, monitor: str, from_ns: int, long_ns: int) -> list[str]:
    """Merge the files of one monitor that lie within [from_ns, from_ns + long_ns), quarters of one day; a block is a row group, for the hour is
    summed by blocks. Returns warnings. Raises StoreError."""
    who, own = _file_word(monitor), []
    for path in _files(root, from_ns, from_ns + long_ns):
        span = _SPAN.match(path.rpartition("/")[2])
        if (
            span
            and from_ns <= int(span[1]) <= int(span[2]) < from_ns + long_ns
            and f"-{who}-" in path.rpartition("/")[2]
        ):
            own.append(path)
    return _merge(root, own, from_ns, long_ns, who, BLOCK_NS)


def _merge(root: Root, paths: Sequence[str], from_ns: int, long_ns: int, who: str, group_ns: int) -> list[str]:
    if len(paths) < 2:
        return []
    good, warnings = [], []
    for path in paths:
        try:
            with open_file(root, path):
                good.append(path)
        except FileNotFoundError:
            return []  # another monitor is at it
        except (OSError, ValueError, StoreError, pa.ArrowException) as error:
            warnings.append(unreadable(path, error))
    if len(good) < 2:
        return warnings
    broken: set[str] = set()
    spans = {path: _SPAN.match(path.rpartition("/")[2]) for path in good}
    with merged_file(root, from_ns, long_ns, who) as add:
        for begin in range(from_ns, from_ns + long_ns, group_ns):
            end = begin + group_ns
            near = [p for p, s in spans.items() if s is None or (int(s[1]) < end and int(s[2]) >= begin)]
            rows = _once(_read(root, near, begin, end))
            broken |= {path for path in near if any(path in said for said in rows.warnings)}
            warnings += [said for said in rows.warnings if said not in warnings]
            add(rows.table)
            del rows
    for path in set(good) - broken:
        with suppress(FileNotFoundError):
            root.fs.rm(path)
    return warnings


@contextmanager
def merged_file(root: Root, from_ns: int, long_ns: int, who: str) -> Iterator[Callable[[Any], None]]:
    """One file of readings of [from_ns, from_ns + long_ns), as of `writing_groups`."""
    name = f"{from_ns}-{from_ns + long_ns - 1}-{who}-{secrets.token_hex(4)}.parquet"
    with writing_groups(root, f"{root.path}/readings/day={day_of(from_ns)}/{name}", "readings") as add:
        yield add


@contextmanager
def writing_groups(root: Root, path: str, name: str) -> Iterator[Callable[[Any], None]]:
    """A file of one of MONITOR_TABLES, whole after the block or not at all; each table that it is handed is a row group."""
    with root.writing(path) as file:
        writer = pq.ParquetWriter(file, schema_of(name), **parquet_options(name))

        def add(table: Any) -> None:
            if table.num_rows:
                writer.write_table(
                    table.replace_schema_metadata(schema_of(name).metadata), row_group_size=table.num_rows
                )
            release()

        yield add
        writer.close()


def _once(rows: Rows[ServerReading]) -> Rows[ServerReading]:
    """By time; a row that stands twice, once."""
    if not len(rows):
        return rows
    codes = [rows.words(name)[0] for name in ("server", "model", "tenant", "monitor")]
    codes = [rows.stamps("incarnation"), *codes, rows.stamps("read_utc_ns")]
    order = np.lexsort(codes)
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.any([code[order][1:] != code[order][:-1] for code in codes], axis=0)
    return rows.take(order[new])


def retain(root: Root, days: int, now_ns: int) -> list[str]:
    """Remove the folders of days that ended more than `days` days ago; returns them. Raises StoreError."""
    oldest = f"day={day_of(now_ns - days * DAY_NS)}"
    gone = []
    for kind in ("readings", "hours", "days", "last"):
        folders = {path.rpartition("/")[0] for path in listed(root, f"{kind}/day=*/*.parquet")}
        for folder in sorted(folders):
            if folder.rpartition("/")[2] < oldest:
                root.fs.rm(folder, recursive=True)
                gone.append(folder)
    return gone
