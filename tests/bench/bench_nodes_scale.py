"""One parent, many load-generating nodes: what breaks first, and at what size.

`python -m tests.bench.bench_nodes_scale [--nodes 64] [--tokens-per-s 100000] [--reply-tokens 128] [--seconds 600] [--json]`

No cluster: a second of one node's rows is made, packed, unpacked, put on the parent's clock, written, merged and read back here, by the code
that a run over nodes uses; each step's cost per token (CPU, bytes, files, resident memory) is multiplied by the load. What is not measured here
but taken as given (`GIVEN`) is printed with it. The limits are a parent's: one core for its loop, one for its writer, its network card, its disk,
its memory; a step that fills its limit first is the first to break.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.judge.summary import summarise
from harness.measure.nodes.echo import Asker, Echo, new_secret
from harness.measure.plan.drawing import draw
from harness.records import Load, Plan, PlannedRequest, RequestRecord, RunState
from harness.store.parcels import numbers, on_our_clock, pack, unpack, when
from harness.store.parts import merge, part_path, write_file
from harness.store.reader import read_judged
from harness.store.writer import RunWriter
from tests.bench.bench_driver import manifest
from tests.nodes.clocks import Clocks, line_of, quiet

NS = 1_000_000_000
FLUSH_S = 1.0  # the writer's and the nodes' interval
QUESTIONS_PER_S = 5
GIVEN = {"network_gbit_s": 25.0, "disk_mb_s": 1000.0, "memory_gb": 256.0, "ray_call_s": 0.003}
SIZES = (4, 16, 64, 256)


def rows_of(tokens_per_s: int, reply_tokens: int, rng: np.random.Generator) -> list[RequestRecord]:
    """A second of one node: replies with a stamp a token, as the collector makes them."""
    count, made = max(1, tokens_per_s // reply_tokens), []
    gaps = rng.integers(5_000_000, 15_000_000, (count, reply_tokens))
    begun = 50_000 * NS + np.sort(rng.integers(0, NS, count))
    for seq, sent in enumerate(begun.tolist()):
        stamps = tuple((sent + 80_000_000 + np.cumsum(gaps[seq])).tolist())
        made.append(
            RequestRecord(
                request_id=f"run-20261126T000000Z-{seq:08d}", seq=seq, phase="measure", worker=seq % 2, session_id=None,
                target_prompt_tokens=512, target_output_tokens=reply_tokens, scheduled_ns=sent - 9_000, due_ns=sent - 9_000,
                connect_started_ns=None, connect_ns=None, tls_ns=None, sent_ns=sent, first_byte_ns=sent + 79_000_000,
                first_token_ns=stamps[0], last_token_ns=stamps[-1], ended_ns=stamps[-1] + 20_000, chunk_ns=stamps,
                chunk_tokens=(1,) * reply_tokens, prompt_tokens=512, cached_prompt_tokens=0, output_tokens=reply_tokens,
                reasoning_tokens=None, counted_output_tokens=reply_tokens, merged_reads=0, reads=reply_tokens,
                response_bytes=reply_tokens * 250, connection_reused=True, outcome="ok", http_status=200,
                finish_reason="length", error=None,
            )
        )  # fmt: skip
    return made


def cpu_s(work: Callable[[], object], times: int = 5) -> float:
    """CPU seconds of this process (all threads) that one call takes: the median of a few."""
    work()
    taken = []
    for _ in range(times):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return float(np.median(taken))


@dataclass
class Costs:
    """Measured here, for one node's second; `*_token` per token."""

    tokens: int
    rows: int
    parcel_bytes: int
    pack_s: float
    receive_s: float
    map_s: float  # unpack, offsets of the time line, stamps onto the parent's clock
    write_s: float
    part_bytes: int
    merge_s: float
    judge_s: float
    judge_bytes_token: float
    judge_bytes_request: float
    ask_s: float  # CPU of one question and its answer, both ends
    draw_s_request: float
    plan_bytes_request: float
    call_s: float  # the parent's, of one actor call that returns a parcel


def peak_bytes() -> int:
    """The most that this process has had resident."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _draw(count: int, used: multiprocessing.Queue) -> None:
    """In a process of its own: a plan as the parent draws it; CPU seconds and the peak's rise."""
    before, cpu = peak_bytes(), time.process_time()
    load = Load(rate_rps=1000.0)
    plan, _ = draw(
        "fixed:512x128", load, requests=count, duration_s=None, seed=1, warmup_requests=0, context_limit_tokens=None
    )
    used.put((time.process_time() - cpu, peak_bytes() - before, len(plan.requests)))


def apart(work: Callable[..., None], *words: object) -> Any:
    """What `work` puts into its queue, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    process = context.Process(target=work, args=(*words, said))
    process.start()
    found = said.get()
    process.join()
    return found


def ray_call(parcel_bytes: int) -> float | None:
    """CPU seconds of the parent for one actor call that returns a parcel, on a cluster of this machine; None where Ray is not."""
    try:
        import ray
    except ImportError:
        return None

    @ray.remote
    class Node:
        def parcel(self, _: int) -> bytes:
            return os.urandom(parcel_bytes)

    folder = tempfile.mkdtemp(prefix="ray")
    try:
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
        node = Node.remote()
        ray.get(node.parcel.remote(0))
        before = time.process_time()
        for call in range(30):
            ray.get(node.parcel.remote(call))
        return (time.process_time() - before) / 30
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def received(parcel: bytes) -> float:
    """CPU seconds of taking a parcel out of a TCP socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        out = socket.create_connection(server.getsockname())
        into, _ = server.accept()
        with out, into:
            buffer, taken = bytearray(len(parcel)), []
            for _ in range(5):
                sender = threading.Thread(target=out.sendall, args=(parcel,))
                sender.start()
                before = time.thread_time()
                into.recv_into(buffer, len(parcel), socket.MSG_WAITALL)
                taken.append(time.thread_time() - before)
                sender.join()
    return float(np.median(taken))


def asked() -> float:
    """CPU seconds of a question to a clock, the answering included."""
    secret = new_secret()
    with Echo("127.0.0.1", secret) as echo, Asker([("127.0.0.1", echo.port)] * 8, secret) as asker:
        before = time.process_time()
        asker.open()
        asker.opened()
        used = time.process_time() - before
        return used / sum(len(line) for line in asker.lines)


def write_run(run_dir: Path, rows: list[RequestRecord], tokens: int) -> None:
    """A complete run of these rows, over and over, until there are so many tokens."""
    table = unpack(pack(rows))
    each = sum(row.output_tokens or 0 for row in rows)
    times, load = -(-tokens // each), Load(rate_rps=1000.0)
    writer = RunWriter.create(run_dir, manifest(load))
    plan = [PlannedRequest(row.seq, row.scheduled_ns, 512, row.target_output_tokens, None, row.seq) for row in rows]
    writer.write_plan(Plan(tuple(plan * times), (), load, "bench", 1, ""))
    for _ in range(times):
        writer.add_ready("requests", table)
        writer.flush()
    writer.finish(RunState.COMPLETE)


def _judge(small: str, run_dir: str, said: multiprocessing.Queue) -> None:
    """In a process of its own, a small run first: CPU seconds and the peak's rise of a run judged from its files, and its requests."""
    summarise(read_judged(small))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, cpu = peak_bytes(), time.process_time()
    run = read_judged(run_dir)
    summary = summarise(run)
    said.put((time.process_time() - cpu, peak_bytes() - before, summary.outcomes["ok"]))


def judged(tokens: int, reply_tokens: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """(CPU seconds a token, bytes a token, bytes a request) of judging: from runs of `tokens` in replies of this length, of twice as many, and
    of as many in replies of a quarter of it, so that what a judge needs for any run is in neither."""
    short = max(2, reply_tokens // 4)
    runs = {"small": (reply_tokens, 100_000), "one": (reply_tokens, tokens), "two": (reply_tokens, 2 * tokens), "short": (short, tokens)}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for kind, (length, total) in runs.items():
            write_run(Path(name) / kind, rows_of(100_000, length, rng), total)
        one, two, brief = (apart(_judge, f"{name}/small", f"{name}/{kind}") for kind in ("one", "two", "short"))
    whole = (two[1] - one[1]) / (two[2] - one[2])  # bytes of a request with its tokens
    request = (brief[1] - one[1]) / (brief[2] - one[2])  # as many tokens in more requests
    return two[0] / (2 * tokens), (whole - request) / reply_tokens, request


def measure(tokens_per_s: int, reply_tokens: int, parts: int, judge_tokens: int, *, with_ray: bool) -> Costs:
    """Every step once, on real tables; `parts` of them are merged; runs of `judge_tokens`, and of twice as many, are judged."""
    rng = np.random.default_rng(1)
    rows = rows_of(tokens_per_s, reply_tokens, rng)
    parcel = pack(rows)
    clocks = Clocks(begin_ns=1 * NS, origin_ns=50_000 * NS - NS)
    line = line_of(clocks.trips(rng, quiet, seconds=60))

    def mapped() -> pa.Table:
        table = unpack(parcel)
        offsets, _ = line.offsets(when(table))
        numbers(table, "seq")  # which are new
        return on_our_clock(table, offsets, lambda workers: workers + 14)

    table = mapped()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        (run_dir / "parts").mkdir()
        write_s = cpu_s(lambda: write_file(part_path(run_dir, "requests", 1), "requests", table))
        part_bytes = part_path(run_dir, "requests", 1).stat().st_size
        for number in range(2, parts + 1):
            write_file(part_path(run_dir, "requests", number), "requests", table)
        before = time.process_time()
        merge(run_dir, "requests")
        merge_s = (time.process_time() - before) / parts
    judge_s, judge_token, judge_request = judged(judge_tokens, reply_tokens, rng)
    draw_s, plan_bytes, drawn = apart(_draw, 200_000)
    call_s = ray_call(len(parcel)) if with_ray else None
    tokens = len(rows) * reply_tokens
    return Costs(
        tokens=tokens, rows=len(rows), parcel_bytes=len(parcel), pack_s=cpu_s(lambda: pack(rows)),
        receive_s=received(parcel), map_s=cpu_s(mapped), write_s=write_s, part_bytes=part_bytes, merge_s=merge_s,
        judge_s=judge_s * tokens, judge_bytes_token=judge_token, judge_bytes_request=judge_request, ask_s=asked(),
        draw_s_request=draw_s / drawn, plan_bytes_request=plan_bytes / drawn, call_s=GIVEN["ray_call_s"] if call_s is None else call_s,
    )  # fmt: skip


def of_size(nodes: int, costs: Costs, seconds: float) -> dict[str, float]:
    """What so many nodes are to one parent for so long."""
    return {
        "nodes": nodes,
        "tokens_per_s": nodes * costs.tokens,
        "requests_per_s": nodes * costs.rows,
        "plan_gb": nodes * costs.rows * seconds * costs.plan_bytes_request / 1e9,
        "plan_drawn_s": nodes * costs.rows * seconds * costs.draw_s_request,
        "received_mb_s": nodes * costs.parcel_bytes / 1e6,
        "loop_cores": nodes * (costs.call_s / FLUSH_S + costs.receive_s + costs.map_s + QUESTIONS_PER_S * costs.ask_s),
        "writer_cores": nodes * costs.write_s,
        "written_mb_s": nodes * costs.part_bytes / 1e6,
        "part_files": seconds / FLUSH_S,
        "stored_gb": nodes * costs.part_bytes * seconds / 1e9,
        "held_gb": nodes * costs.parcel_bytes * 3 * FLUSH_S / 1e9,  # arriving, waiting for the writer, being written
        "merge_s": nodes * costs.merge_s * seconds,
        "judged_gb": nodes
        * seconds
        * (costs.tokens * costs.judge_bytes_token + costs.rows * costs.judge_bytes_request)
        / 1e9,
        "judge_s": nodes * costs.judge_s * seconds,
    }


def breaks(costs: Costs, seconds: float) -> list[dict[str, object]]:
    """How many nodes fill each limit, fewest first."""
    one = of_size(1, costs, seconds)
    limits = {
        "parent's loop: receive, map, ask (1 core)": 1 / one["loop_cores"],
        "parent's writer: parts as Parquet (1 core)": 1 / one["writer_cores"],
        f"network card ({GIVEN['network_gbit_s']:g} Gbit/s)": GIVEN["network_gbit_s"] * 125 / one["received_mb_s"],
        f"disk ({GIVEN['disk_mb_s']:g} MB/s)": GIVEN["disk_mb_s"] / one["written_mb_s"],
        f"memory while it runs ({GIVEN['memory_gb']:g} GB)": GIVEN["memory_gb"] / one["held_gb"],
        f"memory of the judge ({GIVEN['memory_gb']:g} GB, {seconds:g} s of load)": GIVEN["memory_gb"]
        / one["judged_gb"],
        f"memory of the plan ({GIVEN['memory_gb']:g} GB, {seconds:g} s of load)": GIVEN["memory_gb"] / one["plan_gb"],
        "merge as long as the run (1 core)": seconds / one["merge_s"],
        "plan drawn for as long as the run": seconds / one["plan_drawn_s"],
    }
    found = [
        {"limit": name, "nodes": round(nodes, 1), "tokens_per_s": nodes * costs.tokens}
        for name, nodes in limits.items()
    ]
    return sorted(found, key=lambda limit: limit["nodes"])


def show(costs: Costs, sizes: list[dict[str, float]], limits: list[dict[str, object]], reply_tokens: int) -> None:
    each = costs.tokens
    print(f"measured here, a second of one node ({each:,} tok/s, {costs.rows:,} replies of {reply_tokens} tokens):")
    for name, seconds in (
        ("node: pack", costs.pack_s), ("parent: receive", costs.receive_s), ("parent: onto its clock", costs.map_s),
        ("parent: write", costs.write_s), ("end: merge", costs.merge_s), ("judge", costs.judge_s),
    ):  # fmt: skip
        print(f"  {name:24} {seconds * 1e3:8.2f} ms CPU   {seconds / each * 1e9:7.1f} ns a token")
    print(f"  clock question           {costs.ask_s * 1e6:8.0f} us CPU, both ends")
    print(
        f"  plan                     {costs.draw_s_request * 1e6:8.1f} us CPU a request, {costs.plan_bytes_request:.0f} bytes"
    )
    print(f"  actor call               {costs.call_s * 1e3:8.2f} ms CPU of the parent")
    print(
        f"  parcel {costs.parcel_bytes / each:.1f} bytes a token, stored {costs.part_bytes / each:.2f}; judge's memory {costs.judge_bytes_token:.1f} a token, {costs.judge_bytes_request:.0f} a request"
    )
    print()
    names = list(sizes[0])
    for name in names:
        print(
            f"  {name:16}"
            + "".join(f"{size[name]:>16,.2f}" if size[name] < 100 else f"{size[name]:>16,.0f}" for size in sizes)
        )
    print("\nwhat breaks, and at how many nodes (given: " + ", ".join(f"{k} {v:g}" for k, v in GIVEN.items()) + "):")
    for limit in limits:
        print(f"  {limit['limit']:58} {limit['nodes']:>10,.1f} nodes {limit['tokens_per_s']:>16,.0f} tok/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--tokens-per-s", type=int, default=100_000)
    parser.add_argument("--reply-tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--parts", type=int, default=30)
    parser.add_argument("--judge-tokens", type=int, default=10_000_000)
    parser.add_argument("--ray", action="store_true", help="measure an actor call of Ray here, else take it as given")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    costs = measure(words.tokens_per_s, words.reply_tokens, words.parts, words.judge_tokens, with_ray=words.ray)
    sizes = [of_size(nodes, costs, words.seconds) for nodes in sorted({*SIZES, words.nodes})]
    limits = breaks(costs, words.seconds)
    if words.json:
        print(json.dumps({"costs": asdict(costs), "sizes": sizes, "breaks": limits, "given": GIVEN}, indent=2))
    else:
        show(costs, sizes, limits, words.reply_tokens)


if __name__ == "__main__":
    main()
