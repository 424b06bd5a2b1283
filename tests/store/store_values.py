"""Values for the store's tests."""

from __future__ import annotations

import random

from harness.records import SCHEMA_VERSION, Cell, GpuSample, Load, Manifest, RequestRecord, ServerSample

T0 = 2**60 + 1  # above 2^53: a float would round it


def manifest(**changes) -> Manifest:
    values = {
        "schema_version": SCHEMA_VERSION,
        "run_id": "r1",
        "experiment": "e",
        "campaign_id": "20261124T113000Z",
        "cell": Cell("vllm", "chat", Load(rate_rps=2.5), 1),
        "state": "running",
        "created_utc": "2026-11-24T11:30:00+00:00",
        "owner_pid": 0,
        "owner_start_ticks": 0,
        "harness_version": "0.1.0",
        "config": {"seed": 1, "nested": {"a": [1, 2.5, None, True]}},
        "config_sha256": "c" * 64,
        "plan_sha256": "p" * 64,
        "seed": 2**62 + 1,
        "environment": {},
        "target": {},
        "drive": {},
        "telemetry": {"gpu": "no NVML"},
        "row_counts": {},
        "error": None,
    }
    return Manifest(**(values | changes))


def request(number: int, chunks: int = 3, **changes) -> RequestRecord:
    t = T0 + number * 1_000_000
    stamps = tuple(t + 20_000_000 * (k + 1) for k in range(chunks))
    values = {
        "request_id": f"r1-{number}",
        "seq": number,
        "phase": "measure",
        "worker": 0,
        "session_id": None,
        "target_prompt_tokens": 10,
        "target_output_tokens": chunks,
        "scheduled_ns": None,
        "due_ns": t,
        "connect_started_ns": None,
        "connect_ns": None,
        "tls_ns": None,
        "sent_ns": t + 1,
        "first_byte_ns": t + 2,
        "first_token_ns": stamps[0] if stamps else None,
        "last_token_ns": stamps[-1] if stamps else None,
        "ended_ns": t + 3,
        "chunk_ns": stamps,
        "chunk_tokens": (1,) * chunks,
        "prompt_tokens": 10,
        "cached_prompt_tokens": 0,
        "output_tokens": chunks,
        "reasoning_tokens": None,
        "counted_output_tokens": chunks,
        "merged_reads": 0,
        "reads": chunks,
        "response_bytes": 100,
        "connection_reused": True,
        "outcome": "ok",
        "http_status": 200,
        "finish_reason": "length",
        "error": None,
    }
    return RequestRecord(**(values | changes))


def server_sample(stamp_ns: int, value: float = 1.0) -> ServerSample:
    return ServerSample(stamp_ns, None, "vllm:num_requests_running", "{}", value)


def gpu_sample(stamp_ns: int) -> GpuSample:
    return GpuSample(stamp_ns, 0, "GPU-0", 250_000, 2**55 + 1, 90, 50, None, None, None, None, None, None, None, None)


def noisy_requests(count: int, chunks: int = 50) -> list[RequestRecord]:
    """Requests that do not compress well."""
    chance = random.Random(1)
    return [request(n, chunk_ns=tuple(sorted(chance.randrange(T0) for _ in range(chunks)))) for n in range(count)]
