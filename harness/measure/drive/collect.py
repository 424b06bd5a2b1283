"""The parent's reading end: spooled messages of all workers into rows, progress and the report."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harness.base import clock
from harness.measure.drive import dialect, shard, turns
from harness.measure.drive.admission import Admission
from harness.measure.drive.rate_headers import retry_after_s
from harness.measure.drive.rows import Context, Raw, StampMap, record
from harness.measure.drive.spool import Tail
from harness.measure.job import Head, Job
from harness.records import (
    DriveProgress,
    DriveReport,
    Outcome,
    PlannedRequest,
    RequestRecord,
)

STOOD_STILL_S = 1.0  # a worker whose quarter-second tick was later than this is said to have stood still
LAGGED_S = 2.0  # rows that were parsed later than this after their replies are spoken of
KEEP_NS = 10 * clock.NS  # what was read stays on disk so long: its rows may not have been written yet
MIXED_STAMPS_SHARE = 0.001  # more reads than this without a kernel stamp, and the run's stamps are called user stamps


def _thread_cpu_s() -> float:
    """CPU seconds of this thread; of the whole process where the system cannot tell."""
    if sys.platform == "linux":
        import resource

        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return usage.ru_utime + usage.ru_stime
    return clock.process_cpu_s()


class Spooling(Protocol):
    """A worker, as far as its spool tells of it."""

    number: int
    ready: bool


class Collector:
    """Reads what workers spool (`written`: they still may). `started_ns` is set by the driver once known."""

    def __init__(
        self,
        job: Job,
        owner: Sequence[int],
        workers: int,
        scratch: Path,
        api_key: str | None = None,
        next_turns: turns.NextTurns | None = None,
        *,
        spoken: str = "completions",
        on_over: Callable[[int, int], None] = lambda *_: None,
        written: bool = True,
        admission: Admission | None = None,
    ) -> None:
        self.job, self.requests, self.scratch = job, job.requests, scratch
        self.context = Context(job.phase, not job.load.is_closed, api_key, spoken, job.on_head)
        self.places = [array("q") for _ in range(workers)]  # worker -> position in `requests` of each of its requests
        for i, w in enumerate(owner):
            self.places[w].append(i)
        self.has_row = [bytearray(len(p)) for p in self.places]
        self.on_over = on_over  # hears (worker, index) of every row
        self.admission = admission
        self.tails = [Tail(scratch, w, written=written) for w in range(workers)]
        self.stamps = [StampMap() for _ in range(workers)]
        self.reports: dict[int, dict[str, Any]] = {}
        self.clock_ns: dict[int, int] = {}  # worker -> its clock, as it last said
        self.offsets: list[tuple[int, int]] = [(0, 0)] * workers
        self.in_flight = [0] * workers
        self.next_turns = next_turns
        self.commands: list[
            tuple[int, str] | turns.Turn
        ] = []  # for workers: later turns that were built, or cannot be sent
        self._owner, self._index = owner, shard.indices(owner)
        self._late = [turns.late_file(scratch, w).open("ab") for w in range(workers)] if next_turns else []
        self.started_ns = 0
        self.parse_cpu_s = 0.0
        self.behind: set[int] = set()  # workers whose spools held more than the last call took
        self.lag_max_ns = 0  # the longest from the end of a reply until it was parsed
        self.done = self.failed = self.tokens = self.reads = self.merged = self.largest_read = 0
        self.notes: list[str] = []

    @property
    def cut(self) -> bool:
        """A worker stopped sending because the duration was over."""
        return any(report["cut"] for report in self.reports.values())

    def collect(self, processes: Iterable[Spooling], budget_ns: int) -> list[RequestRecord]:
        """Rows of what the given workers have spooled, at most `budget_ns` of work."""
        rows: list[RequestRecord] = []
        cpu = _thread_cpu_s()
        until = clock.monotonic_ns() + budget_ns
        self.behind.clear()
        for process in processes:
            worker = process.number
            for kind, *values in self.tails[worker].messages():
                match kind:
                    case "exchange":
                        rows.extend(self._rows(worker, Raw(*values)))
                    case "facts":
                        rows.extend(self._sdk_rows(worker, *values))
                    case "status":
                        self.in_flight[worker] = values[1]
                    case "anchor":
                        self.stamps[worker].add(clock.Anchor(*values))
                    case "clock":
                        self.clock_ns[worker] = values[0]
                    case "ready":
                        process.ready = True
                    case "report":
                        self.reports[worker] = json.loads(values[0])
                        self.in_flight[worker] = 0
                if clock.monotonic_ns() > until:
                    self.behind.add(worker)
                    break
        self.parse_cpu_s += _thread_cpu_s() - cpu
        return rows

    def _request(self, worker: int, index: int) -> tuple[PlannedRequest, str]:
        request = self.requests[self.places[worker][index]]
        return request, shard.request_id(self.job.run_id, self.job.phase, request.seq)

    def _rows(self, worker: int, raw: Raw) -> list[RequestRecord]:
        """The row of an exchange, and of the later turns of its session that can no longer be sent."""
        if self.next_turns is None or self.places[worker][raw.index] not in self.next_turns.tree.followers:
            return [self._row(worker, raw)]
        content = turns.Content()
        row = self._row(worker, raw, content)
        return [row, *self._go_on(worker, raw.index, row, content)]

    def _sdk_rows(
        self, worker: int, index: int, facts: dict[str, Any], content: tuple[list[str], list[int]] | None
    ) -> list[RequestRecord]:
        row = self._sdk_row(worker, index, facts)
        if self.next_turns is None or content is None:
            return [row]
        return [row, *self._go_on(worker, index, row, turns.Content(*content))]

    def _go_on(self, worker: int, index: int, row: RequestRecord, content: turns.Content) -> list[RequestRecord]:
        """Build what waits for this reply; where the reply failed, rows that say so. What we cancelled ourselves is like a
        request that was never sent: no row."""
        assert self.next_turns is not None
        place = self.places[worker][index]
        followers = self.next_turns.tree.followers[place]
        if row.outcome == Outcome.CANCELLED:
            return []
        if row.outcome != Outcome.OK:
            self.commands += [(worker, f"skip {self._index[follower]}") for follower in followers]
            why = f"its session ended: request {row.seq} came to {row.outcome}"
            return [self._unsent(worker, place, why) for place in self.next_turns.descendants(place)]
        for follower in followers:
            request = self.requests[follower]
            body = self.next_turns.body(follower, place, content)
            piece = shard.with_headers(body, shard.request_id(self.job.run_id, self.job.phase, request.seq))
            late = self._late[worker]
            at = late.tell()
            late.write(piece)
            late.flush()
            due_ns = (row.ended_ns or 0) + (request.think_ns or 0)
            line = f"turn {self._index[follower]} {at} {len(piece)} {due_ns}"
            self.commands.append(turns.Turn(worker, follower, due_ns, len(piece), line))
        return []

    def _unsent(self, worker: int, place: int, why: str) -> RequestRecord:
        now = clock.monotonic_ns()
        raw = Raw(self._index[place], Outcome.DROPPED.value, why, 0, 0, 0, 0, None, 0, now, False, b"", b"", b"")
        return self._row(worker, raw)

    def _row(self, worker: int, raw: Raw, content: turns.Content | None = None) -> RequestRecord:
        request, name = self._request(worker, raw.index)
        row = record(raw, request, name, worker, self.stamps[worker], self.context, content)
        self.lag_max_ns = max(self.lag_max_ns, clock.monotonic_ns() - raw.ended_ns)
        if raw.lengths:
            self.largest_read = max(self.largest_read, int(np.frombuffer(raw.lengths, np.uint32).max()))
        return self._count(worker, raw.index, row)

    def _sdk_row(self, worker: int, index: int, facts: dict[str, Any]) -> RequestRecord:
        request, name = self._request(worker, index)
        due, headers = facts["due_ns"], facts.pop("headers")
        if self.job.on_head is not None and facts["http_status"] is not None:
            stamp_ns = facts["first_byte_ns"] or facts["ended_ns"]
            self.job.on_head(Head(request.seq, stamp_ns, facts["http_status"], headers))
        if facts["error"] is not None:
            facts["error"] = dialect.clean_error(facts["error"], self.context.api_key)
        row = RequestRecord(
            request_id=name,
            seq=request.seq,
            phase=self.job.phase.value,
            worker=worker,
            session_id=request.session_id,
            target_prompt_tokens=request.target_prompt_tokens,
            target_output_tokens=request.target_output_tokens,
            scheduled_ns=due if self.context.open_loop else None,
            retry_after_s=retry_after_s(headers),
            **facts,
        )
        return self._count(worker, index, row)

    def _count(self, worker: int, index: int, row: RequestRecord) -> RequestRecord:
        self.has_row[worker][index] = 1
        self.on_over(worker, index)
        if self.admission is not None:
            self.admission.over(self.places[worker][index])
        self.done += 1
        self.failed += row.outcome != Outcome.OK
        self.tokens += len(row.chunk_ns)
        self.reads += row.reads
        self.merged += row.merged_reads
        return row

    def lost(self, worker: int, why: str) -> list[RequestRecord]:
        """Rows for the requests of a worker that died: sent ones are cancelled, the others dropped, but for those that the gate
        had not admitted."""
        now = clock.monotonic_ns()
        self.in_flight[worker] = 0
        why = dialect.clean_error(why, self.context.api_key)
        self.notes.append(why)
        rows, sent_ns = [], shard.open_sent(self.scratch, worker)
        for index, seen in enumerate(self.has_row[worker]):
            if seen or (self.admission and not self.admission.admitted(worker, index)):
                continue
            request, _ = self._request(worker, index)
            due = 0 if request.scheduled_ns is None else self.started_ns + request.scheduled_ns
            sent = sent_ns[index]
            outcome = Outcome.CANCELLED if sent else Outcome.DROPPED
            # of one that had only begun no row may say that it was never sent
            left = now if sent == shard.BEGUN else sent
            raw = Raw(index, outcome.value, why, due, 0, 0, 0, None, left, now, False, b"", b"", b"")
            rows.append(self._row(worker, raw))
        return rows

    def damage(self, worker: int) -> str:
        """What of a worker's spool could not be read, in one line; empty if there is none."""
        damaged = self.tails[worker].damaged
        more = f" and {len(damaged) - 1:,} more places" if len(damaged) > 1 else ""
        return f"the spool of worker {worker} is damaged: {damaged[0]}{more}" if damaged else ""

    def is_behind(self, size: int) -> bool:
        """True if a worker has spooled more than about `size` bytes that were not read yet."""
        return any(tail.is_behind(size) for tail in self.tails)

    def forget(self) -> None:
        """Delete what was read some time ago."""
        before_ns = clock.monotonic_ns() - KEEP_NS
        for tail in self.tails:
            tail.forget(before_ns)

    def close(self) -> None:
        for file in self._late:
            file.close()

    def progress(self, now_ns: int) -> DriveProgress:
        elapsed = max(0, now_ns - self.started_ns) / 1e9 if self.started_ns else 0.0
        total = len(self.requests) - (self.admission.passed_over if self.admission else 0)
        return DriveProgress(self.done, total, sum(self.in_flight), self.failed, self.tokens, elapsed)

    def report(self, driver: str, stop_reason: str) -> DriveReport:
        """What the load generator says of itself; workers that died are missing from its sums, and noted."""
        reports = list(self.reports.values())
        lags = [r["loop_lag_max_s"] for r in reports if r["loop_lag_max_s"] is not None]
        user_reads = sum(r["user_reads"] for r in reports)
        kernel = driver == "wire" and user_reads <= MIXED_STAMPS_SHARE * self.reads
        notes = list(self.notes)
        if kernel and user_reads:
            notes.append(
                f"{user_reads} of {self.reads} reads came without a kernel stamp and were stamped in user space"
            )
        if self.lag_max_ns > LAGGED_S * clock.NS:
            notes.append(
                f"replies waited up to {self.lag_max_ns / 1e9:.1f} s to be parsed: no core was free for it (the stamps are theirs)"
            )
        if unwritten := sum(r.get("unwritten", 0) for r in reports):
            notes.append(
                f"{unwritten:,} sends waited for leave to go out"
                if self.admission
                else f"{unwritten:,} sends waited for their prompts: this machine writes prompts slower than the load takes them"
            )
        if driver == "wire":
            notes.extend(_about_worker(number, r) for number, r in sorted(self.reports.items()))
            if careful := sum(r["careful"] for r in reports):
                notes.append(
                    f"{careful} replies were framed otherwise than the fast path expects and were read by the slow one"
                )
            notes.append(
                f"at most {self.largest_read:,} bytes stood in a socket when it was read; workers ran without garbage collection"
            )
            notes.append(
                "timeout_first_token counts from the send to the first byte of the body; timeout_idle between reads"
            )
        else:
            notes.extend(f"worker {number}: {r['pauses']}" for number, r in sorted(self.reports.items()))
        anchors = next((s.anchors for s in self.stamps if s.anchors), [])
        return DriveReport(
            driver=driver,
            workers=len(self.places),
            started_ns=self.started_ns,
            ended_ns=max((r["ended_ns"] for r in reports), default=clock.monotonic_ns()),
            stamp_source="kernel" if kernel else "user",
            stop_reason=stop_reason,
            reads=self.reads,
            merged_reads=self.merged,
            cpu_s=sum(r["cpu_s"] for r in reports),
            parse_cpu_s=self.parse_cpu_s if driver == "wire" else None,
            loop_lag_max_s=max(lags, default=None),
            late_sends=sum(r["late_sends"] for r in reports),
            largest_clock_step_ns=max(clock.largest_step_ns(s.anchors) for s in self.stamps),
            anchors=[(a.monotonic_ns, a.offset_ns, a.error_ns) for a in anchors],
            clock_offsets=self.offsets,
            largest_read_bytes=self.largest_read or None,
            notes=notes,
        )


def _about_worker(number: int, report: dict[str, Any]) -> str:
    """Under what conditions a worker's loop ran, in one line."""
    wait_s, still_s = report["core_wait_s"], report["stopped_max_s"]
    gave_up = (
        "" if (after_s := report["gave_up_s"]) is None else f", given up after {after_s:.1f} s to let parsing catch up"
    )
    conditions = [
        f"priority {report['priority']}" + gave_up,
        report["reader"],
        "time without a core unknown" if wait_s is None else f"waited {wait_s:.3f} s for a core",
    ]
    if still_s > STOOD_STILL_S:
        conditions.append(
            f"stood still for {still_s:.1f} s (stopped, or without a core): reads then were late and merged"
        )
    return f"worker {number}: {', '.join(conditions)}"
