"""What a run is made of: its target, its requests as they went, its manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from harness.records.column import col
from harness.records.plan import Load, PlannedRequest


class Phase(StrEnum):
    """Which part of a run a request belongs to."""

    WARMUP = "warmup"
    MEASURE = "measure"


class Outcome(StrEnum):
    """What became of a request. Only `ok` may improve a number; every other one is still a row."""

    OK = "ok"
    CONNECT_ERROR = "connect_error"  # refused, unreachable, DNS, certificate
    HTTP_ERROR = "http_error"  # a status other than 200
    ERROR_EVENT = "error_event"  # an error object inside a 200 stream
    TRUNCATED = "truncated"  # the stream ended before its finish
    PROTOCOL_ERROR = "protocol_error"  # bytes that are not HTTP or not SSE
    RESET = "reset"  # the connection was reset
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST_TOKEN = "timeout_first_token"  # noqa: S105 (a token of text)
    TIMEOUT_IDLE = "timeout_idle"  # too long between two tokens
    TIMEOUT_TOTAL = "timeout_total"
    EMPTY_REPLY = "empty_reply"  # a 200 stream that came to its end without one token
    OVERRUN = "overrun"  # more than twice the tokens asked for: ended by us as soon as it was seen
    CANCELLED = "cancelled"  # by us, on Ctrl-C or at the end of the run
    DROPPED = "dropped"  # could not be sent when it was due
    LOST = "lost"  # on a load-generating node that was lost: it may have been sent, and nobody knows what came of it


RETRIED = (
    "a kept-alive connection was closed by the server before any reply; sent again on a new one"  # error of an ok row
)


class RunState(StrEnum):
    """State of a run directory, in manifest.json. A run that was killed still says `running` on disk: the reader,
    seeing that no process owns it any more, reports `interrupted`."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


# ---------------------------------------------------------------- targets


@dataclass(frozen=True, slots=True)
class Startup:
    """Cold start of a server we started ourselves, seconds from the spawn; null where it was not seen in the log."""

    process_s: float | None  # spawn -> the server's first log line
    weights_s: float | None  # time the server says it took to load weights
    ready_s: float | None  # spawn -> /health answers 200
    first_token_s: float | None  # spawn -> first real token


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that are one token each for the target, and their ids where it tells them (`source` says how we know).

    `prompt_overhead_tokens`: what the chat template adds to one user message; 0 for completions; null if unknown.
    """

    words: tuple[str, ...]
    token_ids: tuple[int, ...] | None
    prompt_overhead_tokens: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to send. `api_key` never appears in repr, manifest or log."""

    base_url: str  # ends in /v1
    model: str
    api: str  # completions | chat | responses | messages
    api_key: str | None = field(default=None, repr=False)
    vllm_extensions: bool = False  # ignore_eos, min_tokens, return_token_ids, continuous usage are understood
    ca_file: str | None = None
    body: str = "exact"  # exact | plain: see TargetSpec
    auth: str = "bearer"  # bearer | x-api-key | api-key: the header that the key goes in
    headers: Mapping[str, str] = field(default_factory=dict)  # beside our own
    request: Mapping[str, Any] = field(default_factory=dict)  # of the body, beside our own; None leaves one of ours out
    output_limit: str | None = None  # the body's field that bounds a reply; None: what the API's documentation says
    connections: str = "kept"  # kept | fresh: one a request
    replicas: tuple[str, ...] = ()  # base URLs that requests go to in turn, by position; empty: all go to base_url
    proxy_env: str | None = (
        None  # variable with the URL of the proxy; None: the environment's usual ones, none for loopback
    )


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What a target really is, read back from it; goes into the manifest as it stands."""

    name: str
    kind: str  # vllm | adopt | hosted
    base_url: str
    model: str
    max_model_len: int | None
    server_version: str | None
    flags: Mapping[str, Any]  # asked for
    cache_config: Mapping[str, str]  # read back from /metrics, empty where absent
    pids: tuple[int, ...]  # of a server we started, else empty
    startup: Startup | None
    metrics_url: str | None  # None where the server has no Prometheus endpoint
    checks: Mapping[str, str]  # identity check -> what was seen


# ---------------------------------------------------------------- drive


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as it happened; a row of requests.parquet. Facts only: TTFT and the rest are computed later.

    Chunks that came out of one read carry the same `chunk_ns` (the newest segment's stamp): for all but the last of
    them it is an upper bound, and `merged_reads` counts such reads.
    """

    request_id: str = col("", "Sent to the server as the header x-request-id")
    seq: int = col("", "Position in the plan; negative for warm-up")
    phase: str = col("", "warmup or measure")
    worker: int = col("", "Which load-generator process sent it")
    session_id: int | None = col("", "Session of the plan")
    target_prompt_tokens: int = col("tokens", "Prompt length asked for")
    target_output_tokens: int = col("tokens", "Output length asked for")
    scheduled_ns: int | None = col("ns", "When the plan wanted it sent; null in a closed loop")
    due_ns: int | None = col("ns", "Open loop: scheduled_ns. Closed loop: when its slot became free")
    connect_started_ns: int | None = col("ns", "Connection attempt began; null if the connection was reused")
    connect_ns: int | None = col("ns", "TCP connection stood; null if reused")
    tls_ns: int | None = col("ns", "TLS handshake done; null if reused or no TLS")
    sent_ns: int | None = col("ns", "The kernel had taken the request's last byte")
    first_byte_ns: int | None = col("ns", "First byte of the response arrived")
    first_token_ns: int | None = col(
        "ns", "First token-bearing chunk arrived (a role-only or empty one does not count)"
    )
    last_token_ns: int | None = col("ns", "Last token-bearing chunk arrived")
    ended_ns: int | None = col("ns", "Response complete, or the request given up")
    chunk_ns: tuple[int, ...] = col("ns", "One stamp per token-bearing chunk")
    chunk_tokens: tuple[int, ...] | None = col("tokens", "Tokens in each such chunk, where the server says so")
    prompt_tokens: int | None = col("tokens", "Prompt tokens by the server's usage")
    cached_prompt_tokens: int | None = col("tokens", "Of those, from the prefix cache, by usage")
    output_tokens: int | None = col("tokens", "Output tokens by the server's usage; null when usage is missing")
    reasoning_tokens: int | None = col("tokens", "Of those, reasoning, by usage")
    counted_output_tokens: int | None = col(
        "tokens", "Our own count: sum of chunk_tokens; null where chunks do not say"
    )
    merged_reads: int = col("", "Reads of this response that held several token-bearing chunks")
    reads: int = col("", "Reads of this response")
    response_bytes: int = col("bytes", "Bytes received, headers and framing included")
    connection_reused: bool | None = col("", "A kept-alive connection was used; null if never connected")
    outcome: str = col("", "ok, or what went wrong (see Outcome)")
    http_status: int | None = col("", "Status of the response")
    finish_reason: str | None = col("", "As the server says: length, stop, ..")
    error: str | None = col("", "What went wrong, in one line, without secrets")
    first_visible_ns: int | None = col(
        "ns", "First chunk with text or a tool call arrived: what is seen after any reasoning", default=None
    )
    reasoning_chunks: int | None = col("", "Token-bearing chunks that held reasoning", default=None)
    reasoning_hidden: bool | None = col(
        "",
        "Usage counts reasoning of which a summary streamed, or nothing: reasoning_tokens says how many, null how many is unknown; "
        "null where chunks and usage tell",
        default=None,
    )
    retry_after_s: float | None = col(
        "s", "How long the reply's head asked to wait before another request", default=None
    )
    released_ns: int | None = col(
        "ns", "When the pacing to the account's limits let it go; null where nothing paces", default=None
    )
    cache_written_5m_tokens: int | None = col(
        "tokens",
        "Of prompt_tokens, written into the cache for 5 minutes, the shorter life (OpenAI: 30 minutes) or one that is not told, by usage",
        default=None,
    )
    cache_written_1h_tokens: int | None = col(
        "tokens",
        "Of prompt_tokens, written into the cache for an hour, the longer life (OpenAI: 12 hours), by usage",
        default=None,
    )
    served_by: str | None = col(
        "",
        "Hybrid: the target that the request was sent to; of several replicas the one that served it, host:port, where that is known; else null",
        default=None,
    )
    routed_why: str | None = col("", "Hybrid: why it was sent there, in the policy's words", default=None)


def row_without_reply(
    request: PlannedRequest,
    outcome: Outcome,
    error: str | None,
    *,
    request_id: str,
    phase: Phase,
    worker: int,
    scheduled_ns: int | None,
    due_ns: int | None,
    ended_ns: int,
) -> RequestRecord:
    """The row of a request of which nothing was read; what is known besides is for `dataclasses.replace`."""
    return RequestRecord(
        request_id=request_id,
        seq=request.seq,
        phase=phase.value,
        worker=worker,
        session_id=request.session_id,
        target_prompt_tokens=request.target_prompt_tokens,
        target_output_tokens=request.target_output_tokens,
        scheduled_ns=scheduled_ns,
        due_ns=due_ns,
        connect_started_ns=None,
        connect_ns=None,
        tls_ns=None,
        sent_ns=None,
        first_byte_ns=None,
        first_token_ns=None,
        last_token_ns=None,
        ended_ns=ended_ns,
        chunk_ns=(),
        chunk_tokens=None,
        prompt_tokens=None,
        cached_prompt_tokens=None,
        output_tokens=None,
        reasoning_tokens=None,
        counted_output_tokens=None,
        merged_reads=0,
        reads=0,
        response_bytes=0,
        connection_reused=None,
        outcome=outcome.value,
        http_status=None,
        finish_reason=None,
        error=error,
    )


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; None waits for ever."""

    connect_s: float | None = 10.0
    first_token_s: float | None = 300.0
    idle_s: float | None = 120.0
    total_s: float | None = 900.0


@dataclass(frozen=True, slots=True)
class DriveProgress:
    """Given to the live display a few times a second."""

    done: int
    total: int
    in_flight: int
    failed: int
    output_tokens: int  # token-bearing chunks of the requests that are done
    elapsed_s: float
    duration_s: float | None = None  # set where the phase ends by time, not by the number of requests


@dataclass(frozen=True, slots=True)
class DriveReport:
    """What the load generator says of itself over one phase; goes into the manifest."""

    driver: str  # wire | sdk
    workers: int
    started_ns: int
    ended_ns: int
    stamp_source: str  # kernel | user
    stop_reason: str  # done | duration | interrupted | worker_died | node_lost | target_died
    reads: int
    merged_reads: int
    cpu_s: float  # of the sending and reading processes
    parse_cpu_s: float | None
    loop_lag_max_s: float | None
    late_sends: int  # sends over 5 ms behind their due time
    largest_clock_step_ns: int
    anchors: Sequence[tuple[int, int, int]]  # (monotonic_ns, offset_ns, error_ns)
    clock_offsets: Sequence[tuple[int, int]] = ()  # per worker: its CLOCK_MONOTONIC - ours, and the error of that, ns
    largest_read_bytes: int | None = None  # what one read took out of a socket: the most that stood there unread
    notes: Sequence[str] = ()
    nodes: Sequence[
        Mapping[str, Any]
    ] = ()  # of load from many nodes: each one's facts, its clock's, its rows, why it was lost


# ---------------------------------------------------------------- store


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of an experiment: target x workload x load x repetition."""

    target: str
    workload: str
    load: Load
    repetition: int

    @property
    def name(self) -> str:
        name = f"{self.target}_{self.workload}_{self.load.name}_rep{self.repetition}"
        return re.sub(r"[^\w.+-]", "-", name)  # the name of a folder: a workload may be a path with options


def target_config(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a run's config says of the target of that name; empty where it says nothing."""
    targets = config.get("targets") or ()
    return next((t for t in targets if isinstance(t, Mapping) and t.get("name") == name), {})


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json of a run directory. Mappings hold plain JSON values."""

    schema_version: int
    run_id: str
    experiment: str
    campaign_id: str  # the invocation of `harness run` that made it
    cell: Cell
    state: str
    created_utc: str
    owner_pid: int
    owner_start_ticks: int  # /proc/<pid>/stat field 22: tells a reused pid from the owner
    harness_version: str
    config: Mapping[str, Any]
    config_sha256: str
    plan_sha256: str
    seed: int
    environment: Mapping[str, Any]
    target: Mapping[str, Any]  # TargetInfo as JSON
    drive: Mapping[str, Any]  # phase -> DriveReport as JSON
    telemetry: Mapping[str, Any]  # gpu | server | host -> "ok" or why it is absent; gpu_facts, server_facts
    row_counts: Mapping[str, int]
    error: str | None

    @property
    def target_config(self) -> Mapping[str, Any]:
        """What the config says of the run's target."""
        return target_config(self.config, self.cell.target)


@dataclass(frozen=True, slots=True)
class RunData:
    """A run read back: the manifest and its tables as pandas data frames (None where the file is absent)."""

    path: str
    manifest: Manifest
    requests: Any  # pandas.DataFrame with the columns of RequestRecord
    plan: Any
    gpu: Any | None
    server: Any | None
    host: Any | None
    network: Any | None = None
    limits: Any | None = None
    chunks: Any | None = None  # Sequence[ChunkRows] of all rows of `requests`, where its frame has no chunk_ns
