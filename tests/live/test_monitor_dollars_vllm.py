"""A real vLLM server under a run, and watched beside it: the monitor's dollars are the run's."""

from __future__ import annotations

import threading
import time

import httpx
import pytest

from harness.base import clock
from harness.config.monitor import MonitorSpec
from harness.judge.runs import analyse
from harness.monitor.increase import usage
from harness.monitor.page import PageReader
from harness.monitor.paid import paid_servers, server_of
from harness.monitor.view import view
from harness.monitor.watched import Watched
from harness.store.reader import read_run
from tests.live.test_run_vllm import rate_rps, run

pytestmark = [pytest.mark.vllm, pytest.mark.timing, pytest.mark.timeout(900)]
HARDWARE = {"name": "box", "usd_per_hour": 1.0, "source": "as the run is told", "as_of": "2026-11-01"}


class Watcher:
    """Reads a page every 50 ms, in a thread, from entering to leaving. `rows`: of each page (seconds that it took, its row)."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self._server, self._reader = Watched(server_of(url), "chat", "vllm", "test", 100), PageReader("vllm")
        self.rows = []
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._stop.wait(0.05):
                asked_ns = time.time_ns()
                text = client.get(self._url).text
                came_ns = time.time_ns()
                self._server.take(self._reader.read(text), came_ns)
                self.rows += [((came_ns - asked_ns) / 1e9, row) for row in self._server.drain()]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def test_dollars_of_a_window_are_those_of_the_run_that_it_covers(vllm_server, tmp_path):
    """240 requests, evenly, at a quarter of what a pilot shows or 20 a second: between two pages that came at once from a server at rest, as
    far apart as the run's window has them, there are the requests that the run sent in that time, one more or less at the edges, and $/M output,
    $/M total and $/1,000 requests are the run's at that rate (its own, where the machine let it send evenly)."""
    url = vllm_server.info.base_url.removesuffix("/v1") + "/metrics"
    rate = min(20.0, round(rate_rps(vllm_server, 5000) / 4, 1))
    with Watcher(url) as watcher:
        load = f"--rate {rate} --arrivals constant --duration {240 / rate}"
        words = ("--workload", "fixed:32x4", *load.split())
        document = run(vllm_server, tmp_path / "run", *words, "--allow-invalid")
    (summary,) = analyse(tmp_path / "run").summaries
    offset_ns = clock.anchor().offset_ns
    inside = [
        row.read_utc_ns for took_s, row in watcher.rows
        if took_s < 0.4 / rate and not row.running and not row.waiting
        and summary.window.start_ns <= row.read_utc_ns - offset_ns <= summary.window.end_ns
    ]  # fmt: skip
    first, last = inside[0] + 1, inside[-1] + 1
    spec = MonitorSpec.model_validate(
        {"name": "live", "pools": [{"name": "chat", "servers": [url], "hardware": HARDWARE}]}
    )
    usages = usage([row for _, row in watcher.rows], first, last, 1.0)
    seen = view(spec, usages, paid_servers(spec, usages, first, last), from_ns=first, to_ns=last)
    every = next(group for group in seen.groups if group.kind == "all")
    stored = read_run(tmp_path / "run").requests
    sent = int(stored[stored.phase == "measure"].sent_ns.between(first - offset_ns, last - offset_ns).sum())
    assert every.value("requests") == pytest.approx(sent, abs=1)
    assert sent > 20
    at_its_rate = summary.scalars["request_rps"] * (last - first) / 1e9 / sent
    own = {line["name"]: line["usd"] for cost in document["costs"] for line in cost["own"]}
    for name, of_run in (
        ("usd_per_million_output_tokens", "self_usd_per_million_output_tokens_upper"),
        ("usd_per_million_total_tokens", "self_usd_per_million_total_tokens"),
        ("usd_per_1000_requests", "self_usd_per_1000_requests"),
    ):
        assert every.value(name) == pytest.approx(float(own[of_run]) * at_its_rate, rel=max(0.01, 1.5 / sent))
