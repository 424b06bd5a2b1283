"""Runs made in code: a known server, so that every number of a summary is known beforehand.

All stamps lie beyond 2^53 ns (a machine up for 116 days), where a float no longer holds a nanosecond.
"""

from __future__ import annotations

import heapq
from dataclasses import fields, replace

import numpy as np
import pandas as pd

from harness.records import (
    Cell,
    GpuSample,
    HostSample,
    Load,
    Manifest,
    PlannedRequest,
    RequestRecord,
    RunData,
    ServerSample,
)

BASE_NS = 10_000_000_000_000_001
_KINDS = {"int": "Int64", "float": "Float64", "bool": "boolean", "str": "string"}


def ns(seconds: float) -> int:
    return BASE_NS + round(seconds * 1e9)


def request(
    seq: int,
    sent_s: float,
    *,
    ttft_s: float = 0.05,
    tokens: int = 8,
    gap_s: float = 0.01,
    prompt: int = 128,
    scheduled_s: float | None = None,
    due_s: float | None = None,
    phase: str = "measure",
) -> RequestRecord:
    """An ok request: one token a chunk, first after `ttft_s`, then every `gap_s`; the response ends 1 us after the last."""
    stamps = tuple(ns(sent_s + ttft_s + i * gap_s) for i in range(tokens))
    due = scheduled_s if due_s is None else due_s
    return RequestRecord(
        request_id=f"r{seq}", seq=seq, phase=phase, worker=0, session_id=None, target_prompt_tokens=prompt, target_output_tokens=tokens,
        scheduled_ns=None if scheduled_s is None else ns(scheduled_s), due_ns=ns(sent_s if due is None else due),
        connect_started_ns=None, connect_ns=None, tls_ns=None, sent_ns=ns(sent_s), first_byte_ns=stamps[0], first_token_ns=stamps[0],
        last_token_ns=stamps[-1], ended_ns=stamps[-1] + 1000, chunk_ns=stamps, chunk_tokens=(1,) * tokens, prompt_tokens=prompt,
        cached_prompt_tokens=0, output_tokens=tokens, reasoning_tokens=0, counted_output_tokens=tokens, merged_reads=0, reads=tokens + 1,
        response_bytes=1000, connection_reused=True, outcome="ok", http_status=200, finish_reason="length", error=None,
        first_visible_ns=stamps[0], reasoning_chunks=0,
    )  # fmt: skip


def failed(record: RequestRecord, outcome: str = "http_error", *, sent: bool = True) -> RequestRecord:
    """The same request without an answer."""
    return replace(
        record, outcome=outcome, sent_ns=record.sent_ns if sent else None, first_byte_ns=None, first_token_ns=None, last_token_ns=None,
        ended_ns=(record.sent_ns or 0) + 1000, chunk_ns=(), chunk_tokens=None, prompt_tokens=None, cached_prompt_tokens=None,
        output_tokens=None, reasoning_tokens=None, counted_output_tokens=None, finish_reason=None, error="no",
        first_visible_ns=None,
    )  # fmt: skip


def closed_loop(concurrency: int, count: int, *, stagger_s: float = 0.0, **kw) -> list[RequestRecord]:
    """`count` requests over `concurrency` slots; slot k starts k x `stagger_s` late, and a freed slot sends 0.1 ms later."""
    free = [(k * stagger_s, k) for k in range(concurrency)]
    heapq.heapify(free)
    records = []
    for seq in range(count):
        at, slot = heapq.heappop(free)
        records.append(request(seq, at, **kw))
        heapq.heappush(free, ((records[-1].last_token_ns - BASE_NS) / 1e9 + 1e-4, slot))
    return records


def open_loop(rate: float, count: int, *, lag_s: float = 0.0, **kw) -> list[RequestRecord]:
    """Constant arrivals at `rate`, every send `lag_s` late."""
    return [request(i, i / rate + lag_s, scheduled_s=i / rate, **kw) for i in range(count)]


def frame(rows, kind) -> pd.DataFrame:
    """Rows as the store's reader gives them: nullable dtypes, list columns as int64 arrays or None."""
    columns = {}
    for f in fields(kind):
        values = [getattr(r, f.name) for r in rows]
        if str(f.type).startswith("tuple"):
            lists = [None if v is None else np.array(v, dtype=np.int64) for v in values]
            columns[f.name] = pd.Series(pd.array(lists, dtype=object))
        else:
            columns[f.name] = pd.array(values, dtype=_KINDS[str(f.type).split(" ")[0]])
    return pd.DataFrame(columns)


def edges(records, *, prompt_extra: int = 0, output_extra: int = 0) -> list[ServerSample]:
    """Counters at the edges of the phase, on two engines, that rose by the tokens of the ok requests (and the extra)."""
    ok = [r for r in records if r.outcome == "ok" and r.phase == "measure"]
    rises = {
        "vllm:prompt_tokens_total": sum(r.target_prompt_tokens for r in ok) + prompt_extra,
        "vllm:generation_tokens_total": sum(len(r.chunk_ns) for r in ok) + output_extra,
    }
    end_ns = max((r.ended_ns for r in records), default=BASE_NS) + 10**6
    rows = []
    for metric, rise in rises.items():
        for engine, share in (("0", rise // 3), ("1", rise - rise // 3)):
            labels = f'{{"engine": "{engine}"}}'
            rows.append(ServerSample(BASE_NS - 10**6, "start", metric, labels, 1000.0))
            rows.append(ServerSample(end_ns, "end", metric, labels, 1000.0 + share))
    return rows


def host(records, *, harness_per_s: float = 0.01, server_per_s: float = 1.0) -> list[HostSample]:
    """Two samples a second from 1 s before to 1 s after the run, with steady CPU use."""
    last_s = (max((r.ended_ns for r in records), default=BASE_NS) - BASE_NS) / 1e9
    times = np.arange(-1, last_s + 1.5, 0.5)
    return [HostSample(ns(t), 50.0, 1.0, 1, 1, (t + 1) * harness_per_s, 1, (t + 1) * server_per_s, 1) for t in times]


def gpu(seconds: float, watts=(100.0, 200.0), *, hz: float = 10, **kw) -> list[GpuSample]:
    """Boards of constant power, sampled from 1 s before to 1 s after, with a counter that starts high."""
    rows = []
    for i in range(round((seconds + 2) * hz)):
        t = i / hz - 1
        for index, power in enumerate(watts):
            energy = 5_000_000_000 + round((t + 1) * power * 1000)
            sample = GpuSample(
                ns(t), index, f"GPU-{index}", round(power * 1000), energy, 90, 50, 1, 1500, 1500, 60, 0, 1, 0, None
            )
            rows.append(replace(sample, **kw))
    return rows


def run(
    records,
    load: Load,
    *,
    server="clean",
    host_rows="clean",
    gpu_rows=None,
    kind="vllm",
    slo=None,
    drive=None,
    **manifest,
) -> RunData:
    """A complete run of these records on a server of ours, everything about it clean unless told otherwise."""
    server_rows = edges(records) if server == "clean" else server
    rows = host(records) if host_rows == "clean" else host_rows
    measured = [r for r in records if r.phase == "measure"]
    drive_report = {
        "driver": "wire", "workers": 1, "started_ns": BASE_NS, "ended_ns": BASE_NS, "stamp_source": "kernel", "stop_reason": "done",
        "largest_clock_step_ns": 2000, **(drive or {}),
    }  # fmt: skip
    base = Manifest(
        schema_version=1, run_id="20261124T113000Z_x", experiment="x", campaign_id="c", cell=Cell("t", "fixed:128x8", load, 0),
        state="complete", created_utc="20261124T113000Z", owner_pid=1, owner_start_ticks=1, harness_version="0", config={"slo": slo},
        config_sha256="", plan_sha256="", seed=1, environment={}, drive={"measure": drive_report}, telemetry={}, row_counts={}, error=None,
        target={"kind": kind, "model": "m", "metrics_url": "http://x/metrics", "startup": {"ready_s": 30.0}},
    )  # fmt: skip
    plan = [
        PlannedRequest(r.seq, None, r.target_prompt_tokens, r.target_output_tokens, None, 1 + r.seq) for r in measured
    ]
    return RunData(
        path="x",
        manifest=replace(base, **manifest),
        requests=frame(records, RequestRecord),
        plan=frame(plan, PlannedRequest),
        gpu=None if gpu_rows is None else frame(gpu_rows, GpuSample),
        server=None if server_rows is None else frame(server_rows, ServerSample),
        host=None if rows is None else frame(rows, HostSample),
    )
