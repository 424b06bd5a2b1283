"""How long a trend over 10,000 runs takes, for few large and many small nights. `python -m tests.bench.bench_history`.

The whole command's wall clock holds Python's start and imports too, and what else the machine does: its CPU time and the load stand beside it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from harness.base import clock
from harness.judge.trends import trends_of
from harness.store import history
from tests.bench.history_nights import many

RUNS, LIMIT_S, TRIES = 10_000, 3.0, 5
LAYOUTS = ((33, 3), (6, 1))  # cells x repetitions of a night


def seconds(call) -> float:
    start = clock.monotonic_ns()
    call()
    return (clock.monotonic_ns() - start) / clock.NS


def bench(cells: int, repetitions: int) -> bool:
    nights = many(RUNS, cells=cells, repetitions=repetitions)
    with tempfile.TemporaryDirectory() as folder:
        times = [seconds(lambda n=n: history.index_campaign(folder, n)) for n in nights]
        files = list(Path(folder, "history").iterdir())
        count = history.sql(folder, "SELECT count(*) FROM runs").rows[0][0]
        size = sum(f.stat().st_size for f in files)
        print(
            f"{count:,} runs as {len(nights):,} campaigns of {cells} cells x {repetitions}: {len(files)} files, {size / 1e6:.1f} MB"
        )
        print(f"  index_campaign: median {median(times) * 1e3:.1f} ms, worst (merging) {max(times):.2f} s")
        asked = [seconds(lambda: history.nights(folder, ["output_tps"])) for _ in range(TRIES)]
        rows = history.nights(folder, ["output_tps"])
        judged = [seconds(lambda: trends_of(rows, ["output_tps"])) for _ in range(TRIES)]
        command = [sys.executable, "-m", "tests.bench.history_command", folder, "--json"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        whole = [seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(TRIES)]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / TRIES
        for name, taken in (("query", asked), ("change points", judged), ("harness history, whole command", whole)):
            print(f"  {name}: median {median(taken):.2f} s of {TRIES}, worst {max(taken):.2f} s")
        print(
            f"  CPU of the whole command: {cpu:.2f} s (load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
        )
    return max(asked) + max(judged) <= LIMIT_S


def main() -> None:
    passed = [bench(*layout) for layout in LAYOUTS]
    print(f"worst query and change points within {LIMIT_S:g} s of wall clock: {sum(passed)} of {len(passed)} layouts")
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
