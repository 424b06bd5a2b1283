"""What nodes kept of a run (`kept`) into the run: rows that never reached its parent, each request once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base import clock
from harness.base.errors import StoreError
from harness.measure.nodes.kept import ABOUT, SENT_FROM, About
from harness.measure.nodes.time_line import RATE_MAX
from harness.measure.recover import LOCK, alone
from harness.records import Outcome, Phase
from harness.store.columns import together
from harness.store.manifest import goes_on, read_manifest, write_manifest
from harness.store.parcels import numbers, on_our_clock, only, read_parcel, when
from harness.store.parts import SCRATCH, append_table, merge, rewrite
from harness.store.reader import read_columns

_PLACEHOLDERS = (Outcome.LOST.value, Outcome.DROPPED.value)


@dataclass(frozen=True, slots=True)
class Merged:
    """`rows`: that the run had not; `replaced`: in place of rows that only said that they were lost; `nodes`: whose; `unread`: parcels that cannot be read."""

    rows: int
    replaced: int
    nodes: tuple[str, ...]
    unread: tuple[str, ...]


def merge_kept(run_dir: Path, given: Sequence[Path]) -> Merged:
    """Store what nodes kept of a run and the run has no rows of, or rows that only say `lost` or `dropped`: every request once. `given`: the
    nodes' folders, or folders that hold such; of other runs they are passed over. Done again it stores nothing twice. The manifest's
    `drive.recovered` says what came from where. Raises StoreError: the run goes on, was not sent from nodes, or none of its rows is there."""
    manifest = read_manifest(run_dir)
    if goes_on(manifest):
        raise StoreError("the run is going on", f"{run_dir}, pid {manifest.owner_pid}", "wait for it, or end it first")
    mark = (manifest.drive.get(SENT_FROM) or {}).get("mark")
    if mark is None:
        raise StoreError("the run was not sent from nodes", run_dir, "leave --from out: harness recover DIRECTORY")
    found = [(folder, about) for folder, about in _folders(given) if about.mark == mark]
    if not found:
        advice = "give the node's folder, or a copy: ~/.local/state/vllm-cost-harness/nodes/RUN-.. there, for a week"
        raise StoreError("no rows of this run are there", ", ".join(map(str, given)), advice)
    had_parts = not (run_dir / "requests.parquet").exists()
    unread: list[str] = []
    facts = []
    with alone(run_dir / SCRATCH):
        stored = _stored(run_dir)
        rows = replaced = 0
        for folder, about in found:
            new = _new(folder, about, stored, unread)
            if new is not None:
                seqs = numbers(new, "seq")
                known = {seq for seq in seqs.tolist() if seq in stored}
                _replace(run_dir, known, new)
                stored |= dict(zip(seqs.tolist(), new.column("outcome").to_pylist(), strict=True))
                rows, replaced = rows + len(seqs) - len(known), replaced + len(known)
                facts.append({"node": about.node, "rows": len(seqs), "replaced": len(known), "clock_error_us": _error_us(new, about)})  # fmt: skip
        (run_dir / SCRATCH / LOCK).unlink()
    with suppress(OSError):
        (run_dir / SCRATCH).rmdir()
    if facts:
        if not had_parts:
            merge(run_dir, "requests")
            with suppress(OSError):
                (run_dir / "parts").rmdir()
        counts = {**manifest.row_counts, "requests": manifest.row_counts.get("requests", 0) + rows}
        drive = {**manifest.drive, "recovered": [*manifest.drive.get("recovered", ()), *facts]}
        write_manifest(run_dir, replace(manifest, row_counts=counts, drive=drive))
    return Merged(rows, replaced, tuple(dict.fromkeys(about.node for _, about in found)), tuple(unread))


def _folders(given: Sequence[Path]) -> Iterator[tuple[Path, About]]:
    """Folders of nodes at or below those given. Raises StoreError for one that cannot be read."""
    for path in sorted({about for folder in given for about in folder.glob(f"**/{ABOUT}")}):
        try:
            yield path.parent, About(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError("a node's folder cannot be read", path, f"{error}; copy it again") from None


def _stored(run_dir: Path) -> dict[int, str]:
    """seq -> outcome, of measured requests."""
    columns = read_columns(run_dir, "requests", ["seq", "outcome", "phase"])
    return {seq: outcome for seq, outcome, phase in zip(*columns, strict=True) if phase == Phase.MEASURE.value}


def _new(folder: Path, about: About, stored: Mapping[int, str], unread: list[str]) -> Any | None:
    """The rows that say more than the run has, on its clock; None where there are none."""
    seen: set[int] = set()
    pieces = []
    for path in sorted(folder.glob("parcel-*.arrow")):
        try:
            table = read_parcel(path)
        except StoreError as error:
            unread.append(str(error.value))
            continue
        keep = []
        for seq, outcome in zip(numbers(table, "seq").tolist(), table.column("outcome").to_pylist(), strict=True):
            keep.append(seq not in seen and _says_more(outcome, stored.get(seq)))
            seen.add(seq)
        pieces.append(only(table, np.array(keep, np.bool_)))
    if not sum(piece.num_rows for piece in pieces):
        return None
    table = together(pieces).combine_chunks()
    offsets = np.full(table.num_rows, about.offset_ns, np.int64)
    return on_our_clock(table, offsets, lambda local: local + about.first_worker)


def _says_more(outcome: str, stored: str | None) -> bool:
    return stored is None or (stored in _PLACEHOLDERS and outcome not in _PLACEHOLDERS)


def _error_us(table: Any, about: About) -> float:
    """How unsure the worst stamp is: what the offset was, and what the clocks may have drifted since (us)."""
    apart_ns = int(np.abs(when(table) - about.offset_ns - about.at_ns).max(initial=0))
    return round((about.error_ns + apart_ns * RATE_MAX / clock.NS) / 1000, 1)


def _replace(run_dir: Path, seqs: set[int], new: Any) -> None:
    """The rows of `seqs` go, then the new ones come: a kill between the two costs rows that said nothing."""

    def without(table: Any) -> Any:
        gone = np.isin(numbers(table, "seq"), np.fromiter(seqs, np.int64, len(seqs)))
        measured = np.array([phase == Phase.MEASURE.value for phase in table.column("phase").to_pylist()], np.bool_)
        keep: npt.NDArray[np.bool_] = ~(gone & measured)
        return only(table, keep)

    if seqs:
        rewrite(run_dir, "requests", without)
    append_table(run_dir, "requests", new)
