"""`python -m tests.bench.bench_driver`: the wire driver beside the C floor client, against the C golden server.

Prints one line per case: rate and its ratio to the floor's, stamp minus the server's own send, TTFT and ITL error,
merged reads, CPU per token of the worker and of the whole command (rows parsed and stored as Parquet), and beside them
what was not the client's doing: how late the server was by its own log, how long the worker waited for a core. The server
has the first core, with real-time priority where the system allows it; worker and floor have the others and the same
priority; the floor runs before and after.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from genai_prices.types import ModelPrice

from harness.base import clock
from harness.config.price_ref import PriceRef
from harness.measure.drive import cc, driver, scheduling, shard
from harness.measure.drive.golden import server as golden
from harness.measure.drive.golden.truth import Comparison, compare
from harness.measure.drive.request_head import request_head
from harness.measure.gate import Gate
from harness.measure.job import Job
from harness.measure.spend import Budget, Lease, SpendGate
from harness.price.hosted import HostedPrice
from harness.price.ledger import Ledger
from harness.price.request_price import RequestPrice
from harness.records import (
    Cell,
    DriveProgress,
    DriveReport,
    Endpoint,
    Load,
    Manifest,
    Phase,
    PlannedRequest,
    Prompt,
    RequestRecord,
    RunState,
    Timeouts,
)
from harness.store.writer import RunWriter
from tests import shards
from tests.drive.offering import Watching

ROOT = Path(__file__).resolve().parents[2]
ITL_S = TTFT_S = 0.02
ACCOUNTED_TURNS = 4  # of each kind
REALTIME = False  # set by --realtime
PROMPT = Prompt(0, None, tuple(range(16)))


@dataclass
class Offered:
    """One case as it was measured; `cpu_s` of this process, parsing and Parquet included."""

    rows: list[RequestRecord]
    report: DriveReport
    cpu_s: float
    seen: Comparison


def manifest(load: Load) -> Manifest:
    cell = Cell("golden", "bench", load, 1)
    return Manifest(
        1, "bench", "bench", "bench", cell, RunState.RUNNING, clock.utc_now().isoformat(), 0, 0, "", {}, "", "", 0, {}, {}, {}, {}, {}, None
    )  # fmt: skip


def offer(
    folder: Path,
    requests: list[PlannedRequest],
    load: Load,
    workers: int,
    ttft_s: float = TTFT_S,
    itl_s: float = ITL_S,
    gate: Gate | None = None,
) -> Offered:
    rows: list[RequestRecord] = []
    tokens = requests[0].target_output_tokens
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        golden.GoldenProcess(golden.build(folder), ttft_s, itl_s, folder) as server,
    ):
        writer = RunWriter.create(Path(name) / "run", manifest(load))

        def take(batch: list[RequestRecord]) -> None:
            rows.extend(batch)
            writer.add("requests", batch)

        def begin(progress: DriveProgress) -> None:
            if not progress.elapsed_s:  # before the first send
                place(c.pid for c in psutil.Process().children() if c.pid != server.pid)

        cpu = clock.process_cpu_s()
        report = driver.drive(
            Job(requests, (PROMPT for _ in requests), load, Phase.MEASURE, "bench", Path(name), gate=gate),
            Watching(take, begin),
            Endpoint(server.url, golden.MODEL, "completions", vllm_extensions=True),
            driver="wire",
            workers=workers,
            timeouts=Timeouts(),
        )
        writer.finish(RunState.COMPLETE)
        cpu = clock.process_cpu_s() - cpu
        return Offered(rows, report, cpu, compare(rows, server.stop(), server, tokens))


def floor(folder: Path, streams: int, requests: int, tokens: int) -> tuple[float, float]:
    """Tokens per second and CPU seconds per token of the C client, for the same requests."""
    plan = [PlannedRequest(0, None, 16, tokens, None, 0)]
    with golden.GoldenProcess(golden.build(folder), TTFT_S, ITL_S, folder) as server:
        end = Endpoint(server.url, golden.MODEL, "completions", vllm_extensions=True)
        shards.write(plan, [PROMPT], [0], 1, end, "floor", folder)
        (folder / "request").write_bytes(request_head(end) + shard.Shard(folder, 0).piece(0))
        words = [str(folder / "floor_client"), str(server.port), str(streams), str(requests), str(folder / "request")]
        out = subprocess.run(words, capture_output=True, text=True, check=True, preexec_fn=beside)
    ended, _, seconds, cpu_s = out.stdout.split()
    total = int(ended) * tokens
    return total / float(seconds), float(cpu_s) / total


def place(pids: Iterable[int]) -> None:
    """Off the server's core and, with --realtime, before everything else on the machine: what then is wrong is ours."""
    for pid in pids:
        golden.keep_off([pid])
        if REALTIME:
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(5))


def beside() -> None:
    """The floor runs as a worker does."""
    scheduling.ask_priority()
    place([0])


def show_streams(name: str, offered: Offered, floors: list[tuple[float, float]]) -> None:
    seen, report = offered.seen, offered.report
    hot = report.cpu_s / seen.tokens * 1e6
    ratio = cpu = ""
    if floors:
        rate, floor_cpu = (sum(values) / len(floors) for values in zip(*floors, strict=True))
        ratio = f" {seen.tokens_per_s / rate:.2%} of floor |"
        cpu = f" = {hot / floor_cpu / 1e6:.2f} x floor ({floor_cpu * 1e6:.2f})"
    print(
        f"{name:24} {seen.tokens_per_s:9,.0f} tok/s |{ratio} {seen.whole}/{seen.requests} replies whole"
        f" | stamp-send p50 {seen.lag_p50_s * 1e6:.1f} p99 {seen.lag_p99_s * 1e6:.1f} us"
        f" | TTFT err p99 {seen.ttft_error_p99_s * 1e3:.4f} ITL err p99 {seen.itl_error_p99_s * 1e3:.4f} ms"
        f" | merged {seen.merged_reads}/{seen.reads} | hot {hot:.2f} us/token{cpu},"
        f" whole {hot + offered.cpu_s / seen.tokens * 1e6:.2f} (parsing {report.parse_cpu_s / seen.tokens * 1e6:.2f})"
        f" | lag max {report.loop_lag_max_s * 1e3:.1f} ms"
        f" | server late p99 {seen.server_late_p99_s * 1e3:.2f} max {seen.server_late_max_s * 1e3:.1f} ms"
        f" | {'; '.join(note for note in report.notes if note.startswith('worker'))} | load {os.getloadavg()[0]:.2f}",
        flush=True,
    )


def waves(folder: Path, streams: int, tokens: int, rounds: int, workers: int) -> None:
    plan = [PlannedRequest(i, None, 16, tokens, None, i) for i in range(streams * rounds)]
    floors = [floor(folder, streams, len(plan), tokens)]
    offered = offer(folder, plan, Load(concurrency=streams), workers)
    floors.append(floor(folder, streams, len(plan), tokens))
    show_streams(f"waves {streams} x 20 ms", offered, floors)


def poisson(folder: Path, streams: int, tokens: int, seconds: float, workers: int) -> None:
    """Arrivals so that about `streams` are open at once."""
    rate = streams / (TTFT_S + ITL_S * (tokens - 1))
    draw, at, plan = random.Random(1), 0.0, []
    while (at := at + draw.expovariate(rate)) < seconds:
        plan.append(PlannedRequest(len(plan), round(at * 1e9), 16, tokens, None, 0))
    show_streams(f"Poisson ~{streams} x 20 ms", offer(folder, plan, Load(rate_rps=rate), workers), [])


def paced(folder: Path, rate: float, tokens: int, seconds: float, workers: int) -> None:
    n = round(rate * seconds)
    plan = [PlannedRequest(i, round(i * 1e9 / rate), 16, tokens, None, 0) for i in range(n)]
    offered = offer(folder, plan, Load(rate_rps=rate, arrivals="constant"), workers)
    rows = sorted((row for row in offered.rows if row.sent_ns is not None), key=lambda row: row.scheduled_ns)
    lag = np.array([(row.sent_ns - row.scheduled_ns) / 1e6 for row in rows])
    achieved = offered.seen.requests_per_s
    tenth = max(1, len(lag) // 10)
    drift = np.median(lag[-tenth:]) - np.median(lag[:tenth])
    ok = sum(row.outcome == "ok" for row in offered.rows)
    dropped = sum(row.outcome == "dropped" for row in offered.rows)
    p50, p99, top = np.percentile(lag, (50, 99, 100))
    print(
        f"open {rate:.0f}/s x {tokens} tokens      achieved {achieved:.1f}/s ({achieved / rate - 1:+.2%}) | send lag p50 {p50:.3f} p99 {p99:.3f}"
        f" max {top:.1f} ms | drift {drift:+.3f} ms in {seconds:.0f} s | ok {ok}/{n} dropped {dropped} | late {offered.report.late_sends}"
        f" | load {os.getloadavg()[0]:.2f}",
        flush=True,
    )


def accounted(folder: Path, streams: int, tokens: int, rounds: int, workers: int) -> None:
    """The same load without and with a cap's gate and ledger, by turns: hot path's CPU and stamps, and their ratio."""
    price = HostedPrice("acme/golden", ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(4)), {}, None)
    hot: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * ACCOUNTED_TURNS):
        capped = turn % 4 in (1, 2)  # without, with, with, without: a machine that drifts favours neither
        gate, ledger = None, Ledger(folder / f"key-{turn}.jsonl")
        if capped:
            lease = Lease(Budget("bench", {"run": Decimal(1000)}, {"k": ledger}), "k", "bench")
            gate = SpendGate(lease, RequestPrice(PriceRef(provider="acme", model="golden"), (price,)), streams)
        plan = [PlannedRequest(i, None, 16, tokens, None, i) for i in range(streams * rounds)]
        offered = offer(folder, plan, Load(concurrency=streams), workers, gate=gate)
        ledger.close()
        hot[capped].append(offered.report.cpu_s / offered.seen.tokens * 1e6)
        show_streams(f"{streams} streams{', capped' if capped else ''}", offered, [])
        if gate is not None:
            print(f"  {gate.words}")
    without, with_cap = (median(hot[capped]) for capped in (False, True))
    print(
        f"{streams} streams: hot path {without:.3f} us/token without, {with_cap:.3f} with a cap: ratio {with_cap / without:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="*", default=[400, 1600, 3200])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", choices=["waves", "poisson", "open", "capped"])
    parser.add_argument(
        "--realtime", action="store_true", help="worker and floor before all else: a busy machine, made quiet"
    )
    a = parser.parse_args()
    global REALTIME  # noqa: PLW0603
    REALTIME = a.realtime
    with suppress(ImportError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cc.compile_c(ROOT / "tests/bench/floor_client.c", folder / "floor_client")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}, {a.workers} worker(s)", flush=True)
        if a.only in (None, "waves"):
            for streams in a.streams:
                waves(folder, streams, a.tokens, a.rounds, a.workers)
        if a.only in (None, "poisson"):
            for streams in a.streams:
                poisson(folder, streams, a.tokens, 6, a.workers)
        if a.only in (None, "capped"):
            accounted(folder, a.streams[0], a.tokens, a.rounds, a.workers)
        if a.only in (None, "open"):
            paced(folder, 500, 8, 12, a.workers)
            paced(folder, 2000, 8, 5, a.workers)


if __name__ == "__main__":
    main()
