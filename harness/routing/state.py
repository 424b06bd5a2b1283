"""What a policy is given: the request that is due next, and both sides as they stand then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Which = Literal["own", "hosted"]
OWN: Which = "own"
HOSTED: Which = "hosted"


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """A request that is due. `hosted_usd`: what the hosted side would bill for its planned tokens."""

    seq: int
    prompt_tokens: int
    output_tokens: int
    session: int | None = None
    hosted_usd: float = 0.0


class Latency(Protocol):
    """What is known of a side's latency at a load."""

    @property
    def rows(self) -> int:
        """Requests that it was learned from."""

    def predict(self, load: float, prompt_tokens: int, output_tokens: int) -> Mapping[str, float]:
        """Metric of the promise -> seconds, of a request that is sent while `load` others are in flight."""


@dataclass(frozen=True, slots=True)
class SideState:
    """`load`: requests in flight there, of ours and, where its /metrics tell, of others. `waiting`, `kv_usage` (a share): as its
    /metrics last said, None where they do not. `quiet_s`: since a row last came from it, or since the phase began."""

    name: str
    latency: Latency
    load: float = 0.0
    waiting: float | None = None
    kv_usage: float | None = None
    kv_capacity_tokens: int | None = None
    failures: int = 0  # in a row
    is_up: bool = True
    probe_is_due: bool = False
    quiet_s: float = 0.0
    sent: int = 0  # requests that were sent there so far


@dataclass(frozen=True, slots=True)
class State:
    """`promise`: metric -> seconds. `hour`: of the day, 0 to below 24. `hosted_usd`: billed so far. `session_side`: where the
    request's session was sent before. `allowed_misses`, `misses`: of the requests that have ended, how many may miss the promise, and
    did. `worth`: of the request, see worth.py; 1 where nobody needs it."""

    own: SideState
    hosted: SideState
    promise: Mapping[str, float]
    elapsed_s: float = 0.0
    hour: float = 0.0
    hosted_usd: float = 0.0
    session_side: Which | None = None
    allowed_misses: float = 0.0
    misses: int = 0
    worth: float = 1.0

    def side(self, which: Which) -> SideState:
        return self.own if which == OWN else self.hosted


@dataclass(frozen=True, slots=True)
class Choice:
    """`why`: in words, for the row."""

    side: Which
    why: str


def other(which: Which) -> Which:
    return HOSTED if which == OWN else OWN
