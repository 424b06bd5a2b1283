"""What a config may say of where the load comes from: this machine, or many nodes of a Ray cluster."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.base import bounds
from harness.base.bounds import Spec, within
from harness.config.cluster import DESCRIPTION, named

LOCAL = "local"


class LoadGeneratorsSpec(Spec):
    """`on: ray` sends the measured phase from `nodes` nodes of a Ray cluster, `workers_per_node` processes on each."""

    on: bounds.Word = Field(
        default=LOCAL,
        description=f"{LOCAL}; {DESCRIPTION}",
    )
    nodes: Annotated[int, within(1, 1024, "nodes that send")] = 1
    workers_per_node: Annotated[int, within(1, 64, "processes a node")] | Literal["auto"] = Field(
        default="auto", description="auto: as many as the offered rate needs by the node's calibration; 1 without one"
    )
    beside_server: bool = Field(default=False, description="true: the target's own machine may send too")

    @property
    def is_local(self) -> bool:
        return self.on == LOCAL

    @field_validator("on")
    @classmethod
    def _is_a_cluster(cls, on: str) -> str:
        return named(on, LOCAL)

    @model_validator(mode="before")
    @classmethod
    def _local_is_one(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("on", LOCAL) == LOCAL:
            given = [name for name in ("nodes", "workers_per_node") if data.get(name) not in (None, 1, "auto")]
            if given:
                raise ValueError(
                    f"{given[0]} is of load from many nodes: add on: ray (this machine's processes are workers: N)"
                )
        return data
