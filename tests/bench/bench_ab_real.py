"""A/A and A/B on real vLLM servers: `python -m tests.bench.bench_ab_real [--campaigns 5] [--repetitions 10]`.

Three equal servers of an embedded model stay up; one of them is stopped for a known share of the time (SIGSTOP and
SIGCONT, 10 ms at a time), so that it is slower by just that: 10 % by default. Each campaign measures all three in random blocked
order; then `compare` is asked for the same (base against twin: any regression is a false alarm) and the slower (base against
slow: it should be found). Servers that stay up, and cells of a few seconds, keep both sides of a comparison within one minute of
a machine that drifts. Prints one line a campaign and what was found in all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import pipeline
from harness.base import clock
from harness.config.experiment import parse_experiment
from harness.config.target import TargetSpec
from harness.measure.run import Stop
from harness.measure.targets import Target, open_target
from tests.campaign.campaign_values import Quiet

NAMES = ("base", "twin", "slow")
STOP_S = 0.010


def brake(pids: list[int], share: float, over: Any, told: Any) -> None:
    """In a process of its own: stop `pids` for `share` of the time that they run, until `over`; then tell the share that it was.
    0.1 makes everything they do take 10 % longer."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    parent, stopped_ns, began_ns = os.getppid(), 0, clock.monotonic_ns()
    while not over.wait(STOP_S / share) and os.getppid() == parent:
        at = clock.monotonic_ns()
        for what, then_s in ((signal.SIGSTOP, STOP_S), (signal.SIGCONT, 0)):
            for pid in pids:
                os.kill(pid, what)
            clock.sleep(then_s)
        stopped_ns += clock.monotonic_ns() - at
    told.send(stopped_ns / (clock.monotonic_ns() - began_ns - stopped_ns))


def experiment(targets: dict[str, Target], args: argparse.Namespace, seed: int):
    return parse_experiment(
        {
            "experiment": "ab-real",
            "seed": seed,
            "targets": [
                {"name": name, "kind": "adopt", "url": t.endpoint.base_url, "model": t.endpoint.model}
                for name, t in targets.items()
            ],
            "workloads": [args.workload],
            "loads": [{"concurrency": [args.concurrency], "duration_s": args.duration}],
            "repetitions": args.repetitions,
            "warmup_requests": args.concurrency,
        },
        "bench",
    )


def compared(out: Path, name: str) -> tuple[int, list[str]]:
    """Exit code of `harness compare base name` and one text per metric."""
    command = [sys.executable, "-c", "from harness.cli import main; main()", "compare", str(out), "--json"]
    done = subprocess.run(
        [*command, "--base-target", "base", "--new-target", name], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 8):
        raise SystemExit(f"harness compare: exit {done.returncode}\n{done.stderr}")
    texts = [
        f"{e['metric']} {e['change']:+.1%} ({e['corrected_low']:+.1%} .. {e['corrected_high']:+.1%})"
        f" {'paired ' if e['paired'] else ''}{e['verdict']}"
        for e in json.loads(done.stdout)["effects"]
    ]
    return done.returncode, texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--slower", type=float, default=0.10, help="share of more time that the slow server takes")
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--workload", default="fixed:64x16")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--duration", type=float, default=8.0, help="seconds a cell")
    parser.add_argument("--keep", type=Path, help="leave the campaigns here")
    args = parser.parse_args()
    spec = {"kind": "vllm", "model": args.model, "env": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
    spec["flags"] = {"max-model-len": 2048, "max-num-seqs": 16, "enforce-eager": True}
    alarms = found = 0
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-ab-real-")))
        folder.mkdir(parents=True, exist_ok=True)
        targets = {
            name: stack.enter_context(
                open_target(TargetSpec(name=name, **spec), folder / f"{name}.log", lambda text: None)
            )
            for name in NAMES
        }
        assert targets["slow"].server is not None
        pids = [process.pid for process in targets["slow"].server.processes()]
        context = multiprocessing.get_context("fork")
        over, (hear, tell) = context.Event(), context.Pipe(duplex=False)
        context.Process(target=brake, args=(pids, args.slower, over, tell), daemon=True).start()
        stack.callback(over.set)
        for number in range(1, args.campaigns + 1):
            began = clock.monotonic_ns()
            out = folder / f"campaign-{number}"
            pipeline.measure_campaign(experiment(targets, args, number), out, Quiet(), Stop())
            same, same_texts = compared(out, "twin")
            other, other_texts = compared(out, "slow")
            alarms += same == 8
            found += other == 8
            print(
                f"campaign {number} ({(clock.monotonic_ns() - began) / 6e10:.1f} min): equal {'FALSE ALARM' if same else 'no alarm'},"
                f" slower {'found' if other == 8 else 'MISSED'}"
            )
            for name, texts in (("twin", same_texts), ("slow", other_texts)):
                print("\n".join(f"  {name}: {text}" for text in texts), flush=True)
        over.set()
        print(
            f"{args.campaigns} campaigns, {args.repetitions} repetitions: false alarms {alarms}, slow-downs of {hear.recv():.1%} found {found}"
        )


if __name__ == "__main__":
    main()
