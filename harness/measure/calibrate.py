"""`harness calibrate`: how much load this machine's client can measure, and how wrong it then is.

The golden server runs in another process and logs every send; the wire driver reads it as it would any server. Three ladders
of load: streams of a token every 20 ms, starting together (tokens per second); constant arrivals of short replies (requests
per second); streams that say something once a second (connections held). A step's error is the p99 of what the client got
wrong: TTFT and ITL against the server's own sends and, with arrivals, the send against its due time. A step that lost a token
has no error below any limit. A step that goes wrong is measured a second time and the better one counts: one hiccup of a
busy machine is no ceiling.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness import __version__
from harness.base import clock
from harness.base.errors import StoreError
from harness.base.files import cache_dir, write_whole
from harness.measure.drive.driver import drive
from harness.measure.drive.golden import server as golden
from harness.measure.drive.golden.truth import compare, quantiles
from harness.measure.job import Job
from harness.measure.observe.environment import host_sha256
from harness.records import DriveProgress, Endpoint, Load, Phase, PlannedRequest, Prompt, RequestRecord, Timeouts

LIMITS_S = (0.001, 0.005)
BUDGET_S, QUICK_BUDGET_S = 60.0, 15.0
OVERHEAD_S = 1.5  # of a step besides its load: two processes start and end, replies are parsed
TOKEN_GAP_S = 0.02
REQUEST_TOKENS, REQUEST_GAP_S = 8, 0.005
SPARE_FILES = 200  # descriptors that are not connections
_PROMPT = Prompt(0, None, tuple(range(16)))


@dataclass(frozen=True, slots=True)
class Step:
    """What is offered: `streams` replies of `tokens` at once, or `rate_rps` requests a second for `seconds`."""

    kind: str  # tokens | requests | held
    streams: int | None
    rate_rps: float | None
    tokens: int
    gap_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Point:
    """A step as measured. `error`: of TTFT, ITL and send time, the worst of the three at that quantile; None where a token or
    a request was lost. `server_late_p99_s` and `core_wait_s` are not the client's doing: the server behind its own schedule,
    the client ready to run and without a core."""

    kind: str
    streams: int | None
    offered_rps: float | None
    tokens_per_s: float
    requests_per_s: float | None
    error_p50_s: float | None
    error_p99_s: float | None
    requests: int
    whole: int
    merged_reads: int
    reads: int
    cpu_s_per_token: float
    server_late_p99_s: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The highest load of each ladder whose steps up to it had an error below `error_s`; None if not even the first had.

    `.._bounded`: the step after it was measured and had a larger one. Where not, the ladder or its time ended first, and the
    client may be able to do more.
    """

    error_s: float
    tokens_per_s: float | None
    tokens_bounded: bool
    streams: int | None
    requests_per_s: float | None
    requests_bounded: bool
    held_streams: int | None
    held_bounded: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """One calibration; what it holds for is in the fields of `key`."""

    host_sha256: str
    cores: int
    python: str
    harness_version: str
    workers: int
    made_utc: str
    seconds: float
    load1: float | None  # of the machine just before
    quick: bool
    points: tuple[Point, ...]
    ceilings: tuple[Ceiling, ...]


def calibrate(
    *, workers: int = 1, quick: bool = False, on_point: Callable[[Point], None] = lambda _: None
) -> Calibration:
    """Measure the ladders, in BUDGET_S (QUICK_BUDGET_S) at most; save nothing. Raises ConfigError without a C compiler."""
    binary = golden.build(cache_dir("golden"))
    began_ns = clock.monotonic_ns()
    budget_s = QUICK_BUDGET_S if quick else BUDGET_S
    load1 = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    points: list[Point] = []

    def time_for(step: Step) -> bool:
        return (clock.monotonic_ns() - began_ns) / 1e9 + step.seconds + OVERHEAD_S <= budget_s

    for steps in ladders(_most_connections(), quick=quick):
        for step in steps:
            if not time_for(step):
                break
            point = measure(step, binary, workers)
            if not _below(point, LIMITS_S[0]) and time_for(step):
                point = _better(point, measure(step, binary, workers))
            points.append(point)
            on_point(point)
            if not _below(point, max(LIMITS_S)):
                break
    return Calibration(
        **_key(workers),
        made_utc=clock.utc_now().isoformat(timespec="seconds"),
        seconds=(clock.monotonic_ns() - began_ns) / 1e9,
        load1=load1,
        quick=quick,
        points=tuple(points),
        ceilings=tuple(ceiling(points, limit) for limit in LIMITS_S),
    )


def ladders(most_connections: int, *, quick: bool) -> Iterator[list[Step]]:
    """The steps, each ladder from light to heavy; quick: fewer and shorter, and no connections held."""
    seconds = 0.8 if quick else 1.6
    streams = (100, 400, 1600, 3200) if quick else (50, 200, 400, 800, 1600, 2400, 3200, 4800)
    count = round(seconds / TOKEN_GAP_S)
    yield [Step("tokens", n, None, count, TOKEN_GAP_S, seconds) for n in streams if n <= most_connections]
    rates = (500, 2000) if quick else (250, 500, 1000, 2000, 4000)
    yield [Step("requests", None, rate, REQUEST_TOKENS, REQUEST_GAP_S, seconds) for rate in rates]
    if not quick:
        held = (1000, 4000, 10_000)
        yield [Step("held", n, None, 2, 1.0, 3.0) for n in held if n <= most_connections]


def _most_connections() -> int:
    """How many connections worker and server may each open."""
    try:
        import resource
    except ImportError:
        return 1000
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES


def measure(step: Step, binary: Path, workers: int) -> Point:
    """Offer one step and compare what the driver says with what the server did."""
    if step.rate_rps is None:
        load = Load(concurrency=step.streams)
        plan = [PlannedRequest(i, None, 16, step.tokens, None, i) for i in range(step.streams or 0)]
    else:
        load = Load(rate_rps=step.rate_rps, arrivals="constant")
        due = [round(i * 1e9 / step.rate_rps) for i in range(round(step.rate_rps * step.seconds))]
        plan = [PlannedRequest(i, at, 16, step.tokens, None, i) for i, at in enumerate(due)]
    with (
        tempfile.TemporaryDirectory(prefix="calibrate-") as name,
        golden.GoldenProcess(binary, step.gap_s, step.gap_s, Path(name)) as server,
    ):
        watcher = _StepWatcher(server.pid)
        report = drive(
            Job(plan, (_PROMPT for _ in plan), load, Phase.MEASURE, "calibrate", Path(name)),
            watcher,
            Endpoint(server.url, golden.MODEL, "completions", vllm_extensions=True),
            driver="wire",
            workers=workers,
            timeouts=Timeouts(10, 10, 10, 30),
        )
        rows = watcher.collected
        seen = compare(rows, server.stop(), server, step.tokens)
    lags = [row.sent_ns - row.scheduled_ns for row in rows if row.sent_ns is not None and row.scheduled_ns is not None]
    lag_p50, lag_p99 = quantiles([np.array(lags, np.int64)], 0.5, 0.99)
    whole = seen.whole == len(plan)
    return Point(
        kind=step.kind,
        streams=step.streams,
        offered_rps=step.rate_rps,
        tokens_per_s=seen.tokens_per_s or 0.0,
        requests_per_s=None if step.rate_rps is None else seen.requests_per_s,
        error_p50_s=_worst(seen.ttft_error_p50_s, seen.itl_error_p50_s, lag_p50) if whole else None,
        error_p99_s=_worst(seen.ttft_error_p99_s, seen.itl_error_p99_s, lag_p99) if whole else None,
        requests=len(plan),
        whole=seen.whole,
        merged_reads=seen.merged_reads,
        reads=seen.reads,
        cpu_s_per_token=report.cpu_s / max(1, seen.tokens),
        server_late_p99_s=seen.server_late_p99_s,
        notes=tuple(note for note in report.notes if note.startswith("worker")),
    )


class _StepWatcher:
    """Collects the rows, and keeps the workers off the golden server's core before they send."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self.collected: list[RequestRecord] = []

    def rows(self, rows: Sequence[RequestRecord]) -> None:
        self.collected += rows

    def progress(self, progress: DriveProgress) -> None:
        if not progress.elapsed_s:
            golden.keep_off(child.pid for child in psutil.Process().children() if child.pid != self._server_pid)

    def should_stop(self) -> str | None:
        return None

    def ended(self) -> None:
        return None


def _worst(*errors: float | None) -> float | None:
    return max((error for error in errors if error is not None), default=None)


def _below(point: Point, limit_s: float) -> bool:
    return point.error_p99_s is not None and point.error_p99_s <= limit_s


def _better(a: Point, b: Point) -> Point:
    """The one with the smaller error; one that lost something is the worse."""
    return min(a, b, key=lambda p: float("inf") if p.error_p99_s is None else p.error_p99_s)


def ceiling(points: Sequence[Point], limit_s: float) -> Ceiling:
    """The last step of each ladder before the first whose error is above the limit."""
    tokens, tokens_bounded = _highest(points, "tokens", limit_s)
    requests, requests_bounded = _highest(points, "requests", limit_s)
    held, held_bounded = _highest(points, "held", limit_s)
    return Ceiling(
        error_s=limit_s,
        tokens_per_s=None if tokens is None else tokens.tokens_per_s,
        tokens_bounded=tokens_bounded,
        streams=None if tokens is None else tokens.streams,
        requests_per_s=None if requests is None else requests.requests_per_s,
        requests_bounded=requests_bounded,
        held_streams=None if held is None else held.streams,
        held_bounded=held_bounded,
    )


def _highest(points: Sequence[Point], kind: str, limit_s: float) -> tuple[Point | None, bool]:
    best: Point | None = None
    for point in points:
        if point.kind == kind:
            if not _below(point, limit_s):
                return best, True
            best = point
    return best, False


# ---------------------------------------------------------------- kept in the cache directory


def _key(workers: int) -> dict[str, Any]:
    """What a calibration holds for: the same machine, Python, harness and number of workers."""
    return {
        "host_sha256": host_sha256(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "python": platform.python_version(),
        "harness_version": __version__,
        "workers": workers,
    }


def path_of(workers: int) -> Path:
    """Where the calibration of this machine for so many workers is kept."""
    return cache_dir("calibration") / ("_".join(str(value) for value in _key(workers).values()) + ".json")


def save(calibration: Calibration) -> Path:
    """Write it where `calibration_limit` looks; an older one is replaced whole. Raises StoreError."""
    path = path_of(calibration.workers)
    try:
        write_whole(path, json.dumps(asdict(calibration), indent=1))
    except OSError as error:
        raise StoreError("the calibration cannot be saved", path, error.strerror or str(error)) from None
    return path


def calibration_limit(workers: int) -> dict[str, Any] | None:
    """The saved calibration of this machine for so many workers, as plain values for a manifest, without its points:
    `made_utc`, `workers`, `load1`, `quick` and `ceilings` (fields of Ceiling). None where there is none that can be read."""
    try:
        saved: Mapping[str, Any] = json.loads(path_of(workers).read_text(encoding="utf-8"))
        return {name: saved[name] for name in ("made_utc", "workers", "load1", "quick", "ceilings")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
