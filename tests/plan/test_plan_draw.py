"""draw: deterministic, hashed, streams that do not disturb each other, bounded redraws."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.measure.plan import sources
from harness.measure.plan.drawing import draw
from harness.measure.plan.rows import Rows, digest
from harness.records import Load

CLOSED = Load(concurrency=4)


def plan_of(workload="chat", load=CLOSED, requests=50, duration_s=None, seed=1, warmup_requests=4, limit=None):
    return draw(
        workload,
        load,
        requests=requests,
        duration_s=duration_s,
        seed=seed,
        warmup_requests=warmup_requests,
        context_limit_tokens=limit,
    )


def lengths(requests):
    return [(r.target_prompt_tokens, r.target_output_tokens) for r in requests]


GOLDEN = [
    ({"load": Load(rate_rps=5.0), "requests": 1000},
     "5f6c5d6f399c98ef2f9ad9610214beff887de56116bf9d6838b8745aec3a2b25"),
    ({"load": Load(rate_rps=5.0), "requests": 200_000, "seed": 3, "limit": 4096},
     "dec40eabe12e151630d4d4f867f5b1949f5f99e930e7dd989980921ab06d5318"),
    ({"workload": "fixed:128x32", "requests": 64, "warmup_requests": 2},
     "964510158273fb074f2b8d7f0eae5c704dd5327a438ce10dd686d0720b6e9a82"),
    ({"workload": "uniform:64-256x16-64", "load": Load(rate_rps=3.0, arrivals="constant"), "requests": None,
      "duration_s": 60.0, "seed": 2**62 + 1, "warmup_requests": 8},
     "9ebc7ea033c517e311cddaa564fa1149b4a953da28bff247b287d8329b4333d3"),
    ({"workload": "lognormal:512x128:0.8", "load": Load(rate_rps=20.0), "requests": None, "duration_s": 60.0, "seed": 7,
      "warmup_requests": 0, "limit": 2048},
     "370b0dd2369a35ebc7a113ec4d8a90e14c76a0b8327dd343821d543b5b4d3e98"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sha256"), GOLDEN)
def test_golden_digests(words, sha256):
    """The same words give the same plan on every machine, Python 3.11 to 3.13 and NumPy from 2.0."""
    assert plan_of(**words)[0].sha256 == sha256


def test_digest_covers_everything():
    """Changing the workload, the seed, the load, or any field of any row, warm-up included, changes the digest."""

    def rows(first, count, scheduled=True):
        column = np.arange(first, first + count)
        prefix = [(int(n), 5) for n in column]
        return Rows(
            column,
            column if scheduled else None,
            column + 1,
            column + 2,
            column + 3,
            column,
            prefix,
            column,
            column + 4,
        )

    load, fixed, tables = Load(rate_rps=1.0), {"kind": "fixed"}, (rows(0, 3), rows(10, 2, scheduled=False))
    seen = {
        digest(fixed, 1, load, tables),
        digest({"kind": "uniform"}, 1, load, tables),
        digest(fixed, 2, load, tables),
        digest(fixed, 1, replace(load, arrivals="constant"), tables),
        digest(fixed, 1, load, (tables[0], rows(10, 1, scheduled=False))),
        digest(fixed, 1, load, (rows(0, 2), tables[1])),
    }
    changes = 0
    for which, table in enumerate(tables):
        for name in ("seq", "scheduled_ns", "prompt", "output", "prompt_seed", "session", "after", "think_ns"):
            old = getattr(table, name)
            new = np.zeros(2, np.int64) if old is None else old + np.array([0] * (len(old) - 1) + [1])
            changed = [*tables]
            changed[which] = replace(table, **{name: new})
            seen.add(digest(fixed, 1, load, tuple(changed)))
            changes += 1
        for prefix in ([*table.prefix[:-1], (7, 5)], [*table.prefix[:-1], ()], None):
            changed = [*tables]
            changed[which] = replace(table, prefix=prefix)
            seen.add(digest(fixed, 1, load, tuple(changed)))
            changes += 1
    assert len(seen) == 6 + changes


@settings(max_examples=40)
@given(
    st.sampled_from(["chat", "uniform:1-99x1-9", "lognormal:50x9"]),
    st.integers(0, 2**63 - 1),
    st.integers(1, 40),
    st.integers(1, 40),
    st.none() | st.integers(2000, 9000),
)
def test_a_longer_plan_begins_with_the_shorter_one(workload, seed, count, more, limit):
    """Asking for more requests, or another load, leaves each request's lengths and prompt seed as they were."""
    short = plan_of(workload, CLOSED, count, seed=seed, limit=limit)[0]
    long = plan_of(workload, CLOSED, count + more, seed=seed, limit=limit)[0]
    assert long.requests[:count] == short.requests
    opened = plan_of(workload, Load(rate_rps=3.0), count, seed=seed, limit=limit)[0]
    assert tuple(replace(r, scheduled_ns=None) for r in opened.requests) == short.requests
    assert plan_of(workload, CLOSED, count, seed=seed, limit=limit)[0] == short


def test_another_rate_scales_arrivals_and_leaves_lengths():
    """Twice the rate: the same requests at half the offsets."""
    slow, fast = (plan_of(load=Load(rate_rps=rate), requests=200)[0] for rate in (2.0, 4.0))
    assert lengths(slow.requests) == lengths(fast.requests)
    assert all(
        abs(a.scheduled_ns - 2 * b.scheduled_ns) <= 400 for a, b in zip(slow.requests, fast.requests, strict=True)
    )


def test_other_seeds_differ():
    """Another seed draws other lengths, arrivals and prompts."""
    one, two = (plan_of(load=Load(rate_rps=2.0), seed=seed)[0] for seed in (1, 2))
    assert lengths(one.requests) != lengths(two.requests)
    assert [r.scheduled_ns for r in one.requests] != [r.scheduled_ns for r in two.requests]
    assert not {r.prompt_seed for r in one.requests} & {r.prompt_seed for r in two.requests}


def test_warmup_has_its_own_prompts_and_lengths():
    """Warm-up rows are -1, -2, .., unscheduled, of the same distribution, with seeds that no measured request has."""
    plan = plan_of("uniform:10-20x5-6", Load(rate_rps=5.0), 3000, warmup_requests=500)[0]
    assert [r.seq for r in plan.warmup] == list(range(-1, -501, -1))
    assert all(r.scheduled_ns is None and 10 <= r.target_prompt_tokens <= 20 for r in plan.warmup)
    assert lengths(plan.warmup) != lengths(plan.requests[:500])
    assert len({r.prompt_seed for r in plan.requests + plan.warmup}) == 3500
    assert plan_of("uniform:10-20x5-6", Load(rate_rps=5.0), 3000, warmup_requests=0)[0].requests == plan.requests


def test_rows_are_storable():
    """Every field is a plain int or None: what Parquet and JSON take."""
    for r in plan_of(load=Load(rate_rps=5.0))[0].requests:
        assert all(value is None or type(value) is int or value == () for value in astuple(r))
        assert 0 <= r.prompt_seed < 2**63


def test_context_limit_redraws_and_says_so():
    """No row is above the limit, rows that fitted are untouched, and the note tells how many and what it shifted."""
    free, limited = plan_of(requests=5000)[0], None
    limited, notes = plan_of(requests=5000, limit=2048)
    changed = 0
    for before, after in zip(free.requests, limited.requests, strict=True):
        assert after.target_prompt_tokens + after.target_output_tokens <= 2048
        if before.target_prompt_tokens + before.target_output_tokens <= 2048:
            assert after == before
        else:
            changed += 1
    assert all(r.target_prompt_tokens + r.target_output_tokens <= 2048 for r in limited.warmup)
    before, after = (np.mean([r.target_prompt_tokens for r in p.requests]) for p in (free, limited))
    assert f"context limit 2048 tokens: {changed:,} of 5,000 requests" in notes[0]
    assert f"mean prompt {before:.1f} -> {after:.1f} tokens" in notes[0]
    assert plan_of(requests=50, limit=20_000)[1] == ()


@pytest.mark.parametrize(
    ("workload", "limit"),
    [("fixed:100x29", 128), ("chat", 8), ("lognormal:9000x1000:0.1", 900), ("uniform:1-999x1-2", 3)],
)
def test_context_limit_that_leaves_almost_nothing(workload, limit):
    """A limit below what the workload can be, or under which about 1 % or less fits, is refused at once."""
    with pytest.raises(ConfigError, match="context limit"):
        plan_of(workload, limit=limit, requests=2000)


def test_closed_loop_with_a_duration_gets_a_pool(monkeypatch):
    """The pool holds (1 + ceil(duration / (5 ms + 0.5 ms x output tokens))) requests for each slot, and a note says so; a million at most."""
    assert sources._POOL_MAX == 1_000_000
    monkeypatch.setattr(sources, "_POOL_MAX", 10_000)
    plan, notes = plan_of("fixed:16x90", Load(concurrency=8), None, 30.0)
    assert len(plan.requests) == 8 * (1 + 600)
    assert all(r.scheduled_ns is None for r in plan.requests)
    assert "a pool of 4,808 requests" in notes[0]
    plan, notes = plan_of("fixed:1x1", Load(concurrency=1000), None, 3600.0)
    assert len(plan.requests) == 10_000
    assert "the rule asks for" in notes[0]


def test_open_loop_with_a_duration():
    """Constant 10/s for 3 s: 30 requests at 0, 0.1, .. 2.9 s."""
    plan, notes = plan_of("fixed:1x1", Load(rate_rps=10.0, arrivals="constant"), None, 3.0)
    assert [r.scheduled_ns for r in plan.requests] == [k * 100_000_000 for k in range(30)]
    assert len(notes) == 1
    assert notes[0].startswith("planned arrivals (constant): mean rate 10/s, CV of gaps 0.00")


@pytest.mark.parametrize(
    "words",
    [
        {"requests": None},
        {"requests": 5, "duration_s": 5.0},
        {"requests": 0},
        {"requests": 10**9},
        {"requests": None, "duration_s": float("inf")},
        {"load": Load()},
        {"load": Load(concurrency=1, rate_rps=1.0)},
        {"load": Load(concurrency=0)},
        {"load": Load(rate_rps=0.0)},
        {"load": Load(rate_rps=float("nan"))},
        {"load": Load(rate_rps=float("inf"))},
        {"requests": None, "duration_s": 0.0},
        {"load": Load(rate_rps=1.0, arrivals="bursty")},
        {"seed": -1},
        {"seed": 2**63},
        {"warmup_requests": -1},
    ],
)
def test_words_that_make_no_plan(words):
    """Each is a ConfigError of three lines."""
    with pytest.raises(ConfigError) as caught:
        plan_of(**words)
    assert len(str(caught.value).splitlines()) == 3
