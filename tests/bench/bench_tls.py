"""`python -m tests.bench.bench_tls`: 5,000 tokens a second over 200 TLS streams, each stamp held against when the server wrote it.

The server is the golden one in Python, in a process of its own, with TLS by a CA made here: it knows when it began to write each token
and when the write was done. In between lie its encryption and its send call: that part of an error is the server's, and is printed
beside it. The same load without TLS stands below.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness.measure.drive.driver import drive
from harness.measure.job import Job
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt, RequestRecord, Timeouts
from tests.drive.offering import Watching
from tests.fakes.certificates import certificate, server_context
from tests.fakes.golden_server import GoldenServer

GOAL_S = 0.0005


def serve(folder: Path, itl_s: float, *, tls: bool) -> None:
    """Until standard input ends; then what was sent when goes into a file."""
    context = server_context(folder / "cert.pem", folder / "key.pem") if tls else None
    with GoldenServer(0.05, itl_s, tls=context) as server:
        print(server.url, flush=True)
        sys.stdin.read()
        log = {name: (served.send_ns, served.written_ns) for name, served in server.log.items()}
    (folder / "log.json").write_text(json.dumps(log))


def measure(folder: Path, streams: int, tokens: int, rounds: int, rate: float, *, tls: bool) -> None:
    words = [sys.executable, "-m", "tests.bench.bench_tls", "--serve", str(folder), "--itl-s", str(streams / rate)]
    server = subprocess.Popen(
        words + (["--tls"] if tls else []), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    url = server.stdout.readline().strip()
    plan = [PlannedRequest(i, None, 16, tokens, None, i) for i in range(streams * rounds)]
    rows: list[RequestRecord] = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        report = drive(
            Job(plan, (Prompt(i, None, tuple(range(16))) for i in range(len(plan))), Load(concurrency=streams),
                Phase.MEASURE, "bench", Path(scratch)),
            Watching(rows.extend),
            Endpoint(url, "golden", "completions", vllm_extensions=True, ca_file=str(folder / "cert.pem") if tls else None),
            driver="wire", workers=1, timeouts=Timeouts(),
        )  # fmt: skip
    server.stdin.close()
    server.wait()
    show(rows, json.loads((folder / "log.json").read_text()), report, tls=tls)


def show(rows: list[RequestRecord], log: dict, report, *, tls: bool) -> None:
    whole = [row for row in rows if row.outcome == "ok" and len(row.chunk_ns) == len(log[row.request_id][0])]
    stamps, begun, done = (
        np.concatenate([np.array(values, np.int64) for values in columns])
        for columns in zip(*((row.chunk_ns, *log[row.request_id]) for row in whole), strict=True)
    )
    outside = np.maximum(np.maximum(begun - stamps, stamps - done), 0) / 1e6
    errors, writes = (stamps - begun) / 1e6, (done - begun) / 1e6
    seconds = (stamps.max() - stamps.min()) / 1e9
    p99 = np.percentile(np.abs(errors), 99)
    print(
        f"{'TLS' if tls else 'plain'}: {len(stamps) / seconds:,.0f} tok/s, {len(whole)}/{len(rows)} replies whole"
        f" | stamp - begin of the server's write p50 {np.percentile(errors, 50):.3f} p99 {p99:.3f} max {errors.max():.3f} ms"
        f" ({'within' if p99 <= GOAL_S * 1e3 else 'BEYOND'} {GOAL_S * 1e3:g} ms)"
        f" | of that the server's own write p50 {np.percentile(writes, 50):.3f} p99 {np.percentile(writes, 99):.3f} ms"
        f" | outside the write p99 {np.percentile(outside, 99):.3f} ms"
        f" | merged {report.merged_reads}/{report.reads}, {report.stamp_source} stamps"
        f" | hot {report.cpu_s / len(stamps) * 1e6:.1f} us/token | load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=float, default=5000.0, help="tokens a second over all streams")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--itl-s", type=float, default=0.04, help=argparse.SUPPRESS)
    parser.add_argument("--tls", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        serve(a.serve, a.itl_s, tls=a.tls)
        return
    with tempfile.TemporaryDirectory() as name:
        certificate(Path(name))
        for tls in (True, False):
            measure(Path(name), a.streams, a.tokens, a.rounds, a.rate, tls=tls)


if __name__ == "__main__":
    main()
