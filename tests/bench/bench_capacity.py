"""Capacity search against simulated servers: `python -m tests.bench.bench_capacity [--searches N] [--only WORDS] [--md1 | --knees]`.

The table is how often a search's interval covers the true capacity, over limits, targets, probe lengths and service times.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.config.load import CapacitySpec
from harness.measure.capacity_search import search_capacity
from harness.records import CapacityResult
from tests.judge import capacity_server as servers


def searches(
    count: int,
    server: servers.Server,
    spec: Callable[[np.random.Generator], CapacitySpec],
    attainment: float,
    **limits: float,
) -> list[CapacityResult]:
    results = []
    for seed in range(count):
        results.append(
            search_capacity(spec(np.random.default_rng(seed)), attainment, servers.probe(server, seed, **limits))
        )
        if "-v" in sys.argv:
            print_one(seed, results[-1])
    return results


def print_one(seed: int, result: CapacityResult) -> None:
    print(seed, result.state, result.capacity_rps, result.low_rps, result.high_rps, result.why)
    for p in result.probes:
        print(
            "   ",
            p.index,
            f"{p.rate_rps:.4g} {p.scheduled_rate_rps:.4g} n={p.offered} att={p.attainment:.4f} eff={p.effective_requests:.0f} {p.verdict} {p.stopped}",
        )


def say(name: str, truth: float, results: list[CapacityResult], seconds: float) -> None:
    found = [r for r in results if r.state == "found"]
    error = np.array([r.capacity_rps / truth - 1 for r in found])
    covered = [r.low_rps <= truth <= r.high_rps for r in found]
    half = [(r.high_rps - r.low_rps) / 2 / r.capacity_rps for r in found]
    probes = [len(r.probes) for r in results]
    simulated = [r.seconds for r in results]
    offered = [sum(p.offered for p in r.probes) for r in results]
    print(f"\n{name}: true capacity {truth:.4g}/s, {len(results)} seeds, {seconds:.0f} s of this machine")
    print(f"  states           {dict(Counter(r.state for r in results))}")
    print(
        f"  within 3 %       {np.sum(np.abs(error) <= 0.03) / len(results):.1%}  (bias {error.mean():+.2%}, sd {error.std():.2%}, worst {np.abs(error).max():.2%})"
    )
    print(
        f"  interval covers  {np.sum(covered) / len(results):.1%}  (median half-width {np.median(half):.2%}; within the tolerance {np.mean([r.why.startswith('the interval is within') for r in found]):.0%})"
    )
    print(f"  probes           mean {np.mean(probes):.1f}, max {max(probes)}")
    print(
        f"  simulated s      mean {np.mean(simulated):.0f}, max {max(simulated):.0f}; requests mean {np.mean(offered):.0f}, max {max(offered)}",
        flush=True,
    )


def measured_truth(server: servers.Server, attainment: float, ttft_limit_s: float, tpot_limit_s: float) -> float:
    """By long simulation: halved to within 10 %, then attainment of 400,000 requests at nine rates and a line through log-odds."""

    def log_odds(rate: float, seed: int, count: int) -> float:
        arrivals = np.cumsum(np.random.default_rng((99, seed)).exponential(1 / rate, count))
        ttft, _, tpot, _ = server(arrivals)
        good = ((ttft <= ttft_limit_s) & (tpot <= tpot_limit_s))[count // 50 :].mean()
        return float(np.log((1 - good + 1e-7) / (good + 1e-7)))

    wanted = math.log((1 - attainment) / attainment)
    low, high = 0.5, 25.0
    while high > 1.1 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if log_odds(middle, 0, 40_000) > wanted else (middle, high)
    rates = math.sqrt(low * high) * np.linspace(0.95, 1.05, 9)
    slope, at = np.polyfit(np.log(rates), [log_odds(rate, k + 1, 400_000) for k, rate in enumerate(rates)], 1)
    return math.exp((wanted - at) / slope)


def guess(truth: float, **words: object) -> Callable[[np.random.Generator], CapacitySpec]:
    """A first guess off by a factor of up to 4 either way."""
    return lambda rng: CapacitySpec.model_validate({"start_rps": truth * 4 ** rng.uniform(-1, 1), **words})


SERVICE_S = 0.04
LONG, SHORT, SHORTEST = (60, 600), (6, 60), (3, 30)


@dataclass(frozen=True)
class Condition:
    """A server and a promise: limit on TTFT in service times, probe lengths in seconds at 40 ms of service."""

    name: str
    server: servers.Server
    limit: float
    attainment: float
    probe_s: tuple[float, float]
    tpot_limit_s: float = math.inf

    def truth(self) -> float:
        limit_s = self.limit * SERVICE_S
        if self.name == "M/D/1":
            return servers.md1_capacity(SERVICE_S, limit_s, self.attainment)
        if self.name == "M/M/1":
            return servers.mm1_capacity(SERVICE_S, limit_s, self.attainment)
        if self.name.startswith("lognormal"):
            cdf = servers.lognormal_cdf(SERVICE_S, float(self.name.split()[-1]))
            return servers.mg1_capacity(SERVICE_S, cdf, limit_s, self.attainment)
        return measured_truth(self.server, self.attainment, limit_s, self.tpot_limit_s)


def conditions() -> list[Condition]:
    """Tight to loose limits, targets, probe lengths, service-time distributions."""
    fixed, memoryless = servers.fifo(SERVICE_S), servers.exponential(SERVICE_S)
    batching = servers.batching(0.02, 0.002, 16)
    found = [Condition("M/D/1", fixed, limit, 0.99, LONG) for limit in (2, 3, 5, 10, 20)]
    found += [Condition("M/D/1", fixed, limit, 0.99, SHORT) for limit in (3, 5, 10, 20)]
    found += [
        Condition("M/D/1", fixed, 10, 0.99, SHORTEST),
        Condition("M/D/1", fixed, 10, 0.9, SHORT),
        Condition("M/D/1", fixed, 10, 0.999, LONG),
    ]
    found += [Condition("M/M/1", memoryless, limit, 0.99, LONG) for limit in (10, 40)]
    found += [Condition("M/M/1", memoryless, limit, 0.95, SHORT) for limit in (10, 20)]
    found += [
        Condition(f"lognormal, CV {cv}", servers.lognormal(SERVICE_S, cv), 20, 0.95, length)
        for cv in (1, 2)
        for length in (SHORT, LONG)
    ]
    found += [Condition("batches of 16", batching, 12.5, 0.99, length, 0.05) for length in (SHORT, LONG)]
    return found


def coverage(count: int, only: str | None) -> None:
    """How often the 95 % interval of a search covers the truth."""
    print(f"{count} searches each, first guess off by up to 4 times; the interval's nominal level is 95 %")
    print("server            limit  target  probe s   found  covers  too good  too bad  half-width  within 3 %  probes")
    for one in conditions():
        if only is not None and only not in f"{one.name} {one.limit:g} {one.attainment} {one.probe_s}":
            continue
        truth = one.truth()
        limits = {"ttft_limit_s": one.limit * SERVICE_S, "tpot_limit_s": one.tpot_limit_s}
        results = searches(count, one.server, guess(truth, probe_s=one.probe_s), one.attainment, **limits)
        found = [r for r in results if r.state == "found"]
        above, below = (
            np.mean(side) for side in ([r.low_rps > truth for r in found], [r.high_rps < truth for r in found])
        )
        half = np.median([math.log(r.high_rps / r.low_rps) / 2 for r in found])
        close = np.mean([abs(r.capacity_rps / truth - 1) <= 0.03 for r in found])
        print(
            f"{one.name:17s} {one.limit:5g} {one.attainment:7g} {one.probe_s[0]:3d}-{one.probe_s[1]:3d} {len(found):7d} {1 - above - below:7.1%} "
            f"{above:9.1%} {below:8.1%} {half:11.1%} {close:11.0%} {np.mean([len(r.probes) for r in results]):7.1f}",
            flush=True,
        )


def md1(count: int) -> None:
    """One server in detail, and a search that max_rps ends."""
    limit_s = 0.4
    for attainment in (0.99, 0.95):
        truth = servers.md1_capacity(SERVICE_S, limit_s, attainment)
        began = time.monotonic()
        results = searches(count, servers.fifo(SERVICE_S), guess(truth), attainment, ttft_limit_s=limit_s)
        say(f"M/D/1, service 40 ms, TTFT <= 0.4 s for {attainment:.0%}", truth, results, time.monotonic() - began)
    spec = CapacitySpec(start_rps=4, max_rps=10)
    results = searches(count // 4, servers.fifo(SERVICE_S), lambda _: spec, 0.99, ttft_limit_s=0.4)
    states = Counter(r.state for r in results)
    print(f"\nmax_rps 10 of a server of 19.3/s: {dict(states)}, at least { {r.low_rps for r in results} }")


def knees(count: int) -> None:
    """Searches whose probe lengths are left to them, of servers that are ten and a hundred times as fast: error, minutes of load."""
    for service_s in (0.4, 0.04, 0.004):
        for attainment in (0.99, 0.95):
            limit_s = 10 * service_s
            truth = servers.md1_capacity(service_s, limit_s, attainment)
            began = time.monotonic()
            results = searches(count, servers.fifo(service_s), guess(truth), attainment, ttft_limit_s=limit_s)
            say(f"M/D/1, service {service_s * 1e3:g} ms, {attainment:.0%}", truth, results, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--only", help="conditions whose name, limit, target and lengths contain this")
    parser.add_argument("--md1", action="store_true", help="one server in detail instead of the table")
    parser.add_argument(
        "--knees", action="store_true", help="servers of 2, 20 and 200 requests/s, probes of their own lengths"
    )
    parser.add_argument("-v", action="store_true", help="print every probe")
    words = parser.parse_args()
    if words.knees:
        knees(words.searches)
    elif words.md1:
        md1(words.searches)
    else:
        coverage(words.searches, words.only)


if __name__ == "__main__":
    main()
