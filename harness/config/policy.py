"""What a config may say of how a hybrid chooses: one of the two sides for each request, by which rule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.base import bounds
from harness.base.bounds import Spec, within

_OF_RULE = {
    "slo": ("margin", "kv_limit", "learned_requests"),
    "cost": ("margin", "kv_limit", "learned_requests", "own_usd_per_request", "hosted_minimum_usd_per_month"),
    "concurrency": ("own_in_flight",),
    "share": ("hosted_share",),
    "clock": ("hosted_hours", "day_s"),
}
_SHARED = ("rule", "sticky", "failover_after", "probe_every_s")


class PolicySpec(Spec):
    """How requests are divided. `slo`: to the own side until it would break the promise. `cost`: to the side whose marginal dollars
    are least among those that keep it. `concurrency`: to the own side up to `own_in_flight` requests. `share`: `hosted_share` of them
    to the hosted side. `clock`: to the hosted side in `hosted_hours`, whatever the load."""

    rule: Literal["slo", "cost", "concurrency", "share", "clock"]
    margin: Annotated[float, within(0.05, 1, "predicted latency over the promise at which a side is left")] = Field(
        default=0.8,
        description="slo, cost: a side is full where its predicted latency is above margin x the promise; cost: once the allowed misses are used",
    )
    kv_limit: Annotated[float, within(0.05, 1, "share of the KV cache in use")] = Field(
        default=0.95, description="slo, cost: the own side is full where its KV cache would be"
    )
    learned_requests: int = Field(
        default=64,
        ge=8,
        le=100_000,
        description="slo, cost: rows that a load level's latency is learned from, the newest",
    )
    own_usd_per_request: Annotated[float, within(0, 1e3, "US dollars of one request")] = Field(
        default=0, description="cost: what one more request costs on the own side; 0: the machine is paid by the hour"
    )
    hosted_minimum_usd_per_month: bounds.Usd = Field(
        default=0, description="cost: committed to the hosted API; what is within it costs nothing more"
    )
    own_in_flight: int | None = Field(
        default=None, ge=0, le=bounds.MOST_IN_FLIGHT, description="concurrency: requests at once of the own side"
    )
    hosted_share: Annotated[float, within(0, 1, "a share of the requests")] | None = Field(
        default=None, description="share: of the requests, evenly spread"
    )
    hosted_hours: list[Annotated[int, within(0, 23, "an hour of the day, 0 to 23")]] = Field(
        default_factory=list, max_length=24, description="clock: hours of the day (UTC), e.g. [0, 1, 2, 3]"
    )
    day_s: bounds.Seconds | None = Field(
        default=None, description="clock: length of a day that begins with the run, as of diurnal:NAME:DAY_S; None: UTC"
    )
    sticky: bool = Field(default=True, description="a session stays with the side that its first request went to")
    failover_after: int = Field(default=3, ge=1, le=1000, description="failures in a row after which a side is down")
    probe_every_s: bounds.Seconds = Field(default=5, description="a side that is down gets one request so often")

    @model_validator(mode="after")
    def _keys_of_its_rule(self) -> PolicySpec:
        allowed = (*_SHARED, *_OF_RULE[self.rule])
        fields = type(self).model_fields
        given = [key for key in fields if getattr(self, key) != fields[key].get_default(call_default_factory=True)]
        if others := [key for key in given if key not in allowed]:
            raise ValueError(f"{others[0]} is no key of rule {self.rule}: it has {', '.join(_OF_RULE[self.rule])}")
        if self.rule == "concurrency" and self.own_in_flight is None:
            raise ValueError("rule concurrency needs own_in_flight: requests at once of the own side")
        if self.rule == "share" and self.hosted_share is None:
            raise ValueError("rule share needs hosted_share: from 0 (all to the own side) to 1")
        if self.rule == "clock" and not self.hosted_hours:
            raise ValueError("rule clock needs hosted_hours, e.g. [0, 1, 2, 3]")
        return self

    def written(self) -> dict[str, Any]:
        """The keys of its own rule, as plain values: what is printed of it."""
        return {key: value for key, value in self.model_dump().items() if key in ("rule", *_OF_RULE[self.rule])}
