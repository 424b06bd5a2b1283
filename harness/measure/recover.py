"""Rows of a killed run that its load generator had received and nobody had stored: out of its workers' spools, into its part files; and the
money that it had taken, settled by them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import HarnessError, StoreError
from harness.base.files import open_lock, try_lock
from harness.measure.left_drive import left_folders, left_rows, planned
from harness.measure.settle import Settled, settle_drive
from harness.records import Load, Manifest, PlannedRequest
from harness.store.manifest import goes_on, read_manifest
from harness.store.parts import RESERVE, SCRATCH, append_part
from harness.store.reader import read_columns

LOCK = "recover.lock"


@dataclass(frozen=True, slots=True)
class Recovered:
    """`rows`: stored now; `before`: stored when the run was killed; `planned`: requests of the plan, a warm-up's are in none of them;
    `unread`: what of the spool could not be read, and was kept. `settled`: money; `unsettled`: why some goes on to count as spent."""

    rows: int
    before: int
    planned: int
    unread: tuple[str, ...] = ()
    settled: tuple[Settled, ...] = ()
    unsettled: tuple[str, ...] = ()


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
    with alone(run_dir / SCRATCH):
        stored: set[int] = set(read_columns(run_dir, "requests", ["seq"])[0])
        before, requests = _measured(stored), planned(run_dir)
        unread: list[str] = []
        settled: list[Settled] = []
        unsettled: list[str] = []
        for folder in left_folders(run_dir / SCRATCH):
            damage = _store(run_dir, folder, requests, manifest.cell.load, stored, on_rows)
            unread += [f"{folder.name}: {what}" for what in damage]
            _settle(run_dir, folder, manifest, requests, settled, unsettled)
            if not damage:
                shutil.rmtree(folder)
        (run_dir / SCRATCH / LOCK).unlink()
    (run_dir / RESERVE).unlink(missing_ok=True)
    with suppress(OSError):  # something was kept there
        (run_dir / SCRATCH).rmdir()
    rows = _measured(stored) - before
    return Recovered(rows, before, len(requests), tuple(unread), tuple(settled), tuple(unsettled))


def _measured(seqs: set[int]) -> int:
    return sum(seq >= 0 for seq in seqs)  # those of a warm-up are negative


def _settle(
    run_dir: Path,
    folder: Path,
    manifest: Manifest,
    requests: list[PlannedRequest],
    settled: list[Settled],
    unsettled: list[str],
) -> None:
    """What it had taken, before the folder that says what was sent of it goes. Raises StoreError where the ledger cannot be written: it can
    be done again."""
    try:
        one = settle_drive(run_dir, folder, manifest, requests)
    except StoreError:
        raise
    except (HarnessError, OSError, ValueError, LookupError) as error:
        unsettled.append(f"{folder.name}: what it had taken counts as spent: {str(error).splitlines()[0]}")
        return
    settled += [one] if one is not None else []


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
                on_rows(_measured(stored), len(requests))
    except (OSError, ValueError, LookupError, MemoryError) as error:  # a file beside the spool, or the disk itself
        unread.append(f"{type(error).__name__}: {error}")
    return unread


@contextmanager
def alone(scratch: Path) -> Iterator[None]:
    """One recovery of a run at a time. Raises StoreError."""
    scratch.mkdir(exist_ok=True)
    descriptor = open_lock(scratch / LOCK)
    try:
        if not try_lock(descriptor):
            raise StoreError("the run is being recovered", scratch, "wait until that has ended")
        yield
    finally:
        os.close(descriptor)
