"""A session against the real server: the prefix cache itself says that the real replies were in the later prompts."""

from __future__ import annotations

import httpx
import pytest

from harness.measure.drive.driver import drive
from harness.measure.job import Job
from harness.measure.plan.prompts import prompts
from harness.records import Load, Phase, PlannedRequest, Timeouts
from tests.drive.offering import Watching

pytestmark = [pytest.mark.vllm, pytest.mark.timing, pytest.mark.timeout(900)]
LENGTHS, REPLY, THINK_NS = (200, 400, 600), 64, 20_000_000


def prefix_hits(server) -> float:
    lines = httpx.get(server.info.metrics_url).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total"))


def test_later_turns_hold_the_real_replies(vllm_server, tmp_path):
    """Three turns, each exactly as long as planned and sent after its reply. The cache serves more than the 600 tokens of the
    two earlier prompts: the rest are the replies' own tokens, which only a prompt that holds them can hit."""
    rows = []
    plan = [
        PlannedRequest(i, None, n, REPLY, 0, 20_261_124, (), i - 1 if i else None, THINK_NS if i else None)
        for i, n in enumerate(LENGTHS)
    ]
    made = prompts(plan, vllm_server.vocabulary, "completions")
    before = prefix_hits(vllm_server)
    drive(
        Job(plan, made, Load(concurrency=1), Phase.MEASURE, "sessions", tmp_path),
        Watching(rows.extend),
        vllm_server.endpoint,
        driver="wire",
        workers=1,
        timeouts=Timeouts(),
    )
    rows.sort(key=lambda row: row.seq)
    assert [(row.outcome, row.prompt_tokens, row.output_tokens) for row in rows] == [("ok", n, REPLY) for n in LENGTHS]
    assert rows[1].sent_ns >= rows[0].ended_ns + THINK_NS
    assert rows[2].sent_ns >= rows[1].ended_ns + THINK_NS
    assert prefix_hits(vllm_server) - before > LENGTHS[0] + LENGTHS[1]
