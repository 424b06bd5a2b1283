"""What a config may say of a fleet: the Ray cluster whose machines are boxes of a campaign."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from harness.base import bounds
from harness.base.bounds import Spec, within
from harness.config.cluster import DESCRIPTION, named


class FleetSpec(Spec):
    """A campaign's repetitions are shared out among boxes: each runs the whole of those it gets, on a server of its own."""

    on: bounds.Word = Field(
        default="ray",
        description=DESCRIPTION,
    )
    boxes: bounds.Count | None = Field(
        default=None, ge=1, description="at most so many; None: all that the cluster has"
    )
    wait_s: Annotated[float, within(0, 86_400, "seconds")] = Field(
        default=60, description="how long a cell waits for a box that can run it, before it has failed"
    )

    @field_validator("on")
    @classmethod
    def _is_a_cluster(cls, on: str) -> str:
        return named(on)
