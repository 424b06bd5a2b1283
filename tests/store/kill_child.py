"""Writes rows until it is killed; says in a log file, which no buffer holds back, what it did when.

Arguments: run directory, log file, seconds between flushes, seconds until finish (0: never). Lines of the log: `row LAST_SEQ AT_NS`
after each two rows, `finish AT_NS` before it finishes (it then stops itself until it is continued), `finished AT_NS`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from store_values import manifest, request, server_sample

from harness.base import clock
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
        os.write(descriptor, f"row {seq - 1} {clock.monotonic_ns()}\n".encode())
        clock.sleep(0.01)
    os.write(descriptor, f"finish {clock.monotonic_ns()}\n".encode())
    os.kill(os.getpid(), signal.SIGSTOP)
    began_ns = clock.monotonic_ns()
    writer.finish("complete")
    os.write(descriptor, f"finished {clock.monotonic_ns() - began_ns}\n".encode())
    signal.pause()


main(*sys.argv[1:])
