"""How long the cost model takes: the joint Monte Carlo by draws, and `harness cost decide` from the shell. `python -m tests.bench.bench_cost`."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from harness.base import clock
from harness.planner.uncertainty import Assumption, Case, outlook

CASE = Case(
    demand_rps=25.0, capacity_rps=32.26, replica_usd_per_hour=3.49, hosted_usd_per_request=6.14e-5, headroom=0.7,
    fixed_usd_per_hour=8.93, spares=1.0, shape=tuple(0.5 + n / 24 for n in range(24)),
)  # fmt: skip
NAMES = ("demand_rps", "capacity_rps", "replica_usd_per_hour", "hosted_usd_per_request", "fixed_usd_per_hour")
RANGES = [Assumption(name, 0.5 * getattr(CASE, name), getattr(CASE, name), 1.5 * getattr(CASE, name)) for name in NAMES]


def seconds(call) -> float:
    start = clock.monotonic_ns()
    call()
    return (clock.monotonic_ns() - start) / clock.NS


def main() -> None:
    for draws in (10_000, 100_000):
        times = [seconds(lambda draws=draws: outlook(CASE, RANGES, draws=draws)) for _ in range(5)]
        print(f"Monte Carlo, {draws:,} joint draws, 5 assumptions, 24 steps, 21 volumes: median {median(times):.3f} s of 5, worst {max(times):.3f} s")  # fmt: skip
    for words in (["--help"], ["cost", "decide", "startup-chat"], ["cost", "scenario", "seed-chat"]):
        command = [sys.executable, "-m", "harness", *words]
        times = [seconds(lambda c=command: subprocess.run(c, check=True, stdout=subprocess.DEVNULL)) for _ in range(5)]
        print(f"harness {' '.join(words)}: median {median(times):.2f} s of 5, worst {max(times):.2f} s")


if __name__ == "__main__":
    main()
