"""Routing policies over a day of demand, replayed request by request, beside the planner's optimum for the same day.

    $/request = (replicas x price per hour x hours + hosted bill) / requests, a run's own definition
    optimum   = E[cost](k*) of `hybrid.plan_hybrid` at what a modelled replica serves within the promise

Every policy is given the optimum's replicas, which are paid whatever is sent to them, so that the policies differ by their hosted bill
and by how many requests are good. The intervals are over days: other arrivals and lengths from the same demand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

import numpy as np

from harness.base.errors import ConfigError
from harness.base.stats import mean_interval
from harness.config.policy import PolicySpec
from harness.planner.demand import Demand, curve, flat
from harness.planner.hybrid import HybridPlan, hybrid_usd_per_hour, plan_hybrid
from harness.routing.replay import Replayed, replay
from harness.routing.router import Router, SideFacts
from harness.routing.sides import Batching, ModelledSide, Recorded, Servers
from harness.routing.state import HOSTED, OWN, RouteRequest, Which

Arrivals = list[tuple[float, RouteRequest]]
LEVEL = 0.95
DAY_S = 1800.0  # seconds that a replayed day takes: the day's rates, each for a 48th of the time
_CAPACITY_REQUESTS = 6000  # that are offered to find the capacity
_OVERLOAD = 1.5
_USUAL = 7
_MOST_REQUESTS = 20_000_000  # of all days and policies


@dataclass(frozen=True, slots=True)
class DayTerms:
    """What a day is replayed with. `lengths`: (prompt, output tokens) of requests as they were seen, drawn from again. `latencies`: of
    the hosted side, (TTFT, TPOT) in seconds. `hosted_usd`: the bill of one request by (prompt, output tokens)."""

    own: Batching
    latencies: Sequence[tuple[float, float]]
    lengths: Sequence[tuple[int, int]]
    replica_usd_per_hour: float
    hosted_usd: Callable[[int, int], float]
    promise: Mapping[str, float]
    attainment: float = 0.99
    names: tuple[str, str] = ("own", "hosted")


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """A policy over all days. `usd_per_request` with its interval over days (None with one day); `holds`: attainment over all requests
    is at the target. `over_optimum`: its dollars over what the optimum's replicas are planned to cost for the same days, less 1."""

    name: str
    policy: Mapping[str, object]
    requests: int
    attainment: float
    hosted_share: float
    usd_per_request: float
    low_usd: float | None
    high_usd: float | None
    usd_per_good_request: float | None
    over_optimum: float
    holds: bool


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """`capacity_rps`: requests/s that one modelled replica serves within the promise, the others going elsewhere."""

    demand: str
    mean_rps: float
    days: int
    capacity_rps: float
    hosted_usd_per_request: float
    optimum: HybridPlan
    results: tuple[PolicyResult, ...]


def policies_over(
    demand: Demand,
    terms: DayTerms,
    policies: Mapping[str, PolicySpec] | None = None,
    *,
    days: int = 3,
    day_s: float = DAY_S,
    seed: int = 1,
) -> PolicyTable:
    """Replay each policy (None: the usual ones) over the same days. Raises ConfigError: too many requests, or a promise that the own side
    never keeps."""
    expected = demand.mean_rps * day_s * days * (_USUAL if policies is None else len(policies))
    if expected > _MOST_REQUESTS:
        advice = f"at most {_MOST_REQUESTS:,}: fewer days or policies, or a shorter --day-s"
        raise ConfigError("too many requests to replay", f"{expected:,.0f}", advice)
    mean_usd = fmean(terms.hosted_usd(*lengths) for lengths in terms.lengths)
    capacity, optimum = _optimum(demand, terms, mean_usd, seed)
    if policies is None:
        policies = usual(optimum.hosted_share, terms.own.slots * max(1, optimum.replicas))
    drawn = [arrivals_of(demand, terms, day_s, seed + day) for day in range(days)]
    best_usd = [_best_usd(demand, terms, day, optimum.replicas, capacity, day_s) for day in drawn]
    results = []
    for name, spec in policies.items():
        outcomes = [_day(spec, terms, day, optimum.replicas, day_s, seed) for day in drawn]
        results.append(_result(name, spec, terms, outcomes, optimum.replicas, best_usd, day_s))
    return PolicyTable(demand.name, demand.mean_rps, days, capacity, mean_usd, optimum, tuple(results))


def _best_usd(demand: Demand, terms: DayTerms, day: Arrivals, replicas: int, capacity: float, day_s: float) -> float:
    """E[cost](k) of a day as it was drawn, USD: its own requests in each step, at their own mean price."""
    step_s = day_s / len(demand.rps)
    counts = [0] * len(demand.rps)
    for at_s, _ in day:
        counts[min(len(counts) - 1, int(at_s / step_s))] += 1
    drawn = curve(demand.name, [count / step_s for count in counts], step_s=step_s)
    price_usd = fmean(request.hosted_usd for _, request in day)
    return float(hybrid_usd_per_hour(drawn, replicas, capacity, terms.replica_usd_per_hour, price_usd)) * day_s / 3600


def _optimum(demand: Demand, terms: DayTerms, hosted_usd: float, seed: int) -> tuple[float, HybridPlan]:
    """(capacity of a replica, the plan with it). Replicas behind one queue carry more each than one alone does, so the capacity is
    that of as many as the plan then has."""
    replicas, tried = 1, dict[int, tuple[float, HybridPlan]]()
    while replicas not in tried:
        capacity = capacity_rps(terms, replicas, seed)
        tried[replicas] = capacity, plan_hybrid(demand, capacity, terms.replica_usd_per_hour, hosted_usd)
        found, replicas = tried[replicas], max(1, tried[replicas][1].replicas)
    return found


def arrivals_of(demand: Demand, terms: DayTerms, day_s: float, seed: int) -> Arrivals:
    """Poisson arrivals at the curve's rates, the curve passing once in `day_s` seconds; lengths drawn from those seen."""
    draw = Random(f"{seed}|day")  # noqa: S311 - arrivals to replay, not a secret
    highest, step_s = demand.peak_rps, day_s / len(demand.rps)
    found: Arrivals = []
    at_s = 0.0
    while (at_s := at_s + draw.expovariate(highest)) < day_s:
        if draw.random() * highest < demand.rps[min(len(demand.rps) - 1, int(at_s / step_s))]:
            prompt, output = draw.choice(terms.lengths)
            found.append((at_s, RouteRequest(len(found), prompt, output, None, terms.hosted_usd(prompt, output))))
    return found


def _day(spec: PolicySpec, terms: DayTerms, day: Arrivals, replicas: int, day_s: float, seed: int) -> Replayed:
    """One day. Where nothing is owned there is one side, whatever the policy."""
    if not replicas:
        spec = PolicySpec(rule="share", hosted_share=1.0)
    if spec.rule == "clock" and spec.day_s is None:
        spec = spec.model_copy(update={"day_s": day_s})
    router = Router(spec, SideFacts(terms.names[0]), SideFacts(terms.names[1]), terms.promise, terms.attainment)
    sides: dict[Which, ModelledSide] = {
        OWN: Servers(terms.own, max(1, replicas)),
        HOSTED: Recorded(terms.latencies, seed),
    }
    return replay(day, router, sides)


def _result(
    name: str,
    spec: PolicySpec,
    terms: DayTerms,
    days: Sequence[Replayed],
    replicas: int,
    best_usd: Sequence[float],
    day_s: float,
) -> PolicyResult:
    own_usd = replicas * terms.replica_usd_per_hour * day_s / 3600
    each = np.array([(own_usd + day.hosted_usd) / max(1, day.requests) for day in days])
    ends = mean_interval(each, LEVEL)
    requests, good = sum(day.requests for day in days), sum(day.good for day in days)
    total_usd = own_usd * len(days) + math.fsum(day.hosted_usd for day in days)
    attainment = good / max(1, requests)
    return PolicyResult(
        name,
        spec.written(),
        requests,
        attainment,
        sum(day.hosted_requests for day in days) / max(1, requests),
        total_usd / max(1, requests),
        None if ends is None else ends[0],
        None if ends is None else ends[1],
        total_usd / good if good else None,
        total_usd / math.fsum(best_usd) - 1,
        attainment >= terms.attainment,
    )


def capacity_rps(terms: DayTerms, replicas: int = 1, seed: int = 1) -> float:
    """Good requests/s of each of so many replicas where what they have no room for goes elsewhere: offered more than they can take, up
    to the most at once that still keeps the promise. More than an open loop's capacity, whose queue takes all. Raises ConfigError."""
    prompt, output = (fmean(lengths) for lengths in zip(*terms.lengths, strict=True))
    offered_rps = _OVERLOAD * replicas * terms.own.highest_rps(prompt, output)
    seconds = _CAPACITY_REQUESTS / offered_rps
    day = arrivals_of(flat(offered_rps), terms, seconds, seed)

    def at_most(in_flight: int) -> Replayed:
        return _day(PolicySpec(rule="concurrency", own_in_flight=in_flight), terms, day, replicas, seconds, seed)

    low, high, best = 0, 2 * terms.own.slots * replicas, 0
    while low < high:
        middle = (low + high + 1) // 2
        came = at_most(middle)
        if came.own_attainment >= terms.attainment:
            low, best = middle, came.own_good - middle
        else:
            high = middle - 1
    if best <= 0:
        raise ConfigError(
            "the own side keeps the promise at no rate", dict(terms.promise), "look at its latencies alone"
        )
    return best / seconds / replicas  # those in flight at the end are not of this time


# ---------------------------------------------------------------- what is compared unless told


def usual(optimum_share: float, slots: int) -> dict[str, PolicySpec]:
    """Each side alone, and every rule once: the shares and limits that stand to reason for an optimum and a server's slots."""
    return {
        "own alone": PolicySpec(rule="share", hosted_share=0.0),
        "hosted alone": PolicySpec(rule="share", hosted_share=1.0),
        "slo": PolicySpec(rule="slo"),
        "cost": PolicySpec(rule="cost"),
        "concurrency": PolicySpec(rule="concurrency", own_in_flight=slots),
        "share": PolicySpec(rule="share", hosted_share=round(optimum_share, 4)),
        "clock": PolicySpec(rule="clock", hosted_hours=[0, 1, 2, 3]),
    }
