"""What a box of a fleet is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Work:
    """What a box is told. `spec`: the experiment, as plain JSON values. `cells`: (index in the campaign, name), in their order. `box`: facts
    of it for every run's environment. `folder`: where the campaign was started, from which the config's paths are read."""

    spec: Mapping[str, Any]
    campaign_id: str
    created_utc: str
    cells: list[tuple[int, str]]
    box: Mapping[str, Any]
    folder: str
    wait_lock: bool = False

    def text(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))
