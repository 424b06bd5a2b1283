"""The history: one row a run in `<results>/history/month=YYYY-MM/*.parquet`, queried as the table `runs` with DuckDB. The only module that
imports it.

What a monitor stored in `<results>/monitor` (or elsewhere) stands beside it: `readings`, counters as they were read, and `hours`, what
they rose in each hour; so nightly capacity joins production load.

Files are never changed. Indexing a run again adds a row with a later `indexed_utc`, which is the one that counts; a month's many small
files are merged into one, and only those that were read are removed, so two machines may write at once and a kill leaves at worst a row
twice. A directory is a path or an fsspec URL (s3://bucket/results, memory://results); other than local needs that filesystem's package,
and is queried from copies in the user's cache: whoever asks again fetches only what was added since.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from harness.base import clock
from harness.base.errors import ConfigError, StoreError
from harness.records import RunSummary
from harness.store.elsewhere import mirror_of
from harness.store.history_columns import row_of, runs_schema
from harness.store.history_files import at_hand, merge, month_of, write
from harness.store.hour_rows import unreadable_files
from harness.store.manifest import NAME
from harness.store.root import Root, open_root
from harness.store.schema import schema_of

MERGE_AT = 64  # files of a month; a file of 110 columns costs a query about 0.5 ms to open, whatever is in it


_OF_FILES = (duckdb.IOException, duckdb.InvalidInputException, FileNotFoundError)


@dataclass(frozen=True, slots=True)
class Table:
    """The answer of a query. `warnings`: files of a monitor's that cannot be read, by name, and are left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    warnings: tuple[str, ...] = ()


# ---------------------------------------------------------------- writing


def index_campaign(results_dir: str | Path, summaries: Sequence[RunSummary]) -> str | None:
    """Put the rows of these runs into the history of `results_dir`, whole or not at all, in place of their earlier rows.

    Returns the file, None where there is nothing to write. Raises StoreError, ConfigError.
    """
    if not summaries:
        return None
    root, now = open_root(results_dir), clock.utc_now()
    stem, rows = max(s.campaign_id for s in summaries), [row_of(summary, now) for summary in summaries]
    by_month: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_month.setdefault(month_of(row["created_utc"]), []).append(row)
    for month, of_month in sorted(by_month.items()):
        path = write(root, pa.Table.from_pylist(of_month, schema=runs_schema()), month, stem)
    merge(root, at=MERGE_AT)
    return path


# ---------------------------------------------------------------- reading


def _list(urls: Sequence[str]) -> str:
    """As DuckDB opens just these: it takes each for a pattern."""
    return "[" + ", ".join("'" + glob.escape(url).replace("'", "''") + "'" for url in urls) + "]"


def _raw_files(root: Root) -> list[str]:
    """Of every run that is there: elsewhere one without a manifest is still on its way, and all is listed once."""
    if root.local:
        return root.urls("*/*/requests.parquet")
    there = {str(info["name"]) for info in root.files(root.path)}
    raw = [name for name in there if re.fullmatch(r"/[^/]+/[^/]+/requests\.parquet", name.removeprefix(root.path))]
    return sorted(root.url(name) for name in raw if f"{name.rpartition('/')[0]}/{NAME}" in there)


@contextmanager
def _connection(
    root: Root,
    *,
    requests: bool = False,
    monitor: Root | None = None,
    since: Any = None,
    left_out: Collection[str] = (),
) -> Iterator[Any]:
    """DuckDB in memory with the view `runs`; `requests` where asked for (it opens every run's file), `readings` and `hours` of a monitor's
    store where one is given."""
    with duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}) as con:
        con.execute("SET enable_progress_bar = false")  # after two seconds it would stand between the rows
        for place in (root if requests else None, monitor):
            if place is not None and not place.local:
                con.register_filesystem(place.fs)
        con.register("no_runs", runs_schema().empty_table())
        files, source = at_hand(root, since), "SELECT * FROM no_runs"
        if files:
            source += f" UNION ALL BY NAME SELECT * FROM read_parquet({_list(files)}, union_by_name = true, hive_partitioning = false)"  # noqa: S608 (our own file names, quoted)
        con.execute(
            f"CREATE VIEW runs AS SELECT * FROM ({source}) "  # noqa: S608 (our own file names, quoted)
            "QUALIFY row_number() OVER (PARTITION BY experiment, run_id ORDER BY indexed_utc DESC) = 1"
        )
        if requests:
            raw = _raw_files(root)
            if not raw:
                raise StoreError("no raw requests here", root.shown, "they were pruned, or there was no run yet")
            con.execute(
                r"CREATE VIEW requests AS SELECT regexp_extract(filename, '([^/]+)/([^/]+)/[^/]+$', 1) AS experiment, "  # noqa: S608
                r"regexp_extract(filename, '([^/]+)/([^/]+)/[^/]+$', 2) AS run_id, * EXCLUDE (filename) "
                f"FROM read_parquet({_list(raw)}, union_by_name = true, filename = true)"
            )
        if monitor is not None:
            _monitor_views(con, monitor, left_out)
        yield con


def _monitor_views(con: Any, root: Root, left_out: Collection[str]) -> None:
    """Both of a monitor's tables with their time as a timestamp (UTC) too; an hour that a killed merge left twice counts once."""
    for table, stamp in (("readings", "read_utc"), ("hours", "from_utc")):
        con.register(f"no_{table}", schema_of(table).empty_table())
        files = [url for url in root.urls(f"{table}/day=*/*.parquet") if url not in left_out]
        source = f"SELECT * FROM no_{table}"  # noqa: S608 (names above)
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
    since: Any = None,
    tries: int = 3,
) -> Table:
    """Raises StoreError where the files cannot be read, duckdb.Error where the text cannot be run."""
    left_out: dict[str, str] = {}
    while True:
        try:
            with _connection(root, requests=requests, monitor=monitor, since=since, left_out=left_out) as con:
                answer = con.execute(text, list(values))
                columns = tuple(d[0] for d in answer.description or ())
                return Table(columns, tuple(answer.fetchall()), tuple(left_out.values()))
        except (duckdb.Error, FileNotFoundError) as error:
            if not (type(error) is duckdb.Error or isinstance(error, _OF_FILES)):
                raise  # of the text
            gone = (
                isinstance(error, FileNotFoundError) or "No such file" in str(error) or "does not exist" in str(error)
            )
            if gone and (tries := tries - 1) > 0:
                continue  # a merge may have removed a file since it was listed
            if not gone and monitor is not None and (bad := unreadable_files(monitor, left_out)):
                left_out |= bad
                continue
            again = "" if monitor is not None else " and run `harness history index` again"
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not root.local:  # the copy's name is of no use to him
                said = said.replace(str(mirror_of(root).here), root.shown)
            advice = f"{said}; move the file away{again}"
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


class NightRow(NamedTuple):
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


_BETWEEN, _NULL = "chr(31)", "chr(30)"  # in no name, version or digest


def nights(
    results_dir: str | Path, columns: Sequence[str], *, experiment: str | None = None, since: Any = None
) -> list[NightRow]:
    """Every cell's campaigns from the oldest to the newest; `columns` are metric columns of `runs`, `since` a date. Raises StoreError."""
    names = set(runs_schema().names)
    if unknown := [c for c in columns if c not in names]:
        raise ConfigError("no such column in the history", unknown[0], "results/README.md lists them")
    means = [f'avg("{c}") FILTER (verdict = \'VALID\' AND isfinite("{c}"))' for c in columns]
    known = f"concat_ws({_BETWEEN}, {', '.join(f'coalesce({p}, {_NULL})' for p in PROVENANCE)})"  # one text, for 10 columns are a second
    where, values = ["TRUE"], list[Any]()
    if experiment is not None:
        where, values = [*where, "experiment = ?"], [*values, experiment]
    if since is not None:
        where, values = [*where, "created_utc >= ?"], [*values, since]
    text = (
        "SELECT experiment, target, workload, load, campaign_id, min(created_utc) AS created, "  # noqa: S608 (names checked above)
        + ", ".join(f"count(*) FILTER (verdict = '{v}')" for v in ("VALID", "INVALID", "UNKNOWN"))
        + "".join(f", {part}" for part in (*means, f"list(DISTINCT {known})"))
        + f" FROM runs WHERE {' AND '.join(where)} GROUP BY experiment, target, workload, load, campaign_id "
        "ORDER BY experiment, target, workload, load, created, campaign_id"
    )
    try:
        answer = _ask(open_root(results_dir), text, values, since=since)
    except duckdb.Error as error:
        raise StoreError("history cannot be read", str(results_dir), " ".join(str(error).split())[:300]) from None
    return [_night(row[:9], row[9:-1], tuple(row[-1])) for row in answer.rows]


def _night(head: Sequence[Any], values: tuple[float | None, ...], known: tuple[str, ...]) -> NightRow:
    experiment, target, workload, load, campaign_id, created_utc, valid, invalid, unknown = head
    return NightRow(
        experiment, target, workload, load, campaign_id, created_utc, valid, invalid, unknown, values, _provenance(known)
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _provenance(texts: tuple[str, ...]) -> dict[str, str]:
    """Of a night whose runs have these values of PROVENANCE: least and greatest where they differ. Most nights share theirs."""
    columns = zip(*(text.split("\x1f") for text in texts), strict=True)
    values = {
        name: sorted({v for v in column if v != "\x1e"}) for name, column in zip(PROVENANCE, columns, strict=True)
    }
    return {name: seen[0] if len(seen) == 1 else f"{seen[0]} + {seen[-1]}" for name, seen in values.items() if seen}


def indexed(results_dir: str | Path) -> dict[tuple[str, str], str]:
    """(experiment, run_id) -> state of every run that the history knows. Raises StoreError."""
    try:
        rows = _ask(open_root(results_dir), "SELECT experiment, run_id, state FROM runs").rows
    except duckdb.Error as error:
        raise StoreError("history cannot be read", str(results_dir), " ".join(str(error).split())[:300]) from None
    return {(experiment, run_id): state for experiment, run_id, state in rows}
