"""Drawn sessions against the rule itself, call by call in plain Python."""

from __future__ import annotations

import bisect

import pytest
import yaml

from harness.base.errors import ConfigError
from harness.measure.plan.drawing import draw
from harness.measure.plan.streams import Purpose, key
from harness.records import Load

MASK = 2**64 - 1
LEVELS = [0, 0.5, 1]
SPEC = {
    "context_limit_tokens": 120,
    "quantile_levels": LEVELS,
    "calls_per_session": [1, 4, 9],
    "first_prompt_tokens": [10, 40, 130],
    "new_prompt_tokens_per_later_call": [5, 50, 128],
    "output_tokens": [0, 20, 60],
    "think_time_s": [0, 1, 30.5],
    "compaction_keeps_tokens": 30,
}


def at(start, counter):
    """Element `counter` of the splitmix64 stream that begins at `start`."""
    z = (start + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def quantile(word, values, *, geometric=False):
    """Between the levels straight, or in eight straight pieces between points of a (b / a)^t."""
    u = (word >> 11) / 2**53
    i = min(bisect.bisect_right(LEVELS, u), len(LEVELS) - 1)
    a, b = values[i - 1], values[i]
    t = (u - LEVELS[i - 1]) / (LEVELS[i] - LEVELS[i - 1])
    if not geometric:
        return a + t * (b - a)
    k = int(t * 8)
    low, high = (a * (b / a) ** (n / 8) for n in (k, k + 1))
    return low + (t * 8 - k) * (high - low)


def session(number, seed, context, redraws, purpose=Purpose.SESSIONS):
    """[(new, output, think_ns)] of a session's calls, and whether it ends before one that does not fit."""
    start = at(key(seed, purpose), number)
    calls = []
    for call in range(max(1, round(quantile(at(start, 0), SPEC["calls_per_session"])))):
        for attempt in range(redraws):
            stream = at(start, 1 + attempt)
            word = at(stream, 3 * call)
            new = (quantile(word, SPEC["first_prompt_tokens"]) if call == 0
                   else quantile(word, SPEC["new_prompt_tokens_per_later_call"], geometric=True))  # fmt: skip
            output = quantile(at(stream, 3 * call + 1), [max(n, 1) for n in SPEC["output_tokens"]], geometric=True)
            think_ns = round(quantile(at(stream, 3 * call + 2), SPEC["think_time_s"]) * 1e9)
            new, output = max(1, round(new)), max(1, round(output))
            if new + output <= context:
                break
        else:
            return calls, True
        calls.append((new, output, think_ns))
    return calls, False


def expected(seed, count, context, redraws, purpose=Purpose.SESSIONS):
    """Rows (session, prompt, output, after, think_ns, pairs (row, tokens), row of the stream) and what the note counts."""
    rows, counts, number, kept_sessions = [], {"compacted": 0, "ended": 0, "missing": 0}, 0, 0
    skipped = 0
    while len(rows) < count:
        calls, ended = session(number, seed, context, redraws, purpose)
        number += 1
        if not calls:
            skipped += 1
            continue
        counts["missing"] += skipped
        skipped = 0
        counts["ended"] += ended
        begun = []  # (row of the stream, tokens) of the prompt so far, whole
        for i, (new, output, think_ns) in enumerate(calls):
            row = len(rows)
            if row == count:
                break
            before = sum(tokens for _, tokens in begun)
            if i == 0:
                begun = [(row, new)]
            elif before + new + output <= context:
                begun = [*begun[:-1], (begun[-1][0], begun[-1][1] + new)]
            else:
                left = max(min(before, SPEC["compaction_keeps_tokens"], context - new - output), 0)
                counts["compacted"] += 1
                kept, begun_before = [], begun
                for stream, tokens in begun_before:
                    if left > 0:
                        kept.append((stream, min(tokens, left)))
                        left -= tokens
                begun = [*kept, (row, new)]
            rows.append((kept_sessions, sum(n for _, n in begun), output, row - 1 if i else None, think_ns if i else None,
                         begun[:-1], begun[-1][0]))  # fmt: skip
        kept_sessions += 1
    return rows, counts, kept_sessions


def plan_of(tmp_path, requests, *, warmup=0, limit=None, query="", **change):
    path = tmp_path / "p.yaml"
    source = {"name": "x", "repository": "y", "licence": "CC0"}
    path.write_text(yaml.safe_dump({"sessions": SPEC | change, "source": source}))
    return draw(f"{path}{query}", Load(concurrency=2), requests=requests, duration_s=None, seed=3, warmup_requests=warmup,
                context_limit_tokens=limit)  # fmt: skip


@pytest.mark.parametrize(("redraws", "limit"), [(64, None), (64, 500), (64, 100), (1, None), (2, 90)])
def test_every_call_of_drawn_sessions(tmp_path, monkeypatch, redraws, limit):
    """Calls, lengths, think times, who follows whom, what a prompt begins with, and the note: with compactions, calls that were
    drawn again, sessions that end early, and sessions of which no call fits."""
    monkeypatch.setattr("harness.measure.plan.sessions._REDRAWS", redraws)
    context = min(120, limit or 120)
    plan, notes = plan_of(tmp_path, 700, limit=limit)
    rows, counts, sessions = expected(3, 700, context, redraws)
    seeds = [r.prompt_seed for r in plan.requests]
    seed_of = {}
    for i, row in enumerate(rows):
        seed_of.setdefault(row[-1], seeds[i])
    assert [(r.session_id, r.target_prompt_tokens, r.target_output_tokens, r.after_seq, r.think_ns, r.prefix, r.prompt_seed) for r in plan.requests] == [
        (*row[:5], tuple(n for stream, tokens in row[5] for n in (seed_of[stream], tokens)), seed_of[row[6]]) for row in rows
    ]  # fmt: skip
    assert len(set(seed_of.values())) == len(seed_of)
    more = f"; {counts['missing']} more had no call that fits and are left out" if counts["missing"] else ""
    assert notes[0] == (
        f"sessions: {sessions}; the context of {counts['compacted']} calls was compacted to fit {context} tokens, "
        f"{counts['ended']} sessions end before a call that would not fit{more}"
    )
    assert counts["compacted"] > 50
    assert bool(counts["ended"] and counts["missing"]) == (redraws < 64)


@pytest.mark.parametrize("limit", [None, 70])
def test_warm_up_calls_have_their_own_stream(tmp_path, limit):
    """Lengths of calls of other sessions, within the same limit, without sessions or prefixes of theirs."""
    warmup = plan_of(tmp_path, 5, warmup=40, limit=limit)[0].warmup
    rows, _, _ = expected(3, 40, limit or 120, 64, Purpose.WARMUP_LENGTHS)
    assert [(r.target_prompt_tokens, r.target_output_tokens) for r in warmup] == [row[1:3] for row in rows]
    assert {(r.session_id, r.prefix, r.after_seq, r.think_ns) for r in warmup} == {(None, (), None, None)}


def test_a_system_prompt_before_sessions(tmp_path):
    """All calls begin with it where nothing is compacted, which what a compaction keeps would not: then it is refused, never left out."""
    whole = {"context_limit_tokens": 10_000}
    plan = plan_of(tmp_path, 50, query="?system=25", **whole)[0]
    assert {r.prefix[0] for r in plan.requests} == {key(3, Purpose.SYSTEM_PROMPT) % 2**63}
    assert [r.prefix[1] for r in plan.requests] == [min(25, r.target_prompt_tokens) for r in plan.requests]
    alone = plan_of(tmp_path, 50, **whole)[0]
    assert [r.prompt_seed for r in plan.requests] == [r.prompt_seed for r in alone.requests]
    with pytest.raises(ConfigError, match="exclude each other"):
        plan_of(tmp_path, 700, query="?system=25")


def test_the_least_context_of_sessions(tmp_path):
    """The least first prompt and output (at least 1) must fit; where almost nothing else does, drawing stops with an error."""
    change = {"first_prompt_tokens": [10, 10, 130], "output_tokens": [0, 1, 1]}
    assert {
        (r.target_prompt_tokens, r.target_output_tokens) for r in plan_of(tmp_path, 3, limit=11, **change)[0].requests
    } == {(10, 1)}
    with pytest.raises(ConfigError, match="almost nothing") as caught:
        plan_of(tmp_path, 3, limit=10, **change)
    assert caught.value.value == "context limit 10 tokens; least prompt + output of the workload: 11 tokens"
    with pytest.raises(ConfigError) as caught:
        plan_of(tmp_path, 3, limit=12, **(change | {"output_tokens": [3, 4, 5]}))
    assert caught.value.value == "context limit 12 tokens; least prompt + output of the workload: 13 tokens"


def test_drawing_that_almost_never_fits_is_given_up(tmp_path, monkeypatch):
    """After 20,000 sessions of which fewer than one in a thousand has a call."""
    monkeypatch.setattr("harness.measure.plan.sessions._REDRAWS", 1)
    with pytest.raises(ConfigError, match="almost nothing") as caught:
        plan_of(tmp_path, 200, quantile_levels=[0, 1e-9, 1], first_prompt_tokens=[10, 120, 130])
    assert caught.value.value == "context limit 120 tokens; least prompt + output of the workload: 11 tokens"
