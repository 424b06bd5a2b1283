"""A node's part of a load: its share of the plan, driven by the ordinary driver of this machine, its rows packed until the parent has them.

It knows no transport. Whoever carries its calls (an actor, a pipe) calls one at a time: `describe`, `listen`, `prepare`, `poll` until it is
ready, `start`, `poll` until there is a report, `close`. A parent that is not heard of for SILENCE_S has gone: nothing more is sent then.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import harness
from harness.base import clock, redaction
from harness.base.errors import HarnessError
from harness.measure.calibrate import calibration_limit
from harness.measure.drive import reader
from harness.measure.drive.driver import LEAD_NS, drive
from harness.measure.job import Job
from harness.measure.nodes.clock_source import clock_facts
from harness.measure.nodes.echo import Echo
from harness.measure.nodes.kept import About, Kept, kept_at
from harness.measure.nodes.same import source_digest
from harness.measure.plan.prompts import prompts
from harness.records import (
    DriveProgress,
    DriveReport,
    Endpoint,
    Load,
    Phase,
    PlannedRequest,
    RequestRecord,
    Timeouts,
    Vocabulary,
)
from harness.store.columns import without_pandas
from harness.store.parcels import pack, warm_up

MOST_WORKERS = 64  # that a calibration is looked for of
SILENCE_S = 30.0  # longer than a parent takes to give a node up
PACK_S = 0.5  # from packing to packing: what a node that dies has lost
WAIT_S, WATCH_S = 0.02, 1.0
_SCRATCH = "harness-node-"
GONE = "parent_gone"  # a drive's stop_reason


@dataclass(frozen=True, slots=True)
class Share:
    """What a node is to send: `requests` of the plan (offsets from the start), `load` as far as it is this node's. `ca_pem`: certificates
    that the target's are signed with, beside the system's."""

    requests: Sequence[PlannedRequest]
    load: Load
    phase: Phase
    run_id: str
    duration_s: float | None
    vocabulary: Vocabulary
    driver: str
    workers: int
    timeouts: Timeouts
    ca_pem: bytes | None = None
    kept_as: About | None = None  # how its rows are kept on the node's disk; None: they are not

    @property
    def sha256(self) -> str:
        """Of the requests: what came is what was sent."""
        return hashlib.sha256("\n".join(map(repr, self.requests)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Parcel:
    """Rows as `store.parcels.pack` made them; `number` counts from 1."""

    number: int
    rows: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Poll:
    """How a node is doing. `parcels`: those that were not acknowledged. `report`: once it has ended and every row is in a parcel.
    `trouble`: why there will be none."""

    ready: bool
    parcels: tuple[Parcel, ...]
    progress: DriveProgress | None
    report: DriveReport | None
    trouble: str | None


class NotStartedError(Exception):
    """The start did not come, or it is over."""


class _Start:
    """The start as the driver waits for it: told by the parent, on this node's clock."""

    def __init__(self, should_give_up: Callable[[], bool]) -> None:
        self.ready = threading.Event()
        self._told = threading.Event()
        self._at_ns = 0
        self._should_give_up = should_give_up

    def wait(self) -> int:
        """As CommonStart.wait. Raises NotStartedError where the run is over before it began."""
        self.ready.set()
        while not self._told.wait(WAIT_S):
            if self._should_give_up():
                raise NotStartedError
        return self._at_ns - LEAD_NS

    def give_up(self) -> None:
        """Nobody else waits for this drive."""

    def tell(self, at_ns: int) -> int:
        """Begin at `at_ns`; how much of the time that workers need to hear of it is left (ns). Below 0: it is too late, and nothing begins."""
        left_ns = at_ns - LEAD_NS - clock.monotonic_ns()
        if left_ns >= 0:
            self._at_ns = at_ns
            self._told.set()
        return left_ns


class Agent:
    """One node's. Every method may raise HarnessError; what the drive itself raises is `trouble` of a poll. `ends_process`: where the parent is gone
    its process is nobody's, and ends."""

    def __init__(self, *, ends_process: bool = False) -> None:
        self._lock = threading.Lock()  # guards the four below
        self._rows: list[RequestRecord] = []
        self._parcels: list[Parcel] = []
        self._progress: DriveProgress | None = None
        self._heard_ns = clock.monotonic_ns()
        self._packed = 0
        self._kept: Kept | None = None
        self._word: str | None = None
        self._start = _Start(lambda: self.should_stop() is not None)
        self._report: DriveReport | None = None
        self._trouble: str | None = None
        self._thread: threading.Thread | None = None
        self._echo: Echo | None = None
        self._scratch: Path | None = None
        if ends_process:
            threading.Thread(target=self._end_if_gone, name="node-watch", daemon=True).start()

    # ---------------------------------------------------------------- what the parent calls

    def describe(self, workers: int) -> dict[str, Any]:
        """This node: host, pid, cores, Python, harness version and digest, reader (C or Python), how its clock is kept, and what it was
        calibrated to hold with so many workers."""
        self._heard()
        without_pandas()
        warm_up()
        return {
            "host": platform.node(),
            "pid": os.getpid(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "python": platform.python_version(),
            "harness_version": harness.__version__,
            "harness_sha256": source_digest(),
            "reader": "C" if reader.library() else "Python",
            "clock_source": clock_facts(),
            "calibration": calibration_limit(workers),
            "kept_at": kept_at(),
        }

    def calibrations(self) -> dict[int, dict[str, Any]]:
        """What this machine was calibrated to hold, by the number of workers."""
        self._heard()
        return {workers: limit for workers in range(1, MOST_WORKERS + 1) if (limit := calibration_limit(workers))}

    def listen(self, address: str, secret: bytes) -> int:
        """Answer questions to this node's clock at `address`; the port."""
        self._heard()
        self._echo = Echo(address, secret)
        return self._echo.port

    def prepare(self, share: Share, endpoint: Endpoint) -> str:
        """Write the shards' beginnings and start the workers, in a thread; the digest of what was given. `poll` says when it is ready."""
        self._heard()
        redaction.learn(endpoint.api_key)
        redaction.learn_data(dict(endpoint.headers))
        assert self._thread is None
        _sweep()
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-"))
        self._thread = threading.Thread(target=self._drive, args=(share, endpoint), name="node-drive", daemon=True)
        self._thread.start()
        return share.sha256

    def poll(self, acknowledged: int, word: str | None, line: tuple[int, int] | None = None) -> Poll:
        """`acknowledged`: the number of the last parcel that the parent has stored. `word`: what Watcher.should_stop says there. `line`: what to add
        to a stamp of now for the parent's clock, and how unsure that is (ns)."""
        self._heard()
        if word is not None:
            self._word = word
        over = self._thread is not None and not self._thread.is_alive()
        if self._kept is not None:
            self._kept.forget(acknowledged)
            if line is not None:
                self._kept.on_line(*line)
        with self._lock:
            self._parcels = [parcel for parcel in self._parcels if parcel.number > acknowledged]
            parcels, progress = tuple(self._parcels), self._progress
        return Poll(self._start.ready.is_set(), parcels, progress, self._report if over else None, self._trouble)

    def start(self, at_ns: int) -> int:
        """Begin at `at_ns` of this node's clock; how much time was left (ns), below 0: too late, nothing will be sent."""
        self._heard()
        return self._start.tell(at_ns)

    def close(self, stored: bool = True) -> None:
        """End what still runs, and leave nothing behind but the rows that the parent has not `stored`."""
        self._word = "abort"
        if self._thread is not None:
            self._thread.join()
        if self._echo is not None:
            self._echo.close()
            self._echo = None
        if self._kept is not None and (stored or not self._packed):
            self._kept.clear()
        self._clear()

    # ---------------------------------------------------------------- the drive's thread, and its Watcher

    def _drive(self, share: Share, endpoint: Endpoint) -> None:
        scratch = self._scratch
        assert scratch is not None
        if share.kept_as is not None:
            self._kept = Kept(share.run_id, share.kept_as)
        trouble = None
        over = threading.Event()
        packing = threading.Thread(target=self._pack_on, args=(over,), name="node-packing", daemon=True)
        packing.start()
        try:
            if share.ca_pem is not None:
                (scratch / "ca.pem").write_bytes(share.ca_pem)
                endpoint = replace(endpoint, ca_file=str(scratch / "ca.pem"))
            texts = prompts(share.requests, share.vocabulary, endpoint.api, endpoint.body)
            job = Job(
                share.requests, texts, share.load, share.phase, share.run_id, scratch, share.duration_s,
                start=self._start,
            )  # fmt: skip
            self._report = drive(
                job, self, endpoint, driver=share.driver, workers=share.workers, timeouts=share.timeouts
            )
        except NotStartedError:
            trouble = "it was ended before it began"
        except HarnessError as error:
            trouble = redaction.text("; ".join(str(error).splitlines()))
        except BaseException as error:
            trouble = redaction.text(f"{type(error).__name__}: {error}")
        over.set()
        packing.join()
        self._trouble = self._trouble or trouble
        if self._report is not None and self._kept is not None and self._kept.trouble is not None:
            self._report = replace(self._report, notes=(*self._report.notes, self._kept.trouble))
        if self._gone():
            self._clear()

    def rows(self, rows: Sequence[RequestRecord]) -> None:
        with self._lock:
            self._rows.extend(rows)

    def progress(self, progress: DriveProgress) -> None:
        with self._lock:
            self._progress = progress

    def should_stop(self) -> str | None:
        return GONE if self._gone() else self._word

    def ended(self) -> None:
        """Rows are kept here until they are acknowledged."""

    # ----------------------------------------------------------------

    def _heard(self) -> None:
        with self._lock:
            self._heard_ns = clock.monotonic_ns()

    def _end_if_gone(self) -> None:
        while not self._gone():
            clock.sleep(WATCH_S)
        self.close(stored=False)
        os._exit(0)

    def _gone(self) -> bool:
        return clock.monotonic_ns() - self._heard_ns > SILENCE_S * clock.NS

    def _pack_on(self, over: threading.Event) -> None:
        try:
            while not over.wait(PACK_S):
                self._pack()
            self._pack()
        except BaseException as error:  # a row that no file can hold: without its rows the drive is none
            self._trouble = redaction.text(f"{type(error).__name__}: {'; '.join(str(error).splitlines())}")
            self._word = "abort"

    def _pack(self) -> None:
        """What came since the last time: onto the disk, then where the parent may have it."""
        with self._lock:
            rows, self._rows = self._rows, []
        if rows:
            self._packed += 1
            parcel = Parcel(self._packed, len(rows), pack(rows))
            if self._kept is not None:
                self._kept.add(parcel.number, parcel.data)
            with self._lock:
                self._parcels.append(parcel)

    def _clear(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _sweep() -> None:
    """What agents left that were killed on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}[0-9]*-*"):
        pid = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if Path("/proc/self").exists() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)
