"""Prompts of every preset on a real vLLM server have exactly the planned number of tokens, by its usage and its /tokenize.

The whole table (10,000 prompts, context 8,192): `python -m tests.bench.bench_prompts`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.measure.plan.preset import presets
from harness.measure.plan.prompts import prompts
from tests.bench import bench_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.timing, pytest.mark.timeout(900)]
EACH = 4  # a preset and mode, 18 presets and 3 modes: 216 prompts
SMALL = [name for name in presets() if name not in bench_prompts.SESSION_PRESETS]


@pytest.mark.parametrize("mode", bench_prompts.MODES)
def test_every_prompt_has_the_planned_length(vllm_server, mode):
    """72 prompts over all presets without sessions in one drive, cut to the server's 2,048 tokens: the server's usage says the planned
    length for every one, and so does its /tokenize."""
    target = bench_prompts.in_mode(vllm_server, mode)
    shortest = 1 + (target.vocabulary.prompt_overhead_tokens or 0 if mode == "chat" else 0)
    drawn = [r for k, name in enumerate(SMALL) for r in bench_prompts.planned(name, EACH, 100 + k, None)]
    fitted, _, _ = bench_prompts.fitted(drawn, 2047, shortest)
    requests = [replace(r, seq=i) for i, r in enumerate(fitted)]
    assert len(requests) == EACH * len(SMALL)
    made = list(prompts(requests, target.vocabulary, target.endpoint.api))
    rows = bench_prompts.send(target, requests, made, 8, f"exact-{mode}")
    counted = bench_prompts.tokenized(target, made)
    lengths = [r.target_prompt_tokens for r in requests]
    assert [(row.outcome, row.prompt_tokens) for row in rows] == [("ok", length) for length in lengths]
    assert counted == lengths


def test_session_prompts_grow_by_what_was_planned(vllm_server, tmp_path):
    """A short session preset within 2,048 tokens, compacted on the way: every call has its planned length, by id and in chat."""
    path = tmp_path / "short.yaml"
    path.write_text(
        "sessions:\n  context_limit_tokens: 2000\n  quantile_levels: [0, 1]\n  calls_per_session: [6, 12]\n"
        "  first_prompt_tokens: [200, 700]\n  new_prompt_tokens_per_later_call: [20, 600]\n  output_tokens: [1, 20]\n"
        "  think_time_s: [0, 1]\n  compaction_keeps_tokens: 900\n"
        "source: {name: made up, repository: none, licence: CC0}\n"
    )
    requests = bench_prompts.planned(str(path), 24, 5, None)
    assert any(r.prefix for r in requests)  # some calls follow a compaction
    for mode in ("ids", "chat"):
        target = bench_prompts.in_mode(vllm_server, mode)
        made = list(prompts(requests, target.vocabulary, target.endpoint.api))
        rows = bench_prompts.send(target, requests, made, 4, f"session-{mode}")
        assert [row.prompt_tokens for row in rows] == [r.target_prompt_tokens for r in requests]
