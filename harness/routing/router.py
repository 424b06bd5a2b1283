"""Keeps what a policy is given: who is in flight where, what the rows and the server's metrics said, which side is down.

Every time comes from the caller, in seconds since the phase began, so that a live run and a replayed day are the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.config.policy import PolicySpec
from harness.routing.learned import Learned
from harness.routing.policies import Policy, policy_of
from harness.routing.state import HOSTED, OWN, Choice, RouteRequest, SideState, State, Which
from harness.routing.worth import Worth

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Served:
    """What became of a request. `is_failure`: the side itself failed it (no connection, a reset, 5xx, 429); a request that we gave
    up is neither ok nor that."""

    seq: int
    ok: bool
    is_failure: bool = False
    ttft_s: float | None = None
    tpot_s: float | None = None


def keeps(promise: Mapping[str, float], request: RouteRequest, served: Served) -> bool:
    """Whether a request that ended kept the promise; one that was never told a metric of it did not (but TPOT of one token)."""
    if not served.ok or served.ttft_s is None:
        return False
    gaps = request.output_tokens - 1
    tpot_s = served.tpot_s if served.tpot_s is not None else 0.0
    seen = {
        "ttft_s": served.ttft_s,
        "ttft_from_schedule_s": served.ttft_s,
        "ttfvt_s": served.ttft_s,
        "tpot_s": tpot_s,
        "e2el_s": served.ttft_s + tpot_s * max(0, gaps),
    }
    return all(seen[name] <= limit for name, limit in promise.items())


@dataclass(slots=True)
class _Side:
    name: str
    latency: Learned
    kv_capacity_tokens: int | None = None
    in_flight: int = 0
    sent: int = 0
    others: float = 0.0  # requests in flight there that are not ours, as its /metrics last told
    waiting: float | None = None
    kv_usage: float | None = None
    failures: int = 0
    is_up: bool = True
    asked_s: float = 0.0  # when it went down, or was last asked whether it is back
    heard_s: float = 0.0  # when a row last came from it


@dataclass(slots=True)
class _Sent:
    """A request under way."""

    request: RouteRequest
    choice: Choice
    load: float


@dataclass(frozen=True, slots=True)
class SideFacts:
    """`kv_capacity_tokens`: of its KV cache, where it tells."""

    name: str
    kv_capacity_tokens: int | None = None


@dataclass(slots=True)
class Router:
    """Decides once for each request. `promise`: metric -> seconds, kept for a share `attainment` of the requests. `utc_s`: seconds of
    the UTC day at which the phase begins."""

    spec: PolicySpec
    own: SideFacts
    hosted: SideFacts
    promise: Mapping[str, float]
    attainment: float = 0.99
    utc_s: float = 0.0
    hosted_usd: float = 0.0
    judged: int = 0
    misses: int = 0
    choices: dict[int, Choice] = field(default_factory=dict)
    _worth: Worth = field(default_factory=Worth)
    _policy: Policy = field(init=False)
    _sides: dict[Which, _Side] = field(init=False)
    _sent: dict[int, _Sent] = field(default_factory=dict)
    _sessions: dict[int, Which] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._policy = policy_of(self.spec)
        self._sides = {
            which: _Side(facts.name, Learned(newest=self.spec.learned_requests), facts.kv_capacity_tokens)
            for which, facts in ((OWN, self.own), (HOSTED, self.hosted))
        }

    def decide(self, request: RouteRequest, now_s: float) -> Choice:
        """The side of a request that is sent now; of one that was decided, what was decided."""
        known = self.choices.get(request.seq)
        if known is not None:
            return known
        state = self.state(request, now_s, self._worth_of(request))
        choice = self._policy(state, request)
        side = self._sides[choice.side]
        if not side.is_up and state.side(choice.side).probe_is_due:
            side.asked_s = now_s
        self._sent[request.seq] = _Sent(request, choice, state.side(choice.side).load)
        self.choices[request.seq] = choice
        side.in_flight += 1
        side.sent += 1
        if request.session is not None:
            self._sessions[request.session] = choice.side
        if choice.side == HOSTED:
            self.hosted_usd += request.hosted_usd
        return choice

    def follow(self, request: RouteRequest, before: int, now_s: float) -> Choice:
        """A later turn of a session, whose context is where the turn `before` was: it goes there whatever stands there."""
        first = self.choices[before]
        choice = Choice(first.side, f"the turn that it answers, {before}, is there")
        side = self._sides[choice.side]
        self._sent[request.seq] = _Sent(request, choice, self._load(side))
        self.choices[request.seq] = choice
        side.in_flight += 1
        side.sent += 1
        side.heard_s = max(side.heard_s, now_s)
        if choice.side == HOSTED:
            self.hosted_usd += request.hosted_usd
        return choice

    def ended(self, served: Served, now_s: float) -> None:
        """A request has its row."""
        sent = self._sent.pop(served.seq, None)
        if sent is None:
            return
        side = self._sides[sent.choice.side]
        side.in_flight -= 1
        side.heard_s = now_s
        if served.ok or served.is_failure:
            self.judged += 1
            self.misses += not keeps(self.promise, sent.request, served)
        if served.ok:
            side.failures, side.is_up = 0, True
            if served.ttft_s is not None:
                side.latency.add(sent.load, sent.request.prompt_tokens, served.ttft_s, served.tpot_s)
        elif served.is_failure:
            side.failures += 1
            if side.is_up and side.failures >= self.spec.failover_after:
                side.is_up, side.asked_s = False, now_s

    def learn(self, which: Which, load: float, prompt_tokens: int, ttft_s: float, tpot_s: float | None) -> None:
        """A row of the warm-up, sent while `load` others were in flight."""
        self._sides[which].latency.add(load, prompt_tokens, ttft_s, tpot_s)

    def saw(self, which: Which, unfinished: float | None, waiting: float | None, kv_usage: float | None) -> None:
        """What the side's /metrics tell. Our own requests whose rows are not here yet are in `unfinished` too, and never counted twice."""
        side = self._sides[which]
        side.others = 0.0 if unfinished is None else max(0.0, unfinished - side.in_flight)
        side.waiting, side.kv_usage = waiting, kv_usage

    def _worth_of(self, request: RouteRequest) -> float:
        """Asked once for each request; 1 where the policy does not need it, or nothing is known of the own side."""
        if self.spec.rule != "cost":
            return 1.0
        alone = self._sides[OWN].latency.predict(0, request.prompt_tokens, request.output_tokens)
        seconds = alone.get("e2el_s", 0.0)
        return self._worth.of(request.hosted_usd - self.spec.own_usd_per_request, seconds) if seconds else 1.0

    def state(self, request: RouteRequest, now_s: float, worth: float = 1.0) -> State:
        """What the policy is given for a request that is sent now."""
        day_s = self.spec.day_s
        of_day = now_s / day_s if day_s is not None else (self.utc_s + now_s) / DAY_S
        session = None if request.session is None else self._sessions.get(request.session)
        own, hosted = (self._state_of(self._sides[which], now_s) for which in (OWN, HOSTED))
        allowed = (1 - self.attainment) * self.judged
        return State(
            own, hosted, self.promise, now_s, 24 * (of_day % 1), self.hosted_usd, session, allowed, self.misses, worth
        )

    def _state_of(self, side: _Side, now_s: float) -> SideState:
        return SideState(
            name=side.name,
            latency=side.latency,
            load=self._load(side),
            waiting=side.waiting,
            kv_usage=side.kv_usage,
            kv_capacity_tokens=side.kv_capacity_tokens,
            failures=side.failures,
            is_up=side.is_up,
            probe_is_due=not side.is_up and now_s - side.asked_s >= self.spec.probe_every_s,
            quiet_s=now_s - side.heard_s,
            sent=side.sent,
        )

    @staticmethod
    def _load(side: _Side) -> float:
        return side.in_flight + side.others
