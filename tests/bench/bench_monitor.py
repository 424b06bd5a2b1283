"""What a monitor of 500 servers costs, and how long its questions take over a month.

`python -m tests.bench.bench_monitor [scrape|month] [--servers N] [--seconds S]`: `scrape` reads pages of 150 series from a process of its own
every 15 s and prints the share of one core and the resident memory; `month` makes a store of 30 days (hours, and the last day by the minute)
and times a panel's query and the month's.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from harness.base.clock import NS
from harness.config.monitor import MonitorSpec
from harness.monitor.window import roll_day, roll_up, window
from harness.records import COUNTERS, GAUGES
from harness.store import hour_rows, readings
from harness.store.root import open_root
from harness.store.schema import schema_of

SERIES = 150
INTERVAL_S = 15.0
BOUNDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    640.0,
    float("inf"),
)


# ---------------------------------------------------------------- pages


def page(count: int) -> bytes:
    """A page of vLLM's names with 150 series, its counters at `count`."""
    labels = 'engine="0",model_name="llama-3.1-8b"'
    lines = [f"process_start_time_seconds {1.7955e9}"]
    for name in (
        "prompt_tokens",
        "generation_tokens",
        "num_preemptions",
        "prompt_tokens_cached",
        "prefix_cache_queries",
    ):
        lines.append(f"vllm:{name}_total{{{labels}}} {float(count * 10)}")
    for reason in ("stop", "length", "abort", "error", "repetition"):
        lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}')
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        lines.append(f"vllm:{name}{{{labels}}} 0.5")
    for name in ("time_to_first_token", "request_time_per_output_token", "request_queue_time", "e2e_request_latency"):
        lines += [
            f'vllm:{name}_seconds_bucket{{{labels},le="{le if le != float("inf") else "+Inf"}"}} {float(count)}'
            for le in BOUNDS
        ]
    at = 0
    while len(lines) < SERIES:
        lines.append(f'vllm:iteration_tokens_total_bucket{{{labels},le="{2.0**at}"}} {float(count)}')
        at += 1
    return ("# TYPE vllm:prompt_tokens counter\n" + "\n".join(lines) + "\n").encode()


def serve(count: int, ports) -> None:
    """`count` servers in one process: each answers any request with the page."""

    async def main() -> None:
        counters = [0] * count

        def handler(at: int):
            async def handle(reader, writer) -> None:
                try:
                    while await reader.readuntil(b"\r\n\r\n"):
                        counters[at] += 1
                        body = page(counters[at])
                        writer.write(
                            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(body)
                            + body
                        )
                except (asyncio.IncompleteReadError, ConnectionError):
                    writer.close()

            return handle

        servers = [await asyncio.start_server(handler(i), "127.0.0.1", 0) for i in range(count)]
        ports.send([s.sockets[0].getsockname()[1] for s in servers])
        await asyncio.Event().wait()

    asyncio.run(main())


def bench_scrape(servers: int, seconds: float) -> None:
    from harness.monitor.watch import Watch

    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(servers, theirs), daemon=True)
    process.start()
    ports = ours.recv()
    me = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        pool = {"name": "a", "servers": [f"http://127.0.0.1:{port}/metrics" for port in ports]}
        spec = MonitorSpec.model_validate({"name": "bench", "interval_s": INTERVAL_S, "store": folder, "pools": [pool]})
        watch = Watch(spec, monitor="bench")

        async def main() -> None:
            stop = asyncio.Event()
            watching = asyncio.create_task(watch.until(stop))
            await asyncio.sleep(2 * INTERVAL_S)  # connections are made, heads are learned
            cpu_s, began, asked = time.process_time(), time.monotonic(), sum(s.scrapes for s in watch.servers())
            most = 0
            while time.monotonic() - began < seconds:
                await asyncio.sleep(1)
                most = max(most, me.memory_info().rss)
            share = (time.process_time() - cpu_s) / (time.monotonic() - began)
            pages = sum(s.scrapes for s in watch.servers()) - asked
            print(f"{servers} servers x {SERIES} series every {INTERVAL_S:g} s, {seconds:g} s watched, {pages} pages:")
            print(
                f"  {100 * share:.1f} % of one core ({1000 * share * seconds / pages:.2f} ms a page), at most {most / 2**20:.0f} MiB resident"
            )
            print(f"  {sum(s.missed for s in watch.servers())} pages missed; stores included")
            stop.set()
            await watching

        asyncio.run(main())
        stored = readings.read(watch.root, 0, 2**62, ("read_utc_ns",))
        print(
            f"  {len(stored)} rows stored, {sum(f.stat().st_size for f in Path(folder).rglob('*.parquet')) / max(len(stored), 1):.0f} bytes each"
        )
    process.kill()


# ---------------------------------------------------------------- a month


def made_table(name: str, stamps: np.ndarray, servers: int, counts: np.ndarray) -> pa.Table:
    """Rows of a table for all servers at each stamp; `counts` (stamps x servers) is what its counters have."""
    n = len(stamps) * servers
    flat = counts.reshape(-1).astype(float)
    names = pa.array([f"10.0.{i // 250}.{i % 250}:8000" for i in range(servers)])
    text = {"model": "llama-3.1-8b", "tenant": "", "pool": "chat", "monitor": "m", "engine": "vllm"}
    columns: dict[str, object] = {}
    for field in schema_of(name):
        if field.name in ("read_utc_ns", "from_utc_ns"):
            columns[field.name] = np.repeat(stamps, servers)
        elif field.name == "server":
            columns[field.name] = pa.DictionaryArray.from_arrays(
                np.tile(np.arange(servers, dtype=np.int32), len(stamps)), names
            ).cast(pa.string())
        elif field.name in text:
            columns[field.name] = pa.DictionaryArray.from_arrays(
                np.zeros(n, dtype=np.int32), pa.array([text[field.name]])
            ).cast(pa.string())
        elif field.name in COUNTERS:
            columns[field.name] = pa.nulls(n, pa.float64()) if field.name == "energy_j" else flat
        elif field.name in GAUGES:
            columns[field.name] = np.full(n, 0.5)
        elif field.name.endswith("_le_s"):
            columns[field.name] = listed(np.tile(np.array(BOUNDS), n), n)
        elif field.name.endswith("_counts"):
            columns[field.name] = listed(np.floor(flat[:, None] * np.linspace(0.1, 1.0, len(BOUNDS))).reshape(-1), n)
        else:
            value = {"started_utc_ns": 1_700_000_000 * NS, "scrapes": 4, "covered_s": 3600.0}.get(field.name, 0)
            columns[field.name] = np.full(n, value)
    return pa.Table.from_arrays(
        [
            pa.array(columns[f.name]).cast(f.type) if not isinstance(columns[f.name], pa.Array) else columns[f.name]
            for f in schema_of(name)
        ],
        schema=schema_of(name),
    )


def listed(values: np.ndarray, n: int) -> pa.Array:
    kind = pa.list_(pa.field("element", pa.float64(), nullable=False))
    return pa.ListArray.from_arrays(
        pa.array(np.arange(n + 1, dtype=np.int32) * len(BOUNDS)), pa.array(values), type=kind
    )


def make_month(folder: str, servers: int, now_ns: int) -> None:
    """29 days as hours merged by day, and the day of `now_ns` by the minute (a file a minute) with the hours that are over."""
    root = open_root(folder)
    today = now_ns - now_ns % readings.DAY_NS
    rate = np.random.default_rng(1).integers(5, 60, servers)  # tokens a minute of each
    hourly = np.tile(rate * 60, (24, 1))
    for day in range(29, 0, -1):
        begin = today - day * readings.DAY_NS
        table = made_table("hours", begin + np.arange(24) * readings.HOUR_NS, servers, hourly)
        name = "_".join(f"{hour:02d}" for hour in range(24))
        readings.put(root, f"{folder}/hours/day={readings.day_of(begin)}/day-{name}.parquet", table, "hours")
        roll_day(root, begin)
    minutes = (now_ns - today) // (60 * NS)
    for minute in range(minutes):
        stamps = np.array([today + minute * 60 * NS + 59 * NS])
        table = made_table("readings", stamps, servers, (minute * rate)[None, :])
        readings._write_day(root, readings.day_of(today), table)
        if minute % 15 == 14:
            readings.compact_own(root, "m", today + (minute - 14) * 60 * NS, 15 * 60 * NS)
    for hour in range(minutes // 60 - 1):
        begin = today + hour * readings.HOUR_NS
        table = made_table("hours", np.array([begin]), servers, hourly[:1])
        last = made_table(
            "readings", np.array([begin + readings.HOUR_NS - NS]), servers, ((hour * 60 + 59) * rate)[None, :]
        )
        readings.put(root, hour_rows.hour_path(root, "last", begin + readings.HOUR_NS), last, "readings")
        readings.put(root, hour_rows.hour_path(root, "hours", begin), table, "hours")


def timed(what: str, folder: str, now_ns: int) -> None:
    """What a monitor's process does beside its scrapes, in one of its own."""
    root, me, over = open_root(folder), psutil.Process(), threading.Event()
    sizes = [me.memory_info().rss]

    def look() -> None:
        while not over.wait(0.01):
            sizes.append(me.memory_info().rss)

    looking = threading.Thread(target=look)
    looking.start()
    began, cpu_s = time.monotonic(), time.process_time()
    if what == "an hour rolled up":
        roll_up(root, now_ns + readings.HOUR_NS, INTERVAL_S, most_hours=1)
    else:
        readings.compact(root, now_ns)
    wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_s
    over.set()
    looking.join()
    print(
        f"  {what}: {wall_s:.1f} s ({cpu_s:.1f} s CPU), {sizes[0] / 2**20:.0f} MiB resident before, at most {max(sizes) / 2**20:.0f} MiB",
        flush=True,
    )


def bench_month(servers: int) -> None:
    now = time.time_ns()
    now += readings.DAY_NS - now % readings.DAY_NS - 300 * NS  # five minutes before midnight: the fullest day
    with tempfile.TemporaryDirectory(dir=os.environ.get("HARNESS_BENCH_DIR")) as folder:
        began = time.monotonic()
        make_month(folder, servers, now)
        size = sum(f.stat().st_size for f in Path(folder).rglob("*.parquet"))
        print(
            f"a month of {servers} servers ({servers * 30 * 1440 / 1e6:.1f} million rows were they all by the minute), made in {time.monotonic() - began:.0f} s: {size / 2**20:.0f} MiB"
        )
        root = open_root(folder)
        for name, from_ns in (
            ("the last minute", now - 60 * NS),
            ("the last hour", now - 3600 * NS),
            ("the last day", now - 86400 * NS),
            ("the month", now - 30 * readings.DAY_NS + readings.HOUR_NS),
        ):
            times, cpu_s = [], time.process_time()
            for _ in range(3):
                began = time.monotonic()
                found = window(root, from_ns, now, INTERVAL_S)
                times.append(time.monotonic() - began)
            tokens = sum(u.counters["output_tokens"] or 0 for u in found.usages)
            print(
                f"  {name}: {min(times):.2f} .. {max(times):.2f} s ({(time.process_time() - cpu_s) / 3:.2f} s CPU), {len(found.usages)} usages, {tokens:.0f} tokens, {len(found.warnings)} warnings"
            )
        for what in ("an hour rolled up", "a day's files merged into one"):
            process = multiprocessing.get_context("spawn").Process(target=timed, args=(what, folder, now))
            process.start()
            process.join()


if __name__ == "__main__":
    words = argparse.ArgumentParser()
    words.add_argument("what", nargs="?", choices=("scrape", "month"))
    words.add_argument("--servers", type=int, default=500)
    words.add_argument("--seconds", type=float, default=120)
    given = words.parse_args()
    if given.what != "month":
        bench_scrape(given.servers, given.seconds)
    if given.what != "scrape":
        bench_month(given.servers)
