"""What a driver that was killed left on disk: replies that its workers had spooled and nobody had stored."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.drive import driver, spool, turns
from harness.drive.collect import Collector
from harness.errors import StoreError
from harness.records import Endpoint, Load, Phase, PlannedRequest, RequestRecord

_SLICE_NS = 500_000_000
_WITHHELD = "a reply that was read after its run was killed: its text is not kept, for it may hold the API key"


@dataclass
class _Ended:
    """A worker as the collector sees it."""

    number: int
    ready: bool = True


def folders(scratch: Path) -> list[Path]:
    """Folders under `scratch` of measured phases that did not end by themselves; of a warm-up the plan is not kept."""
    found = sorted(path.parent for path in scratch.glob(f"drive-*/{driver.ABOUT}"))
    return [folder for folder in found if _about(folder).get("phase") == Phase.MEASURE.value]


def _about(folder: Path) -> dict[str, Any]:
    """What the drive said of itself; empty if it was killed before it had."""
    with contextlib.suppress(ValueError):
        about: dict[str, Any] = json.loads((folder / driver.ABOUT).read_bytes())
        return about
    return {}


def rows(folder: Path, requests: Sequence[PlannedRequest], load: Load) -> Iterator[list[RequestRecord]]:
    """Rows of every reply in the spool, those that were stored before the kill too. `requests` and `load` as they were
    driven. Raises StoreError while a worker of that drive still lives."""
    about = _about(folder)
    count = about["workers"]
    if any(spool.is_written(folder, worker) for worker in range(count)):
        raise StoreError("a load-generator worker of this run still lives", folder, "wait until it has ended")
    owner = driver.owners(requests, load, count, turns.tree_of(requests))
    endpoint = Endpoint("", "", "")
    collector = Collector(requests, owner, count, load, endpoint, Phase.MEASURE, about["run_id"], folder)
    workers = [_Ended(worker) for worker in range(count)]
    while True:
        found = collector.collect(workers, _SLICE_NS)
        yield [_without_key(row) for row in found] if about["has_key"] else found
        if not collector.behind:
            return


def _without_key(row: RequestRecord) -> RequestRecord:
    return row if row.error is None else replace(row, error=_WITHHELD)
