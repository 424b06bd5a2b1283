"""Shared prefixes: equal hash chains give equal tokens, and the hit ratio told is the one a cache of blocks would have."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.measure.plan.drawing import draw
from harness.measure.plan.prefixes import Chains, hit_ratio
from harness.measure.plan.prompts import prompts
from harness.records import Load, PlannedRequest, Vocabulary

WORDS = tuple(f"w{i}" for i in range(2000))
VOCABULARY = Vocabulary(WORDS, tuple(range(2000)), 0, "test")
BLOCK = 4


@st.composite
def chains(draw_):
    """Hash chains as a server would log them: each goes on from the beginning of an earlier one with new blocks."""
    rows, new = [], 0
    for _ in range(draw_(st.integers(1, 12))):
        base = draw_(st.sampled_from([[], *rows]))
        kept = base[: draw_(st.integers(0, len(base)))]
        more = draw_(st.integers(0 if kept else 1, 4))
        rows.append([*kept, *range(new, new + more)])
        new += more
    return rows


def requests_of(rows, tokens):
    made = Chains(BLOCK)
    return [
        PlannedRequest(
            i, None, n, 1, None, 1000 + i, tuple(v if k % 2 else 1000 + v for k, v in enumerate(made.pairs(i, ids, n)))
        )
        for i, (ids, n) in enumerate(zip(rows, tokens, strict=True))
    ]


def ids_of(requests):
    return [p.token_ids for p in prompts(requests, VOCABULARY, "completions")]


def cached_share(token_lists, block):
    """What a cache of whole blocks without limits serves: the block hash of vLLM, by brute force."""
    seen, hit, total = set(), 0, 0
    for tokens in token_lists:
        full = [tokens[:end] for end in range(block, len(tokens) + 1, block)]
        served = 0
        for begin in full:
            if begin not in seen or len(begin) > len(tokens) - 1:
                break
            served = len(begin)
        seen.update(full)
        hit, total = hit + served, total + len(tokens)
    return hit / total


@given(chains(), st.data())
def test_equal_chains_give_equal_tokens(rows, data):
    """Two prompts begin with equal tokens for exactly as long as their chains are equal, and each has its length; the last
    block of a prompt may be in part."""
    tokens = [BLOCK * len(ids) - data.draw(st.integers(0, BLOCK - 1)) for ids in rows]
    made = ids_of(requests_of(rows, tokens))
    assert [len(m) for m in made] == tokens
    for (one, first), (other, second) in [
        ((rows[a], made[a]), (rows[b], made[b])) for a in range(len(rows)) for b in range(a)
    ]:
        same = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
        length = min(same * BLOCK, len(first), len(second))
        assert first[:length] == second[:length]
        end = min(len(first), len(second), length + BLOCK)
        assert length == end or first[length:end] != second[length:end]


@given(chains(), st.data())
def test_hit_ratio_is_that_of_a_cache_of_blocks(rows, data):
    """`achievable` equals a brute-force prefix cache over the prompts' tokens, for blocks of 1 to 8 tokens; `asked` is at
    least as much."""
    tokens = [BLOCK * len(ids) - data.draw(st.integers(0, BLOCK - 1)) for ids in rows]
    requests = requests_of(rows, tokens)
    made = ids_of(requests)
    for block in (1, 3, 4, 8):
        ratio = hit_ratio(requests, block)
        assert ratio.by_block == pytest.approx(cached_share(made, block))
        assert ratio.by_token >= ratio.by_block


def test_the_same_piece_after_another_beginning_is_not_shared():
    """Prompts 1111 2222 and 11 2222: only the first two tokens are equal, whatever stands after them."""
    first = PlannedRequest(0, None, 12, 1, None, 900, (1, 4, 2, 4))
    second = PlannedRequest(1, None, 10, 1, None, 901, (1, 2, 2, 4))
    one, other = ids_of([first, second])
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    assert hit_ratio([first, second], 1).by_token == pytest.approx(2 / 22)
    assert hit_ratio([first, second], 1).by_block == pytest.approx(2 / 22)


def test_hashes_may_be_names_or_huge_and_scopes_do_not_meet():
    """Hashes as text or beyond 64 bits work like numbers; the same hashes in another scope share nothing."""
    for names in (["a", "b", "c"], [2**70, 2**71, 2**72]):
        made = Chains(BLOCK)
        assert made.pairs(0, names, 12) == ()
        assert made.pairs(1, names[:2], 8) == (0, 8)
        assert made.pairs(2, names, 12, scope=1) == ()


def test_chain_memory_grows_with_what_is_new():
    """A conversation that grows by one block a turn has one pair for each earlier turn, not one a block."""
    made = Chains(512)
    chain = list(range(20))
    pairs = [made.pairs(turn, chain[: 10 + turn], (10 + turn) * 512) for turn in range(10)]
    assert [len(p) // 2 for p in pairs] == list(range(10))
    assert pairs[3] == (0, 5120, 1, 512, 2, 512)


@settings(max_examples=5)
@given(st.integers(0, 2**62))
def test_drawn_reuse_is_what_the_tokens_say(seed):
    """long-chat: the ratio that the plan tells is the one of its actual tokens."""
    plan = draw("long-chat", Load(concurrency=1), requests=25, duration_s=None, seed=seed, warmup_requests=2,
                context_limit_tokens=6000)[0]  # fmt: skip
    made = ids_of(plan.requests)
    assert hit_ratio(plan.requests, 16).by_block == pytest.approx(cached_share(made, 16))
    assert [len(m) for m in made] == [r.target_prompt_tokens for r in plan.requests]
    warm = ids_of(plan.warmup)
    assert all(w[:4] != m[:4] for w in warm for m in made)


def test_a_system_prompt_is_shared_by_all():
    """`?system=N`: measured prompts begin with the same N tokens (those that are as long) and differ after it; warm-up
    prompts begin with another."""
    plan = draw("uniform:20-60x1-2?system=32", Load(concurrency=1), requests=40, duration_s=None, seed=3,
                warmup_requests=3, context_limit_tokens=None)[0]  # fmt: skip
    made, warm = ids_of(plan.requests), ids_of(plan.warmup)
    longest = max(made, key=len)
    assert all(m[:32] == longest[: min(32, len(m))] for m in made)
    long = [m for m in made if len(m) > 36]
    assert len({m[32:36] for m in long}) == len(long)
    assert all(w[:8] != longest[:8] for w in warm)
    assert hit_ratio(plan.requests, 16).by_block == pytest.approx(cached_share(made, 16))


def test_session_prompts_grow():
    """agent: each call's prompt begins with the whole prompt of the call before it in the session, or after a compaction
    with as much of it as was kept and nothing more; sessions share nothing."""
    plan = draw("agent", Load(concurrency=2), requests=30, duration_s=None, seed=1, warmup_requests=0,
                context_limit_tokens=None)[0]  # fmt: skip
    made = ids_of(plan.requests)
    compacted = 0
    for (one, first), (two, second) in pairwise(zip(plan.requests, made, strict=True)):
        if one.session_id != two.session_id:
            assert second[:4] != first[:4]
            assert two.after_seq is None
            continue
        assert two.after_seq == one.seq
        kept = len(first) if one.prompt_seed == two.prompt_seed else sum(two.prefix[1::2])
        compacted += kept < len(first)
        assert second[:kept] == first[:kept]
        assert second[kept : kept + 4] != first[kept : kept + 4]
    assert compacted > 0
    assert hit_ratio(plan.requests, 512).by_block == pytest.approx(cached_share(made, 512))
