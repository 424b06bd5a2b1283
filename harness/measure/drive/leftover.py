"""What a driver that was killed left on disk: replies that its workers had spooled and nobody had stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import StoreError
from harness.measure.drive import driver, spool, turns
from harness.measure.drive.collect import Collector
from harness.records import Endpoint, Load, Phase, PlannedRequest, RequestRecord

_SLICE_NS = 500_000_000
_WITHHELD = "a reply that was read after its run was killed: its text is not kept, for it may hold the API key"
_USUAL_ENDS = frozenset(
    ("stop", "length", "tool_calls", "function_call", "content_filter", "end_turn", "max_tokens", "abort")
)


@dataclass
class _Ended:
    """A worker as the collector sees it."""

    number: int
    ready: bool = True


def folders(scratch: Path) -> list[Path]:
    """Folders under `scratch` of drives that did not end by themselves."""
    return sorted(path for path in scratch.glob("drive-*") if path.is_dir())


def _about(folder: Path) -> dict[str, Any] | None:
    """What the drive said of itself; None if it was killed before its workers began. Raises ValueError."""
    try:
        about = json.loads((folder / driver.ABOUT).read_bytes())
        Phase(about["phase"])
        return {"run_id": str(about["run_id"]), "workers": int(about["workers"]), "phase": about["phase"], "has_key": bool(about["has_key"])}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not any(folder.glob("spool-*-*")):
            return None
        raise ValueError(f"{driver.ABOUT} cannot be read: {type(error).__name__}: {error}") from None


def rows(
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
    endpoint = Endpoint("", "", "")
    collector = Collector(requests, owner, count, load, endpoint, Phase.MEASURE, about["run_id"], folder, written=False)
    for worker, anchor in _first_anchors(folder, count).items():
        collector.stamps[worker].add(anchor)
    workers = [_Ended(worker) for worker in range(count)]
    while True:
        found = collector.collect(workers, _SLICE_NS)
        yield [_without_key(row) for row in found] if about["has_key"] else found
        if not collector.behind:
            break
    unread += filter(None, (collector.damage(worker) for worker in range(count)))


def _first_anchors(folder: Path, workers: int) -> dict[int, clock.Anchor]:
    """Per worker the first anchor that can be read, its own or else another's: damage may have taken the one before a reply."""
    found: dict[int, clock.Anchor] = {}
    for worker in range(workers):
        tail = spool.Tail(folder, worker, written=False)
        anchor = next((clock.Anchor(*values) for kind, *values in tail.messages() if kind == "anchor"), None)
        tail.close()
        if anchor is not None:
            found[worker] = anchor
    other = next(iter(found.values()), None)
    return {} if other is None else {worker: found.get(worker, other) for worker in range(workers)}


def _without_key(row: RequestRecord) -> RequestRecord:
    end = row.finish_reason if row.finish_reason in _USUAL_ENDS else None
    return replace(row, error=None if row.error is None else _WITHHELD, finish_reason=end)
