"""Boxes of a fleet as a factor: where a campaign's runs stood, and which of them may be held against each other.

A box is a block of the statistics: what differs between two boxes (cooling, firmware, a neighbour) is in every run of it, and cancels only
between runs of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.records import Manifest


def box_of(environment: Mapping[str, Any]) -> str | None:
    """The box that a run with this environment was measured on; None for one of no fleet."""
    name = (environment.get("box") or {}).get("name")
    return None if name is None else str(name)


def place_of(environment: Mapping[str, Any]) -> str:
    """The box, or the machine of a run that is held against one of a fleet."""
    return box_of(environment) or f"machine {environment.get('host_sha256', 'unknown')}"


def torn(manifests: Iterable[Manifest]) -> dict[int, tuple[str, ...]]:
    """Repetitions of a campaign whose runs stand on several boxes -> these."""
    seen: dict[int, set[str]] = {}
    for manifest in manifests:
        if (box := box_of(manifest.environment)) is not None:
            seen.setdefault(manifest.cell.repetition, set()).add(box)
    return {repetition: tuple(sorted(boxes)) for repetition, boxes in sorted(seen.items()) if len(boxes) > 1}
