"""What `harness doctor` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DoctorLine:
    """One finding. `state`: ok | missing | warn; `how_to_get` is empty where nothing is to be done."""

    item: str
    state: str
    detail: str
    how_to_get: str = ""
