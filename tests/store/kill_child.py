"""Writes rows until it is killed; says in a log file, which no buffer holds back, which row it added when.

Arguments: run directory, log file, seconds between flushes, seconds until finish (0: never).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from store_values import manifest, request, server_sample

from harness import clock
from harness.store.writer import RunWriter


def main(run_dir: str, log: str, interval_s: str, finish_after_s: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writer = RunWriter.create(Path(run_dir), manifest(), flush_interval_s=float(interval_s))
    end_ns = clock.monotonic_ns() + int(float(finish_after_s) * 1e9)
    seq = 0
    while float(finish_after_s) == 0 or clock.monotonic_ns() < end_ns:
        writer.add("requests", [request(seq), request(seq + 1)])
        writer.add("server", [server_sample(seq)])
        seq += 2
        os.write(descriptor, f"{seq - 1} {clock.monotonic_ns()}\n".encode())
        clock.sleep(0.01)
    writer.finish("complete")
    clock.sleep(60)


main(*sys.argv[1:])
