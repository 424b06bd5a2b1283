"""What must be the same on every node that sends."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import harness


@cache
def source_digest() -> str:
    """Of the harness's own code: two nodes with one version may still have two states of it."""
    root = Path(harness.__file__).parent
    whole = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".c") and "_data" not in p.parts):
        whole.update(f"{path.relative_to(root)}\0".encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What must be equal on all nodes and is not, in words: `name THEIRS, here OURS`."""
    must = {"harness_version": "harness", "harness_sha256": "its code", "python": "Python", "reader": "reader"}
    if ours["harness_version"] != theirs.get("harness_version"):
        must.pop("harness_sha256")
    return [
        f"{words} {theirs.get(name)}, here {ours[name]}"
        for name, words in must.items()
        if ours[name] != theirs.get(name)
    ]
