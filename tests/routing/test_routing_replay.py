"""A replay against what queueing theory and arithmetic say of it, and what the policies reach in one."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from harness.config.policy import PolicySpec
from harness.routing.replay import replay
from harness.routing.router import Router, Served, SideFacts, keeps
from harness.routing.sides import Batching, Recorded, Servers
from harness.routing.state import HOSTED, OWN, RouteRequest

PROMISE = {"ttft_from_schedule_s": 0.5, "tpot_s": 0.05}
MODEL = Batching(slots=8, step_s=0.01, step_per_request_s=0.002, first_s=0.02, prefill_s=0.0001)


def poisson(rate_rps, seconds, seed=1, prompt=100, output=50):
    draw = random.Random(seed)
    at_s, found = 0.0, []
    while (at_s := at_s + draw.expovariate(rate_rps)) < seconds:
        found.append((at_s, RouteRequest(len(found), prompt, output, None, 0.001)))
    return found


def served_alone(model, arrivals):
    """Served by one replica without a router, by seq."""
    side, found = Servers(model, 1), []
    for at_s, request in arrivals:
        while side.next_s() <= at_s:
            found += side.ended(side.next_s())
        side.admit(request, at_s)
    while side.next_s() < float("inf"):
        found += side.ended(side.next_s())
    return {one.seq: one for one in found}


def test_an_idle_server_takes_its_own_time():
    """TTFT of first + prefill x prompt, a token every step."""
    (one,) = served_alone(MODEL, [(3.0, RouteRequest(0, 1000, 11))]).values()
    assert (one.ttft_s, one.tpot_s) == (pytest.approx(0.12), pytest.approx(0.012))


def test_two_at_once_share():
    """Both run at 0.014 s a token, prefill too."""
    both = served_alone(MODEL, [(0.0, RouteRequest(0, 100, 11)), (0.0, RouteRequest(1, 100, 11))])
    assert [one.tpot_s for one in both.values()] == pytest.approx([0.014] * 2)
    assert both[0].ttft_s == pytest.approx(0.03 * 14 / 12)


def test_one_slot_is_the_queue_of_the_book():
    """M/D/1 at 70 %: the mean wait is rho / (2 (1 - rho)) services (Pollaczek-Khinchine)."""
    model = Batching(slots=1, step_s=0.01, step_per_request_s=0.0, first_s=0.01, prefill_s=0.0)
    service_s = 0.01 + 99 * 0.01
    arrivals = poisson(0.7 / service_s, 60_000, output=100)
    waits = [one.ttft_s - 0.01 for one in served_alone(model, arrivals).values()]
    assert fmean(waits) == pytest.approx(service_s * 0.7 / 0.6, rel=0.05)


def test_more_replicas_take_turns():
    """Two requests on two replicas are both alone."""
    side = Servers(MODEL, 2)
    for seq in range(2):
        side.admit(RouteRequest(seq, 100, 11), 0.0)
    ended = []
    while side.next_s() < float("inf"):
        ended += side.ended(side.next_s())
    assert [one.tpot_s for one in ended] == pytest.approx([0.012] * 2)


@pytest.mark.parametrize(
    ("served", "kept"),
    [
        (Served(0, ok=True, ttft_s=0.4, tpot_s=0.04), True),
        (Served(0, ok=True, ttft_s=0.6, tpot_s=0.04), False),
        (Served(0, ok=True, ttft_s=0.4, tpot_s=0.06), False),
        (Served(0, ok=True, ttft_s=0.4, tpot_s=None), True),
        (Served(0, ok=False, is_failure=True), False),
    ],
    ids=["kept", "first-late", "slow", "one-token", "failed"],
)
def test_a_promise_is_kept_by_every_metric_of_it(served, kept):
    """And by none of a request that failed."""
    assert keeps(PROMISE, RouteRequest(0, 100, 10), served) is kept


def played(spec, arrivals, sides, promise=PROMISE):
    made = Router(PolicySpec(**spec), SideFacts("own"), SideFacts("api"), promise)
    return replay(arrivals, made, sides)


def both(**words):
    slow = Batching(slots=4, step_s=0.015, step_per_request_s=0.002, first_s=0.03, prefill_s=0.0001)
    return {OWN: Servers(MODEL, 1), HOSTED: Servers(slow, 1)} | words


def test_every_request_ends_once():
    """Good ones are never more than there were, and the bill is that of the hosted ones."""
    arrivals = poisson(8, 120)
    came = played({"rule": "share", "hosted_share": 0.25}, arrivals, both())
    assert came.requests == len(arrivals)
    assert came.hosted_requests == len(arrivals) // 4
    assert came.hosted_usd == pytest.approx(0.001 * came.hosted_requests)
    assert came.own_good <= came.requests - came.hosted_requests


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("rule", ["slo", "cost"])
def test_two_sides_that_break_the_promise_alone_keep_it_together(rule, seed):
    """A load above either side's capacity and below both: each alone is below 95 %, the policy at 99 % or more."""
    promise = {"ttft_from_schedule_s": 1.5, "tpot_s": 0.05}
    arrivals = poisson(6.3, 600, seed)  # 5.9 and 3.3 a second are the most that they serve
    alone = [played({"rule": "share", "hosted_share": s}, arrivals, both(), promise).attainment for s in (0.0, 1.0)]
    assert max(alone) < 0.95
    assert played({"rule": rule}, arrivals, both(), promise).attainment >= 0.99


def test_a_paid_machine_is_filled_before_anything_is_billed():
    """At half of its capacity the cost policy hosts next to nothing; the clock's share is billed for nothing."""
    arrivals = poisson(3.0, 600)
    hosted = {HOSTED: Recorded([(0.1, 0.01)], 1)}
    assert played({"rule": "cost"}, arrivals, both(**hosted)).hosted_share < 0.01
    clock = {"rule": "clock", "hosted_hours": [0, 1, 2, 3], "day_s": 600}
    assert played(clock, arrivals, both(**hosted)).hosted_share == pytest.approx(4 / 24, abs=0.03)


class Broken:
    """Fails every request at once while `down` holds the time, as a refused connection does."""

    def __init__(self, side, down):
        self.side, self.down, self.failed, self.lost = side, down, [], 0

    def admit(self, request, now_s):
        if self.down[0] <= now_s < self.down[1]:
            self.failed.append((now_s, request.seq))
        else:
            self.side.admit(request, now_s)

    def next_s(self):
        return min([at for at, _ in self.failed], default=self.side.next_s())

    def ended(self, now_s):
        gone, self.failed = self.failed, []
        self.lost += len(gone)
        return [Served(seq, ok=False, is_failure=True) for _, seq in gone] + self.side.ended(now_s)

    def unfinished(self):
        return None

    def waiting(self):
        return None


def test_an_outage_costs_the_first_failures_and_the_probes():
    """A minute without the own side: three failures, then one probe every five seconds, and it is used again after."""
    arrivals = poisson(4.0, 300)
    sides = {OWN: Broken(Servers(MODEL, 1), (100.0, 160.0)), HOSTED: Recorded([(0.1, 0.01)], 1)}
    made = Router(PolicySpec(rule="slo"), SideFacts("own"), SideFacts("api"), PROMISE)
    came = replay(arrivals, made, sides)
    assert 3 + 10 <= sides[OWN].lost <= 3 + 12 + 3  # an answer to what was sent before the outage begins the count anew
    assert came.requests - came.good >= sides[OWN].lost
    late = [made.choices[request.seq].side for at_s, request in arrivals if at_s > 170]
    assert late.count(OWN) / len(late) > 0.9
