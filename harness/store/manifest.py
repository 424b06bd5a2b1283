"""manifest.json <-> Manifest."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from harness.base import redaction
from harness.base.documents import parse_json, plain
from harness.base.errors import StoreError
from harness.base.files import write_whole
from harness.records import SCHEMA_VERSION, Cell, Load, Manifest
from harness.store.typed import refuse_broken

NAME = "manifest.json"
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


def _record(kind: type, data: Any, source: str, **given: Any) -> Any:
    """A record from a mapping; unknown keys are passed over, a missing one is an error."""
    if not isinstance(data, dict):
        raise StoreError(
            f"{source}: not a {kind.__name__.lower()}", type(data).__name__, "the file is damaged; run the cell again"
        )
    values = {f.name: data[f.name] for f in fields(kind) if f.name in data} | given
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
