"""What a campaign already has: run directories told apart as done, still going on, or broken off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import StoreError
from harness.records import RunState
from harness.store.manifest import goes_on, read_manifest

INTERRUPTED_FOLDER = "interrupted"


@dataclass(frozen=True, slots=True)
class Stock:
    """`done`: names of cells with a finished run, complete or failed. `moved`: where broken-off attempts now stand."""

    done: frozenset[str]
    moved: tuple[Path, ...]


def run_dir(out: Path, campaign_id: str, cell_name: str) -> Path:
    return out / f"{campaign_id}_{cell_name}"


def take_stock(out: Path, campaign_id: str, names: Sequence[str], *, again: bool = False) -> Stock:
    """Look at every cell's run directory; an attempt that was broken off, and with `again` one that failed, is moved into
    `interrupted/`, where no report looks. Raises StoreError: a run of the campaign is still going on, or a directory holds another campaign's run.
    """
    done: set[str] = set()
    moved: list[Path] = []
    for name in names:
        path = run_dir(out, campaign_id, name)
        if not path.is_dir():
            continue
        if _is_done(path, campaign_id) and not (again and failure(path) is not None):
            done.add(name)
        else:
            moved.append(move_aside(out, path))
    return Stock(frozenset(done), tuple(moved))


def finished(out: Path, campaign_id: str, names: Sequence[str], *, again: bool = False) -> frozenset[str]:
    """Names of the cells that have a finished run, with `again` without those that failed; changes nothing. Raises StoreError
    as `take_stock`."""
    paths = {name: run_dir(out, campaign_id, name) for name in names}
    done = {name: path for name, path in paths.items() if path.is_dir() and _is_done(path, campaign_id)}
    return frozenset(name for name, path in done.items() if not again or failure(path) is None)


def _is_done(path: Path, campaign_id: str) -> bool:
    try:
        manifest = read_manifest(path)
    except StoreError:  # killed before its first manifest, or damaged: nothing in it may be used
        return False
    if manifest.campaign_id != campaign_id:
        raise StoreError("a run directory belongs to another campaign", path, f"it says {manifest.campaign_id}")
    if goes_on(manifest):
        raise StoreError(
            "a run of this campaign is going on",
            f"{path.name}, pid {manifest.owner_pid}",
            "wait for it, or end it first",
        )
    return manifest.state in (RunState.COMPLETE, RunState.FAILED)


def failure(path: Path) -> str | None:
    """Why a finished run failed, None if it did not. Raises StoreError."""
    manifest = read_manifest(path)
    return (manifest.error or "no reason recorded") if manifest.state == RunState.FAILED else None


def move_aside(out: Path, path: Path) -> Path:
    """Rename an attempt into `interrupted/`, numbered; returns its new place. Raises StoreError."""
    folder = out / INTERRUPTED_FOLDER
    try:
        folder.mkdir(exist_ok=True)
        number = 1
        while (kept := folder / f"{path.name}.{number}").exists():
            number += 1
        path.rename(kept)
    except OSError as error:
        raise StoreError("an attempt cannot be moved aside", path, str(error.strerror)) from error
    return kept


def last_attempt(run_dir: Path) -> Path | None:
    """The newest attempt at this run that was put aside."""
    kept = (run_dir.parent / INTERRUPTED_FOLDER).glob(f"{run_dir.name}.*")
    return max(
        (path for path in kept if path.suffix[1:].isdecimal()), key=lambda path: int(path.suffix[1:]), default=None
    )
