"""The driver: offers a plan to an endpoint, one worker process or several, and hands rows out as requests end.

`drive` writes the shards' beginnings, starts the workers, gives them one start instant, and then reads what they spool and writes on:
parsing happens here, never in a worker's loop. The driver obeys the plan; it decides nothing.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base import clock, redaction
from harness.base.errors import ConfigError
from harness.base.files import is_no_room, no_room
from harness.measure.drive import dialect, shard, turns
from harness.measure.drive.admission import FOREVER_NS, Admission
from harness.measure.drive.collect import Collector
from harness.measure.drive.feed import Feed
from harness.measure.drive.processes import WorkerProcess, start_workers
from harness.measure.job import Job, Watcher
from harness.records import DriveReport, Endpoint, Load, Phase, PlannedRequest, Timeouts

READY_S = 300.0  # a worker that dies is noticed at once: against one that hangs
LEAD_NS = 50_000_000  # the start instant lies this far ahead, so that every worker has heard of it
ABORT_S = 10.0
STOP_POLL_NS = 100_000_000
PROGRESS_NS = 250_000_000
SLICE_NS = 5_000_000  # parse at most this long at a time: less than a token gap, should it keep a worker from its core
CROWDED_S = SLICE_NS / 1e9  # a slice that waited so long for a core took one from somebody
BACKLOG_BYTES = 2 << 30  # what may wait on disk to be parsed before the workers give up their priority
ABOUT = "about.json"
CLOCK_ROUNDS = 3
CLOCK_REST_S = 0.0001
CLOCK_WAIT_NS = 200_000_000  # a worker that died or was stopped does not answer
READY_REST_S = 0.01
REST_S = 0.05
TURN_REST_S = 0.001  # where later turns wait for what is parsed here


def drive(
    job: Job, watcher: Watcher, endpoint: Endpoint, *, driver: str, workers: int, timeouts: Timeouts
) -> DriveReport:
    """Offer the job's requests to `endpoint` and report every one that was begun. `driver`: wire | sdk.

    Requests never sent because of the job's duration make no row. Raises ConfigError. Files under the job's scratch folder (the
    API key is never in them) go at the end; where anything raises after the first send they stay.
    """
    requests, load = job.requests, job.load
    _refuse_words(driver, load)
    _refuse_base(driver, endpoint)
    redaction.learn(endpoint.api_key)
    if not requests:
        return nothing_sent(driver, "done")
    count = _workers(workers, min(len(requests), load.concurrency or len(requests)), len(endpoint.replicas))
    tree = turns.tree_of(requests)
    owner = owners(requests, load, count, tree)
    processes: list[WorkerProcess] = []
    feed = collector = None
    with _folder(job.scratch) as folder:
        place = folder.path
        try:
            feed = Feed(job, owner, count, endpoint, place, tree)
            admission = None if job.gate is None else Admission(job, job.gate, feed, owner, count, tree, place)
            _fill_first(feed, watcher)
            following = turns.NextTurns(requests, tree, feed.units, endpoint) if tree.waiting else None
            collector = Collector(
                job,
                owner,
                count,
                place,
                endpoint.api_key,
                following,
                spoken=dialect.spoken(endpoint),
                on_over=feed.over,
                admission=admission,
            )
            (place / ABOUT).write_text(json.dumps(_about(job, endpoint, count)))
            processes = start_workers(job, place, count, driver, endpoint, timeouts, kernel_stamps=KERNEL_STAMPS)
            parent = _Parent(processes, collector, feed, watcher)
            parent.wait_ready()
            parent.measure_clocks()
            watcher.progress(collector.progress(clock.monotonic_ns()))
            started_ns = (clock.monotonic_ns() if job.start is None else job.start.wait()) + LEAD_NS
            collector.started_ns = started_ns
            folder.needed = True
            parent.run(started_ns)
            watcher.ended()
            if job.gate is not None and not parent.died:
                job.gate.ended()
            folder.needed = False
            return collector.report(driver, parent.stop_reason)
        except _StoppedError as stopped:
            if job.gate is not None:
                job.gate.ended()
            return nothing_sent(driver, str(stopped))
        finally:
            for process in processes:
                process.kill()
            for open_files in (collector, feed):
                if open_files is not None:
                    open_files.close()


def _about(job: Job, endpoint: Endpoint, workers: int) -> dict[str, Any]:
    """What is told of a drive beside its spools, for whoever finds it killed. A warm-up's requests are kept nowhere else."""
    kept = job.paid is not None and job.phase is Phase.WARMUP
    return {
        "phase": job.phase.value,
        "run_id": job.run_id,
        "spoken": dialect.spoken(endpoint),
        "workers": workers,
        "has_key": endpoint.api_key is not None,
        "warm_up": [(r.seq, r.target_prompt_tokens, r.target_output_tokens) for r in job.requests] if kept else [],
        "slots": job.load.concurrency,
        "paid": job.paid,
    }


def _workers(wanted: int, most: int, replicas: int) -> int:
    """How many, at most `most`; as many a replica, where there are several, so that a worker has one of them alone."""
    if replicas:
        wanted = max(1, -(-wanted // replicas)) * replicas
        most = most // replicas * replicas or most
    return max(1, min(wanted, most))


@dataclass(slots=True)
class _Folder:
    """Where a drive works; `needed`: it holds what workers spooled and nobody has stored."""

    path: Path
    needed: bool = False


@contextmanager
def _folder(scratch: Path) -> Iterator[_Folder]:
    """A folder of its own, gone in the end unless it is needed. Raises StoreError where its disk is full."""
    folder = _Folder(Path(tempfile.mkdtemp(prefix="drive-", dir=scratch)))
    try:
        yield folder
    except BaseException as error:
        with suppress(OSError):  # whoever found the disk full first: rows and the manifest have their room
            shard.delete_prompts(folder.path)
        if is_no_room(error):
            raise no_room("the load generator's files", folder.path, error) from error
        raise
    finally:
        if not folder.needed:
            shutil.rmtree(folder.path, ignore_errors=True)


def _refuse_words(driver: str, load: Load) -> None:
    if driver not in ("wire", "sdk"):
        raise ConfigError("unknown driver", driver, "use wire or sdk")
    batch = load.arrivals == "batch"  # an open loop without a rate: everything is due at once
    if load.is_closed != (load.rate_rps is None and not batch):
        raise ConfigError("a load is either closed or open", load, "set one of concurrency and rate_rps")


def _refuse_base(driver: str, endpoint: Endpoint) -> None:
    if driver == "sdk" and endpoint.api == "messages" and not endpoint.base_url.endswith("/v1"):
        raise ConfigError(
            "the anthropic SDK adds /v1/messages to a server's root",
            endpoint.base_url,
            "use driver: wire, or a base URL that ends in /v1",
        )


class _StoppedError(Exception):
    """Asked to stop before anything was sent; the text is the stop_reason."""


def _fill_first(feed: Feed, watcher: Watcher) -> None:
    """What may be written ahead before the first send. Raises _StoppedError: it may be much, and not be wanted any more."""
    while feed.fill(STOP_POLL_NS):
        if (word := watcher.should_stop()) is not None:
            raise _StoppedError(reason_of(word))


def reason_of(word: str) -> str:
    """The stop_reason that a watcher's word comes to."""
    return "interrupted" if word in ("drain", "abort") else word


KERNEL_STAMPS = True  # False: stamps are taken in user space even where the kernel has them (for tests)


def owners(
    requests: Sequence[PlannedRequest], load: Load, workers: int, tree: turns.Tree = turns.NO_TURNS
) -> list[int]:
    """Which worker sends each request: by position in an open loop, by slot in a closed one (so that a worker with more
    slots gets more requests). A session stays with one worker; its first request says which."""
    if tree.waiting:
        firsts = [i for i in range(len(requests)) if i not in tree.root]
        of_first = dict(zip(firsts, owners([requests[i] for i in firsts], load, workers), strict=True))
        return [of_first[tree.root.get(i, i)] for i in range(len(requests))]
    if load.concurrency is None:
        return [i % workers for i in range(len(requests))]  # not by seq: of a node's share every second may be even
    slot_owner = [slot % workers for slot in range(load.concurrency)]
    return [slot_owner[i % load.concurrency] for i in range(len(requests))]


class _Parent:
    """The parent's loop over running workers."""

    def __init__(self, processes: list[WorkerProcess], collector: Collector, feed: Feed, watcher: Watcher) -> None:
        self.processes, self.collector, self.feed, self.watcher = processes, collector, feed, watcher
        self.action = ""  # "" | drain | abort
        self.stop_word: str | None = None
        self.abort_by_ns: int | None = None
        self.died = self.yielded = False

    @property
    def stop_reason(self) -> str:
        if self.died:
            return "worker_died"
        if self.stop_word is not None:
            return reason_of(self.stop_word)
        return "duration" if self.collector.cut else "done"

    def wait_ready(self) -> None:
        """Until every worker is ready, has died, or READY_S is over."""
        give_up = clock.monotonic_ns() + int(READY_S * 1e9)
        while not all(p.ready or p.finished for p in self.processes):
            self._advance()
            self._look_at_stop()
            if self.action or clock.monotonic_ns() > give_up:
                break
            clock.sleep(READY_REST_S)
        for process in self.processes:
            if not process.ready and not self.action:
                process.kill()

    def measure_clocks(self) -> None:
        """How far each worker's clock is from ours, by question and answer: the quickest of a few. On one machine the clock
        is the same, and the distance lies within its own error."""
        for worker, process in enumerate(self.processes):
            best: tuple[int, int] | None = None
            for _ in range(CLOCK_ROUNDS):
                self.collector.clock_ns.pop(worker, None)
                before_ns = clock.monotonic_ns()
                process.tell("clock")
                while worker not in self.collector.clock_ns and clock.monotonic_ns() - before_ns < CLOCK_WAIT_NS:
                    clock.sleep(CLOCK_REST_S)
                    self._collect()
                after_ns = clock.monotonic_ns()
                clock_ns = self.collector.clock_ns.get(worker)
                if clock_ns is not None and (best is None or after_ns - before_ns < 2 * best[1]):
                    best = clock_ns - (before_ns + after_ns) // 2, (after_ns - before_ns + 1) // 2
            self.collector.offsets[worker] = best or (0, 0)

    def _admit(self) -> int:
        """Ask the gate; the instant to come back at."""
        admission = self.collector.admission
        if admission is None or self.action:
            return FOREVER_NS
        back_ns = admission.round(lambda worker, line: self.processes[worker].tell(line))
        if admission.stopped:
            self.action, self.stop_word = "drain", admission.gate.stop_reason
            self._tell("drain")
        return back_ns

    def run(self, started_ns: int) -> None:
        if self.collector.admission is not None:
            self.collector.admission.start(started_ns)
            self._admit()
        for process, (offset_ns, error_ns) in zip(self.processes, self.collector.offsets, strict=True):
            if not self.action:
                process.tell(f"go {started_ns + (offset_ns if abs(offset_ns) > error_ns else 0)}")
        next_stop, next_progress = 0, started_ns
        rest_ns = int(1e9 * (TURN_REST_S if self.collector.next_turns else REST_S))
        while True:
            waited_s = clock.core_wait_s()
            self._advance()
            crowded = waited_s is not None and (clock.core_wait_s() or 0) - waited_s > CROWDED_S
            now = clock.monotonic_ns()
            if now >= next_stop:
                next_stop = now + STOP_POLL_NS
                self._look_at_stop()
                self._mind_the_spool()
            if now >= next_progress:
                next_progress = now + PROGRESS_NS
                self.watcher.progress(self.collector.progress(now))
            if all(p.finished for p in self.processes):
                break
            if self.abort_by_ns is not None and now > self.abort_by_ns:
                for process in self.processes:
                    process.kill()
            self.feed.fill(SLICE_NS)
            back_ns = self._admit()
            behind = self.collector.behind or self.feed.is_low
            if not behind or crowded:  # a few replies at a time are parsed cheaper than each by itself
                clock.sleep(max(0, min(rest_ns, back_ns - clock.monotonic_ns())) / 1e9)
        self.watcher.progress(self.collector.progress(clock.monotonic_ns()))

    def _mind_the_spool(self) -> None:
        """Parsing gives way to the reads, as long as the disk has room for what waits."""
        self.collector.forget()
        if not self.yielded and self.collector.is_behind(BACKLOG_BYTES):
            self.yielded = True
            self._tell("yield")

    def _tell(self, word: str) -> None:
        for process in self.processes:
            process.tell(word)

    def _look_at_stop(self) -> None:
        word = self.watcher.should_stop()
        if word is None or self.action == "abort":
            return
        action = "drain" if word == "drain" else "abort"
        if action == self.action:
            return
        self.action, self.stop_word = action, self.stop_word if self.stop_word not in (None, "drain") else word
        self._abort() if action == "abort" else self._tell("drain")

    def _abort(self) -> None:
        self.action = "abort"
        self.abort_by_ns = self.abort_by_ns or clock.monotonic_ns() + int(ABORT_S * 1e9)
        self._tell("abort")

    def _collect(self) -> None:
        rows = self.collector.collect(self.processes, SLICE_NS)
        for command in self.collector.commands:
            self._command(command)
        self.collector.commands.clear()
        if rows:
            self.watcher.rows(rows)
            if self.collector.admission is not None:
                self.collector.admission.gate.over(rows)

    def _command(self, command: tuple[int, str] | turns.Turn) -> None:
        """Tell a worker of a later turn, as soon as the gate lets it."""
        if not isinstance(command, turns.Turn):
            worker, line = command
            self.processes[worker].tell(line)
        elif self.collector.admission is not None:
            self.collector.admission.later(command)
        else:
            self.processes[command.worker].tell(command.line)

    def _advance(self) -> None:
        """Parse a slice, and bury the workers that had ended before it and left no more."""
        gone = [worker for worker, p in enumerate(self.processes) if not p.finished and p.exited()]
        if any(self.processes[worker].failed() for worker in gone):
            self._stop_for_death()
        self._collect()
        for worker in gone:
            if worker not in self.collector.behind:
                self._bury(worker)

    def _bury(self, worker: int) -> None:
        """A worker has ended: properly, or by dying; a dead one's requests become rows and the run stops."""
        process = self.processes[worker]
        process.finished = True
        damage = self.collector.damage(worker)
        if damage or worker not in self.collector.reports:
            self.watcher.rows(self.collector.lost(worker, damage or process.epitaph()))
            self._stop_for_death()

    def _stop_for_death(self) -> None:
        self.died = True
        if self.action != "abort":
            self._abort()


def nothing_sent(driver: str, stop_reason: str) -> DriveReport:
    """The report of a drive that had nothing to send, or was stopped before it did."""
    now = clock.monotonic_ns()
    return DriveReport(
        driver, 0, now, now, "kernel" if driver == "wire" else "user", stop_reason, 0, 0, 0.0, None, None, 0, 0, ()
    )  # fmt: skip
