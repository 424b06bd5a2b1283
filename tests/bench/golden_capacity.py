"""A real capacity search: the wire driver against the C golden server with a queue, M/D/1 of known capacity.

`python -m tests.bench.golden_capacity [SERVICE_MS] [LIMIT_IN_SERVICES] [LONGEST_S]`; an idle machine is needed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import psutil

from harness.config.load import CapacitySpec
from harness.judge.capacity.orders import ProbeOrder
from harness.judge.capacity.probe import Watch, replies
from harness.measure.capacity_search import search_capacity, stop_word
from harness.measure.drive.driver import drive
from harness.measure.drive.golden import server as golden
from harness.measure.job import Job
from harness.measure.plan.drawing import draw
from harness.records import CapacityResult, DriveProgress, Endpoint, Load, Phase, ProbeResult, Prompt, Timeouts
from harness.report import capacity
from harness.report.capacity import probes_plot
from tests.drive.offering import Watching
from tests.judge.capacity_server import md1_capacity

PROMPT = Prompt(0, None, tuple(range(8)))
MAX_LATE_SHARE = 0.1  # of the SLO's limit: a client later than that measures itself


def search(
    binary: Path,
    spec: CapacitySpec,
    service_s: float,
    limit_s: float,
    attainment: float,
    seed: int,
    folder: Path,
    max_late_share: float = MAX_LATE_SHARE,
) -> CapacityResult:
    """Search against one golden server; a probe whose p99 send lag is above that share of the limit is invalid."""
    slo = {"ttft_from_schedule_s": limit_s}

    def probe(order: ProbeOrder, watch: Watch) -> ProbeResult:
        load = Load(rate_rps=order.rate_rps)
        drawn, _ = draw(
            "fixed:8x2", load, requests=None, duration_s=order.longest_s, seed=seed * 1000 + order.index,
            warmup_requests=0, context_limit_tokens=None,
        )  # fmt: skip
        lags: list[int] = []

        def on_rows(rows) -> None:
            lags.extend(row.sent_ns - row.scheduled_ns for row in rows if row.sent_ns is not None)
            watch.add(replies(rows, slo))

        def begin(progress: DriveProgress) -> None:
            if not progress.elapsed_s:  # before the first send
                golden.keep_off(child.pid for child in psutil.Process().children() if child.pid != server.pid)

        with golden.GoldenProcess(binary, 0.0, 0.0001, folder, service_s) as server:
            drive(
                Job(
                    drawn.requests, (PROMPT for _ in drawn.requests), load, Phase.MEASURE, f"probe{order.index}", folder
                ),
                Watching(on_rows, begin, lambda: stop_word(watch.decide())),
                Endpoint(server.url, golden.MODEL, "completions", vllm_extensions=True),
                driver="wire",
                workers=1,
                timeouts=Timeouts(10, 60, 60, 120),
            )
        late_s = sorted(lags)[int(0.99 * len(lags))] / 1e9 if lags else 0.0
        invalid = f"p99 send lag {late_s * 1e3:.1f} ms" if late_s > max_late_share * limit_s else None
        return watch.result(order.index, f"probe{order.index}", invalid)

    def show(result: ProbeResult) -> None:
        print("  ", *capacity.row(result), sep="  ", flush=True)

    return search_capacity(spec, attainment, probe, show)


def main() -> None:
    words = [float(word) for word in sys.argv[1:]]
    service_s, services, longest_s = (*words, *(5.0, 10.0, 60.0)[len(words) :])
    service_s /= 1e3
    attainment = 0.99
    truth = md1_capacity(service_s, services * service_s, attainment)
    spec = CapacitySpec(start_rps=0.4 / service_s, probe_s=(longest_s / 10, longest_s))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = search(golden.build(folder), spec, service_s, services * service_s, attainment, 1, folder)
    print(capacity.headline(result))
    if result.capacity_rps is not None:
        print(
            f"true capacity {truth:.5g}/s, found {result.capacity_rps:.5g}/s, off by {result.capacity_rps / truth - 1:+.2%}, interval covers it: {result.low_rps <= truth <= result.high_rps}"
        )
    out = Path(tempfile.gettempdir())
    (out / "capacity.svg").write_text(probes_plot(result), encoding="utf-8")
    (out / "capacity.json").write_text(json.dumps(asdict(result)), encoding="utf-8")
    print(f"plot and values: {out}/capacity.svg, capacity.json")


if __name__ == "__main__":
    main()
