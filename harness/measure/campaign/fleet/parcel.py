"""A finished run on its way from a box: one tar of its directory and of its server's log so far, unpacked where runs always stand."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from harness.base.errors import StoreError
from harness.measure.provenance import link_log

LOGS = "server-logs"
_LOG = "server.log"
_ARRIVING = ".arriving-"


def pack(run_dir: Path, into: Path) -> Path:
    """A tar of a run directory, its server's log beside it under the log's own name. Raises StoreError."""
    path = into / f"{run_dir.name}.tar"
    try:
        with tarfile.open(path, "w", dereference=True) as tar:
            tar.add(run_dir, run_dir.name, filter=lambda entry: None if entry.name.endswith(f"/{_LOG}") else entry)
            if (log := _log_of(run_dir)) is not None:
                tar.add(log, f"{LOGS}/{log.name}")
    except OSError as error:
        raise StoreError("a run cannot be packed", f"{path}: {error.strerror}", "free disk space on the box") from error
    return path


def _log_of(run_dir: Path) -> Path | None:
    """The file of the server's start that the run's server.log is."""
    try:
        mine = (run_dir / _LOG).stat()
    except OSError:
        return None
    return (
        next((log for log in (run_dir.parent / LOGS).iterdir() if log.samefile(run_dir / _LOG)), None) if mine else None
    )


def unpack(tar_file: IO[bytes], run_dir: Path) -> None:
    """The run of a tar as `run_dir`, in one step, its log in `server-logs`, linked as if the server had been here. Raises StoreError,
    also for a tar that holds something else."""
    out = run_dir.parent
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=f"{_ARRIVING}{run_dir.name}-") as name:
            folder = Path(name)
            with tarfile.open(fileobj=tar_file, mode="r:") as tar:
                tar.extractall(folder, filter="data")
            arrived = folder / run_dir.name
            for log in sorted((folder / LOGS).glob("*.log")):
                (out / LOGS).mkdir(exist_ok=True)
                with (
                    log.open("rb") as new,
                    (out / LOGS / log.name).open("wb") as kept,
                ):  # one file a start, that its runs link
                    shutil.copyfileobj(new, kept)
                link_log(out / LOGS / log.name, arrived)
            arrived.rename(run_dir)
    except (OSError, tarfile.TarError) as error:
        raise StoreError("a run of a box cannot be stored", run_dir, f"{type(error).__name__}: {error}") from error


def sweep(out: Path, campaign_id: str) -> None:
    """Remove what was arriving when an earlier attempt at this campaign was killed."""
    for folder in out.glob(f"{_ARRIVING}{campaign_id}_*"):
        shutil.rmtree(folder, ignore_errors=True)
