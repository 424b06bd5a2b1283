"""The files of the history: where they stand, how a month's become one, and what of them a query opens."""

from __future__ import annotations

import io
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.base import clock
from harness.base.errors import StoreError
from harness.store.elsewhere import mirror_of
from harness.store.history_columns import runs_schema
from harness.store.manifest import refuse_newer
from harness.store.root import Root

FOLDER = "history"
NO_MONTH = "month=unknown"  # of runs that do not say when they were made


def month_of(moment: Any) -> str:
    """The folder of a run made then; `moment` is a datetime or None."""
    return NO_MONTH if moment is None else f"month={moment:%Y-%m}"


def write(root: Root, table: Any, month: str, stem: str) -> str:
    """One file under a name nobody has, whole or not at all."""
    final = f"{root.path}/{FOLDER}/{month}/{stem}-{clock.utc_stamp()}-{secrets.token_hex(4)}.parquet"
    with root.writing(final) as file:
        pq.write_table(table, file, compression="zstd")
    return final


def merge(root: Root, at: int = 1) -> None:
    """One file in place of each month's, where it has more than `at`; earlier rows of a run are left out. Months before the newest have no
    more than one file after that, since hardly anything is added to them. Raises StoreError."""
    by_folder: dict[str, list[str]] = {}
    for info in files_of(root):
        by_folder.setdefault(str(info["name"]).rpartition("/")[0], []).append(str(info["name"]))
    newest = max((folder for folder in by_folder if not folder.endswith(NO_MONTH)), default="")
    for folder, paths in by_folder.items():
        is_flat = folder.endswith(f"/{FOLDER}")  # as an older harness wrote them: into their months
        if len(paths) > (at if folder == newest else 1) or (is_flat and len(paths) > at):
            _merge(root, paths)


def _merge(root: Root, paths: Sequence[str]) -> None:
    tables = []
    for path in paths:
        try:
            tables.append(pq.read_table(io.BytesIO(root.fs.cat_file(path)), partitioning=None))
        except FileNotFoundError:
            return  # another merge is at work: leave it to it
        except (OSError, pa.ArrowException) as error:
            advice = f"{error}; move it away and index again"
            raise StoreError("history file cannot be read", root.url(path), advice) from None
        refuse_newer((tables[-1].schema.metadata or {}).get(b"schema_version"), root.url(path))
    together = pa.concat_tables(tables, promote_options="default").replace_schema_metadata(runs_schema().metadata)
    latest: dict[tuple[str, str], int] = {}
    stamps = together["indexed_utc"].to_pylist()
    for at, key in enumerate(zip(together["experiment"].to_pylist(), together["run_id"].to_pylist(), strict=True)):
        if key not in latest or stamps[at] >= stamps[latest[key]]:
            latest[key] = at
    kept = together.take(sorted(latest.values()))
    months = pa.array([month_of(moment) for moment in kept["created_utc"].to_pylist()])
    for month in sorted(set(months.to_pylist())):
        write(root, kept.filter(pc.equal(months, month)), month, "merged")
    for path in paths:
        with suppress(FileNotFoundError):
            root.fs.rm_file(path)


def files_of(root: Root) -> list[dict[str, Any]]:
    """The history's files: in the folders of their months, or right in its folder as an older harness wrote them."""
    return [info for info in root.files(f"{root.path}/{FOLDER}") if str(info["name"]).endswith(".parquet")]


def at_hand(root: Root, since: Any = None) -> list[str]:
    """The history's files on this machine, fetched where they are elsewhere, without months that ended before `since` (a date)."""
    first = "" if since is None else month_of(since)

    def wanted(folder: str) -> bool:
        return not folder.startswith("month=") or folder >= first

    if root.local:
        names = [str(info["name"]) for info in files_of(root)]
    else:
        names = [str(path) for path in mirror_of(root).exactly(FOLDER, ".parquet")]
    return [name for name in names if wanted(name.split("/")[-2])]
