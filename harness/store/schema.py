"""Parquet schemas, derived from the records: a `col` of records.py is described there and nowhere else.

`python -m harness.store.schema > results/README.md` writes the page for readers.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

import pyarrow as pa

from harness.records import (
    SCHEMA_VERSION,
    GpuSample,
    HostSample,
    HourUsage,
    LimitSample,
    Manifest,
    NetworkSample,
    PlannedRequest,
    RequestRecord,
    RunState,
    ServerReading,
    ServerSample,
)
from harness.store.elsewhere_page import ELSEWHERE
from harness.store.history_columns import history_section

TABLES: dict[str, type] = {
    "plan": PlannedRequest,
    "requests": RequestRecord,
    "gpu": GpuSample,
    "server": ServerSample,
    "host": HostSample,
    "network": NetworkSample,
    "limits": LimitSample,
}

MONITOR_TABLES: dict[str, type] = {"readings": ServerReading, "hours": HourUsage}  # of no run: what a monitor stores

# pandas dtypes that keep a nullable int64 exact; also written into the files, so that plain pandas gives the same
PANDAS_DTYPES = {pa.int64(): "Int64", pa.float64(): "Float64", pa.bool_(): "boolean", pa.string(): "string"}

_ARROW: dict[Any, Any] = {
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    str: pa.string(),
    tuple[int, ...]: pa.list_(pa.field("element", pa.int64(), nullable=False)),
    tuple[float, ...]: pa.list_(pa.field("element", pa.float64(), nullable=False)),
}


def _arrow_type(hint: Any) -> tuple[Any, bool]:
    """Python annotation -> (Arrow type, nullable)."""
    if isinstance(hint, types.UnionType):
        kinds = [a for a in typing.get_args(hint) if a is not type(None)]
        return _ARROW[kinds[0]], True
    return _ARROW[hint], False


def _pandas_metadata(columns: list[Any]) -> bytes:
    """What pandas reads back its dtypes from; without it a null turns an int64 column into floats."""
    described = [
        {
            "name": f.name,
            "field_name": f.name,
            "pandas_type": "unicode" if f.type == pa.string() else str(f.type),
            "numpy_type": PANDAS_DTYPES.get(f.type, "object"),
            "metadata": None,
        }
        for f in columns
    ]
    return json.dumps(
        {"index_columns": [], "column_indexes": [], "columns": described, "pandas_version": "2.2"}
    ).encode()


@cache
def schema_of(table: str) -> Any:
    """The pyarrow.Schema of one of TABLES or MONITOR_TABLES: field metadata {unit, doc}, table metadata schema_version."""
    record = (TABLES | MONITOR_TABLES)[table]
    hints = typing.get_type_hints(record)
    columns = []
    for f in fields(record):
        kind, nullable = _arrow_type(hints[f.name])
        columns.append(pa.field(f.name, kind, nullable, {"unit": f.metadata["unit"], "doc": f.metadata["doc"]}))
    return pa.schema(
        columns, {"schema_version": str(SCHEMA_VERSION), "table": table, "pandas": _pandas_metadata(columns)}
    )


@cache
def parquet_options(table: str) -> dict[str, Any]:
    """Keyword arguments for the Parquet writer: zstd, int64 as deltas (stamps are near-monotonic), strings as dictionaries."""
    encodings: dict[str, str] = {}
    strings: list[str] = []
    for f in schema_of(table):
        if f.type == pa.string():
            strings.append(f.name)
        elif f.type == pa.int64():
            encodings[f.name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_list(f.type) and f.type.value_type == pa.int64():
            encodings[f"{f.name}.list.element"] = "DELTA_BINARY_PACKED"
        elif pa.types.is_list(f.type):  # bounds and counts of histograms: few different ones
            strings.append(f"{f.name}.list.element")
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": strings,
        "column_encoding": encodings,
        "write_page_checksum": True,  # a flipped bit is an error of the reader's, not another number
    }


# ---------------------------------------------------------------- the page for readers

_TABLE_DOCS = {
    "plan": "What was to be sent and when, drawn and written before the first byte went out. Measured requests only.",
    "requests": "One row per request as it happened, warm-up, failed and dropped ones included.",
    "gpu": "One row per GPU and sample. No file where there is no NVML.",
    "server": "The server's Prometheus metrics, long format: one row per series and scrape. No file where the server has none.",
    "host": "The machine that the harness ran on, one row per sample.",
    "network": "The way to a target at a URL, one row per round trip beside the load. No file for a server of ours.",
    "limits": "What the heads of replies said of the account's limits, one row per change. No file where they say nothing.",
    "readings": "What a monitor read: one row per server, model, tenant, monitor and minute. Counters are the server's own, as they "
    "stood; `harness/monitor/increase.py` makes increases of them, over restarts, gaps and several monitors.",
    "hours": "Increases of whole hours, made of readings: what long windows are summed of. Can be made again.",
}

MANIFEST_DOCS = {
    "schema_version": "Version of this layout; a reader refuses a newer one than its own",
    "run_id": "Name of the run, printed beside every number made from it",
    "experiment": "Name from the experiment file",
    "campaign_id": "The invocation of `harness run` that made it",
    "cell": "Target, workload, load (`concurrency`, or `rate_rps` and `arrivals`) and repetition",
    "state": "running, complete, interrupted or failed. A run that was killed still says running on disk; "
    "the harness reports it as interrupted once its process is gone",
    "created_utc": "When the run directory was made",
    "owner_pid": "Process that writes it",
    "owner_start_ticks": "That process's start time in clock ticks since boot, which tells it from a later process with its number",
    "harness_version": "Version of the harness",
    "config": "The resolved experiment",
    "config_sha256": "Digest of the resolved experiment",
    "plan_sha256": "Digest of the plan: equal digests, equal lengths at equal times; the words are each run's own",
    "seed": "Seed of the plan",
    "environment": "Versions, hardware, driver, git state and the like; prompt_salt: with the seed, what the words of the prompts were drawn from (0: from the seed alone)",
    "target": "What the server really is, read back from it",
    "drive": "Per phase, what the load generator says of itself, clock anchors included",
    "telemetry": "gpu, server, host: ok, or why there is none; gpu_facts: how surely the boards are the target's (`certain`), why "
    "their energy is not its own (`no_energy`), why other processes cannot be known (`others_unknown`), Xids, and what calls to "
    "NVML took; network: the way to the target; network_facts: what answered there, and through which proxy",
    "row_counts": "Rows per table",
    "error": "Why the run failed or stopped; null if it did not",
}

_HEAD = """# Results

Everything here but this page is made by runs. This page is generated from `harness/records/__init__.py`:
`python -m harness.store.schema > results/README.md`. Schema version {version}.

## Layout

    results/<experiment>/<run_id>/
      manifest.json       what was run, on what, and how it ended
      plan.parquet        the plan, written before the first byte went out
      requests.parquet    one row per request
      gpu.parquet         GPU telemetry, where there is a GPU
      server.parquet      the server's own metrics, where it exposes them
      host.parquet        this machine
      network.parquet     the way to a target at a URL
      limits.parquet      the account's limits, where replies tell them
      server.log          output of a server that the harness started
      parts/              only while a run goes on, or after it was killed: part files of the same tables
      traceback.txt       only where the run ended by an error that was not foreseen
      reserve.tmp         only while a run goes on: room for the last manifest on a full disk
      scratch/            the same as parts/: what the load generator received and has not stored (`harness recover`)
    results/history/   one row a run, by month, kept for ever: not to be deleted
    results/<experiment>/derived/   summaries and reports; can always be made again

While a run goes on its rows stand in `parts/<table>-00001.parquet`, .. , written at most once a second. At the end they
are merged into `<table>.parquet` and removed. Where both stand, `<table>.parquet` is complete and the parts are not to be
read; names ending in `.tmp` are unfinished and never to be read. `harness.store.reader.read_run` follows these rules.

Every `_ns` is CLOCK_MONOTONIC of the machine that ran the harness, in nanoseconds, except `scheduled_ns` of the plan, which
counts from the start of the phase. Null means not observed; it is never 0. Units stand in the field metadata of the files too.
"""

_MONITOR_HEAD = """
## monitor/

The store of a monitor (`harness monitor`), a folder or an object store of its own; several monitors may write to one.

    <store>/readings/day=YYYY-MM-DD/*.parquet   rows as they were read, a file per flush, one per day once the day is over
    <store>/hours/day=YYYY-MM-DD/*.parquet      increases of the hours that are over
    <store>/days/day=YYYY-MM-DD/total.parquet   the same of whole days, in the same columns
    <store>/last/day=YYYY-MM-DD/HH.parquet      the last reading of each before that hour: where the next one's increases begin
"""

_READING = """
## Reading

pandas, with nullable dtypes (`Int64`, `Float64`, `boolean`, `string`): an int64 of nanoseconds must not become a float.
The files carry these dtypes, so the plain call gives them; list columns hold NumPy arrays, null where absent.

    import pandas as pd
    requests = pd.read_parquet("results/EXPERIMENT/RUN_ID/requests.parquet")
    ok = requests[(requests["phase"] == "measure") & (requests["outcome"] == "ok")]
    ttft_s = (ok["first_token_ns"] - ok["sent_ns"]) / 1e9

DuckDB, over one run or many:

    SELECT outcome, count(*), median(first_token_ns - sent_ns) / 1e9 AS ttft_s
    FROM 'results/EXPERIMENT/*/requests.parquet' WHERE phase = 'measure' GROUP BY outcome;

    -- one row per token-bearing chunk
    SELECT request_id, unnest(chunk_ns) AS chunk_ns FROM 'results/EXPERIMENT/RUN_ID/requests.parquet';

A run that is going on or was killed, its part files read as one:

    from harness.store.reader import read_run
    run = read_run("results/EXPERIMENT/RUN_ID")   # run.manifest, run.requests, run.plan, run.gpu, run.server, run.host,
                                                 # run.network, run.limits
"""


def _type_name(arrow_type: Any) -> str:
    if pa.types.is_list(arrow_type):
        return f"list<{_type_name(arrow_type.value_type)}>"
    return {"double": "float64"}.get(str(arrow_type), str(arrow_type))


def defaults_of(table: str) -> dict[str, Any]:
    """Columns that a record gives a default, and the default: what rows have that were written before the column was."""
    return {f.name: f.default for f in fields(TABLES[table]) if f.default is not MISSING and f.default is not None}


def _table_section(table: str) -> str:
    lines = [
        f"\n## {table if table in MONITOR_TABLES else f'{table}.parquet'}\n",
        _TABLE_DOCS[table],
        "",
        "| column | type | unit | may be null | meaning |",
        "|---|---|---|---|---|",
    ]
    for f in schema_of(table):
        unit, doc = f.metadata[b"unit"].decode(), f.metadata[b"doc"].decode()
        lines.append(f"| `{f.name}` | {_type_name(f.type)} | {unit} | {'yes' if f.nullable else ''} | {doc} |")
    return "\n".join(lines) + "\n"


def schema_page() -> str:
    """Markdown of results/README.md: layout, every table's columns, the manifest's keys, how to read them."""
    manifest = "\n".join(f"| `{f.name}` | {MANIFEST_DOCS[f.name]} |" for f in fields(Manifest))
    states = ", ".join(state.value for state in RunState)
    return (
        _HEAD.format(version=SCHEMA_VERSION)
        + "".join(_table_section(table) for table in TABLES)
        + history_section()
        + ELSEWHERE
        + _MONITOR_HEAD
        + "".join(_table_section(table) for table in MONITOR_TABLES)
        + f"\n## manifest.json\n\nStates: {states}.\n\n| key | meaning |\n|---|---|\n{manifest}\n"
        + _READING
    )


if __name__ == "__main__":
    print(schema_page(), end="")
