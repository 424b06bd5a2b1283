"""Rows of what is observed beside a load: boards, the server's counters, this machine, the way to the target, the account's limits."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.column import col

# Of NVML's clocks-event-reasons (nvml.h), bits of the column `throttle_reasons`: why a board does not run at its highest clock.
CLOCK_IDLE = 0x01  # GpuIdle: nothing runs, and the clock says nothing
CLOCK_POWER_CAPPED = 0x04  # SwPowerCap: the set power limit, usual under full load
CLOCK_SLOWED = (
    0x08 | 0x20 | 0x40 | 0x80
)  # HwSlowdown, Sw- and HwThermalSlowdown, HwPowerBrakeSlowdown: heat or the power supply


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


@dataclass(frozen=True, slots=True)
class NetworkSample:
    """The way to the target at one instant, on a connection of its own that carries nothing else; a row of network.parquet."""

    stamp_ns: int = col("ns", "When the answer's first byte had come")
    edge: str | None = col("", "start or end for the samples at the edges of the measured phase, else null")
    dns_s: float | None = col("s", "Name resolution; null on a connection that stood already")
    tcp_s: float | None = col("s", "TCP connection, to the proxy where there is one; null if it stood already")
    tunnel_s: float | None = col("s", "The proxy's tunnel; null without one, or if it stood already")
    tls_s: float | None = col("s", "TLS handshake; null without TLS, or if it was done already")
    round_trip_s: float | None = col("s", "HEAD request sent to first byte of its answer; null if none came")
    http_status: int | None = col("", "Of the answer; any is one")
    error: str | None = col("", "What went wrong, in one line, without secrets")


@dataclass(frozen=True, slots=True)
class LimitSample:
    """What a reply's head said of one limit of the account; a row of limits.parquet, where it is new or has changed."""

    stamp_ns: int = col("ns", "When the reply's first byte had come")
    seq: int = col("", "The request; negative for warm-up")
    kind: str = col("", "requests, tokens, input_tokens or output_tokens")
    window_s: float | None = col("s", "What the limit is over; null where the header does not say")
    limit: int | None = col("", "Allowed in that time")
    remaining: int | None = col("", "Left of it")
    reset_s: float | None = col("s", "Until it is whole again")
    source: str = col("", "Family of the header: x-ratelimit, anthropic, ietf ..")
