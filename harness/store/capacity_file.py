"""capacity.json of a capacity cell's directory: the result of the search; its probes are runs in folders beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.base import redaction
from harness.base.documents import parse_json
from harness.base.errors import StoreError
from harness.base.files import write_whole
from harness.records import SCHEMA_VERSION, CapacityResult, ProbeResult
from harness.store.manifest import refuse_newer
from harness.store.typed import refuse_wrong_types

NAME = "capacity.json"


def write_capacity(run_dir: Path, result: CapacityResult) -> None:
    """Write it in one step. Raises OSError."""
    data = {"schema_version": SCHEMA_VERSION, **redaction.data(asdict(result))}
    write_whole(run_dir / NAME, json.dumps(data, indent=1))


def holds_capacity(run_dir: Path) -> bool:
    return (run_dir / NAME).is_file()


def read_capacity(run_dir: Path) -> CapacityResult:
    """Raises StoreError."""
    path = run_dir / NAME
    try:
        data = parse_json(path.read_bytes())
        refuse_newer(data.pop("schema_version", None), str(path))
        probes = tuple(_probe(probe) for probe in data.pop("probes"))
        result = CapacityResult(probes=probes, **data)
        refuse_wrong_types(CapacityResult, asdict(result), str(path))
        return result
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        advice = f"{type(error).__name__}: {error}; it is damaged: run the cell again"
        raise StoreError("a capacity search cannot be read", path, advice) from None


def _probe(data: Mapping[str, Any]) -> ProbeResult:
    batches = tuple((int(offered), int(good)) for offered, good in data["batches"])
    return ProbeResult(**{**data, "batches": batches})
