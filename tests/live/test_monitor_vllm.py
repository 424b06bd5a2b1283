"""A monitor beside a load on a real vLLM server: what it reads is what was served."""

from __future__ import annotations

import time

import pytest

from harness.config.monitor import MonitorSpec
from harness.measure.plan.prompts import prompts
from harness.monitor.watch import Watch
from harness.monitor.window import window
from harness.records import PlannedRequest
from tests.bench import bench_prompts
from tests.monitor.watching import watching
from tests.waiting import until

pytestmark = [pytest.mark.vllm, pytest.mark.timing, pytest.mark.timeout(900)]


def test_increases_are_the_drivers_own_sums(vllm_server, tmp_path):
    """Between a page before the load and one after it: prompt and output tokens and requests are those of our driver's rows, to the token;
    every histogram has each request once."""
    page_url = vllm_server.info.metrics_url
    pool = {"name": "tiny", "servers": [page_url]}
    spec = MonitorSpec.model_validate({"name": "live", "interval_s": 1, "store": str(tmp_path / "m"), "pools": [pool]})
    began_ns = time.time_ns() - 120 * 10**9
    with watching(Watch(spec, monitor="live")) as watch:
        until(lambda: watch.servers() and watch.servers()[0].up, "the first page")
        plan = [PlannedRequest(i, None, 64, 24, None, 7000 + i) for i in range(24)]
        rows = bench_prompts.send(
            vllm_server, plan, list(prompts(plan, vllm_server.vocabulary, "completions")), 4, "monitor"
        )
        after = watch.servers()[0].scrapes
        until(lambda: watch.servers()[0].scrapes >= after + 3, "pages after the load")
        assert watch.servers()[0].says == ""
    (found,) = window(watch.root, began_ns, time.time_ns() + 10**9, 1).usages
    assert found.model == vllm_server.info.model
    assert (found.restarts, found.lost) == (0, 0)
    assert len(rows) == 24
    assert found.counters["prompt_tokens"] == sum(row.prompt_tokens for row in rows) == 24 * 64
    assert found.counters["output_tokens"] == sum(row.output_tokens for row in rows) == 24 * 24
    assert found.counters["requests"] == 24
    assert found.counters["errors"] == found.counters["preemptions"] == 0
    assert {name: histogram.counts[-1] for name, histogram in found.histograms.items()} == dict.fromkeys(
        ("ttft", "tpot", "queue", "e2el"), 24.0
    )
