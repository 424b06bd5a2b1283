"""Rows that a node keeps on its own disk until its parent has surely stored them; `merge_kept` has how a run gets them.

A folder a node and run under the user's state directory: `node.json` (whose rows they are, how far the parent's clock is away) and the newest
parcels as `parcel-NNNNNN.arrow`. A node that dies has lost what came in since its last parcel, half a second; a parent that dies, nothing that
is not in these folders.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.base import clock
from harness.base.errors import ConfigError
from harness.base.files import state_dir, write_whole

ABOUT = "node.json"
STORED_LATER = 20  # parcels: 10 s or more, by when the parent has on its disk what it took
WEEK_S = 7 * 86_400
SENT_FROM = "sent_from"  # of the manifest's `drive`: the run's mark


@dataclass(frozen=True, slots=True)
class About:
    """Whose rows a folder holds. `mark`: of the run's nodes, in its manifest. `offset_ns` to add to a stamp for the parent's clock, within
    `error_ns`, as it was at `at_ns` of the node's."""

    mark: str
    node: str
    first_worker: int
    offset_ns: int = 0
    error_ns: int = 0
    at_ns: int = 0

    def folder(self, run_id: str) -> str:
        """Name of the folder of its rows."""
        return f"{run_id}-{self.mark}-{self.first_worker}"


def kept_at() -> str | None:
    """Where this user's folders are; None where there can be none."""
    try:
        return str(state_dir("nodes"))
    except ConfigError:
        return None


class Kept:
    """On the node. `trouble`: why nothing more is kept; a load does not end for it."""

    def __init__(self, run_id: str, about: About) -> None:
        self.trouble: str | None = None
        self._about, self._oldest, self._folder = about, 1, None
        try:
            self._folder = state_dir("nodes") / about.folder(run_id)
            _sweep(self._folder.parent)
            self._folder.mkdir(mode=0o700)
            self._say()
        except (ConfigError, OSError) as error:
            self._stop(error)

    def add(self, number: int, data: bytes) -> None:
        """A parcel, as `store.parcels.pack` made it; numbers count from 1."""
        if self._folder is not None and self.trouble is None:
            try:
                write_whole(self._folder / _name(number), data, synced=False)
            except OSError as error:
                self._stop(error)

    def on_line(self, offset_ns: int, error_ns: int) -> None:
        """How far the parent's clock is away now."""
        self._about = replace(self._about, offset_ns=offset_ns, error_ns=error_ns, at_ns=clock.monotonic_ns())
        if self._folder is not None and self.trouble is None:
            try:
                self._say()
            except OSError as error:
                self._stop(error)

    def forget(self, acknowledged: int) -> None:
        """Parcels up to that number are with the parent: those that are so long ago that it has stored them go."""
        while self._folder is not None and self._oldest <= acknowledged - STORED_LATER:
            with suppress(OSError):
                (self._folder / _name(self._oldest)).unlink(missing_ok=True)
            self._oldest += 1

    def clear(self) -> None:
        """The parent has stored all."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _say(self) -> None:
        assert self._folder is not None
        write_whole(self._folder / ABOUT, json.dumps(asdict(self._about)), synced=False)

    def _stop(self, error: Exception) -> None:
        self.trouble = f"rows are not kept on its disk: {'; '.join(str(error).splitlines())}"


def _name(number: int) -> str:
    return f"parcel-{number:06d}.arrow"


def _sweep(folder: Path) -> None:
    """What nobody asked for in a week."""
    for old in folder.glob(f"*/{ABOUT}"):
        with suppress(OSError):
            if clock.utc_now().timestamp() - old.stat().st_mtime > WEEK_S:
                shutil.rmtree(old.parent, ignore_errors=True)
