"""A hybrid of two real vLLM servers, each slowed: `python -m tests.bench.bench_hybrid [--duration 30] [--keep DIR]`.

Both run the tiny model; before each stands a proxy that lets so many requests through at once, each after a pause (slow_proxy.py): what
limits them is waiting, and not what else this machine does. The own side is reached as a vLLM server, the other as a hosted API, by its
URL. A pilot drives both at once in closed loops; the load is `--load` of what they serve together, and the promise a TTFT from schedule
of `--services` times a request's own time. Prints each side alone and each policy: attainment, hosted share, dollars of invented prices.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from harness import pipeline
from harness.config.experiment import parse_experiment
from harness.config.target import TargetSpec
from harness.judge.runs import analyse
from harness.measure.campaign.intent import Intent
from harness.measure.run import Stop
from harness.measure.targets import Target, open_target
from harness.price.run_cost import price_runs
from harness.store.reader import find_runs, read_run
from tests.bench.slow_proxy import SlowProxy
from tests.campaign.campaign_values import Quiet

POLICIES: dict[str, dict[str, Any]] = {
    "slo": {"rule": "slo"},
    "cost": {"rule": "cost"},
}


def server(name: str, core: int, folder: Path) -> Target:
    """With one thread, bound to a core: two servers whose threads wait for each other on the same cores stop each other for seconds."""
    flags = {"enforce-eager": True, "max-model-len": 2048, "max-num-seqs": 16}
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": str(core)}
    spec = TargetSpec(name=name, kind="vllm", model="embedded:tiny", flags=flags, env=env)
    return open_target(spec, folder / f"{name}.log", lambda _: None)


def targets(own: SlowProxy, api: SlowProxy, model: str) -> list[dict[str, Any]]:
    machine = {"name": "a box", "usd_per_hour": 1.0, "source": "invented", "as_of": "2026-11-01"}
    price = {"provider": "x", "model": "tiny", "input_usd_per_million": 0.1, "output_usd_per_million": 0.4}
    return [
        {"name": "own", "kind": "adopt", "url": own.url, "model": model, "hardware": machine},
        {"name": "api", "kind": "hosted", "url": api.url, "model": model, "price": price},
    ]  # fmt: skip


def measured(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Runs of an experiment, by target."""
    spec = parse_experiment({"order": "as-written", **data}, "bench")
    pipeline.measure_campaign(spec, folder, Quiet(), Stop(), Intent())
    return {run.cell.target: run for run in analyse(folder).summaries}


def pilot(
    folder: Path, workload: str, of: list[dict[str, Any]], slots: tuple[int, int], duration_s: float
) -> list[Any]:
    """Each side in a closed loop at its slots, both at once."""
    found: dict[str, Any] = {}

    def one(target: dict[str, Any], at_once: int) -> None:
        loads = [{"concurrency": [at_once], "duration_s": duration_s}]
        data = {
            "experiment": "pilot",
            "max_usd": 100,
            "targets": [target],
            "workloads": [workload],
            "loads": loads,
            "observe": {"gpu": "off"},
        }
        found.update(measured(folder / target["name"], data))

    threads = [threading.Thread(target=one, args=pair) for pair in zip(of, slots, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found["own"], found["api"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, default=30.0, help="seconds a cell")
    parser.add_argument("--workload", default="fixed:32x8")
    parser.add_argument("--own-slots", type=int, default=8)
    parser.add_argument("--hosted-slots", type=int, default=6)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before each request")
    parser.add_argument("--load", type=float, default=0.7, help="of what both serve together")
    parser.add_argument("--services", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="leave the runs here")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-hybrid-")))
        folder.mkdir(parents=True, exist_ok=True)
        slots = {"own": args.own_slots, "api": args.hosted_slots}
        cores = sorted(os.sched_getaffinity(0))
        theirs = cores[1:] or cores  # the load generator has the first for itself: a late send makes a run INVALID
        os.sched_setaffinity(0, theirs)
        servers = {
            name: stack.enter_context(server(name, theirs[at % len(theirs)], folder)) for at, name in enumerate(slots)
        }
        os.sched_setaffinity(0, cores[:1])
        proxies = [
            stack.enter_context(SlowProxy(servers[name].endpoint.base_url, at_once, args.pause))
            for name, at_once in slots.items()
        ]
        both = targets(*proxies, servers["own"].endpoint.model)
        alone = pilot(folder / "pilot", args.workload, both, (args.own_slots, args.hosted_slots), 12 + 16 * args.pause)
        rates = [float(run.scalars["request_rps"]) for run in alone]
        service_s = max(float(run.distributions["e2el_s"].p50) for run in alone)
        rate_rps, limit_s = round(args.load * sum(rates), 2), round(args.services * service_s, 3)
        print(f"pilot: {rates[0]:.2f} and {rates[1]:.2f} requests/s at once, {service_s:.3f} s a request", flush=True)
        print(
            f"offered {rate_rps:g} requests/s for {args.duration:g} s, promise: TTFT from schedule {limit_s:g} s",
            flush=True,
        )
        hybrids = [
            {"name": name, "kind": "hybrid", "sides": ["own", "api"], "policy": policy}
            for name, policy in POLICIES.items()
        ]
        data = {
            "experiment": "hybrid", "max_usd": 100, "seed": args.seed, "targets": [*both, *hybrids], "workloads": [args.workload],
            "loads": [{"rate": [rate_rps], "duration_s": args.duration}], "slo": {"ttft_from_schedule_s": limit_s},
        }  # fmt: skip
        runs = measured(folder / "hybrid", data)
        costs = {cost.run_id: cost for cost in price_runs(list(runs.values()), allow_invalid=True)}
        tables = {run.manifest.cell.target: run.requests for run in map(read_run, find_runs(folder / "hybrid"))}
        for name, run in runs.items():
            rows = tables[name]
            hosted = (
                (rows[rows.phase == "measure"].served_by == "api").mean()
                if rows.served_by.notna().any()
                else float(name == "api")
            )
            usd = next((line.usd for line in costs[run.run_id].own if line.name == "self_usd_per_1000_requests"), None)
            kept = "unknown" if run.scalars["attainment"] is None else f"{run.scalars['attainment']:.2%}"
            print(f"{name}: attainment {kept}, hosted {hosted:.1%}, $/1,000 requests {usd}, {run.verdict.state} {[r.code for r in run.verdict.reasons]}")  # fmt: skip


if __name__ == "__main__":
    main()
