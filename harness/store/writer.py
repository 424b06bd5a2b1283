"""Writes a run directory as the run goes: a kill -9 at any moment loses at most the rows of the last 2 seconds."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.base import clock
from harness.base.errors import HarnessError, StoreError
from harness.base.files import is_no_room
from harness.records import Manifest, Plan, RunState
from harness.store.columns import to_table, together
from harness.store.manifest import owner, write_manifest
from harness.store.parts import RESERVE, final_path, merge, part_path, warm_up, write_file
from harness.store.schema import TABLES

RESERVE_BYTES = 1 << 17
PART_ROWS = 16_384  # bounds the memory of one conversion


def _store_error(what: str, path: Path, error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    return StoreError(what, path, f"{error}; free disk space or write elsewhere (--out DIR)")


def write_plan(run_dir: Path, plan: Plan) -> None:
    """Write plan.parquet (measured requests) into an existing directory. Raises StoreError."""
    path = final_path(run_dir, "plan")
    try:
        write_file(path, "plan", to_table("plan", plan.requests))
    except OSError as error:
        raise _store_error("plan cannot be written", path, error) from error


class RunWriter:
    """The only writer of a run directory. `add` may be called from any thread; a background thread writes the parts.

    As a context manager: an exception ends the run as failed (KeyboardInterrupt: interrupted) and goes on; leaving
    without `finish` ends it as failed, since nobody said that it was complete.
    """

    def __init__(self, run_dir: Path, manifest: Manifest, flush_interval_s: float) -> None:
        self.run_dir = run_dir
        self._manifest = manifest
        self._interval_s = flush_interval_s
        self._lock = threading.Lock()  # guards _pending
        self._flushing = threading.Lock()  # one flush at a time; guards _numbers and _counts
        self._pending: dict[str, list[Any]] = {table: [] for table in TABLES if table != "plan"}
        self._ready: dict[str, list[Any]] = {}  # pyarrow.Tables that came as such
        self._numbers = dict.fromkeys(self._pending, 0)
        self._counts: dict[str, int] = {}
        self._failure: StoreError | None = None
        self._stop = threading.Event()
        self._finished = False
        self._thread = threading.Thread(target=self._flush_loop, name="store-flusher", daemon=True)

    @classmethod
    def create(cls, run_dir: Path, manifest: Manifest, flush_interval_s: float = 1.0) -> RunWriter:
        """Make `run_dir` (parents too), write the manifest with this process as its owner, and start the flusher.

        Raises StoreError: the directory exists and is not empty, or it cannot be written.
        """
        run_dir = Path(run_dir)
        pid, ticks = owner()
        manifest = replace(manifest, owner_pid=pid, owner_start_ticks=ticks)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            if any(run_dir.iterdir()):
                advice = "a run is never overwritten: choose another --out, or move that directory away"
                raise StoreError("run directory exists and is not empty", run_dir, advice)
            (run_dir / "parts").mkdir()
            warm_up()
            (run_dir / RESERVE).write_bytes(os.urandom(RESERVE_BYTES))  # which no filesystem makes smaller
            write_manifest(run_dir, manifest)
        except OSError as error:
            raise _store_error("run directory cannot be made", run_dir, error) from error
        writer = cls(run_dir, manifest, flush_interval_s)
        writer._thread.start()
        return writer

    @property
    def manifest(self) -> Manifest:
        """The manifest as last written."""
        return self._manifest

    def write_plan(self, plan: Plan) -> None:
        """Write plan.parquet; call it before the first byte goes out. Raises StoreError."""
        write_plan(self.run_dir, plan)
        self._counts["plan"] = len(plan.requests)

    def add(self, table: str, rows: Sequence[Any]) -> None:
        """Queue records of requests, gpu, server or host. Raises the StoreError of an earlier failed write."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            self._pending[table].extend(rows)

    def add_ready(self, table: str, data: Any) -> None:
        """Queue a pyarrow.Table with the schema of one of them: rows that another machine packed. Raises as `add`."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            self._ready.setdefault(table, []).append(data)

    def flush(self) -> None:
        """Write what is queued now. Raises the StoreError of a write that failed, now or earlier."""
        self._flush()
        if self._failure is not None:
            raise self._failure

    def update(self, **changes: Any) -> None:
        """Replace fields of the manifest, on disk in one step. Raises StoreError."""
        changed = replace(self._manifest, **changes)
        try:
            write_manifest(self.run_dir, changed)
        except OSError as error:
            raise _store_error("manifest cannot be written", self.run_dir, error) from error
        self._manifest = changed

    def finish(self, state: str, error: str | None = None) -> None:
        """Write what is queued, merge the parts and set the final state (a RunState). A second call does nothing.

        Raises StoreError if rows could not be written, now or earlier; the state is then failed, and the parts stay.
        """
        if self._finished:
            return
        self._stop.set()
        self._thread.join()
        self._finished = True
        self._flush()  # rows that an earlier write had to keep get another chance
        if self._failure is None:
            try:
                for table in self._pending:
                    merge(self.run_dir, table)
                with suppress(OSError):
                    (self.run_dir / "parts").rmdir()
            except Exception as cause:
                self._failure = _store_error("part files cannot be merged", self.run_dir, cause)
        with suppress(OSError):
            (self.run_dir / RESERVE).unlink()
        if self._failure is not None:
            state, error = RunState.FAILED, "; ".join(filter(None, [error, self._failure.what, self._failure.advice]))
            with suppress(StoreError):
                self.update(state=str(state), error=error, row_counts=dict(self._counts))
            raise self._failure
        self.update(state=str(state), error=error, row_counts=dict(self._counts))

    def _flush_loop(self) -> None:
        """Flushes begin one interval apart: a row waits at most one interval and the time that its flush takes."""
        interval_ns = int(self._interval_s * clock.NS)
        due_ns = clock.monotonic_ns() + interval_ns
        while not self._stop.wait(max(0, due_ns - clock.monotonic_ns()) / clock.NS):
            due_ns = max(due_ns, clock.monotonic_ns()) + interval_ns
            if self._failure is None:
                self._flush()

    def _flush(self) -> None:
        """Write every queued row into new parts. A failure is kept for the next add or finish, and so are the rows."""
        for table in self._pending:
            with self._lock:
                rows, self._pending[table] = self._pending[table], []
                ready = self._ready.pop(table, [])
            written = 0
            try:
                with self._flushing:
                    if ready:
                        self._write_part(table, together(ready))
                        ready = []
                    while written < len(rows):
                        batch = rows[written : written + PART_ROWS]
                        self._write_part(table, to_table(table, batch))
                        written += len(batch)
            except Exception as error:
                self._failure = self._failure or _store_error("rows cannot be written", self.run_dir, error)
                with self._lock:
                    self._pending[table] = rows[written:] + self._pending[table]
                    if ready:
                        self._ready[table] = ready + self._ready.get(table, [])

    def _write_part(self, table: str, data: Any) -> None:
        write_file(part_path(self.run_dir, table, self._numbers[table] + 1), table, data)
        self._numbers[table] += 1
        self._counts[table] = self._counts.get(table, 0) + data.num_rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish(RunState.FAILED, "left without an end")
            return
        stopped = isinstance(error, KeyboardInterrupt)
        in_words = isinstance(error, HarnessError) or is_no_room(error)
        text = "; ".join(str(error).splitlines()) if in_words else type(error).__name__
        with suppress(StoreError):  # the first exception is the one to see
            self.finish(
                RunState.INTERRUPTED if stopped else RunState.FAILED, "interrupted by the user" if stopped else text
            )
