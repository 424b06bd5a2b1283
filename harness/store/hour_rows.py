"""A monitor's sums: increases of whole hours and days, and the last readings before each hour, from which the next one's begin."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from harness.base.clock import DAY_NS, HOUR_NS
from harness.base.errors import StoreError
from harness.records import HourUsage, ServerReading
from harness.store.columns import release, to_table
from harness.store.monitor_rows import Rows
from harness.store.readings import (
    again,
    as_now,
    day_of,
    days_of,
    groups_within,
    listed,
    open_file,
    put,
    unreadable,
    writing_groups,
)
from harness.store.root import Root
from harness.store.schema import schema_of

_BEGAN = b"began_utc_ns"


def hour_path(root: Root, kind: str, hour_ns: int) -> str:
    return f"{root.path}/{kind}/day={day_of(hour_ns)}/{hour_ns // HOUR_NS % 24:02d}.parquet"


def put_hour(
    root: Root, hour_ns: int, rows: Sequence[HourUsage], last: Rows[ServerReading], began_ns: Mapping[str, int]
) -> None:
    """Store an hour's increases and the last readings at its end, unless another monitor has. Raises StoreError."""
    if root.fs.exists(hour_path(root, "hours", hour_ns)):
        return
    put_last(root, hour_ns + HOUR_NS, last.table, began_ns)
    put(root, hour_path(root, "hours", hour_ns), to_table("hours", rows), "hours")
    release()


def put_last(root: Root, hour_ns: int, table: Any, began_ns: Mapping[str, int]) -> None:
    """Store the last readings before an hour. Raises StoreError."""
    metadata = {**(schema_of("readings").metadata or {}), _BEGAN: json.dumps(dict(began_ns)).encode()}
    put(root, hour_path(root, "last", hour_ns), table.replace_schema_metadata(metadata), "readings")


def last_before(root: Root, hour_ns: int) -> Rows[ServerReading] | None:
    """The last readings before an hour, None where nobody stored them."""
    path = hour_path(root, "last", hour_ns)
    schema = schema_of("readings")
    try:
        with open_file(root, path) as file:
            began = json.loads((file.schema_arrow.metadata or {}).get(_BEGAN, b"{}"))
            return Rows(as_now(file.read(), schema), "readings", (), began)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, StoreError, pa.ArrowException) as error:
        return Rows(schema.empty_table(), "readings", (unreadable(path, error),))


def hours_there(root: Root, from_ns: int, to_ns: int) -> set[int]:
    """Begins of the whole hours inside [from_ns, to_ns) that are stored."""
    there: set[int] = set()
    for day_ns in days_of(root, "hours", from_ns, to_ns):
        for path in listed(root, f"hours/day={day_of(day_ns)}/*.parquet"):
            name = path.rpartition("/")[2].removesuffix(".parquet")
            hours = (
                [int(name)] if name.isdigit() else [int(h) for h in name.partition("-")[2].split("_") if h.isdigit()]
            )
            there |= {day_ns + hour * HOUR_NS for hour in hours}
    return {hour for hour in there if hour >= from_ns and hour + HOUR_NS <= to_ns}


def read_hours(root: Root, from_ns: int, to_ns: int, columns: Sequence[str] | None = None) -> Rows[HourUsage]:
    """Rows of the whole hours inside [from_ns, to_ns); `columns`: those alone, `from_utc_ns` among them."""
    return again(lambda: _read_hours(root, from_ns, to_ns, columns))


def _read_hours(root: Root, from_ns: int, to_ns: int, columns: Sequence[str] | None = None) -> Rows[HourUsage]:
    schema = schema_of("hours")
    schema = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    tables, warnings = [schema.empty_table()], []
    for day_ns in days_of(root, "hours", from_ns, to_ns):
        seen: set[int] = set()  # a merge that was killed leaves an hour twice
        for path in sorted(listed(root, f"hours/day={day_of(day_ns)}/*.parquet"), reverse=True):
            try:
                with open_file(root, path) as file:
                    has = file.schema_arrow.names
                    there = None if columns is None else [name for name in columns if name in has]
                    groups = groups_within(file, has.index("from_utc_ns"), from_ns, to_ns)
                    table = as_now(file.read_row_groups(groups, there), schema)
            except FileNotFoundError:
                raise
            except (OSError, ValueError, StoreError, pa.ArrowException) as error:
                warnings.append(unreadable(path, error))
                continue
            begins = table.column("from_utc_ns").to_numpy()
            inside = (begins >= from_ns) & (begins + HOUR_NS <= to_ns) & ~np.isin(begins, list(seen))
            tables.append(table if inside.all() else table.filter(pa.array(inside)))
            seen |= set(np.unique(begins).tolist())
    return Rows(pa.concat_tables(tables), "hours", warnings)


def compact_hours(root: Root, day_ns: int) -> None:
    """Merge the hours of a day that is over into one file, named by the hours it has; removes those that were read. Raises StoreError."""
    day_ns -= day_ns % DAY_NS
    paths = listed(root, f"hours/day={day_of(day_ns)}/*.parquet")
    if len(paths) < 2:
        return
    hours = sorted(hours_there(root, day_ns, day_ns + DAY_NS))
    name = f"day-{'_'.join(f'{(hour - day_ns) // HOUR_NS:02d}' for hour in hours)}.parquet"
    final = f"{root.path}/hours/day={day_of(day_ns)}/{name}"
    if final in paths:
        paths.remove(final)
    if any(read_hours(root, hour, hour + HOUR_NS).warnings for hour in hours):
        return
    with writing_groups(root, final, "hours") as add:
        for hour in hours:  # one at a time, for the memory's sake
            add(read_hours(root, hour, hour + HOUR_NS).table)
    for path in paths:
        with suppress(FileNotFoundError):
            root.fs.rm(path)


def put_day(root: Root, day_ns: int, rows: Sequence[HourUsage]) -> None:
    """Store the sums of a day whose hours are all there: of what a month is summed. Raises StoreError."""
    put(root, f"{root.path}/days/day={day_of(day_ns)}/total.parquet", to_table("hours", rows), "hours")


def days_there(root: Root, from_ns: int, to_ns: int) -> set[int]:
    """Begins of the whole days inside [from_ns, to_ns) whose sums are stored."""
    first = from_ns + -from_ns % DAY_NS
    names = {path.rpartition("/")[0].rpartition("=")[2] for path in listed(root, "days/day=*/total.parquet")}
    return {at for at in range(first, to_ns - DAY_NS + 1, DAY_NS) if day_of(at) in names}


def read_days(root: Root, days: Sequence[int]) -> Rows[HourUsage]:
    """The sums of these days; one whose file cannot be read is in the warnings, and is not among the rows."""
    schema = schema_of("hours")
    tables, warnings = [schema.empty_table()], []
    for day_ns in sorted(days):
        path = f"{root.path}/days/day={day_of(day_ns)}/total.parquet"
        try:
            with open_file(root, path) as file:
                tables.append(as_now(file.read(), schema))
        except (OSError, ValueError, StoreError, pa.ArrowException) as error:
            warnings.append(unreadable(path, error))
    return Rows(pa.concat_tables(tables), "hours", warnings)


def unreadable_files(root: Root, known: Collection[str]) -> dict[str, str]:
    """Files of readings and hours that cannot be read and are not `known`, by address, and why: those whose end says so, else those with a
    damaged page, which is looked for in all. Raises StoreError: the store cannot be listed."""
    urls = [url for kind in ("readings", "hours") for url in root.urls(f"{kind}/day=*/*.parquet") if url not in known]
    for whole in (False, True):
        if bad := {url: said for url in urls if (said := _why_unreadable(root, url, whole=whole))}:
            return bad
    return {}


def _why_unreadable(root: Root, url: str, *, whole: bool) -> str:
    path = url.removeprefix(root.prefix)
    try:
        with open_file(root, path) as file:
            for group in range(file.num_row_groups if whole else 0):
                file.read_row_group(group)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, StoreError, pa.ArrowException) as error:
        return unreadable(path, error)
    return ""
