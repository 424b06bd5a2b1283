"""A plan replayed under a policy against two modelled sides, event by event: the same router as a run's, with the time of the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.routing.router import Router, keeps
from harness.routing.sides import NEVER, ModelledSide
from harness.routing.state import HOSTED, OWN, RouteRequest, Which

METRICS_S = 1.0  # how often the own side's /metrics are read, as in a run


@dataclass(frozen=True, slots=True)
class Replayed:
    """`good`: inside the promise. `hosted_usd`: the bill of the hosted side's requests. `own_good`, `hosted_good`: by side."""

    requests: int
    hosted_requests: int
    own_good: int
    hosted_good: int
    hosted_usd: float

    @property
    def good(self) -> int:
        return self.own_good + self.hosted_good

    @property
    def attainment(self) -> float:
        return self.good / self.requests if self.requests else 1.0

    @property
    def own_attainment(self) -> float:
        """Of the own side's requests."""
        return self.own_good / max(1, self.requests - self.hosted_requests)

    @property
    def hosted_share(self) -> float:
        return self.hosted_requests / self.requests if self.requests else 0.0


def replay(
    arrivals: Sequence[tuple[float, RouteRequest]], router: Router, sides: Mapping[Which, ModelledSide]
) -> Replayed:
    """Send every request at its time (seconds, rising) to the side that the router says, and let all of them end."""
    good: dict[Which, int] = {OWN: 0, HOSTED: 0}
    hosted = 0
    under_way: dict[int, RouteRequest] = {}
    next_look_s = 0.0

    def settle(until_s: float) -> None:
        while (at_s := min(side.next_s() for side in sides.values())) <= until_s and at_s < NEVER:
            for which, side in sides.items():
                for served in side.ended(at_s):
                    router.ended(served, at_s)
                    good[which] += keeps(router.promise, under_way.pop(served.seq), served)

    for at_s, request in arrivals:
        settle(at_s)
        if at_s >= next_look_s:
            for which, side in sides.items():
                router.saw(which, side.unfinished(), side.waiting(), None)
            next_look_s = at_s + METRICS_S
        choice = router.decide(request, at_s)
        hosted += choice.side == HOSTED
        under_way[request.seq] = request
        sides[choice.side].admit(request, at_s)
    settle(NEVER)
    return Replayed(len(arrivals), hosted, good[OWN], good[HOSTED], router.hosted_usd)
