"""Rows of a killed run that its load generator had received and nobody had stored: out of its workers' spools, into its part files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import StoreError
from harness.base.files import open_lock, try_lock
from harness.measure.drive import driver, spool, turns
from harness.measure.drive.collect import Collector
from harness.measure.job import Job
from harness.records import Load, Phase, PlannedRequest, RequestRecord
from harness.store.manifest import goes_on, read_manifest
from harness.store.parts import RESERVE, SCRATCH, append_part
from harness.store.reader import read_columns

_LOCK = "recover.lock"
_SLICE_NS = 500_000_000
_WITHHELD = "a reply that was read after its run was killed: its text is not kept, for it may hold the API key"
_USUAL_ENDS = frozenset(
    ("stop", "length", "tool_calls", "function_call", "content_filter", "end_turn", "max_tokens", "abort")
)


@dataclass(frozen=True, slots=True)
class Recovered:
    """`rows`: stored now; `before`: stored when the run was killed; `planned`: requests of the plan; `unread`: what of the
    spool could not be read, and was kept."""

    rows: int
    before: int
    planned: int
    unread: tuple[str, ...] = ()


def runs_left(directory: Path) -> list[Path]:
    """Run directories at or below `directory` that were left with a spool, sorted. Raises StoreError if there is no such."""
    if not directory.is_dir():
        raise StoreError(
            "no such directory", directory, "give a run directory or an experiment directory under results/"
        )
    scratches = {place.parent for place in directory.glob(f"**/{SCRATCH}/drive-*") if place.is_dir()}
    return sorted(scratch.parent for scratch in scratches)


def recover(run_dir: Path, on_rows: Callable[[int, int], None] | None = None) -> Recovered:
    """Store what the spool of a killed run holds, and remove the spool if all of it was read; `on_rows` hears how many rows
    are stored, of how many planned. Killed in mid-way it can be done again: a row that is stored is not stored twice. Raises
    StoreError: the run, or a worker of it, still lives; its manifest or plan cannot be read; the disk is full."""
    manifest = read_manifest(run_dir)
    if goes_on(manifest):
        raise StoreError("the run is going on", f"{run_dir}, pid {manifest.owner_pid}", "wait for it, or end it first")
    with _alone(run_dir / SCRATCH):
        stored = {
            seq
            for seq, phase in zip(*read_columns(run_dir, "requests", ["seq", "phase"]), strict=True)
            if phase == "measure"
        }
        before, requests = len(stored), _requests(run_dir)
        unread: list[str] = []
        for folder in left_folders(run_dir / SCRATCH):
            damage = _store(run_dir, folder, requests, manifest.cell.load, stored, on_rows)
            unread += [f"{folder.name}: {what}" for what in damage]
            if not damage:
                shutil.rmtree(folder)
        (run_dir / SCRATCH / _LOCK).unlink()
    (run_dir / RESERVE).unlink(missing_ok=True)
    with suppress(OSError):  # something was kept there
        (run_dir / SCRATCH).rmdir()
    return Recovered(len(stored) - before, before, len(requests), tuple(unread))


def _store(
    run_dir: Path,
    folder: Path,
    requests: list[PlannedRequest],
    load: Load,
    stored: set[int],
    on_rows: Callable[[int, int], None] | None,
) -> list[str]:
    """Store one drive's rows; what could not be read."""
    unread: list[str] = []
    try:
        for rows in left_rows(folder, requests, load, unread):
            new = [row for row in rows if row.seq not in stored]
            append_part(run_dir, "requests", new)
            stored.update(row.seq for row in new)
            if on_rows is not None:
                on_rows(len(stored), len(requests))
    except (OSError, ValueError, LookupError, MemoryError) as error:  # a file beside the spool, or the disk itself
        unread.append(f"{type(error).__name__}: {error}")
    return unread


@contextmanager
def _alone(scratch: Path) -> Iterator[None]:
    """One recovery of a run at a time. Raises StoreError."""
    scratch.mkdir(exist_ok=True)
    descriptor = open_lock(scratch / _LOCK)
    try:
        if not try_lock(descriptor):
            raise StoreError("the run is being recovered", scratch, "wait until that has ended")
        yield
    finally:
        os.close(descriptor)


def _requests(run_dir: Path) -> list[PlannedRequest]:
    """The plan, without what only prompts need."""
    names = [
        "seq",
        "scheduled_ns",
        "target_prompt_tokens",
        "target_output_tokens",
        "session_id",
        "after_seq",
        "think_ns",
    ]
    columns = read_columns(run_dir, "plan", names)
    return [
        PlannedRequest(prompt_seed=0, **dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)
    ]


# ---------------------------------------------------------------- out of a spool


@dataclass
class _Ended:
    """A worker as the collector sees it."""

    number: int
    ready: bool = True


def left_folders(scratch: Path) -> list[Path]:
    """Folders under `scratch` of drives that did not end by themselves."""
    return sorted(path for path in scratch.glob("drive-*") if path.is_dir())


def _about(folder: Path) -> dict[str, Any] | None:
    """What the drive said of itself; None if it was killed before its workers began. Raises ValueError."""
    try:
        about = json.loads((folder / driver.ABOUT).read_bytes())
        Phase(about["phase"])
        return {"run_id": str(about["run_id"]), "workers": int(about["workers"]), "phase": about["phase"], "has_key": bool(about["has_key"]), "spoken": str(about.get("spoken", "completions"))}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not any(folder.glob("spool-*-*")):
            return None
        raise ValueError(f"{driver.ABOUT} cannot be read: {type(error).__name__}: {error}") from None


def left_rows(
    folder: Path, requests: Sequence[PlannedRequest], load: Load, unread: list[str]
) -> Iterator[list[RequestRecord]]:
    """Rows of every reply in the spool, those that were stored before the kill too, and none of a warm-up, whose plan is not
    kept. `requests` and `load` as they were driven. What cannot be read is passed over and added to `unread`. Raises StoreError
    while a worker of that drive still lives; OSError, ValueError and LookupError where what stands beside the spool is damaged."""
    about = _about(folder)
    if about is None or about["phase"] != Phase.MEASURE.value:
        return
    count = about["workers"]
    if any(spool.is_written(folder, worker) for worker in range(count)):
        raise StoreError("a load-generator worker of this run still lives", folder, "wait until it has ended")
    owner = driver.owners(requests, load, count, turns.tree_of(requests))
    job = Job(requests, (), load, Phase.MEASURE, about["run_id"], folder)
    collector = Collector(job, owner, count, folder, spoken=about["spoken"], written=False)
    for worker, anchor in _first_anchors(folder, count).items():
        collector.stamps[worker].add(anchor)
    workers = [_Ended(worker) for worker in range(count)]
    while True:
        rows = collector.collect(workers, _SLICE_NS)
        yield [_without_key(row) for row in rows] if about["has_key"] else rows
        if not collector.behind:
            break
    unread += filter(None, (collector.damage(worker) for worker in range(count)))


def _first_anchors(folder: Path, workers: int) -> dict[int, clock.Anchor]:
    """Per worker the first anchor that can be read, its own or else another's: damage may have taken the one before a reply."""
    anchors: dict[int, clock.Anchor] = {}
    for worker in range(workers):
        tail = spool.Tail(folder, worker, written=False)
        anchor = next((clock.Anchor(*values) for kind, *values in tail.messages() if kind == "anchor"), None)
        tail.close()
        if anchor is not None:
            anchors[worker] = anchor
    other = next(iter(anchors.values()), None)
    return {} if other is None else {worker: anchors.get(worker, other) for worker in range(workers)}


def _without_key(row: RequestRecord) -> RequestRecord:
    end = row.finish_reason if row.finish_reason in _USUAL_ENDS else None
    return replace(row, error=None if row.error is None else _WITHHELD, finish_reason=end)
