"""Rows of a killed run that its load generator had received and nobody had stored: out of its spool, into its part files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import StoreError
from harness.base.files import open_lock, try_lock
from harness.measure.drive import leftover
from harness.records import Load, PlannedRequest
from harness.store.manifest import read_manifest
from harness.store.owner import goes_on
from harness.store.parts import RESERVE, SCRATCH, append_part
from harness.store.reader import read_columns

_LOCK = "recover.lock"


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
        for folder in leftover.folders(run_dir / SCRATCH):
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
        for rows in leftover.rows(folder, requests, load, unread):
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
