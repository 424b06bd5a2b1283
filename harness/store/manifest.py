"""What says what a run directory is: manifest.json, capacity.json of a search (probes.json before its end), pruned.json where its raw files
went; and who owns it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from harness.base import redaction
from harness.base.documents import parse_json, plain
from harness.base.errors import StoreError
from harness.base.files import write_whole
from harness.records import SCHEMA_VERSION, CapacityResult, Cell, Load, Manifest, ProbeResult, RunState
from harness.store.typed import refuse_broken, refuse_wrong_types

NAME = "manifest.json"
MARK = "pruned.json"
CAPACITY, PROBES = "capacity.json", "probes.json"
_Of = TypeVar("_Of", bound="CapacityResult | _Probes")
# the rest are names and numbers of ours
_FREE_TEXT = ("config", "environment", "target", "drive", "telemetry", "error")


def to_json(manifest: Manifest) -> str:
    """Text of manifest.json, without secrets. Raises StoreError for values that JSON does not have."""
    try:
        return json.dumps(_public(plain(manifest)), indent=1, allow_nan=False, ensure_ascii=True) + "\n"
    except (TypeError, ValueError) as error:
        raise StoreError(
            "manifest cannot be written", manifest.run_id, f"a value in it is not plain JSON: {error}"
        ) from None


def _public(data: dict[str, Any]) -> dict[str, Any]:
    return data | {name: redaction.data(data[name]) for name in _FREE_TEXT if name in data}


def _record(kind: type, data: Any, source: str, **ready: Any) -> Any:
    """A record from a mapping; unknown keys are passed over, a missing one is an error."""
    if not isinstance(data, dict):
        raise StoreError(
            f"{source}: not a {kind.__name__.lower()}", type(data).__name__, "the file is damaged; run the cell again"
        )
    values = {f.name: data[f.name] for f in fields(kind) if f.name in data} | ready
    missing = [
        f.name for f in fields(kind) if f.name not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise StoreError(
            f"{source}: key missing", missing[0], "the file is damaged or not a run's manifest; run the cell again"
        )
    return kind(**values)


def from_json(text: str, source: str) -> Manifest:
    """Manifest from the text of `source`, without secrets that an older harness left in it. Raises StoreError: not JSON, a newer
    schema, a key missing."""
    try:
        data = parse_json(text)
    except ValueError as error:
        raise StoreError(
            "manifest is not valid JSON", source, f"{error}; the file is damaged: run the cell again"
        ) from None
    if not isinstance(data, dict):
        raise StoreError(f"{source}: not a manifest", type(data).__name__, "expected a JSON object; run the cell again")
    refuse_newer(data.get("schema_version"), source)
    cell = data.get("cell")
    load = _record(Load, cell.get("load") if isinstance(cell, dict) else None, source)
    manifest: Manifest = _record(Manifest, _public(data), source, cell=_record(Cell, cell, source, load=load))
    refuse_broken(plain(manifest), source)
    return manifest


def refuse_newer(version: Any, source: str) -> None:
    """Raises StoreError unless `version` is a schema version that this harness knows."""
    try:
        number = int(version)
    except (TypeError, ValueError, OverflowError):
        raise StoreError("no schema version", source, "not written by this harness, or damaged") from None
    if number > SCHEMA_VERSION:
        advice = f"this harness reads up to version {SCHEMA_VERSION}: update it"
        raise StoreError("written by a newer harness", f"{source}: schema version {number}", advice)


def write_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Replace manifest.json in one step: readers see the old one or the new one. Raises OSError, StoreError."""
    write_whole(run_dir / NAME, to_json(manifest))


def read_manifest(run_dir: Path) -> Manifest:
    """manifest.json of a run directory as it stands on disk. Raises StoreError."""
    path = run_dir / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        advice = "give a run directory, results/<experiment>/<run_id>"
        raise StoreError("not a run directory: it has no manifest.json", run_dir, advice) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError("manifest cannot be read", path, str(error)) from None
    return from_json(text, str(path))


# ---------------------------------------------------------------- the process that writes it (Linux: /proc)


def start_ticks(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot (/proc/<pid>/stat field 22); None if gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()  # the name may hold spaces and parentheses; field 3 comes first here
    return None if after_name[0] in {"Z", "X"} else int(after_name[19])


def owner() -> tuple[int, int]:
    """(owner_pid, owner_start_ticks) of this process, for a Manifest; ticks are 0 where there is no /proc."""
    return os.getpid(), start_ticks(os.getpid()) or 0


def goes_on(manifest: Manifest) -> bool:
    """True if the run says that it is running and its process lives."""
    return manifest.state == RunState.RUNNING and is_alive(manifest.owner_pid, manifest.owner_start_ticks)


def is_alive(pid: int, ticks: int) -> bool:
    """True if that very process, not a later one with its pid, is running."""
    return start_ticks(pid) == ticks


# ---------------------------------------------------------------- pruned.json, beside the manifest of a run whose raw files went


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


# -------------------------------------- capacity.json: the result of a search, whose probes are runs in folders beside it; probes.json: of those so far


def write_capacity(run_dir: Path, result: CapacityResult) -> None:
    """Write it in one step; the probes so far are in it. Raises StoreError."""
    _write(run_dir / CAPACITY, asdict(result))
    with suppress(OSError):
        (run_dir / PROBES).unlink()


def write_probes(run_dir: Path, probes: Sequence[ProbeResult]) -> None:
    """Write in one step what the probes of a search came to that goes on. Raises StoreError."""
    _write(run_dir / PROBES, asdict(_Probes(tuple(probes))))


def _write(path: Path, data: Mapping[str, Any]) -> None:
    try:
        write_whole(path, json.dumps({"schema_version": SCHEMA_VERSION, **redaction.data(data)}, indent=1))
    except OSError as error:
        what, advice = "a capacity search cannot be written", "free disk space or write elsewhere (--out DIR)"
        raise StoreError(what, path, f"{error.strerror}; {advice}") from error


def holds_capacity(run_dir: Path) -> bool:
    return (run_dir / CAPACITY).is_file()


def read_capacity(run_dir: Path) -> CapacityResult:
    """Raises StoreError."""
    return _read(run_dir / CAPACITY, CapacityResult)


def read_probes(run_dir: Path) -> tuple[ProbeResult, ...]:
    """Of a search that was broken off; none where none had ended. Raises StoreError."""
    return _read(run_dir / PROBES, _Probes).probes if (run_dir / PROBES).exists() else ()


@dataclass(frozen=True, slots=True)
class _Probes:
    probes: tuple[ProbeResult, ...]


def _read(path: Path, kind: Callable[..., _Of]) -> _Of:
    try:
        data = parse_json(path.read_bytes())
        refuse_newer(data.pop("schema_version", None), str(path))
        probes = tuple(_probe(probe) for probe in data.pop("probes"))
        found = kind(probes=probes, **data)
        refuse_wrong_types(type(found), asdict(found), str(path))
        return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        advice = f"{type(error).__name__}: {error}; it is damaged: run the cell again"
        raise StoreError("a capacity search cannot be read", path, advice) from None


def _probe(data: Mapping[str, Any]) -> ProbeResult:
    batches = tuple((int(offered), int(good)) for offered, good in data["batches"])
    return ProbeResult(**{**data, "batches": batches})
