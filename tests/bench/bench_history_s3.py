"""How long a trend over 100,000 runs takes where the history is in S3 (moto's server over HTTP), without and with what was fetched before.

`python -m tests.bench.bench_history_s3 [RUNS]`. The index is laid out as `index_campaign` leaves it: a file for each month that is over,
one a night in the newest. Every column of every row holds a number of its own, so a file is as large as it would be. Then nights are
added through S3 and asked for again. Requests are counted in the server's log.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from harness.base import clock
from harness.cli.history import history_group
from harness.judge.trends import trends_of
from harness.store import history, history_files
from harness.store.history_columns import row_of, runs_schema
from harness.store.root import open_root
from tests.bench.history_nights import FIRST, night_id, summary
from tests.elsewhere.s3_server import S3Server, s3_server

CELLS, REPETITIONS, NIGHTS_ADDED = 33, 3, 5
WARM_S, COLD_S, TRIES = 3.0, 15.0, 5


def seconds(call: Callable[[], Any]) -> float:
    start = clock.monotonic_ns()
    call()
    return (clock.monotonic_ns() - start) / clock.NS


def rows_of_nights(nights: range, chance: np.random.Generator) -> Any:
    """A pyarrow.Table of `runs`: every cell of each night, three repetitions, each metric a number of its own."""
    template = row_of(summary(0, tps=1.0), FIRST)
    a_night = CELLS * REPETITIONS
    total = len(nights) * a_night
    night_of = np.repeat(np.array(nights), a_night)
    cell = np.tile(np.repeat(np.arange(CELLS), REPETITIONS), len(nights))
    created = [(FIRST + timedelta(days=int(n))).replace(tzinfo=None) for n in night_of]
    ids = [night_id(int(n)) for n in night_of]
    own: dict[str, list[Any]] = {
        "run_id": [f"{i}_a_fixed-128x32_c{c + 1}_rep{k % REPETITIONS + 1}" for k, (i, c) in enumerate(zip(ids, cell, strict=True))],
        "campaign_id": ids, "created_utc": created, "indexed_utc": created, "load": [f"c{c + 1}" for c in cell],
        "concurrency": [int(c) + 1 for c in cell], "repetition": [k % REPETITIONS + 1 for k in range(total)],
    }  # fmt: skip
    columns = []
    for f in runs_schema():
        if f.name in own:
            columns.append(pa.array(own[f.name], f.type))
        elif f.name == "output_tps":
            columns.append(pa.array(100.0 * (cell + 1) * np.exp(0.01 * chance.standard_normal(total))))
        elif pa.types.is_floating(f.type):
            columns.append(pa.array(chance.lognormal(size=total)))
        elif f.name.endswith("_count"):
            columns.append(pa.array(chance.integers(9_000, 11_000, total), f.type))
        else:
            columns.append(pa.array([template[f.name]] * total, f.type))
    return pa.Table.from_arrays(columns, schema=runs_schema())


def fill(url: str, runs: int) -> int:
    """The nights' files; how many nights there are."""
    root, chance = open_root(url), np.random.default_rng(1)
    total = -(-runs // (CELLS * REPETITIONS))
    months: dict[str, list[int]] = {}
    for night in range(total):
        months.setdefault(f"month={FIRST + timedelta(days=night):%Y-%m}", []).append(night)
    for month, nights in months.items():
        whole = [range(nights[0], nights[-1] + 1)]
        for part in [range(n, n + 1) for n in nights] if month == max(months) else whole:
            history_files.write(root, rows_of_nights(part, chance), month, night_id(part[0]))
    return total


def ask(url: str) -> None:
    """What `harness history` does before it prints."""
    rows = history.nights(url, ["output_tps"])
    trends_of(rows, ["output_tps"])


def tell(name: str, server: S3Server, call: Callable[[], Any]) -> float:
    before, cpu = server.asked(), time.process_time()
    taken = seconds(call)
    cpu = time.process_time() - cpu
    asked: Counter[str] = server.asked() - before
    print(
        f"  {name}: {taken:.2f} s (own CPU {cpu:.2f} s), {', '.join(f'{n} {kind}' for kind, n in sorted(asked.items())) or 'no request'}"
    )
    return taken


def bench(server: S3Server, runs: int) -> bool:
    url = f"{server.make('history-bench')}/nightly"
    total = fill(url, runs)
    files = open_root(url).files(f"{open_root(url).path}/history")
    size = sum(info["size"] for info in files)
    print(
        f"{total * CELLS * REPETITIONS:,} runs, {total:,} nights, {len(runs_schema())} columns: {len(files)} files, {size / 1e6:.1f} MB"
    )
    cold = [tell("cold: nothing fetched before", server, lambda: ask(url))]
    warm = [tell("warm", server, lambda: ask(url)) for _ in range(TRIES)]
    counted = history.sql(url, "SELECT count(*) FROM runs").rows[0][0]
    assert counted == total * CELLS * REPETITIONS, counted
    for extra in range(NIGHTS_ADDED):
        night = [
            summary(total + extra, tps=100.0 * c, repetition=r, target=f"a{c}")
            for c in range(1, CELLS + 1)
            for r in range(1, REPETITIONS + 1)
        ]
        tell("a night added", server, lambda n=night: history.index_campaign(url, n))
    warm.append(tell("warm, after the nights that were added", server, lambda: ask(url)))
    command = lambda: history_group.main([url, "--json"], standalone_mode=False)  # noqa: E731
    with open(os.devnull, "w") as nowhere:
        kept, sys.stdout = sys.stdout, nowhere
        taken = seconds(command)
        sys.stdout = kept
    print(f"  the command, warm: {taken:.2f} s")
    print(
        f"worst cold {max(cold):.2f} s of {COLD_S:g}, median warm {median(warm):.2f} s, worst {max(warm):.2f} s of {WARM_S:g}"
    )
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {datetime.now():%H:%M}")  # noqa: DTZ005
    return max(cold) <= COLD_S and max(warm) <= WARM_S


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(prefix="history-s3-") as cache, s3_server() as server:
        os.environ.update(server.env, XDG_CACHE_HOME=cache)
        sys.exit(not bench(server, runs))


if __name__ == "__main__":
    main()
