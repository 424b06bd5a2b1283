"""What a monitor reads of servers that serve somebody else, and what it says of them.

A row is a READING, not an increase: the server's own counters as they stood when they were read. Readings of two monitors, or one twice,
are only more readings of the same counters, so no total doubles; what a gap hid is in the next reading, so none vanishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from harness.records.column import col

BOARD = "gpu:"  # before a board's UUID in the place of a server: its row has energy, power and use, and is no server's
OTHER = "(other)"  # labels beyond the bound of a server's rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReading:
    """The last reading of a server's page within a minute, one row a (server, model, tenant, monitor, incarnation).

    Counters are since the server's start and None where the page has no such series. `tenant`: the value of the label that the
    config names, "" without one. Histograms are cumulative counts a bucket, as Prometheus has them. Three rows are no (model, tenant):
    a minute in which no page came (`scrapes` 0, no model, no counts); a board (`engine` nvml or dcgm, `server` is gpu:UUID, energy alone);
    and model and tenant OTHER, which is the whole page, where it has more labels than a server's rows may be.
    """

    read_utc_ns: int = col("ns since the epoch", "when the page had arrived, by the monitor's wall clock")
    server: str = col("", "host:port of the page, or the instance label in Prometheus")
    model: str = col("", "served model, as the page names it")
    tenant: str = col("", "value of the configured tenant label; empty without one")
    pool: str = col("", "pool of the config that the server belongs to")
    monitor: str = col("", "which monitor read it")
    engine: str = col("", "vllm, sglang, tgi, llamacpp or dynamo; nvml or dcgm: the row of a board")
    incarnation: int = col("", "how many starts of the server this monitor saw before this one")
    started_utc_ns: int | None = col("ns since the epoch", "start of the server's process, where its page tells")
    scrapes: int = col("", "pages read in this minute")
    missed: int = col("", "pages asked for in this minute that did not come")
    prompt_tokens: float | None = col("tokens", "counter: prompt tokens, cached ones included")
    cached_tokens: float | None = col("tokens", "counter: prompt tokens found in the prefix cache")
    output_tokens: float | None = col("tokens", "counter: output tokens")
    requests: float | None = col("requests", "counter: requests that ended")
    errors: float | None = col("requests", "counter: requests that ended in an error or were aborted")
    preemptions: float | None = col("preemptions", "counter: requests put back for lack of KV cache")
    draft_tokens: float | None = col("tokens", "counter: speculative tokens proposed")
    accepted_tokens: float | None = col("tokens", "counter: speculative tokens accepted")
    running: float | None = col("requests", "requests being served, mean of the minute's scrapes")
    waiting: float | None = col("requests", "requests queued, mean of the minute's scrapes")
    kv_cache_use: float | None = col("share", "KV cache in use, mean of the minute's scrapes")
    energy_j: float | None = col("J", "counter: energy of the server's boards since their driver was loaded")
    power_w: float | None = col("W", "power of the server's boards, mean of the minute's scrapes")
    sm_util_pct: float | None = col("%", "NVML utilisation, mean over boards and scrapes")
    ttft_le_s: tuple[float, ...] = col("s", "upper bounds of the buckets of the time to the first token")
    ttft_counts: tuple[float, ...] = col("requests", "counter a bucket: requests at or below its bound")
    tpot_le_s: tuple[float, ...] = col("s", "upper bounds of the buckets of the time per output token")
    tpot_counts: tuple[float, ...] = col("tokens or requests", "counter a bucket, as the engine counts")
    queue_le_s: tuple[float, ...] = col("s", "upper bounds of the buckets of the time in the queue")
    queue_counts: tuple[float, ...] = col("requests", "counter a bucket: requests at or below its bound")
    e2el_le_s: tuple[float, ...] = col("s", "upper bounds of the buckets of the time to the last token")
    e2el_counts: tuple[float, ...] = col("requests", "counter a bucket: requests at or below its bound")


COUNTERS = (
    "prompt_tokens", "cached_tokens", "output_tokens", "requests", "errors", "preemptions", "draft_tokens", "accepted_tokens",
    "energy_j",
)  # fmt: skip
BOARDS = ("nvml", "dcgm")  # engines whose rows are boards
GAUGES = ("running", "waiting", "kv_cache_use", "power_w", "sm_util_pct")
HISTOGRAMS = ("ttft", "tpot", "queue", "e2el")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Requests by time: `counts[i]` of them took at most `le_s[i]`; the last bound is infinite."""

    le_s: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """A percentile out of a histogram: it lies in [low_s, high_s], the bounds of its bucket; `high_s` may be infinite."""

    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUsage:
    """What one (server, model, tenant) did in [from_ns, to_ns). None: its pages do not say, which is not 0.

    `covered_s`: seconds of it that lie between two pages of the server no further apart than a row and three scrapes; `gap_s`: the other
    seconds, in which it was watched but not read: what they held is in the counters all the same, only not known to the minute. Both
    are the server's, the same in all its rows, and together the time that it was seen. `lost`: restarts before which it was serving, or
    not read for as long: each hides at most what was served since the reading before it. `engine` nvml or dcgm: a board, energy alone.
    """

    server: str
    model: str
    tenant: str
    pool: str
    engine: str
    from_ns: int
    to_ns: int
    covered_s: float
    gap_s: float
    restarts: int
    lost: int
    counters: Mapping[str, float | None]  # name of COUNTERS -> increase
    gauges: Mapping[str, float | None]  # name of GAUGES -> mean over the time covered
    histograms: Mapping[str, Histogram]  # name of HISTOGRAMS -> increase


@dataclass(frozen=True, slots=True, kw_only=True)
class HourUsage:
    """A ServerUsage of one hour as a row: what long windows are summed of."""

    from_utc_ns: int = col("ns since the epoch", "begin of the hour")
    server: str = col("", "as in readings")
    model: str = col("", "as in readings")
    tenant: str = col("", "as in readings")
    pool: str = col("", "as in readings")
    engine: str = col("", "as in readings")
    covered_s: float = col("s", "time between pages of the server that follow each other closely")
    gap_s: float = col("s", "time in which it was watched and not read")
    restarts: int = col("", "restarts of the server seen in this hour")
    lost: int = col("", "those of them that hid something")
    prompt_tokens: float | None = col("tokens", "increase: prompt tokens, cached ones included")
    cached_tokens: float | None = col("tokens", "increase: prompt tokens found in the prefix cache")
    output_tokens: float | None = col("tokens", "increase: output tokens")
    requests: float | None = col("requests", "increase: requests that ended")
    errors: float | None = col("requests", "increase: requests that ended in an error or were aborted")
    preemptions: float | None = col("preemptions", "increase: requests put back for lack of KV cache")
    draft_tokens: float | None = col("tokens", "increase: speculative tokens proposed")
    accepted_tokens: float | None = col("tokens", "increase: speculative tokens accepted")
    energy_j: float | None = col("J", "increase: energy of the board")
    running: float | None = col("requests", "requests being served, mean of the hour's rows")
    waiting: float | None = col("requests", "requests queued, mean of the hour's rows")
    kv_cache_use: float | None = col("share", "KV cache in use, mean of the hour's rows")
    power_w: float | None = col("W", "power of the board, mean of the hour's rows")
    sm_util_pct: float | None = col("%", "NVML utilisation, mean of the hour's rows")
    ttft_le_s: tuple[float, ...] = col("s", "upper bounds of the buckets of the time to the first token")
    ttft_counts: tuple[float, ...] = col("requests", "increase a bucket: requests at or below its bound")
    tpot_le_s: tuple[float, ...] = col("s", "upper bounds of the buckets of the time per output token")
    tpot_counts: tuple[float, ...] = col("tokens or requests", "increase a bucket, as the engine counts")
    queue_le_s: tuple[float, ...] = col("s", "upper bounds of the buckets of the time in the queue")
    queue_counts: tuple[float, ...] = col("requests", "increase a bucket: requests at or below its bound")
    e2el_le_s: tuple[float, ...] = col("s", "upper bounds of the buckets of the time to the last token")
    e2el_counts: tuple[float, ...] = col("requests", "increase a bucket: requests at or below its bound")


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidServer:
    """What a server's machine cost in [from_ns, to_ns) at one price: a server has a row for each price that was in force in the window.

    `paid_s`: as long as it was there where it was discovered, the whole stretch where it is listed. `usd_per_hour`: of the
    server, so the machine's over the servers that share it; None where no price is declared or found, and `why`.
    """

    server: str
    pool: str
    paid_s: float
    usd_per_hour: Decimal | None
    price: str  # name, source and date, as printed
    why: str = ""
    from_ns: int = 0
    to_ns: int = 0
    on_machine: int = 1  # servers that share the machine: machine hours are paid_s / 3600 / on_machine
    machine: str = ""  # name of the price: an instance's, or as declared
    source: str = ""
    as_of: str = ""

    @property
    def usd(self) -> Decimal | None:
        return None if self.usd_per_hour is None else self.usd_per_hour * Decimal(repr(self.paid_s)) / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityOfRun:
    """The capacity that was measured of this model on this machine, by which run; `used` False: shown only, and `why` (another GPU ..).

    `low_rps`, `high_rps`: its interval, None where it has none. `prompt_tokens`, `output_tokens`: of the run's mean request.
    """

    model: str
    rps: float
    output_tps: float | None
    run_ids: tuple[str, ...]
    used: bool
    why: str = ""
    pool: str = ""
    low_rps: float | None = None
    high_rps: float | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    how: str = ""  # how it was found, as printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What would save money: `usd_per_month` with its 90 % interval, never below its noise. `formula` with its numbers, `evidence`: the
    window it was seen in, `unless`: what would make it wrong."""

    name: str
    says: str
    usd_per_month: Decimal
    low_usd: Decimal
    high_usd: Decimal
    formula: str
    evidence: str
    unless: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorLine:
    """One figure: `value` None where it cannot be known, and `formula` says why not."""

    name: str
    label: str
    value: float | None
    unit: str
    formula: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorGroup:
    """The figures of everything, a pool, a model, a server or a tenant, over one window. `kind`: all | pool | model | server | tenant."""

    kind: str
    name: str
    lines: tuple[MonitorLine, ...]

    def value(self, name: str) -> float | None:
        return next((line.value for line in self.lines if line.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorPart:
    """What of a server's dollars is a model's and a tenant's, by the tokens it served them in the window: shares of a server sum to 1."""

    server: str
    pool: str
    model: str
    tenant: str
    share: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorStep:
    """A pool in one step of the window, for plots. None: not known; `read_share`: the part of its paid time in which it was read."""

    pool: str
    from_ns: int
    to_ns: int
    usd: Decimal | None
    requests: float | None
    output_tokens: float | None
    paid_replicas: float
    busy_replicas: float | None
    needed_replicas: float | None
    read_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorView:
    """Everything that the terminal, the exporter and the report show of one window."""

    name: str
    from_ns: int
    to_ns: int
    groups: tuple[MonitorGroup, ...]
    paid: tuple[PaidServer, ...]
    capacities: tuple[CapacityOfRun, ...]
    advice: tuple[Advice, ...]
    slo: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    steps: tuple[MonitorStep, ...] = ()
    parts: tuple[MonitorPart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerWatch:
    """How a server's page is read: `up` if the last one came. `scrapes`, `missed`: pages asked for since the monitor began, and those that
    did not come. `says`: why it did not, or which series it lacks."""

    server: str
    pool: str
    engine: str
    up: bool
    scrapes: int
    missed: int
    read_utc_ns: int | None
    says: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceOfPool:
    """The price that a pool's machines are counted at, and the day it is of; `planned_share`: of a capacity that a replica is to carry."""

    pool: str
    price: str
    usd_per_hour: Decimal | None
    as_of: str | None  # YYYY-MM-DD
    planned_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorState:
    """What a monitor knows at `at_utc_ns`: a view for each of WINDOWS, its servers, its prices, its budget. A view begins with the window,
    or with the first reading there is; the shortest holds four scrapes at least.

    `unstored`: rows that could not be written (a full disk); they are shown all the same. `warnings`: what is wrong with the watching.
    """

    name: str
    at_utc_ns: int
    views: Mapping[str, MonitorView]  # window -> view
    servers: tuple[ServerWatch, ...]
    prices: tuple[PriceOfPool, ...]
    advice: tuple[Advice, ...] = ()  # out of longer evidence than a window's
    usd_per_million_budget: Decimal | None = None
    usd_per_month_budget: Decimal | None = None
    unstored: int = 0
    warnings: tuple[str, ...] = ()


WINDOWS = ("1m", "1h", "24h", "month")  # month: from the first of it, UTC
