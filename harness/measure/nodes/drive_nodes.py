"""The parent's part of a load from many nodes: shares, one start, rows back onto one clock, and what is said of a node that is lost.

No token and no row becomes a Python object here: parcels are Arrow tables, moved onto this machine's clock by one addition a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.base import clock
from harness.base.errors import TargetError
from harness.measure.drive import turns
from harness.measure.drive.driver import nothing_sent, owners, reason_of
from harness.measure.job import Job, Watcher
from harness.measure.nodes.agent import GONE, Poll, Share
from harness.measure.nodes.crew import WAIT_S, NodeGone, NodeTrouble, ask_all
from harness.measure.nodes.kept import About
from harness.measure.nodes.lost import LostAt, rows_of_lost
from harness.measure.nodes.muster import ANSWER_S, Nodes
from harness.measure.nodes.sums import progress_of, report_of
from harness.records import (
    DriveProgress,
    DriveReport,
    Endpoint,
    Timeouts,
    Vocabulary,
)
from harness.store.parcels import numbers, on_our_clock, only, unpack, when

READY_S = 300.0  # against a node that hangs; one that dies is noticed at once
LEAD_S = 0.8  # from the telling of the start to the start, and
HEAR_SHARE = 0.6
LEAD_TRIPS = 4  # so many of the longest call there and back
POLL_S = 0.25
LOST_S = 10.0  # a node that has not answered for so long is lost
PROGRESS_NS = 250_000_000
TELL_NS = 2_000_000_000

Bools = npt.NDArray[np.bool_]


class NodesWatcher(Watcher, Protocol):
    """A Watcher that takes rows as tables, too."""

    def table(self, table: Any, /) -> None:
        """A pyarrow.Table of `requests`: rows that ended, each once."""


@dataclass(slots=True)
class _Member:
    """A node while it drives. `positions`: of its requests in the job. `number`: its last parcel that is stored."""

    positions: list[int]
    share: Share
    number: int = 0
    rows: int = 0
    asked_ns: int = 0
    heard_ns: int = 0
    silent: bool = True  # no call of ours is under way
    progress: DriveProgress | None = None
    report: DriveReport | None = None
    lost: str | None = None
    told_ns: int = 0  # when it last heard how far our clock is away

    @property
    def over(self) -> bool:
        return self.report is not None or self.lost is not None


def drive_nodes(
    job: Job,
    watcher: NodesWatcher,
    nodes: Nodes,
    endpoint: Endpoint,
    vocabulary: Vocabulary,
    *,
    driver: str,
    timeouts: Timeouts,
) -> DriveReport:
    """As `drive`, from many nodes: the plan's requests are dealt out, prompts are made there. A lost node's requests are rows (`lost`, or `dropped`
    where they cannot have been sent), and the others go on. Raises TargetError before the first send where a node is not ready in time."""
    if not job.requests:
        return nothing_sent(driver, "done")
    drive = _Drive(job, watcher, nodes, endpoint, vocabulary, driver, timeouts)
    drive.prepare()
    if (word := watcher.should_stop()) is not None:
        return nothing_sent(driver, reason_of(word))
    drive.begin()
    drive.run()
    watcher.ended()
    nodes.stored.set()
    return drive.report()


class _Drive:
    def __init__(
        self,
        job: Job,
        watcher: NodesWatcher,
        nodes: Nodes,
        endpoint: Endpoint,
        vocabulary: Vocabulary,
        driver: str,
        timeouts: Timeouts,
    ) -> None:
        self.job, self.watcher, self.nodes, self.crew = job, watcher, nodes, nodes.crew
        self.endpoint, self.driver = endpoint, driver
        self.count = max(1, min(nodes.count, len(job.requests), job.load.concurrency or nodes.count))
        owner = owners(job.requests, job.load, self.count, turns.tree_of(job.requests))
        positions: list[list[int]] = [[] for _ in range(self.count)]
        for i, node in enumerate(owner):
            positions[node].append(i)
        ca_pem = Path(endpoint.ca_file).read_bytes() if endpoint.ca_file else None
        self.members = [
            _Member(positions[node], self._share(node, positions[node], vocabulary, timeouts, ca_pem))
            for node in range(self.count)
        ]
        self.place = {request.seq: i for i, request in enumerate(job.requests)}
        self.order = np.argsort(np.array([request.seq for request in job.requests], np.int64), kind="stable")
        self.seqs = np.array([request.seq for request in job.requests], np.int64)[self.order]
        self.has_row = np.zeros(len(job.requests), np.bool_)
        self.started_ns = 0
        self.word: str | None = None
        self.stopped_ns: int | None = None
        self.anchors = [clock.anchor()]
        self.twice = 0
        self.notes: list[str] = []

    def _share(
        self, node: int, positions: Sequence[int], vocabulary: Vocabulary, timeouts: Timeouts, ca_pem: bytes | None
    ) -> Share:
        job, load = self.job, self.job.load
        if load.concurrency is not None:
            load = replace(load, concurrency=len(range(node, load.concurrency, self.count)))
        elif load.rate_rps is not None:
            load = replace(load, rate_rps=load.rate_rps / self.count)
        requests = tuple(job.requests[i] for i in positions)
        return Share(
            requests, load, job.phase, job.run_id, job.duration_s, vocabulary, self.driver, self.nodes.workers, timeouts, ca_pem,
            self._kept_as(node),
        )  # fmt: skip

    def _kept_as(self, node: int) -> About:
        return About(self.nodes.mark, self.crew.names[node], node * self.nodes.workers)

    # ---------------------------------------------------------------- before the first send

    def prepare(self) -> None:
        """Every node has its share, and its workers stand. Raises TargetError naming who is not ready."""
        came = ask_all(
            self.crew, {k: ("prepare", member.share, self.endpoint) for k, member in enumerate(self.members)}, READY_S
        )
        for k, member in enumerate(self.members):
            if came.get(k) != member.share.sha256:
                why = getattr(
                    came.get(k), "why", "it was given another plan than it says" if k in came else "no answer"
                )
                self._refuse(k, "has no share of the plan", why)
            member.share = replace(member.share, requests=())  # nobody reads it here again
        waiting = set(range(self.count))
        end_ns = clock.monotonic_ns() + int(READY_S * clock.NS)
        while waiting and self.watcher.should_stop() is None:
            polled = ask_all(self.crew, dict.fromkeys(waiting, ("poll", 0, None)), ANSWER_S)
            for k in sorted(waiting):
                said = polled.get(k)
                if not isinstance(said, Poll) or said.trouble or said.report:
                    why = (
                        getattr(said, "why", None)
                        or getattr(said, "trouble", None)
                        or f"no answer within {ANSWER_S:g} s"
                    )
                    self._refuse(k, "is not ready", why)
                elif said.ready:
                    waiting.discard(k)
            if waiting and clock.monotonic_ns() > end_ns:
                self._refuse(min(waiting), "is not ready", f"it has been waited for {READY_S:g} s")
            clock.sleep(WAIT_S if waiting else 0)
        self.nodes.asked()
        self.watcher.progress(self._progress())

    def _refuse(self, node: int, what: str, why: str) -> None:
        raise TargetError(
            f"node {self.crew.names[node]} {what}", why, "nothing was sent; leave the node out, or run again"
        )

    def begin(self) -> None:
        """One start for all, on each one's clock. Raises TargetError where one heard of it too late; then none begins."""
        asked_ns = clock.monotonic_ns()
        ask_all(self.crew, dict.fromkeys(range(self.count), ("poll", 0, self.word)), ANSWER_S)
        trip_ns = clock.monotonic_ns() - asked_ns
        self.started_ns = clock.monotonic_ns() + int(LEAD_S * clock.NS) + LEAD_TRIPS * trip_ns
        calls = {k: ("start", self.nodes.lines[k].to_node(self.started_ns)) for k in range(self.count)}
        # what is left of it after that is for calling those back that heard, where one did not
        left = ask_all(self.crew, calls, HEAR_SHARE * (self.started_ns - clock.monotonic_ns()) / clock.NS)
        now = clock.monotonic_ns()
        for k, member in enumerate(self.members):
            member.heard_ns = now
            if isinstance(left.get(k), NodeGone):
                self._lose(k, left[k].why)
            elif not isinstance(left.get(k), int) or left[k] < 0:
                self.word = "abort"
                ask_all(self.crew, {n: ("poll", 0, "abort") for n in range(self.count) if n in left}, 1.0)
                self._refuse(k, "heard of the start too late", f"it had {(self.started_ns - asked_ns) / 1e9:.2f} s")

    # ---------------------------------------------------------------- while it runs

    def run(self) -> None:
        next_progress = 0
        while True:
            now = clock.monotonic_ns()
            word = self.watcher.should_stop()
            if word is not None:
                self._heed(word)
            for k, member in enumerate(self.members):
                if member.over:
                    continue
                if member.silent and now - member.asked_ns >= POLL_S * clock.NS:
                    line = None
                    if now - member.told_ns >= TELL_NS:
                        line, member.told_ns = self._line(k), now
                    self.crew.ask(k, "poll", member.number, self.word, line)
                    member.asked_ns, member.silent = now, False
                elif now - member.heard_ns > LOST_S * clock.NS:
                    self._lose(k, f"it did not answer for {LOST_S:g} s")
            if all(member.over for member in self.members):
                break
            for k, answer in self.crew.answers(WAIT_S):
                self._take(k, answer)
            if now >= next_progress:
                next_progress = now + PROGRESS_NS
                self.watcher.progress(self._progress())
            clock.sleep(WAIT_S / 4)
        self.anchors.append(clock.anchor())
        self.watcher.progress(self._progress())

    def _heed(self, word: str) -> None:
        if self.word in (None, "drain") and word != self.word:
            self.word = word
            self.stopped_ns = self.stopped_ns or clock.monotonic_ns()

    def _take(self, node: int, answer: Any) -> None:
        """An answer to a poll; one of a node that was given up is nothing any more."""
        member = self.members[node]
        member.silent = True
        if member.over:
            return
        if isinstance(answer, NodeGone | NodeTrouble):
            self._lose(node, answer.why)
            return
        if not isinstance(answer, Poll):
            return  # unheard, or a late answer to an earlier call
        member.heard_ns = clock.monotonic_ns()
        for parcel in answer.parcels:
            if parcel.number == member.number + 1:
                self._store(node, unpack(parcel.data))
                member.number = parcel.number
        member.progress = answer.progress or member.progress
        if answer.trouble is not None:
            self._lose(node, answer.trouble)
        elif answer.report is not None:
            member.report = answer.report
            if answer.report.stop_reason == GONE:
                self._lose(node, "it did not hear of this machine and stopped")

    def _store(self, node: int, table: Any) -> None:
        """Rows that are new, onto our clock, to the watcher."""
        places = self.order[np.searchsorted(self.seqs, numbers(table, "seq"))]
        new = ~self.has_row[places]
        self.twice += int((~new).sum())
        table = only(table, new)
        if not table.num_rows:
            return
        self.has_row[places] = True
        offsets_ns, _ = self.nodes.lines[node].offsets(when(table))
        first = node * self.nodes.workers
        self.members[node].rows += table.num_rows
        self.watcher.table(on_our_clock(table, offsets_ns, lambda local: local + first))

    # ---------------------------------------------------------------- a node that is lost

    def _lose(self, node: int, why: str) -> None:
        member = self.members[node]
        member.lost = why
        self.notes.append(f"node {self.crew.names[node]} was lost: {why}")
        self.crew.end(node)
        if self.started_ns:
            progress, slots = member.progress, member.share.load.concurrency or 0
            begun = slots + (0 if progress is None else progress.done + progress.in_flight)
            left = [
                (index < begun, self.job.requests[i]) for index, i in enumerate(member.positions) if not self.has_row[i]
            ]
            at = LostAt(self.started_ns, member.heard_ns, clock.monotonic_ns(), self.stopped_ns)
            rows = list(rows_of_lost(self.job, left, at, node * self.nodes.workers, self.notes[-1]))
            self.has_row[[self.place[row.seq] for row in rows]] = True
            self.watcher.rows(rows)

    # ---------------------------------------------------------------- what it came to

    def _progress(self) -> DriveProgress:
        elapsed_s = max(0, clock.monotonic_ns() - self.started_ns) / 1e9 if self.started_ns else 0.0
        each = [member.progress for member in self.members if member.progress is not None]
        return progress_of(each, len(self.job.requests), elapsed_s)

    def report(self) -> DriveReport:
        """All nodes' as one; `nodes` has each one's facts."""
        if self.twice:
            self.notes.append(f"{self.twice} rows came twice and were stored once")
        facts: list[Mapping[str, Any]] = [
            {
                **self.nodes.facts(k), "requests": len(member.positions), "rows": member.rows, "lost": member.lost,
                "kept_as": self._kept_as(k).folder(self.job.run_id),
            }
            for k, member in enumerate(self.members)
        ]  # fmt: skip
        clocks = [self._clock(k) for k in range(self.count)]
        return report_of(
            [member.report for member in self.members],
            clocks,
            names=self.crew.names,
            workers=self.nodes.workers,
            driver=self.driver,
            started_ns=self.started_ns,
            any_lost=any(member.lost for member in self.members),
            word=self.word,
            anchors=self.anchors,
            notes=self.notes,
            facts=facts,
        )

    def _line(self, node: int) -> tuple[int, int]:
        line = self.nodes.lines[node]
        return line.offset(line.last_ns)

    def _clock(self, node: int) -> tuple[int, int]:
        return -self._line(node)[0], self.nodes.lines[node].error_max_ns
