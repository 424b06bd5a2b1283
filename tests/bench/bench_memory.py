"""`python -m tests.bench.bench_memory [--requests 1000000]`: resident size over a long run of short requests, and what kill -9 loses.

The command runs in a child: closed loop against the C golden server, rows parsed and stored as in `harness run`. Every few
seconds the resident size of the child and its worker is printed. With --kill-after S the child is killed S seconds
after its start, what its spool holds is recovered, and the end stamps on disk say how many seconds before the kill the last row was.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from harness.base import clock
from harness.measure.drive import driver
from harness.measure.drive.golden import server as golden
from harness.measure.job import Job
from harness.measure.recover import recover
from harness.records import Endpoint, Load, Phase, Plan, PlannedRequest, Prompt, RunState, Timeouts
from harness.store.parts import list_parts
from harness.store.writer import RunWriter
from tests.bench.bench_driver import manifest
from tests.drive.offering import Watching

PROMPT = Prompt(0, None, tuple(range(16)))


def child(url: str, run_dir: Path, requests: int, tokens: int, concurrency: int) -> None:
    load = Load(concurrency=concurrency)
    plan = [PlannedRequest(i, None, 16, tokens, None, i) for i in range(requests)]
    writer = RunWriter.create(run_dir, manifest(load))
    writer.write_plan(Plan(tuple(plan), (), load, "bench", 0, ""))
    scratch = run_dir / "scratch"
    scratch.mkdir()
    report = driver.drive(
        Job(plan, itertools.repeat(PROMPT, requests), load, Phase.MEASURE, "bench", scratch),
        Watching(
            lambda rows: writer.add("requests", rows),
            lambda p: print(f"progress {p.done} {p.failed} {p.elapsed_s:.1f}", flush=True),
        ),
        Endpoint(url, golden.MODEL, "completions", vllm_extensions=True),
        driver="wire",
        workers=1,
        timeouts=Timeouts(),
    )
    writer.finish(RunState.COMPLETE)
    print(f"report {report.cpu_s:.1f} {report.parse_cpu_s:.1f} {report.merged_reads} {report.reads}", flush=True)


def resident_mib(pid: int) -> list[float]:
    me = psutil.Process(pid)
    return [p.memory_info().rss / 2**20 for p in (me, *me.children(recursive=True))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--kill-after", type=float, metavar="SECONDS")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        child(a.child[0], Path(a.child[1]), a.requests, a.tokens, a.concurrency)
        return
    with (
        tempfile.TemporaryDirectory() as name,
        golden.GoldenProcess(golden.build(Path(name)), 0.002, 0.001, Path(name)) as server,
    ):
        run_dir = Path(name) / "run"
        words = [sys.executable, "-m", "tests.bench.bench_memory", "--child", server.url, str(run_dir)]
        words += ["--requests", str(a.requests), "--tokens", str(a.tokens), "--concurrency", str(a.concurrency)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
            killed_ns = watch(run, a.kill_after)
        if killed_ns is not None:
            lost(run_dir, killed_ns)


def watch(run: subprocess.Popen[str], kill_after_s: float | None) -> int | None:
    """Print sizes until the run ends, or kill it; when it was killed."""
    assert run.stdout is not None
    peak, next_ns = 0.0, 0
    for line in run.stdout:
        word, *values = line.split()
        if word == "report":
            print(f"worker CPU {values[0]} s, parsing {values[1]} s, merged reads {values[2]} of {values[3]}")
            continue
        sizes = resident_mib(run.pid)
        peak = max(peak, sum(sizes))
        if clock.monotonic_ns() >= next_ns:
            next_ns = clock.monotonic_ns() + 5 * clock.NS
            parts = " + ".join(f"{size:.0f}" for size in sizes)
            print(f"{values[2]:>7} s  {int(values[0]):>9,} rows, {values[1]} failed  resident {sum(sizes):.0f} MiB ({parts})  load {os.getloadavg()[0]:.2f}", flush=True)  # fmt: skip
        if kill_after_s is not None and float(values[2]) >= kill_after_s:
            killed_ns = clock.monotonic_ns()
            run.send_signal(signal.SIGKILL)
            return killed_ns
    print(f"peak {peak:.0f} MiB")
    return None


def lost(run_dir: Path, killed_ns: int) -> None:
    """How old the newest row on disk was when the command was killed, before and after the spool was read."""
    _newest(run_dir, killed_ns, "killed")
    began = clock.monotonic_ns()
    done = recover(run_dir)
    _newest(run_dir, killed_ns, f"recovered {done.rows:,} rows in {(clock.monotonic_ns() - began) / 1e9:.1f} s")


def _newest(run_dir: Path, killed_ns: int, what: str) -> None:
    parts = list_parts(run_dir, "requests")
    ended = [n for part in parts for n in pq.ParquetFile(part).read(["ended_ns"])["ended_ns"].to_pylist()]
    print(
        f"{what}: {len(ended):,} rows are on disk, the newest ended {(killed_ns - max(ended)) / 1e9:.3f} s before the kill"
    )


if __name__ == "__main__":
    main()
