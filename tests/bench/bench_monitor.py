"""What `harness monitor` of 500 servers costs: `python -m tests.bench.bench_monitor [--servers N] [--seconds S] [--days D] [--keep DIR] [--month DIR]`.

The command itself, in a process of its own, reads pages of 150 series every 15 s from another, and is scraped every 15 s by this one. It begins
beside the store of a monitor that was away: days of sums, yesterday in pieces, hours that nobody rolled up, runs with a capacity. So all that
a monitor ever does it does here, at once where it can be: the views of all windows, the page, the hours, the merging of a day.

Printed: its share of one core, once what was left is done and all in all; its resident memory at most, also for each thing it does, with the CPU
time of that (`monitor_stages`); how old the windows' figures are on its page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import yaml

from harness.base.clock import DAY_NS, NS
from harness.config.monitor import MonitorSpec
from harness.judge.runs import index_runs
from harness.measure.targets.command import free_port
from tests.bench.bench_monitor_month import BOUNDS, INTERVAL_S, TEXT, Fleet, config, make_month, month
from tests.judge.test_compare_command import store

ROOT = Path(__file__).resolve().parents[2]
SERIES = 150
LOOK_S = 1.0
LEFT_HOURS = 2


def page(count: int, started_ns: int) -> bytes:
    """A page of vLLM's names with 150 series, its counters at `count`."""
    labels = f'engine="0",model_name="{TEXT["model"]}"'
    lines = [f"process_start_time_seconds {started_ns / NS}"]
    for name, each in (("prompt_tokens", 600), ("generation_tokens", 120), ("num_preemptions", 1), ("prompt_tokens_cached", 100), ("prefix_cache_queries", 600)):  # fmt: skip
        lines.append(f"vllm:{name}_total{{{labels}}} {float(count * each)}")
    for reason in ("stop", "length", "abort", "error", "repetition"):
        lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}')
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        lines.append(f"vllm:{name}{{{labels}}} 0.5")
    for name in ("time_to_first_token", "request_time_per_output_token", "request_queue_time", "e2e_request_latency"):
        for at, le in enumerate(BOUNDS.tolist()):
            lines.append(
                f'vllm:{name}_seconds_bucket{{{labels},le="{"+Inf" if le == float("inf") else le}"}} {float(count * (at + 1) // 22)}'
            )
    at = 0
    while len(lines) < SERIES:
        lines.append(f'vllm:iteration_tokens_total_bucket{{{labels},le="{2.0**at}"}} {float(count)}')
        at += 1
    return ("# TYPE vllm:prompt_tokens counter\n" + "\n".join(lines) + "\n").encode()


def serve(ports: list[int], ours) -> None:
    """Servers at these ports (0: any) in one process: each answers any request with its page. `ours`: their ports out, their starts in."""

    async def main() -> None:
        count = len(ports)
        counters, starts = [10**8] * count, [0] * count  # above all that the store has of them: no restart

        def handler(at: int):
            async def handle(reader, writer) -> None:
                try:
                    while await reader.readuntil(b"\r\n\r\n"):
                        counters[at] += at % 30
                        body = page(counters[at], starts[at])
                        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n\r\n"
                        writer.write(head.encode() + body)
                except (asyncio.IncompleteReadError, ConnectionError):
                    writer.close()

            return handle

        servers = [await asyncio.start_server(handler(i), "127.0.0.1", port) for i, port in enumerate(ports)]
        ours.send([s.sockets[0].getsockname()[1] for s in servers])
        starts[:] = await asyncio.to_thread(ours.recv)
        await asyncio.Event().wait()

    asyncio.run(main())


class Looked:
    """CPU of a process and of its first thread, once a second until it ends; its page, every 15 s."""

    def __init__(self, process: psutil.Process, url: str) -> None:
        self._process, self._url, self._began = process, url, time.monotonic()
        self.bytes = 0
        self.cpu: list[
            tuple[float, float, float]
        ] = []  # s since the start, CPU s, those of the thread that reads pages
        self.ages: dict[str, list[tuple[float, float]]] = {}  # s since the start, s since the window ended

    def until(self, end_s: float) -> None:
        scrape_s = INTERVAL_S
        while (now := time.monotonic() - self._began) < end_s:
            times = self._process.cpu_times()
            reading = next(one for one in self._process.threads() if one.id == self._process.pid)
            self.cpu.append((now, times.user + times.system, reading.user_time + reading.system_time))
            if now >= scrape_s:
                scrape_s += INTERVAL_S
                self._scrape(now)
            time.sleep(LOOK_S)

    def _scrape(self, now_s: float) -> None:
        try:
            with urllib.request.urlopen(self._url, timeout=10) as answer:
                text = answer.read().decode()
        except OSError as error:
            print(f"  no page at {now_s:.0f} s: {error}")
            return
        self.bytes = max(self.bytes, len(text))
        for window, value in re.findall(
            r'harness_monitor_window_end_timestamp_seconds\{.*window="(\w+)"\} (\S+)', text
        ):
            self.ages.setdefault(window, []).append((now_s, time.time() - float(value)))

    def share(self, from_s: float, of: int = 1) -> float:
        """Of one core, from then on; `of` 2: of the thread that reads pages."""
        some = [one for one in self.cpu if one[0] >= from_s]
        if len(some) < 2:  # it did not catch up
            return math.nan
        return (some[-1][of] - some[0][of]) / (some[-1][0] - some[0][0])


def bench(count: int, seconds: float, days: int, folder: str) -> None:
    """`seconds` 0: the store is made, and no more."""
    known = Path(folder) / "servers.json"  # name -> start, of a store that is there already
    made: dict[str, int] = json.loads(known.read_text()) if known.is_file() else {}
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    ports = [int(name.rpartition(":")[2]) for name in made] or [0] * count
    servers = multiprocessing.get_context("spawn").Process(target=serve, args=(ports, theirs), daemon=True)
    servers.start()
    names = [f"127.0.0.1:{port}" for port in ours.recv()]
    spec, began = config(names, folder), time.monotonic()
    if not made:
        for repetition in ("20261101T000000Z", "20261102T000000Z"):
            store(Path(spec.results) / "x", repetition, [0.010, 0.011], model=TEXT["model"])
        index_runs(Path(spec.results))
        now = time.time_ns()
        begin = now - now % DAY_NS - days * DAY_NS
        fleet = Fleet(names, begin)
        make_month(spec.store, fleet, begin, now, leave=LEFT_HOURS)
        starts = dict(zip(fleet.names, fleet.started.tolist(), strict=True))
        made = {name: starts[name] for name in names}
        known.write_text(json.dumps(made))
    print(
        f"{len(names)} servers x {SERIES} series every {INTERVAL_S:g} s; a store of {days} days made in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    if seconds:
        ours.send(list(made.values()))
        _watched(spec, seconds, folder)
    servers.kill()


def _watched(spec: MonitorSpec, seconds: float, folder: str) -> None:
    path = Path(folder) / "monitor.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
    port = free_port()
    words = [
        sys.executable,
        "-m",
        "tests.bench.monitor_stages",
        str(Path(folder) / "stages.jsonl"),
        "monitor",
        str(path),
        "--listen",
        f"127.0.0.1:{port}",
        "--for",
        f"{seconds + 30:.0f}",
    ]
    with tempfile.TemporaryDirectory() as locks:
        command = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HARNESS_LOCK_DIR": locks},
            stdout=subprocess.PIPE,
            text=True,
        )
        looked = Looked(psutil.Process(command.pid), f"http://127.0.0.1:{port}/metrics")
        looked.until(seconds)
        said = command.communicate(timeout=120)[0]
    stages = [json.loads(line) for line in (Path(folder) / "stages.jsonl").read_text().splitlines()]
    _print(looked, stages, spec.store, seconds, said)


def _print(looked: Looked, stages: list[dict[str, Any]], store: str, seconds: float, said: str) -> None:
    done_s = _busy_until(looked)
    print(f"  caught up after {done_s:.0f} s; then {100 * looked.share(done_s):.1f} % of one core, {100 * looked.share(done_s, 2):.1f} % the thread that reads pages; from the start {100 * looked.share(0):.1f} %")  # fmt: skip
    print(f"  at most {max(one['mib'] for one in stages):.0f} MiB resident, {stages[-1]['child_mib']:.0f} of a process that reads runs and ends; by what went on:")  # fmt: skip
    for name in dict.fromkeys(one["stage"] for one in stages):
        mine = [one for one in stages if one["stage"] == name]
        cpu = sum(one["cpu_s"] for one in mine)
        print(f"    {name:<22} {max(one['mib'] for one in mine):4.0f} MiB, {len(mine):3} times, {cpu:6.2f} s of CPU, {cpu / len(mine):.3f} each")  # fmt: skip
    for window, ages in looked.ages.items():
        old = [age for at, age in ages if at >= done_s] or [0.0]
        print(
            f"  the figures of {window} were {min(old):.0f} to {max(old):.0f} s old when scraped, once it had caught up"
        )
    print(f"  page of {looked.bytes / 2**20:.2f} MiB; {said.strip().splitlines()[-1] if said.strip() else 'it said nothing'}")  # fmt: skip
    pieces = list(Path(store).glob("readings/day=*/*.parquet"))
    print(f"  {len(pieces)} files of readings left")


def _busy_until(looked: Looked) -> float:
    """When the last second ended that took more than half a core for five seconds on end."""
    busy = 0.0
    for (a, cpu_a, _), (b, cpu_b, _) in zip(looked.cpu, looked.cpu[5:], strict=False):
        if (cpu_b - cpu_a) / (b - a) > 0.5:
            busy = b
    return busy


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--servers", type=int, default=500)
    words.add_argument("--seconds", type=float, default=420, help="0: the store is made, and no more")
    words.add_argument("--days", type=int, default=31)
    words.add_argument("--keep", help="make the store here, and leave it; one that is there is gone on with")
    words.add_argument(
        "--month", help="then the queries of bench_monitor_month too, of the store that is made or kept here"
    )
    given = words.parse_args()
    with tempfile.TemporaryDirectory() if given.keep is None else nullcontext(given.keep) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        bench(given.servers, given.seconds, given.days, folder)
    if given.month:
        month(given.servers, given.days - 1, given.month)


if __name__ == "__main__":
    main()
