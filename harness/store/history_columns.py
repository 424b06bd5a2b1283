"""The columns of the history's table `runs`: one row a run, wide, so that a trend reads the three or four columns it needs.

Identity and provenance are the `col`s of `RunRow`; behind them stand the metrics of metrics.METRICS, a run's as one column under its
own name, a request's or chunk's as `<name>_count`, `_mean`, `_p50`, `_p90`, `_p95`, `_p99` and `_maximum`. A new metric is a new
column: it is null in rows of an older harness, and no row has to be written again.
"""

from __future__ import annotations

import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pyarrow as pa

from harness.base import redaction
from harness.records import SCHEMA_VERSION, RunSummary, col
from harness.records.metrics import METRICS

STATISTICS = ("mean", "p50", "p90", "p95", "p99", "maximum")
_ARROW: dict[Any, Any] = {
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    str: pa.string(),
    datetime: pa.timestamp("us"),
}


@dataclass(frozen=True, slots=True)
class RunRow:
    """What a run was and stood on. Times are UTC without a zone, as DuckDB compares them with plain dates."""

    run_id: str = col("", "Name of the run")
    experiment: str = col("", "Name from the experiment file")
    campaign_id: str = col("", "The invocation of `harness run` that made it; a night of the history")
    created_utc: datetime | None = col("", "When the run directory was made, UTC")  # noqa: RUF009 (a field)
    indexed_utc: datetime = col("", "When this row was made, UTC; of two rows of a run the later one counts")  # noqa: RUF009 (a field)
    target: str = col("", "Target's name in the experiment")
    workload: str = col("", "Workload as the experiment names it")
    load: str = col("", "Load's name: c16, r2.5, r2-constant, ..")
    concurrency: int | None = col("", "Closed loop: requests in flight")
    rate_rps: float | None = col("1/s", "Open loop: offered rate")
    repetition: int = col("", "Repetition within the campaign")
    model: str = col("", "Model as the target serves it")
    target_kind: str = col("", "vllm, adopt or hosted")
    state: str = col("", "complete, interrupted or failed")
    verdict: str = col("", "VALID, INVALID or UNKNOWN")
    reasons: str = col("", "Codes of the verdict's reasons, sorted, with commas between")
    gpu_name: str | None = col("", "Boards' names, with commas between; null without a GPU")
    gpu_count: int = col("", "Boards watched")
    driver: str | None = col("", "GPU driver's version")
    cpu_model: str | None = col("", "Processor of the machine that ran the harness")
    host_sha256: str | None = col("", "Digest of that machine's name")
    server_version: str | None = col("", "Version that the server told: vLLM's, where it is vLLM")
    harness_version: str | None = col("", "Version of the harness")
    git_commit: str | None = col("", "Commit of the directory the harness ran in")
    git_dirty: bool | None = col("", "Whether that directory had uncommitted changes")
    flags_sha256: str = col("", "Digest of `flags` and `env`: equal digests, a server asked for in the same way")
    flags: str = col("", "The server's flags as sorted JSON")
    env: str = col("", "The server's environment variables of the experiment file as sorted JSON, secrets hidden")
    config_sha256: str | None = col("", "Digest of the resolved experiment")
    plan_sha256: str | None = col("", "Digest of the plan")
    window_s: float | None = col("s", "Length of the measured window; null where there was none")
    ready_s: float | None = col("s", "Spawn of the server until it answered; null where it is not ours")
    ok_requests: int = col("requests", "Requests of the measured phase that succeeded")
    failed_requests: int = col("requests", "Requests of the measured phase that did not")


@dataclass(frozen=True, slots=True)
class MetricColumn:
    """A column made of a metric: `statistic` is None for a run's own metric."""

    name: str
    metric: str
    statistic: str | None
    unit: str
    doc: str


@cache
def metric_columns() -> tuple[MetricColumn, ...]:
    """Every metric's columns, in the order of metrics.METRICS."""
    columns = []
    for metric in METRICS.values():
        if metric.per == "run":
            columns.append(MetricColumn(metric.name, metric.name, None, metric.unit, metric.formula))
            continue
        over = "chunks" if metric.per == "chunk" else "requests"
        columns.append(MetricColumn(f"{metric.name}_count", metric.name, "count", over, f"{over} with {metric.symbol}"))
        for statistic in STATISTICS:
            doc = f"{statistic} of {metric.symbol} over {over}: {metric.formula}"
            columns.append(MetricColumn(f"{metric.name}_{statistic}", metric.name, statistic, metric.unit, doc))
    return tuple(columns)


def _arrow_type(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType):
        return _ARROW[next(a for a in typing.get_args(hint) if a is not type(None))], True
    return _ARROW[hint], False


@cache
def runs_schema() -> Any:
    """The pyarrow.Schema of `runs`: field metadata {unit, doc}, table metadata schema_version."""
    hints = typing.get_type_hints(RunRow)
    columns = []
    for f in fields(RunRow):
        kind, nullable = _arrow_type(hints[f.name])
        columns.append(pa.field(f.name, kind, nullable, {"unit": f.metadata["unit"], "doc": f.metadata["doc"]}))
    for column in metric_columns():
        kind = pa.int64() if column.statistic == "count" else pa.float64()
        columns.append(pa.field(column.name, kind, metadata={"unit": column.unit, "doc": column.doc}))
    return pa.schema(columns, {"schema_version": str(SCHEMA_VERSION), "table": "runs"})


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(redaction.data(values), sort_keys=True, default=str)


def _utc(text: str) -> datetime | None:
    """ISO 8601, or a stamp like 20261124T113000Z, as UTC without a zone; None where it is neither."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _joined(values: list[Any]) -> str | None:
    return ", ".join(str(v) for v in values if v) or None


def row_of(summary: RunSummary, indexed_utc: datetime) -> dict[str, Any]:
    """The row of a run: a value for every column of `runs_schema`."""
    cell, environment = summary.cell, summary.environment
    server, git, gpus = environment.get("server") or {}, environment.get("git") or {}, environment.get("gpus") or []
    declared = summary.target_config
    flags, env = _json(server.get("flags") or declared.get("flags") or {}), _json(declared.get("env") or {})
    ok = summary.outcomes.get("ok", 0)
    row = RunRow(
        run_id=summary.run_id,
        experiment=summary.experiment,
        campaign_id=summary.campaign_id,
        created_utc=_utc(summary.created_utc),
        indexed_utc=indexed_utc.astimezone(UTC).replace(tzinfo=None),
        target=cell.target,
        workload=cell.workload,
        load=cell.load.name,
        concurrency=cell.load.concurrency,
        rate_rps=cell.load.rate_rps,
        repetition=cell.repetition,
        model=summary.model,
        target_kind=summary.target_kind,
        state=summary.state,
        verdict=summary.verdict.state,
        reasons=",".join(sorted({r.code for r in summary.verdict.reasons})),
        gpu_name=_joined([g.get("name") for g in gpus]),
        gpu_count=len(gpus),
        driver=_joined(sorted({str(g["driver_version"]) for g in gpus if g.get("driver_version")})),
        cpu_model=environment.get("cpu_model"),
        host_sha256=environment.get("host_sha256"),
        server_version=server.get("server_version"),
        harness_version=environment.get("harness_version"),
        git_commit=git.get("commit"),
        git_dirty=git.get("dirty"),
        flags_sha256=hashlib.sha256(f"{flags}\n{env}".encode()).hexdigest(),
        flags=flags,
        env=env,
        config_sha256=environment.get("config_sha256"),
        plan_sha256=environment.get("plan_sha256"),
        window_s=summary.window.seconds if summary.window else None,
        ready_s=summary.startup.get("ready_s"),
        ok_requests=ok,
        failed_requests=sum(summary.outcomes.values()) - ok,
    )
    values = {f.name: getattr(row, f.name) for f in fields(RunRow)}
    for column in metric_columns():
        values[column.name] = _metric_value(summary, column)
    return values


def _metric_value(summary: RunSummary, column: MetricColumn) -> Any:
    if column.statistic is None:
        return summary.scalars.get(column.metric)
    distribution = summary.distributions.get(column.metric)
    return None if distribution is None else getattr(distribution, column.statistic)


def history_section() -> str:
    """The history's part of results/README.md."""
    lines = [
        "\n## history/month=YYYY-MM/*.parquet\n",
        "The table `runs` of `harness history`: one row a run, kept when its raw files are pruned, so never delete this folder. A capacity search",
        "is one row with load `capacity` and `capacity_rps`, and its probes have none.",
        "A month is that of `created_utc` (`month=unknown` without one); an older harness wrote right into `history/`, which is read too.",
        "Files are only added, and merged; of two rows of a run the one with the later `indexed_utc` counts, so read them with",
        '`harness history sql "SELECT .. FROM runs"`. Metrics of a request or chunk have the columns `_count`, `_mean`, `_p50`,',
        "`_p90`, `_p95`, `_p99` and `_maximum`; a percentile is null where the count does not support it.",
        "",
        "| column | type | unit | may be null | meaning |",
        "|---|---|---|---|---|",
    ]
    by_statistic = {c.name for c in metric_columns() if c.statistic not in {None, "count"}}
    for f in runs_schema():
        if f.name not in by_statistic:
            kind = {"double": "float64"}.get(str(f.type), str(f.type))
            unit, doc = f.metadata[b"unit"].decode(), f.metadata[b"doc"].decode()
            lines.append(f"| `{f.name}` | {kind} | {unit} | {'yes' if f.nullable else ''} | {doc} |")
    return "\n".join(lines) + "\n"
