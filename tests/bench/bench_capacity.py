"""Capacity search against simulated servers: `python -m tests.bench.bench_capacity [SEEDS]`.

For each server: share of searches within 3 % of the truth, coverage of the interval, probes used, simulated seconds.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from harness.capacity import search_capacity
from harness.config import CapacitySpec
from harness.records import CapacityResult
from tests.analyse import capacity_server as servers


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


def measured_truth(
    server: servers.Server, around: float, attainment: float, ttft_limit_s: float, tpot_limit_s: float
) -> float:
    """By long simulation: attainment of 400,000 requests at nine rates, log-odds interpolated."""
    rates = around * np.linspace(0.9, 1.1, 9)
    odds = []
    for k, rate in enumerate(rates):
        arrivals = np.cumsum(np.random.default_rng((99, k)).exponential(1 / rate, 400_000))
        ttft, _, tpot = server(arrivals)
        good = ((ttft <= ttft_limit_s) & (tpot <= tpot_limit_s))[4000:].mean()
        odds.append(np.log((1 - good + 1e-7) / (good + 1e-7)))
    assert odds[0] < np.log((1 - attainment) / attainment) < odds[-1], "the truth lies outside the rates simulated"
    return float(np.interp(np.log((1 - attainment) / attainment), odds, rates))


def guess(truth: float, **words: object) -> Callable[[np.random.Generator], CapacitySpec]:
    """A first guess off by a factor of up to 4 either way."""
    return lambda rng: CapacitySpec.model_validate({"start_rps": truth * 4 ** rng.uniform(-1, 1), **words})


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    count = numbers[0] if numbers else 200
    service_s, limit_s = 0.04, 0.4
    for attainment in (0.99, 0.95):
        truth = servers.md1_capacity(service_s, limit_s, attainment)
        began = time.monotonic()
        results = searches(count, servers.fifo(service_s), guess(truth), attainment, ttft_limit_s=limit_s)
        say(f"M/D/1, service 40 ms, TTFT <= 0.4 s for {attainment:.0%}", truth, results, time.monotonic() - began)
    for limit_s in (0.2, 0.8):
        truth = servers.md1_capacity(service_s, limit_s, 0.99)
        began = time.monotonic()
        results = searches(count // 4, servers.fifo(service_s), guess(truth), 0.99, ttft_limit_s=limit_s)
        say(f"M/D/1, service 40 ms, TTFT <= {limit_s:g} s for 99%", truth, results, time.monotonic() - began)
    server, limits = servers.batching(0.02, 0.002, 16), {"ttft_limit_s": 0.5, "tpot_limit_s": 0.05}
    truth = measured_truth(server, 5.9, 0.99, **limits)
    began = time.monotonic()
    results = searches(count // 10, server, guess(truth), 0.99, **limits)
    say(
        "batching, a step 20 ms + 2 ms a request, at most 16, TTFT <= 0.5 s and TPOT <= 50 ms for 99%",
        truth,
        results,
        time.monotonic() - began,
    )
    began = time.monotonic()
    spec = CapacitySpec(start_rps=4, max_rps=10)
    results = searches(count // 4, servers.fifo(service_s), lambda _: spec, 0.99, ttft_limit_s=0.4)
    states = Counter(r.state for r in results)
    low = {r.low_rps for r in results}
    print(
        f"\nmax_rps 10 of a server of 19.3/s: {dict(states)}, at least {low}, probes { {len(r.probes) for r in results} }, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
