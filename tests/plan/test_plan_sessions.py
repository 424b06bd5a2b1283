"""Sessions: closed loop inside, drawn or recorded; refused where the load generator could not send them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.measure.plan.drawing import draw
from harness.measure.plan.prefixes import hit_ratio
from harness.measure.plan.preset import load_preset
from harness.records import Load


def plan_of(workload="agent", load=None, requests=4000, **words):
    words = {"duration_s": None, "seed": 1, "warmup_requests": 2, "context_limit_tokens": None} | words
    return draw(workload, load or Load(concurrency=4), requests=requests, **words)


def kept_tokens(request):
    """Tokens at a prompt's beginning that stand in earlier streams than its own."""
    return sum(request.prefix[1::2])


@pytest.mark.parametrize("name", ["agent", "agent-128k"])
def test_drawn_sessions_are_the_sources(name):
    """30,000 calls: calls of a session, first prompts, new tokens, outputs and think times are the source's at every level
    of its quantiles, to 4 standard deviations of a sample; the prefix that a call shares with the call before it is the
    source's to 1 point. Every call fits the context, and no session is cut."""
    spec = load_preset(data_dir("workloads") / f"{name}.yaml").sessions
    plan, notes = plan_of(name, requests=30_000)
    requests = plan.requests[: max(i for i, r in enumerate(plan.requests) if r.after_seq is None)]  # whole sessions
    later = [(one, two) for one, two in pairwise(requests) if two.after_seq is not None]
    drawn = {
        "calls_per_session": np.bincount([r.session_id for r in requests]),
        "first_prompt_tokens": [r.target_prompt_tokens for r in requests if r.after_seq is None],
        "new_prompt_tokens_per_later_call": [new_tokens(one, two) for one, two in later],
        "output_tokens": [r.target_output_tokens for r in requests],
        "think_time_s": [r.think_ns / 1e9 for _, r in later],
    }
    for table, values in drawn.items():
        half = 0 if table == "think_time_s" else 1  # a whole number stands for the half below and above it
        ordered, asked, levels = np.sort(values), np.array(getattr(spec, table)), np.array(spec.quantile_levels)
        allowed = 4 * np.sqrt(levels * (1 - levels) / len(ordered)) + (levels == 1) * 0.001
        below = np.searchsorted(ordered, asked - half, side="left") / len(ordered)
        upto = np.searchsorted(ordered, asked + half, side="right") / len(ordered)
        # levels with one value (calls of 1, times in whole seconds) are ends of a step: only its outer ones bind
        assert all(upto[asked == a][-1] >= levels[asked == a][-1] - allowed[asked == a][-1] for a in set(asked)), table
        assert all(below[asked == a][0] <= levels[asked == a][0] + allowed[asked == a][0] for a in set(asked)), table
    assert hit_ratio(requests, 1).by_token == pytest.approx(spec.token_hit_ratio_previous_call, abs=0.01)
    assert max(r.target_prompt_tokens + r.target_output_tokens for r in requests) <= spec.context_limit_tokens
    assert " 0 sessions end before" in notes[0]


def new_tokens(one, two):
    """Of a later call: what it adds to the prompt before it, or to what a compaction kept of that."""
    if two.prompt_seed == one.prompt_seed:
        return two.target_prompt_tokens - one.target_prompt_tokens
    return two.target_prompt_tokens - kept_tokens(two)


def test_a_context_that_would_not_fit_is_compacted():
    """Where prompt, new tokens and output would be above the context, the call keeps the first 26,000 tokens of the prompt
    before it (or as many as fit) and goes on with tokens of its own; elsewhere it begins with the whole prompt before."""
    plan, notes = plan_of(requests=3000)
    compacted = 0
    for one, two in pairwise(plan.requests):
        if two.after_seq is None:
            assert two.prefix == ()
        elif two.prompt_seed == one.prompt_seed:
            assert two.prefix == one.prefix
            assert two.target_prompt_tokens > one.target_prompt_tokens
        else:
            compacted += 1
            kept = kept_tokens(two)
            room = 32_768 - two.target_output_tokens - new_tokens(one, two)
            assert kept == min(one.target_prompt_tokens, 26_000, room)
            assert one.target_prompt_tokens + new_tokens(one, two) + two.target_output_tokens > 32_768
    assert compacted > 100
    assert f"the context of {compacted:,} calls was compacted" in notes[0]


def test_a_session_is_a_chain():
    """Calls stand in order; each later one names the call before it and a think time, and has no time of its own."""
    plan, _ = plan_of(load=Load(rate_rps=3.0), requests=500)
    starts = [r.scheduled_ns for r in plan.requests if r.after_seq is None]
    assert starts == sorted(starts)
    for one, two in zip(plan.requests, plan.requests[1:], strict=False):
        if two.after_seq is None:
            assert (two.session_id, two.think_ns) == (one.session_id + 1, None)
            assert two.scheduled_ns is not None
        else:
            assert (two.after_seq, two.session_id) == (one.seq, one.session_id)
            assert two.think_ns >= 0
            assert two.scheduled_ns is None
    assert all(r.session_id is None and r.after_seq is None for r in plan.warmup)


def test_more_calls_continue_the_same_sessions():
    """A longer plan begins with the shorter one; another context limit is respected."""
    short, long = plan_of(requests=300)[0], plan_of(requests=900)[0]
    assert long.requests[:300] == short.requests
    small = plan_of(requests=300, context_limit_tokens=16_000)[0]
    assert max(r.target_prompt_tokens + r.target_output_tokens for r in small.requests) <= 16_000
    with pytest.raises(ConfigError, match="context limit"):
        plan_of(requests=300, context_limit_tokens=2000)
    with pytest.raises(ConfigError, match="depends on the server"):
        plan_of(requests=None, duration_s=10.0)


@pytest.fixture
def recorded(tmp_path):
    """Two sessions, one with a sub-agent, in the format of the Claude Code traces."""

    def call(t, prompt, output, blocks, think):
        return {
            "t": t,
            "type": "n",
            "in": prompt,
            "out": output,
            "hash_ids": blocks,
            "think_time": think,
            "api_time": 1.0,
        }

    one = {"id": "a", "block_size": 64, "hash_id_scope": "local", "requests": [
        call(0.0, 100, 5, [1, 2], 0.0),
        call(7.5, 190, 6, [1, 3, 4], 5.0),
        {"t": 8.0, "type": "subagent", "requests": [call(8.5, 64, 9, [50], 0.0), call(9.5, 120, 3, [50, 51], 0.25)]},
        call(20.0, 250, 7, [1, 3, 4, 5], 2.0),
    ]}  # fmt: skip
    two = {"id": "b", "block_size": 64, "hash_id_scope": "local", "requests": [call(0.0, 128, 2, [1, 2], 0.0)]}
    (tmp_path / "trace_1.json").write_text(json.dumps(one))
    (tmp_path / "trace_2.json").write_text(json.dumps(two, indent=1))
    return tmp_path


def test_recorded_sessions_are_replayed_at_their_times(recorded):
    """Open loop at recorded times: rows merged by time, sub-agents as sessions of their own, hashes local to a file."""
    plan, notes = plan_of(str(recorded), Load(arrivals="trace:2"), requests=None)
    rows = [(r.scheduled_ns / 1e9, r.target_prompt_tokens, r.target_output_tokens) for r in plan.requests]
    assert rows == [(0, 100, 5), (0, 128, 2), (3.75, 190, 6), (4.25, 64, 9), (4.75, 120, 3), (10, 250, 7)]
    sessions = [r.session_id for r in plan.requests]
    assert sessions[0] == sessions[2] == sessions[5]
    assert sessions[3] == sessions[4]
    assert len(set(sessions)) == 3
    assert plan.requests[1].prefix == ()
    assert plan.requests[2].prefix == (plan.requests[0].prompt_seed, 64)
    assert any("no reply is awaited" in note for note in notes)


@pytest.mark.parametrize(
    ("marker", "inner", "expected"),
    [
        (8.0, [0.5, 2.0], [8.5, 10.0]),  # counted from the sub-agent's own beginning
        (8.0, [7.999, 9.0], [15.999, 17.0]),
        (8.0, [8.0, 9.0], [8.0, 9.0]),  # counted from the session's
        (8.0, [8.5, 9.0], [8.5, 9.0]),
    ],
)
def test_times_of_sub_agents(tmp_path, marker, inner, expected):
    """Times below the marker's count from it, all others from the session's start; a sub-agent's own sub-agents alike."""

    def call(t, prompt):
        return {"t": t, "type": "n", "in": prompt, "out": 1, "hash_ids": [prompt]}

    def agent(t, calls):
        return {"t": t, "type": "subagent", "requests": calls}

    deepest = agent(inner[0], [call(0.0, 70)])
    calls = [call(0.0, 50), agent(marker, [*(call(t, 60 + at) for at, t in enumerate(inner)), deepest])]
    one = {"id": "a", "block_size": 64, "hash_id_scope": "local", "requests": calls}
    (tmp_path / "trace_1.json").write_text(json.dumps(one))
    plan, _ = plan_of(str(tmp_path), Load(arrivals="trace"), requests=None)
    at_s = {r.target_prompt_tokens: r.scheduled_ns / 1e9 for r in plan.requests}
    assert [at_s[60], at_s[61]] == pytest.approx(expected)
    assert at_s[70] == pytest.approx(expected[0])


def test_recorded_sessions_in_closed_loop(recorded):
    """Session after session, each call after the one before with its recorded think time."""
    with pytest.raises(ConfigError, match="own order"):
        plan_of(str(recorded), Load(rate_rps=1.0), requests=6)
    plan, _ = plan_of(str(recorded), requests=6)
    chain = [(r.target_prompt_tokens, r.after_seq, r.think_ns) for r in plan.requests]
    own = [(100, 5_000_000_000), (190, 2_000_000_000)]
    at = [c[0] for c in chain].index(100)
    assert chain[at] == (100, None, None)
    assert chain[at + 1] == (190, at, own[0][1])
    assert chain[at + 2] == (250, at + 1, own[1][1])
    by_length = {r.target_prompt_tokens: r for r in plan.requests}
    assert by_length[190].prefix == (by_length[100].prompt_seed, 64)
    assert by_length[120].think_ns == 250_000_000


def test_think_times_can_be_shortened():
    """`agent?think=0.1`: every think time is a tenth, all else the same; other workloads refuse the word."""
    whole, tenth = plan_of("agent", requests=200)[0], plan_of("agent?think=0.1", requests=200)[0]
    for one, other in zip(whole.requests, tenth.requests, strict=True):
        assert other.think_ns == (None if one.think_ns is None else round(one.think_ns / 10))
        assert (one.target_prompt_tokens, one.target_output_tokens) == (
            other.target_prompt_tokens,
            other.target_output_tokens,
        )
    with pytest.raises(ConfigError, match="sliced"):
        plan_of("chat?think=0.1", requests=20)
