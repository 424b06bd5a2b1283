"""A hybrid's load: the same plan driven to both sides at once, each drive sending what the router gave its side.

Both drives begin at one instant and ask one router about each request shortly before it is due; the first to ask has it decided, by
what is known then, and the other passes it over. Their rows come to one watcher, each with the side that served it and why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.base import clock
from harness.measure.drive.sums import sums_of
from harness.measure.gate import Answer, Asked
from harness.measure.job import Job, Watcher
from harness.measure.refusals import REFUSED
from harness.measure.spend import MAX_USD
from harness.records import DriveProgress, DriveReport, Outcome, PlannedRequest, RequestRecord
from harness.routing.router import Router, Served
from harness.routing.state import HOSTED, OWN, Choice, RouteRequest, Which

LEAD_NS = 50_000_000  # a request is decided this long before it is due: a parent that waits for a core so long sends nothing late
_DOWN = frozenset((Outcome.CONNECT_ERROR, Outcome.TIMEOUT_CONNECT, Outcome.TIMEOUT_FIRST_TOKEN, Outcome.RESET))
_TOO_MANY = 429
_STOPS = (
    "worker_died",
    REFUSED,
    "target_died",
    MAX_USD,
    "interrupted",
    "duration",
)  # the first of the two drives' that is here counts


def served_of(row: RequestRecord) -> Served:
    """What the router learns from a row."""
    status = row.http_status or 0
    is_http = row.outcome == Outcome.HTTP_ERROR and (status >= 500 or status == _TOO_MANY)
    since = row.sent_ns if row.scheduled_ns is None else row.scheduled_ns
    if row.outcome != Outcome.OK or row.first_token_ns is None or since is None or row.last_token_ns is None:
        return Served(row.seq, row.outcome == Outcome.OK, is_failure=is_http or row.outcome in _DOWN)
    gaps = (row.output_tokens or len(row.chunk_ns)) - 1
    tpot_s = (row.last_token_ns - row.first_token_ns) / clock.NS / gaps if gaps > 0 else None
    return Served(row.seq, ok=True, ttft_s=(row.first_token_ns - since) / clock.NS, tpot_s=tpot_s)


class Dispatcher:
    """One router behind a lock: two drives, and whoever reads the own side's metrics, call it from their threads. `hosted_usd`: the bill
    of a request by its planned (prompt, output) tokens."""

    def __init__(self, router: Router, hosted_usd: Callable[[int, int], float]) -> None:
        self._router, self._hosted_usd = router, hosted_usd
        self._lock = threading.Lock()
        self._begun_ns: int | None = None

    def _now_s(self) -> float:
        return 0.0 if self._begun_ns is None else max(0.0, (clock.monotonic_ns() - self._begun_ns) / clock.NS)

    def choose(self, asked: Asked) -> Choice:
        """Decided once for each request, by whichever drive asks first."""
        planned = asked.request
        with self._lock:
            if self._begun_ns is None and asked.due_ns is not None:
                self._begun_ns = asked.due_ns - (planned.scheduled_ns or 0)
            request = self._request(planned)
            if planned.after_seq is not None and planned.after_seq in self._router.choices:
                return self._router.follow(request, planned.after_seq, self._now_s())
            return self._router.decide(request, self._now_s())

    def _request(self, planned: PlannedRequest) -> RouteRequest:
        prompt, output = planned.target_prompt_tokens, planned.target_output_tokens
        return RouteRequest(planned.seq, prompt, output, planned.session_id, self._hosted_usd(prompt, output))

    def over(self, rows: Sequence[RequestRecord]) -> None:
        with self._lock:
            for row in rows:
                self._router.ended(served_of(row), self._now_s())

    def why(self, seq: int) -> str | None:
        """Why a request was sent where it was; None where it was not decided."""
        with self._lock:
            choice = self._router.choices.get(seq)
        return None if choice is None else choice.why

    def learn(self, name: str, rows: Sequence[RequestRecord]) -> None:
        """What a warm-up of one side showed, each row at the load that the others made when it was sent."""
        good = [
            row for row in rows if row.outcome == Outcome.OK and row.sent_ns is not None and row.ended_ns is not None
        ]
        which = OWN if name == self._router.own.name else HOSTED
        with self._lock:
            for row in good:
                at = row.sent_ns or 0
                load = sum((one.sent_ns or 0) <= at < (one.ended_ns or 0) for one in good) - 1
                served = served_of(row)
                if served.ttft_s is not None:
                    self._router.learn(which, load, row.target_prompt_tokens, served.ttft_s, served.tpot_s)

    def saw(self, which: Which, unfinished: float | None, waiting: float | None, kv_usage: float | None) -> None:
        """The side's /metrics were read."""
        with self._lock:
            self._router.saw(which, unfinished, waiting, kv_usage)


class SideGate:
    """One side's gate: it sends what the dispatcher gave its side, and passes over the rest."""

    def __init__(self, dispatcher: Dispatcher, which: Which) -> None:
        self._dispatcher, self._which = dispatcher, which
        self.lead_ns, self.ahead, self.stop_reason = LEAD_NS, 0, ""

    def ask(self, asked: Asked) -> Answer:
        return Answer.SEND if self._dispatcher.choose(asked).side == self._which else Answer.SKIP

    def withdraw(self, asked: Asked) -> None:
        """What was decided stays: it is asked about again."""

    def over(self, rows: Sequence[RequestRecord]) -> None:
        self._dispatcher.over(rows)

    def ended(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class SideDrive:
    """A side's half. `job` has its gate and the common start."""

    name: str
    job: Job
    drive: Callable[[Job, Watcher], DriveReport]


class _Both:
    """The one watcher behind two drives: called by one at a time, and what stops one stops the other."""

    def __init__(self, watcher: Watcher, total: int) -> None:
        self.watcher, self._total = watcher, total
        self.lock = threading.Lock()
        self.broken = False  # a drive raised: the other ends too
        self._progress: dict[str, DriveProgress] = {}

    def should_stop(self) -> str | None:
        with self.lock:
            return "abort" if self.broken else self.watcher.should_stop()

    def rows(self, rows: Sequence[RequestRecord]) -> None:
        with self.lock:
            self.watcher.rows(rows)

    def progress(self, name: str, progress: DriveProgress) -> None:
        with self.lock:
            self._progress[name] = progress
            known = list(self._progress.values())
            self.watcher.progress(
                DriveProgress(
                    sum(one.done for one in known),
                    self._total,
                    sum(one.in_flight for one in known),
                    sum(one.failed for one in known),
                    sum(one.output_tokens for one in known),
                    max(one.elapsed_s for one in known),
                )
            )

    def ended(self) -> None:
        with self.lock:
            self.watcher.ended()


@dataclass(frozen=True, slots=True)
class _SideWatcher:
    """What one drive tells, with its side's name in every row. `first_worker`: its workers' numbers begin there."""

    both: _Both
    name: str
    first_worker: int
    why: Callable[[int], str | None]

    def rows(self, rows: Sequence[RequestRecord]) -> None:
        self.both.rows(
            [
                replace(row, worker=row.worker + self.first_worker, served_by=self.name, routed_why=self.why(row.seq))
                for row in rows
            ]
        )

    def progress(self, progress: DriveProgress) -> None:
        self.both.progress(self.name, progress)

    def should_stop(self) -> str | None:
        return self.both.should_stop()

    def ended(self) -> None:
        self.both.ended()


def drive_both(
    sides: Sequence[SideDrive], watcher: Watcher, why: Callable[[int], str | None], workers: int
) -> DriveReport:
    """Drive both sides until their shares of the plan are done; one report of both. `workers`: of each. Raises what a drive raises, after
    the other has ended."""
    both = _Both(watcher, len(sides[0].job.requests))
    reports: dict[str, DriveReport] = {}
    errors: list[BaseException] = []

    def run(side: SideDrive, first_worker: int) -> None:
        try:
            reports[side.name] = side.drive(side.job, _SideWatcher(both, side.name, first_worker, why))
        except threading.BrokenBarrierError:
            pass  # the other gave up, and says why
        except BaseException as error:
            errors.append(error)
            both.broken = True
        finally:
            if side.job.start is not None:  # ended before it began: the other must not wait; after that it does no harm
                side.job.start.give_up()

    threads = [
        threading.Thread(target=run, args=(side, at * workers), name=f"drive-{side.name}")
        for at, side in enumerate(sides)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return _of_both({side.name: reports[side.name] for side in sides if side.name in reports})


def _of_both(reports: Mapping[str, DriveReport]) -> DriveReport:
    first, *_ = known = list(reports.values())
    reasons = [report.stop_reason for report in known]
    return replace(
        first,
        **sums_of(known),
        started_ns=min(report.started_ns for report in known),
        ended_ns=max(report.ended_ns for report in known),
        stop_reason=next((word for word in _STOPS if word in reasons), next(iter(set(reasons) - {"done"}), "done")),
        clock_offsets=[offset for report in known for offset in report.clock_offsets],
        notes=[f"{name}: {note}" for name, report in reports.items() for note in report.notes],
    )
