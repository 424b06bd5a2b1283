"""Two replicas in turn, behind vllm-router, and each alone: `python -m tests.bench.bench_replicas --router BIN/vllm-router [--golden]`.

Both run the tiny model on a thread of their own (`--golden`: the golden server); the router is any program that takes the words of
vllm-router 0.1.17 (`pip install vllm-router`, in an environment of its own). The same plan goes to all targets. Prints what each replica served,
how even it was, what the router costs, and the whole against the sum of its parts.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from harness import pipeline
from harness.config.experiment import parse_experiment
from harness.judge.runs import analyse
from harness.measure.campaign.intent import Intent
from harness.measure.run import Stop
from harness.measure.targets.command import free_port
from harness.report.run.cells import rows
from harness.report.run.replicas import render, replica_tables
from tests.bench.bench_hybrid import server
from tests.campaign.campaign_values import Quiet
from tests.fakes.golden_server import GoldenServer
from tests.waiting import until


@contextlib.contextmanager
def router(program: str, urls: list[str], log: Path) -> Iterator[str]:
    """Its base URL, once it answers."""
    port = free_port()
    workers = [url.removesuffix("/v1") for url in urls]
    words = [program, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--worker-urls", *workers]
    with log.open("wb") as said:
        running = subprocess.Popen(words, stdout=said, stderr=said)

    def answers() -> bool:
        assert running.poll() is None, log.read_text()[-2000:]
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=2).is_success
        return False

    try:
        until(answers, "the router")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        running.terminate()
        running.wait()


def targets(urls: list[str], routed: str | None, model: str) -> list[dict[str, Any]]:
    common = {"kind": "adopt", "model": model}
    both = [{"name": "in-turn", "replicas": urls, **common}]
    both += [{"name": "routed", "url": routed, "replicas": urls, **common}] if routed else []
    return [*both, *({"name": f"alone-{k}", "url": url, **common} for k, url in enumerate(urls, 1))]


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--router")
    words.add_argument("--golden", action="store_true")
    words.add_argument("--requests", type=int, default=64)
    words.add_argument("--repetitions", type=int, default=2)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if given.golden:
            urls = [stack.enter_context(GoldenServer(0.02, 0.005)).url for _ in range(2)]
            model = "golden"
        else:
            servers = [stack.enter_context(server(f"replica-{k}", k, folder)) for k in range(2)]
            urls, model = [one.endpoint.base_url for one in servers], servers[0].endpoint.model
        routed = stack.enter_context(router(given.router, urls, folder / "router.log")) if given.router else None
        spec = parse_experiment({
            "experiment": "replicas", "targets": targets(urls, routed, model), "workloads": ["fixed:64x16"],
            "loads": [{"concurrency": [4, 8], "requests": given.requests}], "repetitions": given.repetitions,
            "observe": {"gpu": "off", "network": "off"}, "min_free_gib": 0,
        }, "bench")  # fmt: skip
        pipeline.measure_campaign(spec, folder / "out", Quiet(), Stop(), Intent())
        analysis = analyse(folder / "out")
        for run in analysis.summaries:
            print(f"{run.cell.name}: {run.state}, {run.verdict.state}, {run.scalars['output_tps'] or 0:.1f} tok/s")
        render(Console(width=160), replica_tables(rows(analysis.summaries, [])))


if __name__ == "__main__":
    main()
