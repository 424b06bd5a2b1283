"""The mark of a run whose raw files were pruned: pruned.json beside its manifest."""

from __future__ import annotations

from pathlib import Path

from harness.base.documents import parse_json
from harness.base.errors import StoreError

MARK = "pruned.json"


def is_pruned(run_dir: Path) -> bool:
    return (run_dir / MARK).is_file()


def refuse_pruned(run_dir: Path) -> None:
    """Raises StoreError if the raw files of this run were pruned."""
    try:
        when = parse_json((run_dir / MARK).read_bytes()).get("pruned_utc", "an earlier day")
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError):
        when = "an earlier day"
    advice = f"its raw files are gone, its summary stays: harness history shows it, and harness history sql (run_id {run_dir.name})"
    raise StoreError("this run was pruned", f"{run_dir}, {when}", advice)
