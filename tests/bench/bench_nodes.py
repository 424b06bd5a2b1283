"""Load from many nodes beside one process in the same minute: errors against a server that knows the truth, the parent's CPU, the start of a run.

`python -m tests.bench.bench_nodes [--rates 20000,80000] [--nodes 3]` as root: a real Ray cluster in namespaces of this machine (tests/cluster/nodes.py),
so that nodes, server and parent share its cores. Prints a table and writes it as JSON with `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.files import cache_dir, write_whole
from harness.measure.drive.golden.server import GoldenProcess, build
from harness.measure.drive.golden.truth import compare
from harness.records import PlannedRequest
from tests.cluster.nodes import Cluster, alone, why_not
from tests.drive.offering import offer

GAP_S = 0.02  # between a stream's tokens
TOKENS = 150


def from_nodes(cluster: Cluster, streams: int, nodes: int) -> dict[str, Any]:
    asked = {
        "on": cluster.address, "host": cluster.ip(1), "nodes": nodes, "workers": 1, "streams": streams, "tokens": TOKENS,
        "ttft_s": GAP_S, "itl_s": GAP_S,
    }  # fmt: skip
    words = [sys.executable, "-m", "tests.cluster.inside", json.dumps(asked)]
    done = subprocess.run(
        cluster.inside(1, words), env=cluster.environment(1), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def from_one(streams: int) -> dict[str, Any]:
    """The same from this process with one worker, over loopback."""
    plan = [PlannedRequest(i, None, 16, TOKENS, None, i) for i in range(streams)]
    with (
        tempfile.TemporaryDirectory() as folder,
        GoldenProcess(build(cache_dir("golden")), GAP_S, GAP_S, Path(folder)) as server,
    ):
        began, cpu_s = clock.monotonic_ns(), clock.process_cpu_s()
        rows, report = offer(server.url, len(plan), concurrency=streams, tokens=TOKENS, workers=1)
        used_s, took_s = clock.process_cpu_s() - cpu_s, (clock.monotonic_ns() - began) / 1e9
        truth = compare(rows, server.stop(), server, TOKENS)
    return {
        "rows": len(rows), "whole": truth.whole, "tokens_per_s": truth.tokens_per_s, "ttft_error_p99_s": truth.ttft_error_p99_s,
        "itl_error_p99_s": truth.itl_error_p99_s, "merged_share": truth.merged_reads / max(1, truth.reads),
        "server_late_p99_s": truth.server_late_p99_s, "drive_cpu_share": used_s / took_s,
        "start_s": (report.started_ns - began) / 1e9,
    }  # fmt: skip


def _line(name: str, streams: int, one: dict[str, Any]) -> str:
    return (
        f"{name:<12} {streams:>7,} {one['tokens_per_s']:>10,.0f} {one['whole']:>7,}/{one['rows']:<7,}"
        f"{one['ttft_error_p99_s'] * 1e3:>10.3f} {one['itl_error_p99_s'] * 1e3:>10.3f} {one['merged_share']:>8.2%}"
        f"{one['server_late_p99_s'] * 1e3:>10.3f} {one['drive_cpu_share']:>8.1%} {one['start_s']:>7.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="20000,80000", help="tokens a second in all")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    if (reason := why_not()) is not None:
        raise SystemExit(reason)
    found = []
    print(
        f"{os.cpu_count()} cores for {words.nodes} nodes, the server and the parent; load average {os.getloadavg()[0]:.1f}"
    )
    print(
        "from         streams   tokens/s    whole/rows  TTFT p99 ms  ITL p99 ms  merged  late p99  parent  start s",
        flush=True,
    )
    with alone(), Cluster(words.nodes + 1) as cluster:
        from_nodes(cluster, 10, words.nodes)  # a warm cluster
        for rate in map(int, words.rates.split(",")):
            streams = round(rate * GAP_S)
            for name, run in (("nodes", lambda s: from_nodes(cluster, s, words.nodes)), ("one process", from_one)):
                one = run(streams) | {"from": name, "streams": streams}
                one.pop("arrived_s", None)
                found.append(one)
                print(_line(name, streams, one), flush=True)
    if words.out is not None:
        write_whole(words.out, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
