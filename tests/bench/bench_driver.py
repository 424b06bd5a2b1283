"""`python -m tests.bench.bench_driver`: the wire driver beside the C floor client, against the C golden server.

Prints one line per case: rate and its ratio to the floor's, stamp minus the server's own send, TTFT and ITL error,
merged reads, CPU per token. The server runs on core 0, with real-time priority where the system allows it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness import clock
from harness.drive import driver, shard
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt, RequestRecord, Timeouts

ROOT = Path(__file__).resolve().parents[2]
ITL_S = TTFT_S = 0.02
PROMPT = Prompt(0, None, tuple(range(16)))


def build(folder: Path) -> None:
    for source in ("tests/fakes/golden_server.c", "tests/bench/floor_client.c"):
        path = ROOT / source
        subprocess.run(["gcc", "-O2", "-o", str(folder / path.stem), str(path)], check=True)


class Golden:
    """The running C server; `truth` is its log after `stop`: request id -> (received_ns, send times)."""

    def __init__(self, folder: Path) -> None:
        self.log_path = folder / "golden.log"
        words = [str(folder / "golden_server"), str(round(TTFT_S * 1e6)), str(round(ITL_S * 1e6)), str(self.log_path)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=self._own_core)  # noqa: PLW1509 - no threads here
        self.port = int(self.process.stdout.readline())

    @staticmethod
    def _own_core() -> None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))

    def stop(self) -> dict[str, tuple[int, np.ndarray]]:
        self.process.terminate()
        self.process.wait()
        words = np.fromfile(self.log_path, np.int64)
        truth, at = {}, 0
        while at < len(words):
            name = words[at : at + 8].tobytes().rstrip(b"\0").decode()
            received, n = int(words[at + 8]), int(words[at + 9])
            truth[name] = (received, words[at + 10 : at + 10 + n])
            at += 10 + n
        return truth


@contextmanager
def golden(folder: Path):
    server = Golden(folder)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@dataclass
class Seen:
    """Rows as they came, made small."""

    rows: list[tuple[str, str, int | None, int | None, np.ndarray]] = field(default_factory=list)
    merged: int = 0
    reads: int = 0

    def take(self, batch: list[RequestRecord]) -> None:
        for r in batch:
            self.rows.append((r.request_id, r.outcome, r.scheduled_ns, r.sent_ns, np.array(r.chunk_ns, np.int64)))
            self.merged += r.merged_reads
            self.reads += r.reads


def offer(server: Golden, requests: list[PlannedRequest], load: Load, scratch: Path, workers: int):
    seen = Seen()
    cpu = clock.process_cpu_s()
    report = driver.drive(
        requests,
        (PROMPT for _ in requests),
        load,
        Endpoint(f"http://127.0.0.1:{server.port}/v1", "golden", "completions", vllm_extensions=True),
        phase=Phase.MEASURE,
        run_id="bench",
        driver="wire",
        workers=workers,
        timeouts=Timeouts(),
        duration_s=None,
        scratch=scratch,
        on_rows=seen.take,
        on_progress=lambda _: None,
        should_stop=lambda: None,
        on_start=lambda _: None,
    )
    return seen, report, clock.process_cpu_s() - cpu


def floor(server: Golden, streams: int, requests: int, tokens: int, folder: Path) -> tuple[float, float]:
    """Tokens per second and CPU seconds per token of the C client, for the same requests."""
    plan = [PlannedRequest(0, None, 16, tokens, None, 0)]
    end = Endpoint(f"http://127.0.0.1:{server.port}/v1", "golden", "completions", vllm_extensions=True)
    (files,) = shard.write(plan, [PROMPT], [0], 1, end, "floor", Phase.MEASURE, folder)
    (folder / "request").write_bytes(driver.request_head(end) + files.bodies.read_bytes())
    words = [str(folder / "floor_client"), str(server.port), str(streams), str(requests), str(folder / "request")]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    total = int(out[0]) * tokens
    return total / float(out[2]), float(out[3]) / total


def percentiles(values: list[np.ndarray], *at: float) -> list[float]:
    flat = np.concatenate(values) if values else np.array([np.nan])
    return [float(v) for v in np.percentile(flat, at)]


def show_streams(
    name: str, seen: Seen, truth: dict, report, parent_cpu: float, tokens: int, beside: tuple[float, float] | None
) -> None:
    lags, firsts, gaps = [], [], []
    got = whole = 0
    for rid, outcome, _, _, stamps in seen.rows:
        sends = truth[rid][1]
        got += len(stamps)
        whole += outcome == "ok" and len(stamps) == len(sends) == tokens
        if len(stamps) == len(sends):
            lag = stamps - sends
            lags.append(lag)
            firsts.append(np.abs(lag[:1]))
            gaps.append(np.abs(np.diff(stamps) - np.diff(sends)))
    begin = min(row[3] for row in seen.rows)
    end = max(row[4][-1] for row in seen.rows if len(row[4]))
    rate = got / ((end - begin) / 1e9)
    p50, p99 = (v / 1e3 for v in percentiles(lags, 50, 99))
    ttft, itl = percentiles(firsts, 99)[0] / 1e6, percentiles(gaps, 99)[0] / 1e6
    hot = report.cpu_s / got * 1e6
    ratio = f"{rate / beside[0]:7.2%} of floor" if beside else ""
    cpu = f"hot {hot:.2f} us/token" + (
        f" = {hot / beside[1] / 1e6:.2f} x floor ({beside[1] * 1e6:.2f})" if beside else ""
    )
    print(
        f"{name:28} {rate:9,.0f} tok/s {ratio} | {whole}/{len(seen.rows)} replies whole | stamp-send p50 {p50:.1f} p99 {p99:.1f} us"
        f" | TTFT err p99 {ttft:.4f} ITL err p99 {itl:.4f} ms | merged {seen.merged}/{seen.reads}"
        f" | {cpu}, whole {hot + parent_cpu / got * 1e6:.2f} | lag max {report.loop_lag_max_s * 1e3:.1f} ms",
        flush=True,
    )


def waves(folder: Path, streams: int, tokens: int, rounds: int, workers: int) -> None:
    with golden(folder) as server:
        beside = floor(server, streams, streams * rounds, tokens, folder)
    with golden(folder) as server:
        plan = [PlannedRequest(i, None, 16, tokens, None, i) for i in range(streams * rounds)]
        seen, report, cpu = offer(server, plan, Load(concurrency=streams), folder, workers)
        show_streams(f"waves {streams} x 20 ms", seen, server.stop(), report, cpu, tokens, beside)


def poisson(folder: Path, streams: int, tokens: int, seconds: float, workers: int) -> None:
    """Arrivals so that about `streams` are open at once."""
    rate = streams / (TTFT_S + ITL_S * (tokens - 1))
    draw, at, plan = random.Random(1), 0.0, []
    while (at := at + draw.expovariate(rate)) < seconds:
        plan.append(PlannedRequest(len(plan), round(at * 1e9), 16, tokens, None, 0))
    with golden(folder) as server:
        seen, report, cpu = offer(server, plan, Load(rate_rps=rate), folder, workers)
        show_streams(f"Poisson ~{streams} x 20 ms", seen, server.stop(), report, cpu, tokens, None)


def paced(folder: Path, rate: float, tokens: int, seconds: float, workers: int) -> None:
    n = round(rate * seconds)
    plan = [PlannedRequest(i, round(i * 1e9 / rate), 16, tokens, None, 0) for i in range(n)]
    with golden(folder) as server:
        seen, report, _ = offer(server, plan, Load(rate_rps=rate, arrivals="constant"), folder, workers)
        rows = sorted((row for row in seen.rows if row[3]), key=lambda row: row[2])
    lag = np.array([(row[3] - row[2]) / 1e6 for row in rows])
    sent = np.sort([row[3] for row in rows])
    achieved = (len(sent) - 1) / ((sent[-1] - sent[0]) / 1e9)
    tenth = max(1, len(lag) // 10)
    drift = np.median(lag[-tenth:]) - np.median(lag[:tenth])
    ok = sum(row[1] == "ok" for row in seen.rows)
    dropped = sum(row[1] == "dropped" for row in seen.rows)
    p50, p99, top = np.percentile(lag, (50, 99, 100))
    print(
        f"open {rate:.0f}/s x {tokens} tokens      achieved {achieved:.1f}/s ({achieved / rate - 1:+.2%}) | send lag p50 {p50:.3f} p99 {p99:.3f}"
        f" max {top:.1f} ms | drift {drift:+.3f} ms in {seconds:.0f} s | ok {ok}/{n} dropped {dropped} | late {report.late_sends}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="*", default=[400, 1600, 3200])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", choices=["waves", "poisson", "open"])
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}, {a.workers} worker(s)", flush=True)
        if a.only in (None, "waves"):
            for streams in a.streams:
                waves(folder, streams, a.tokens, a.rounds, a.workers)
        if a.only in (None, "poisson"):
            for streams in a.streams:
                poisson(folder, streams, a.tokens, 6, a.workers)
        if a.only in (None, "open"):
            paced(folder, 500, 8, 12, a.workers)
            paced(folder, 2000, 8, 5, a.workers)


if __name__ == "__main__":
    main()
