"""What a config may say of a fleet: the Ray cluster whose machines are boxes of a campaign."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from harness.base import bounds
from harness.base.bounds import Spec, within

_CLUSTER = re.compile(r"ray|(ray://)?[^\s/:@]+:\d{1,5}")


class FleetSpec(Spec):
    """A campaign's repetitions are shared out among boxes: each runs the whole of those it gets, on a server of its own."""

    on: bounds.Word = Field(
        default="ray",
        description="ray: the cluster of this machine (RAY_ADDRESS); HOST:PORT of its head, or ray://HOST:PORT",
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
        if not _CLUSTER.fullmatch(on):
            raise ValueError(f"{on!r:.80} is no cluster: ray, HOST:PORT or ray://HOST:PORT")
        return on
