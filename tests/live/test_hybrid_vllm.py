"""A hybrid on the real server: its own side as a vLLM server, its hosted side the same one as an API without extensions."""

from __future__ import annotations

import pytest

from harness import pipeline
from harness.config.experiment import parse_experiment
from harness.judge.summary import summarise
from harness.measure.campaign.intent import Intent
from harness.measure.run import Stop
from harness.store.reader import find_runs, read_run
from tests.campaign.campaign_values import Quiet

pytestmark = [pytest.mark.vllm, pytest.mark.timing, pytest.mark.timeout(900)]
LIMIT = 2


def test_a_real_server_gets_what_the_policy_leaves_it(vllm_server, tmp_path, monkeypatch):
    """At most two at once of the own side, by the stamps of its rows; the rest go to the hosted side; every request is answered, once, with
    the lengths of its side's dialect; the KV cache's size and use come from the server."""
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path / "locks"))
    url, model = vllm_server.endpoint.base_url, vllm_server.endpoint.model
    data = {
        "experiment": "h", "max_usd": 100,
        "targets": [
            {"name": "own", "kind": "adopt", "url": url, "model": model},
            {"name": "api", "kind": "hosted", "url": url, "model": model},
            {"name": "mix", "kind": "hybrid", "sides": ["own", "api"], "policy": {"rule": "concurrency", "own_in_flight": LIMIT}},
        ],
        "workloads": ["fixed:32x64"],
        "loads": [{"rate": [40], "requests": 120}],
        "observe": {"server_hz": 5},
        "slo": {"ttft_s": 60},
    }  # fmt: skip
    spec = parse_experiment(data, "test")
    pipeline.measure_campaign(spec, tmp_path / "h", Quiet(), Stop(), Intent(only=("mix_*",)))
    (run,) = map(read_run, find_runs(tmp_path / "h"))
    rows = run.requests[run.requests.phase == "measure"]
    assert sorted(rows.seq) == list(range(120))
    assert set(rows.outcome) == {"ok"}
    own, api = (rows[rows.served_by == name] for name in ("own", "api"))
    assert len(own) >= LIMIT
    assert len(api) >= LIMIT
    at_once = [((own.sent_ns <= at) & (own.ended_ns > at)).sum() for at in own.sent_ns]
    assert max(at_once) <= LIMIT
    assert (own.prompt_tokens == 32).all()
    assert (own.output_tokens == 64).all()
    assert run.manifest.target["cache_config"]["block_size"].isdigit()
    assert (run.server.metric == "vllm:kv_cache_usage_perc").any()
    summary = summarise(run)
    assert [side.name for side in summary.sides] == ["own", "api"]
    assert summary.scalars["attainment"] == 1
