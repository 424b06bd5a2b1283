"""Every value that crosses a stage boundary. Standard library only; frozen and slotted.

A field made with `col` is a stored column: its unit and meaning travel into the Parquet schema
(`store/schema.py`) and into `results/README.md`, so this file is the only place where a column is described.
`None` means "not observed"; it is never 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 1


def col(unit: str, doc: str, **kw: Any) -> Any:
    """A stored column: `unit` as in the field's metadata ("" for none), `doc` in one sentence."""
    return field(metadata={"unit": unit, "doc": doc}, **kw)


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


class RunState(StrEnum):
    """State of a run directory, in manifest.json. A run that was killed still says `running` on disk: the reader,
    seeing that no process owns it any more, reports `interrupted`."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


# ---------------------------------------------------------------- plan


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request as drawn; a row of plan.parquet."""

    seq: int = col(
        "", "Position in the plan: 0.. for measured requests, -1, -2, .. for warm-up (not stored in plan.parquet)"
    )
    scheduled_ns: int | None = col("ns", "When to send, as an offset from the start; null in a closed loop")
    target_prompt_tokens: int = col("tokens", "Prompt length asked for")
    target_output_tokens: int = col("tokens", "Output length asked for")
    session_id: int | None = col("", "Requests of one session share it; null without sessions")
    prompt_seed: int = col(
        "", "Seed of the prompt's tokens after those of `prefix`: equal seed, prefix and length, equal prompt"
    )
    prefix: tuple[int, ...] = col(
        "", "How the prompt begins, as pairs seed, tokens: the first `tokens` of each seed's stream", default=()
    )
    after_seq: int | None = col(
        "", "Closed loop inside a session: sent `think_ns` after the reply to this request; else null", default=None
    )
    think_ns: int | None = col("ns", "Pause between that reply and this request; null without after_seq", default=None)


@dataclass(frozen=True, slots=True)
class Load:
    """How the plan is offered: exactly one of `concurrency` (closed loop) and `rate_rps` (open loop) is set.

    Arrivals that bring their own times (`batch`, `trace`, `preset`) may leave both out: the plan drawn then holds the
    load with its mean rate filled in, except that a batch has none. `capacity` stands for a search: its probes have rates.
    """

    concurrency: int | None = None
    rate_rps: float | None = None
    arrivals: str = "poisson"  # open loop only; the words are in plan/arrivals.py

    @property
    def name(self) -> str:
        if self.concurrency is not None:
            return f"c{self.concurrency}"
        rate = "" if self.rate_rps is None else f"r{self.rate_rps:g}"
        return rate if self.arrivals == "poisson" else "-".join(filter(None, (rate, self.arrivals)))


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be sent, and when. `sha256` covers spec, seed, load and every row, measured and warm-up."""

    requests: tuple[PlannedRequest, ...]
    warmup: tuple[PlannedRequest, ...]
    load: Load
    workload: str
    seed: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt made ready for a target: token ids where the target takes ids, else text."""

    seq: int
    text: str | None
    token_ids: tuple[int, ...] | None
    messages: tuple[tuple[str, str], ...] | None = None  # chat with earlier turns: role, content; else null


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
    api: str  # completions | chat
    api_key: str | None = field(default=None, repr=False)
    vllm_extensions: bool = False  # ignore_eos, min_tokens, return_token_ids, continuous usage are understood
    ca_file: str | None = None
    body: str = "exact"  # exact | plain: see TargetSpec


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
    stop_reason: str  # done | duration | interrupted | worker_died | target_died
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


# ---------------------------------------------------------------- observe


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one instant; a row of gpu.parquet."""

    stamp_ns: int = col("ns", "When NVML had answered")
    gpu_index: int = col("", "NVML index of the board (of the parent board for a MIG slice)")
    gpu_uuid: str = col("", "UUID of the board or MIG slice")
    power_mw: int | None = col("mW", "Board power as the driver reports it (sampled; see energy_mj for totals)")
    energy_mj: int | None = col("mJ", "The board's energy counter since driver load")
    sm_util_pct: int | None = col(
        "%", "Share of the sample period with at least one kernel running: not utilisation of capacity"
    )
    mem_util_pct: int | None = col("%", "Share of the sample period with memory reads or writes")
    mem_used_bytes: int | None = col("bytes", "Memory in use on the board")
    sm_clock_mhz: int | None = col("MHz", "SM clock")
    mem_clock_mhz: int | None = col("MHz", "Memory clock")
    temperature_c: int | None = col("degC", "GPU temperature")
    throttle_reasons: int | None = col("", "NVML clocks-event-reasons bit mask")
    process_count: int | None = col("", "Compute processes on the board")
    other_process_count: int | None = col("", "Of those, not the target's")
    error: str | None = col("", "Why fields are null, when the board stopped answering")


@dataclass(frozen=True, slots=True)
class ServerSample:
    """One series of the server's /metrics at one instant; a row of server.parquet (long format)."""

    stamp_ns: int = col("ns", "When the scrape's response had arrived")
    edge: str | None = col("", "start or end for the scrapes at the edges of the measured phase, else null")
    metric: str = col("", "Series name, e.g. vllm:num_requests_running")
    labels: str = col("", "Labels as sorted JSON, {} if none")
    value: float = col("", "Value as exposed")


@dataclass(frozen=True, slots=True)
class HostSample:
    """This machine at one instant; a row of host.parquet."""

    stamp_ns: int = col("ns", "When it was read")
    cpu_pct: float | None = col("%", "CPU use of the whole machine since the last sample, 100 = all cores")
    load1: float | None = col("", "Load average over one minute")
    mem_used_bytes: int | None = col("bytes", "Memory in use (total - available)")
    mem_available_bytes: int | None = col("bytes", "Memory available")
    harness_cpu_s: float | None = col("s", "CPU time of the harness and its workers since the sampler began")
    harness_rss_bytes: int | None = col("bytes", "Resident size of the harness and its workers")
    server_cpu_s: float | None = col(
        "s", "CPU time of the server's processes since the sampler began; null if not ours"
    )
    server_rss_bytes: int | None = col("bytes", "Resident size of the server's processes; null if not ours")


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


# ---------------------------------------------------------------- analyse


@dataclass(frozen=True, slots=True)
class Window:
    """The steady part of a run, on CLOCK_MONOTONIC; `rule` says how it was found.

    `offered_s`: the time in which the load offered the requests of the window: rates are over it (analyse/window.py). `lacking`: code of
    the reason why this is the whole phase and no steady part, None for a steady part; `advice`: what would bring one.
    """

    start_ns: int
    end_ns: int
    rule: str
    offered_s: float
    ramp_s: float
    drain_s: float
    lacking: str | None = None
    advice: str = ""

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Distribution:
    """A metric over requests (or chunks); percentiles are None where `count` does not support them."""

    metric: str
    unit: str
    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    maximum: float | None


@dataclass(frozen=True, slots=True)
class Reason:
    """One finding about a run's trustworthiness. `severity`: invalid | unknown | warning."""

    code: str
    severity: str
    message: str
    advice: str


@dataclass(frozen=True, slots=True)
class Verdict:
    state: str  # VALID | INVALID | UNKNOWN
    reasons: tuple[Reason, ...]


# Codes of reasons that an overload itself brings about: the promise was broken, the client is not to blame.
OVERLOAD = frozenset({"queue_growing", "too_many_failures", "no_ok_requests"})


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """Three counts of the same tokens over the measured phase: our stamps, the server's usage, its counters.

    Usage and server counters cover ok requests of the phase; None where a source does not exist.
    """

    kind: str  # prompt | output
    planned: int
    counted: int | None
    usage: int | None
    server_counter: int | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """Evenly spaced series for the report's timeline; seconds from the window's phase start."""

    t_s: tuple[float, ...]
    series: Mapping[str, tuple[float | None, ...]]  # e.g. output_tps, in_flight, host_cpu_pct, gpu_power_w


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Everything later stages need of one run. `scalars` uses the metric names of metrics.METRICS."""

    run_id: str
    experiment: str
    campaign_id: str
    created_utc: str
    cell: Cell
    state: str
    model: str
    target_kind: str
    window: Window | None
    verdict: Verdict
    outcomes: Mapping[str, int]
    scalars: Mapping[str, float | None]
    distributions: Mapping[str, Distribution]
    tokens: tuple[TokenCheck, ...]
    timeline: Timeline | None
    notes: tuple[str, ...]
    # usage of each ok request in the window, for the hosted bill: (prompt, cached, output, reasoning)
    usage: tuple[tuple[int, int, int, int], ...] = field(repr=False, default=())
    startup: Mapping[str, float | None] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class CellInterval:
    """A metric over the repetitions of a cell. `values` are one a repetition, in the order of `repetitions`.

    `mean`: geometric where `scale` is log, else arithmetic. `low`, `high`: its interval at `level`, None with one repetition.
    `left_out`: repetitions that are INVALID.
    """

    target: str
    workload: str
    load: Load
    metric: str  # analyse/repeats.py: output_tps, ttft_s.p99, ..
    label: str
    unit: str
    repetitions: tuple[int, ...]
    values: tuple[float, ...]
    left_out: int
    scale: str  # log | linear
    mean: float
    low: float | None
    high: float | None
    level: float


@dataclass(frozen=True, slots=True)
class Effect:
    """One comparison: a metric of a cell, new against base. Changes are shares: 0.03 is 3 % more (attainment: 3 points more).

    `low`, `high` at 1 - alpha for this comparison alone; `corrected_low`, `corrected_high` at the level that Holm's correction over
    all comparisons of the call leaves to it: they exclude 0 exactly where `p_corrected` <= alpha. None with one repetition.
    """

    target: str
    workload: str
    load: Load
    metric: str
    label: str
    unit: str
    higher_is_better: bool
    base: float
    new: float
    base_count: int
    new_count: int
    change: float | None
    low: float | None
    high: float | None
    corrected_low: float | None
    corrected_high: float | None
    p: float | None
    p_corrected: float | None
    paired: bool
    df: float | None
    verdict: str  # improved | unchanged | regressed | unclear
    note: str


@dataclass(frozen=True, slots=True)
class ComparedSide:
    """What stood on one side of a comparison; `target` is set where one target of the campaign was chosen."""

    directory: str
    campaign_id: str
    target: str | None
    runs: int
    invalid: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A campaign against another. `effects`: worst first. `changes`: what differs and may, as (name, base, new)."""

    base: ComparedSide
    new: ComparedSide
    effects: tuple[Effect, ...]
    changes: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]
    only_base: tuple[str, ...]
    only_new: tuple[str, ...]
    ignored: tuple[str, ...]
    alpha: float
    min_effect: float
    tests: int  # comparisons with a p-value: what the correction is over


@dataclass(frozen=True, slots=True)
class Detectable:
    """What a campaign's spread allows to see in one cell and metric, at the corrected alpha and `Detection.power`.

    `spread`: standard deviation between repetitions, as a share. `inside_share`: the part of its square that the requests inside
    a run explain: longer runs lower it, only more repetitions lower the rest; None where it is not known.
    `needed`: repetitions a side, None where the limit of the search is not enough.
    """

    target: str
    workload: str
    load: Load
    metric: str
    label: str
    repetitions: int
    spread: float
    inside_share: float | None
    smallest_now: float | None
    needed: int | None


@dataclass(frozen=True, slots=True)
class Detection:
    """The planner's answer for a change of `change`. `skipped`: cells and metrics whose spread is not known, with why."""

    side: ComparedSide
    change: float
    min_effect: float
    alpha: float
    power: float
    tests: int
    limit: int
    rows: tuple[Detectable, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One probe of a capacity search: a rate that was offered, and how it was judged.

    Counts cover the judged requests: those scheduled after the ramp, up to the last before which every one had ended.
    """

    index: int  # 1.. in the order they were made
    rate_rps: float  # offered
    scheduled_rate_rps: float | None  # as the plan drew it for the judged requests
    seconds: float  # of schedule, the ramp included
    offered: int
    good: int
    batches: tuple[tuple[int, int], ...]  # (offered, good) of consecutive parts: what the spread is taken from
    attainment: float | None
    low: float | None  # 95 % interval of attainment, for requests that are not independent
    high: float | None
    effective_requests: float | None  # so many independent requests would tell as much
    output_tokens: int | None  # of the judged requests that are ok; None if usage is missing for any
    completed_rps: float | None  # requests ended per second while they were offered
    verdict: str  # pass | fail | undecided | invalid
    stopped: str  # clearly above | clearly below | queue growing | longest probe | what made it invalid
    run_id: str | None = None
    work_cv2: float | None = None  # square of (sd / mean) of tokens a request: prompt (uncached) or output, the larger
    stay_s: float | None = None  # median seconds from schedule to end of the judged requests


@dataclass(frozen=True, slots=True)
class CapacityResult:
    """Highest Poisson rate whose attainment is at the target, and how it was found.

    `found`: `capacity_rps` with its 95 % interval. `censored_above`: nothing failed, capacity is at least `low_rps`.
    `censored_below`: everything failed, it is below `high_rps`. `undecided`: `why` says what was missing.
    """

    state: str
    capacity_rps: float | None
    low_rps: float | None
    high_rps: float | None
    output_tps: float | None  # at that rate: capacity x output tokens per offered request of the probes around it
    attainment: float  # the target
    tolerance: float  # half-width asked for, as a share of the capacity
    seconds: float  # of schedule over all probes
    probes: tuple[ProbeResult, ...]
    why: str


@dataclass(frozen=True, slots=True)
class SearchedCapacity:
    """The finished searches of one target and workload taken together, one a repetition, for the cost of a fleet.

    `state`, `capacity_rps`, `low_rps`, `high_rps`: as in CapacityResult, the interval at `level`. `run_ids`: the searches';
    `probe_ids`: the runs of all their probes. `why`: what the searches said of their ends.
    """

    target: str
    workload: str
    attainment: float
    state: str
    repetitions: int
    capacity_rps: float | None
    low_rps: float | None
    high_rps: float | None
    level: float
    run_ids: tuple[str, ...]
    probe_ids: tuple[str, ...]
    created_utc: str
    why: str


# ---------------------------------------------------------------- cost


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the measured machine costs, as declared; `source` and `as_of` are printed beside every dollar.

    `gpu_model`, `gpu_count`: what the price is for; None where it does not say. `basis`: declared | proposed (from the price
    table, by what NVML and the firmware say of the machine; `why` says how it was found) | example.
    """

    name: str
    usd_per_hour: str  # decimal text: money is never a float
    source: str
    as_of: str
    gpu_model: str | None = None
    gpu_count: int | None = None
    basis: str = "declared"
    why: str = ""


@dataclass(frozen=True, slots=True)
class CostLine:
    """A dollar figure with everything it was made of. `usd` is decimal text."""

    name: str  # e.g. self_usd_per_million_total_tokens
    label: str  # for people
    usd: str | None  # None: could not be computed, `formula` says why
    unit: str  # USD per million tokens | USD per 1,000 requests | USD
    formula: str
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CostReport:
    """Costs of one run: `own` for the measured machine, `hosted` one group per hosted price.

    `price_mismatch`: how the machine that the price is for differs from the one that ran; None where it does not, or is not known.
    `unpriced`: why this run has no dollar at all; None where it has. `no_price`: where the machine has no price, what was looked
    for and what to declare.
    """

    run_id: str
    verdict: str
    utilisation: float
    hardware: Hardware | None
    own: tuple[CostLine, ...]
    hosted: Mapping[str, tuple[CostLine, ...]]
    warnings: tuple[str, ...]
    price_mismatch: str | None = None
    unpriced: str | None = None
    no_price: str | None = None

    @property
    def price_dated(self) -> str:
        """Date of the machine's price with its age at the run; empty without one."""
        as_of = "" if self.hardware is None else self.hardware.as_of
        return ", ".join(filter(None, (as_of, next((line.inputs.get("price age", "") for line in self.own), ""))))
