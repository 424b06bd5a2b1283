"""The history: one row a run in `<results>/history/*.parquet`, queried as the table `runs` with DuckDB. The only module that imports it.

What a monitor stored in `<results>/monitor` (or elsewhere) stands beside it: `readings`, counters as they were read, and `hours`, what
they rose in each hour; so nightly capacity joins production load.

Files are never changed. Indexing a run again adds a row with a later `indexed_utc`, which is the one that counts; many small files are
merged into one, and only those that were read are removed, so two machines may write at once and a kill leaves at worst a row twice.
A directory is a path or an fsspec URL (s3://bucket/results, memory://results); other than local needs that filesystem's package.
"""

from __future__ import annotations

import glob
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from harness.base import clock
from harness.base.errors import ConfigError, StoreError
from harness.records import RunSummary
from harness.store.history_columns import row_of, runs_schema
from harness.store.manifest import refuse_newer
from harness.store.root import Root, open_root
from harness.store.schema import schema_of

FOLDER = "history"
MERGE_AT = 64  # small files; a file of 110 columns costs a query about 0.5 ms to open, whatever is in it


@dataclass(frozen=True, slots=True)
class Table:
    """The answer of a query."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


# ---------------------------------------------------------------- writing


def index_campaign(results_dir: str | Path, summaries: Sequence[RunSummary]) -> str | None:
    """Put the rows of these runs into the history of `results_dir`, whole or not at all, in place of their earlier rows.

    Returns the file, None where there is nothing to write. Raises StoreError, ConfigError.
    """
    if not summaries:
        return None
    root, now = open_root(results_dir), clock.utc_now()
    table = pa.Table.from_pylist([row_of(summary, now) for summary in summaries], schema=runs_schema())
    path = _write(root, table, max(s.campaign_id for s in summaries))
    if len(root.urls(f"{FOLDER}/*.parquet")) > MERGE_AT:
        merge(root)
    return path


def _write(root: Root, table: Any, stem: str) -> str:
    """One file under a name nobody has, whole or not at all."""
    final = f"{root.path}/{FOLDER}/{stem}-{clock.utc_stamp()}-{secrets.token_hex(4)}.parquet"
    with root.writing(final) as file:
        pq.write_table(table, file, compression="zstd")
    return final


def merge(root: Root) -> None:
    """One file in place of those that stand there now; earlier rows of a run are left out. Raises StoreError."""
    urls = root.urls(f"{FOLDER}/*.parquet")
    if len(urls) < 2:
        return
    paths = [url.removeprefix(root.prefix) for url in urls]
    tables = []
    for path in paths:
        try:
            with root.fs.open(path, "rb") as file:
                tables.append(pq.read_table(file))
        except FileNotFoundError:
            return  # another merge is at work: leave it to it
        except (OSError, pa.ArrowException) as error:
            raise StoreError("history file cannot be read", path, f"{error}; move it away and index again") from None
        refuse_newer((tables[-1].schema.metadata or {}).get(b"schema_version"), path)
    together = pa.concat_tables(tables, promote_options="default").replace_schema_metadata(runs_schema().metadata)
    latest: dict[tuple[str, str], int] = {}
    stamps = together["indexed_utc"].to_pylist()
    for at, key in enumerate(zip(together["experiment"].to_pylist(), together["run_id"].to_pylist(), strict=True)):
        if key not in latest or stamps[at] >= stamps[latest[key]]:
            latest[key] = at
    _write(root, together.take(sorted(latest.values())), "merged")
    for path in paths:
        with suppress(FileNotFoundError):
            root.fs.rm(path)


# ---------------------------------------------------------------- reading


def _list(urls: Sequence[str]) -> str:
    """As DuckDB opens just these: it takes each for a pattern."""
    return "[" + ", ".join("'" + glob.escape(url).replace("'", "''") + "'" for url in urls) + "]"


@contextmanager
def _connection(root: Root, *, requests: bool = False, monitor: Root | None = None) -> Iterator[Any]:
    """DuckDB in memory with the view `runs`; `requests` where asked for (it opens every run's file), `readings` and `hours` of a monitor's
    store where one is given."""
    with duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}) as con:
        for place in (root, monitor):
            if place is not None and not place.local:
                con.register_filesystem(place.fs)
        con.register("no_runs", runs_schema().empty_table())
        files, source = root.urls(f"{FOLDER}/*.parquet"), "SELECT * FROM no_runs"
        if files:
            source += f" UNION ALL BY NAME SELECT * FROM read_parquet({_list(files)}, union_by_name = true)"  # noqa: S608 (our own file names, quoted)
        con.execute(
            f"CREATE VIEW runs AS SELECT * FROM ({source}) "  # noqa: S608 (our own file names, quoted)
            "QUALIFY row_number() OVER (PARTITION BY experiment, run_id ORDER BY indexed_utc DESC) = 1"
        )
        if requests:
            raw = root.urls("*/*/requests.parquet")
            if not raw:
                raise StoreError("no raw requests here", root.shown, "they were pruned, or there was no run yet")
            con.execute(
                r"CREATE VIEW requests AS SELECT regexp_extract(filename, '([^/]+)/([^/]+)/[^/]+$', 1) AS experiment, "  # noqa: S608
                r"regexp_extract(filename, '([^/]+)/([^/]+)/[^/]+$', 2) AS run_id, * EXCLUDE (filename) "
                f"FROM read_parquet({_list(raw)}, union_by_name = true, filename = true)"
            )
        if monitor is not None:
            _monitor_views(con, monitor)
        yield con


def _monitor_views(con: Any, root: Root) -> None:
    """Both of a monitor's tables with their time as a timestamp (UTC) too; an hour that a killed merge left twice counts once."""
    for table, stamp in (("readings", "read_utc"), ("hours", "from_utc")):
        con.register(f"no_{table}", schema_of(table).empty_table())
        files, source = root.urls(f"{table}/day=*/*.parquet"), f"SELECT * FROM no_{table}"  # noqa: S608 (names above)
        if files:
            source += f" UNION ALL BY NAME SELECT * FROM read_parquet({_list(files)}, union_by_name = true, hive_partitioning = false)"  # noqa: S608 (our own file names, quoted)
        once = " QUALIFY row_number() OVER (PARTITION BY from_utc_ns, server, model, tenant) = 1" if table == "hours" else ""  # fmt: skip
        select = f"SELECT make_timestamp({stamp}_ns // 1000) AS {stamp}, * FROM ({source}){once}"  # noqa: S608
        con.execute(f"CREATE VIEW {table} AS {select}")


def _ask(
    root: Root,
    text: str,
    values: Sequence[Any] = (),
    *,
    requests: bool = False,
    monitor: Root | None = None,
    tries: int = 3,
) -> Table:
    """Raises StoreError where the files cannot be read, duckdb.Error where the text cannot be run."""
    while True:
        try:
            with _connection(root, requests=requests, monitor=monitor) as con:
                answer = con.execute(text, list(values))
                return Table(tuple(d[0] for d in answer.description or ()), tuple(answer.fetchall()))
        except (duckdb.IOException, duckdb.InvalidInputException, FileNotFoundError) as error:
            tries -= 1  # a merge may have removed a file since it was listed
            if tries <= 0 or not ("No such file" in str(error) or "does not exist" in str(error)):
                again = "" if monitor is not None else " and run `harness history index` again"
                advice = f"{str(error).splitlines()[0]}; move the file away{again}"
                raise StoreError("history cannot be read", root.shown, advice) from None


def sql(results_dir: str | Path, text: str, monitor: str | Path | None = None) -> Table:
    """The answer of one SELECT (or DESCRIBE, SUMMARIZE) over `runs`, and `requests`, `readings` and `hours`, which are made only where the
    text names them. `monitor`: a monitor's store, by default `<results_dir>/monitor`.

    Raises ConfigError: not one statement that only reads, or one that DuckDB refuses. Raises StoreError.
    """
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise _refused(text, error) from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(s.type.name for s in statements) or "nothing"
        raise ConfigError(
            "history sql reads only", f"{kinds}: {text}", "give one SELECT over runs, requests, readings or hours"
        )
    named = _tables_of(text)
    store = open_root(monitor or f"{str(results_dir).rstrip('/')}/monitor") if named & {"readings", "hours"} else None
    try:
        return _ask(open_root(results_dir), text, requests="requests" in named, monitor=store)
    except duckdb.Error as error:
        raise _refused(text, error) from None


def _tables_of(text: str) -> set[str]:
    """Tables that the statement reads: `requests` is a column too. By what stands before a name where DuckDB must have the tables first."""
    try:
        return {name.lower() for name in duckdb.get_table_names(text)}
    except duckdb.Error:
        return {name.lower() for name in re.findall(r'(?i)\b(?:from|join|describe|summarize)\s+"?(\w+)', text)}


def _refused(text: str, error: Exception) -> ConfigError:
    why = " ".join(str(error).partition("LINE 1:")[0].split())
    return ConfigError(
        "SQL that cannot be run", text, f"{why}; columns: harness history sql 'DESCRIBE runs' (or hours, ..)"
    )


@dataclass(frozen=True, slots=True)
class NightRow:
    """One campaign of one cell: `values` are means over its VALID runs by column, None where there is none of them."""

    experiment: str
    target: str
    workload: str
    load: str
    campaign_id: str
    created_utc: Any  # datetime, UTC without a zone
    valid: int
    invalid: int
    unknown: int
    values: tuple[float | None, ...]
    provenance: dict[str, str]


PROVENANCE = (
    "model", "server_version", "flags_sha256", "gpu_name", "driver", "cpu_model", "host_sha256", "harness_version", "git_commit",
    "config_sha256",
)  # fmt: skip


def nights(
    results_dir: str | Path, columns: Sequence[str], *, experiment: str | None = None, since: Any = None
) -> list[NightRow]:
    """Every cell's campaigns from the oldest to the newest; `columns` are metric columns of `runs`, `since` a date. Raises StoreError."""
    names = set(runs_schema().names)
    if unknown := [c for c in columns if c not in names]:
        raise ConfigError("no such column in the history", unknown[0], "results/README.md lists them")
    means = [f'avg("{c}") FILTER (verdict = \'VALID\' AND isfinite("{c}"))' for c in columns]
    extremes = [f"{which}({p})" for p in PROVENANCE for which in ("min", "max")]
    where, values = ["TRUE"], list[Any]()
    if experiment is not None:
        where, values = [*where, "experiment = ?"], [*values, experiment]
    if since is not None:
        where, values = [*where, "created_utc >= ?"], [*values, since]
    text = (
        "SELECT experiment, target, workload, load, campaign_id, min(created_utc) AS created, "  # noqa: S608 (names checked above)
        + ", ".join(f"count(*) FILTER (verdict = '{v}')" for v in ("VALID", "INVALID", "UNKNOWN"))
        + "".join(f", {part}" for part in (*means, *extremes))
        + f" FROM runs WHERE {' AND '.join(where)} GROUP BY experiment, target, workload, load, campaign_id "
        "ORDER BY experiment, target, workload, load, created, campaign_id"
    )
    try:
        answer = _ask(open_root(results_dir), text, values)
    except duckdb.Error as error:
        raise StoreError("history cannot be read", str(results_dir), " ".join(str(error).split())[:300]) from None
    end = 9 + len(columns)
    return [_night(row[:9], row[9:end], row[end:]) for row in answer.rows]


def _night(head: Sequence[Any], values: tuple[float | None, ...], extremes: Sequence[str | None]) -> NightRow:
    """`extremes`: least and greatest of each of PROVENANCE; two different ones are both told."""
    experiment, target, workload, load, campaign_id, created_utc, valid, invalid, unknown = head
    pairs = zip(PROVENANCE, extremes[::2], extremes[1::2], strict=True)
    provenance = {name: low if low == high else f"{low} + {high}" for name, low, high in pairs if low is not None}
    return NightRow(
        experiment, target, workload, load, campaign_id, created_utc, valid, invalid, unknown, values, provenance
    )


def indexed(results_dir: str | Path) -> dict[tuple[str, str], str]:
    """(experiment, run_id) -> state of every run that the history knows. Raises StoreError."""
    try:
        rows = _ask(open_root(results_dir), "SELECT experiment, run_id, state FROM runs").rows
    except duckdb.Error as error:
        raise StoreError("history cannot be read", str(results_dir), " ".join(str(error).split())[:300]) from None
    return {(experiment, run_id): state for experiment, run_id, state in rows}
