"""`python -m tests.cluster.inside JSON` in the head's namespace: a plan over nodes of the cluster against the golden server beside it.

Prints `done N` as rows come, and in the end one line of JSON: what the rows, the report and the server say.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from harness.base import clock
from harness.base.files import cache_dir
from harness.measure.drive.golden.server import GoldenProcess, Served, build
from harness.measure.drive.golden.truth import compare
from harness.measure.nodes.ray_nodes import RayCrew, cluster, hosts_of, places
from harness.records import DriveProgress, Load, PlannedRequest
from harness.store.parts import warm_up
from tests.nodes.crews import Seen, offer, poisson

NOTHING = Served(0, np.empty(0, np.int64))


def _say(progress: DriveProgress) -> None:
    print(f"done {progress.done}", flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def result_of(seen: Seen, report: Any, server: GoldenProcess, plan: list[PlannedRequest]) -> dict[str, Any]:
    """Plain values."""
    served = server.stop()
    truth = compare(seen.rows_seen, served, server, plan[0].target_output_tokens)
    arrived = sorted(one.received_ns for one in served.values())
    return {
        "rows": len(seen.rows_seen),
        "seqs": len({row.seq for row in seen.rows_seen}),
        "outcomes": dict(Counter(f"{row.worker} {row.outcome}" for row in seen.rows_seen)),
        "served": len(served),
        "arrived_s": [(at - arrived[0]) / 1e9 for at in arrived],
        "stop_reason": report.stop_reason,
        "lost_after_ns": [  # when the server had sent all of a reply whose row is lost
            int(served[row.request_id].sent_ns[-1])
            for row in seen.rows_seen
            if row.outcome == "lost"
            and len(served.get(row.request_id, NOTHING).sent_ns) == plan[0].target_output_tokens
        ],
        "clock_offsets": report.clock_offsets,
        "nodes": report.nodes,
        "whole": truth.whole,
        "tokens_per_s": truth.tokens_per_s,
        "ttft_error_p99_s": truth.ttft_error_p99_s,
        "itl_error_p99_s": truth.itl_error_p99_s,
        "merged_share": truth.merged_reads / max(1, truth.reads),
        "server_late_p99_s": truth.server_late_p99_s,
    }


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """`on`, `host` of the server, `nodes`, `workers`, and `requests`, `rate_rps`, `tokens`, `ttft_s`, `itl_s`; or `streams` for a closed loop."""
    tokens, ttft_s, itl_s = asked["tokens"], asked["ttft_s"], asked["itl_s"]
    if "streams" in asked:
        plan = [PlannedRequest(i, None, 16, tokens, None, i) for i in range(asked["streams"])]
        load = Load(concurrency=asked["streams"])
    else:
        plan = poisson(asked["requests"], asked["rate_rps"], tokens, asked.get("seed", 1))
        load = Load(rate_rps=asked["rate_rps"])
    seen = Seen(on_progress=_say)
    with (
        tempfile.TemporaryDirectory() as folder,
        GoldenProcess(build(cache_dir("golden")), ttft_s, itl_s, Path(folder), host=asked["host"]) as server,
        cluster(asked["on"], lambda text: print(text, flush=True)) as ray,
    ):
        warm_up()  # as a run's writer has done by then
        began_ns, cpu_s = clock.monotonic_ns(), _cpu_s()
        avoid = frozenset[str]() if asked.get("beside_server") else hosts_of(server.url)
        chosen = places(ray, count=asked["nodes"], cores=asked["workers"] + 1, avoid=avoid)
        crew = RayCrew(ray, chosen, asked["workers"] + 1)
        report = offer(crew, server.url, plan, load, seen, workers=asked["workers"], api_key=asked.get("api_key"))
        used_s, ran_s = _cpu_s() - cpu_s, (report.ended_ns - report.started_ns) / 1e9
        result = result_of(seen, report, server, plan)
    begins = {"start_s": (report.started_ns - began_ns) / 1e9, "parent_cpu_s": used_s, "ran_s": ran_s}
    return result | begins | {"drive_cpu_share": seen.cpu_share()}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1])), default=np.ndarray.tolist))
