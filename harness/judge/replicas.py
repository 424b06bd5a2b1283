"""A target of several replicas: what each of them served, by rows that are known to be its own, else by its own counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.config.target import replica_name
from harness.judge.columns import FloatArray, Requests
from harness.judge.server_state import names_in, on_page, rise
from harness.records import Phase, ReplicaOfRun, RunData


def names_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """host:port of each replica of a target, as its config names them."""
    return tuple(replica_name(url) for url in config.get("replicas") or ())


def replicas_of_run(run: RunData, requests: Requests, values: Mapping[str, FloatArray]) -> tuple[ReplicaOfRun, ...]:
    """Each replica's part of the measured phase; empty for a target of one. Rows count where all ok ones are known to be of a replica."""
    names = names_of(run.manifest.target_config)
    if not names:
        return ()
    rows = run.requests[run.requests["phase"] == Phase.MEASURE.value]
    served = rows["served_by"].fillna("").to_numpy(dtype=str) if "served_by" in rows else np.full(len(rows), "")
    if requests.ok.any() and np.isin(served[requests.ok], names).all():
        return tuple(_of_rows(name, served == name, requests, rows, values["ttft_s"]) for name in names)
    return tuple(_of_counters(name, run) for name in names)


def _of_rows(name: str, mine: Any, requests: Requests, rows: Any, ttft_s: FloatArray) -> ReplicaOfRun:
    kept = mine & requests.ok
    tokens = rows["output_tokens"].to_numpy(dtype=np.float64, na_value=np.nan)[kept]
    firsts = ttft_s[kept]
    firsts = firsts[~np.isnan(firsts)]
    return ReplicaOfRun(
        name,
        "rows",
        int(kept.sum()),
        None if np.isnan(tokens).any() else int(tokens.sum()),
        float(np.median(firsts)) if len(firsts) else None,
    )


def _of_counters(name: str, run: RunData) -> ReplicaOfRun:
    version = run.manifest.target.get("server_version")
    server = run.server
    if server is not None and len(server):
        server = server[server["labels"].str.contains(f'"replica": "{name}"', regex=False)]
    requests, tokens = (rise(server, meaning, version) for meaning in ("requests", "output_tokens"))
    return ReplicaOfRun(name, "counters", _whole(requests), _whole(tokens), _mean_ttft_s(server, version))


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _mean_ttft_s(server: Any | None, version: str | None) -> float | None:
    """Of the requests between the edges: what the histogram's sum rose by, over its count."""
    known = on_page("ttft", names_in(server), version)
    if server is None or known is None:
        return None
    stem = known.name.removesuffix("_bucket")
    risen = []
    for part in ("sum", "count"):
        rows = server[server["metric"] == f"{stem}_{part}"]
        start, end = (rows[rows["edge"] == edge]["value"].sum() for edge in ("start", "end"))
        risen.append(float(end - start))
    return risen[0] / risen[1] if risen[1] > 0 else None


def imbalance(parts: Sequence[ReplicaOfRun], of: str) -> float | None:
    """The most loaded replica over the mean of all, by `requests` or `output_tokens`; 1 is even. None where one does not tell."""
    values = [getattr(part, of) for part in parts]
    if not values or any(value is None for value in values) or sum(values) <= 0:
        return None
    return float(max(values) * len(values) / sum(values))
