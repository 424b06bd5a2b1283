"""What is made of runs: numbers, verdicts, comparisons, capacities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.records.hosted import Account, NetworkPath, SentRequest, SideOfRun
from harness.records.plan import Load
from harness.records.promise import FirstTokens
from harness.records.run import Cell, Manifest, target_config


@dataclass(frozen=True, slots=True)
class Window:
    """The steady part of a run, on CLOCK_MONOTONIC; `rule` says how it was found.

    `offered_s`: the time in which the load offered the requests of the window: rates are over it (judge/window.py). `lacking`: code of
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
class ReplicaOfRun:
    """One replica's part of the measured phase. `source`: rows (the requests that are known to be its own: ok ones), or counters (what its page
    rose by). `ttft_s`: the median of rows, the mean of counters, which is the server's own. None: not told."""

    name: str  # host:port
    source: str  # rows | counters
    requests: int | None
    output_tokens: int | None
    ttft_s: float | None


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
    # usage of each ok request in the window, for the hosted bill: (prompt, cached, output, reasoning), and behind them tokens written
    # into the API's cache for 5 minutes and for an hour where its usage tells of any
    usage: tuple[tuple[int, ...], ...] = field(repr=False, default=())
    startup: Mapping[str, float | None] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    first_tokens: FirstTokens | None = (
        None  # what every other promise on the first token would come to; None without a window
    )
    sent: tuple[SentRequest, ...] = field(repr=False, default=())  # every one of a hosted target's, warm-up included
    sides: tuple[SideOfRun, ...] = ()  # of a hybrid: its own side, and the hosted one
    replicas: tuple[ReplicaOfRun, ...] = ()  # of a target of several
    network: NetworkPath | None = None
    account: Account | None = None

    @property
    def target_config(self) -> Mapping[str, Any]:
        """What the config says of the run's target."""
        return target_config(self.config, self.cell.target)


@dataclass(frozen=True, slots=True)
class CellInterval:
    """A metric over the repetitions of a cell. `values` are one a repetition, in the order of `repetitions`.

    `mean`: geometric where `scale` is log, else arithmetic. `low`, `high`: its interval at `level`, None with one repetition.
    `left_out`: repetitions that are INVALID.
    """

    target: str
    workload: str
    load: Load
    metric: str  # judge/repeats.py: output_tps, ttft_s.p99, ..
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


@dataclass(frozen=True, slots=True)
class CapacityCell:
    """A finished capacity search and the cell it belongs to."""

    directory: Path
    manifest: Manifest
    result: CapacityResult

    @property
    def cell(self) -> Cell:
        return self.manifest.cell


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the offline half makes of a run or experiment directory; `problems` are runs and searches that could not be read."""

    directory: Path
    summaries: tuple[RunSummary, ...]
    problems: tuple[str, ...]
    capacities: tuple[CapacityCell, ...] = ()
