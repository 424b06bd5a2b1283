"""Prompts: exact, unique, deterministic."""

from __future__ import annotations

import hashlib
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.measure.plan.drawing import draw
from harness.measure.plan.prompts import prompts
from harness.records import Load, PlannedRequest, Vocabulary

WORDS = tuple(f"w{i}" for i in range(2000))
IDS = tuple(range(100, 2100))


def planned(tokens, seed=7, seq=0):
    return PlannedRequest(seq, None, tokens, 1, None, seed)


def vocabulary(words=WORDS, ids=IDS, overhead=0):
    return Vocabulary(words, ids, overhead, "test")


def plan(workload="uniform:1-64x1-2", requests=500, warmup_requests=0):
    return draw(
        workload,
        Load(concurrency=1),
        requests=requests,
        duration_s=None,
        seed=1,
        warmup_requests=warmup_requests,
        context_limit_tokens=None,
    )[0]


def test_golden_ids():
    """The ids of 500 prompts are the same on every machine."""
    made = [p.token_ids for p in prompts(plan().requests, vocabulary(), "completions")]
    assert (
        hashlib.sha256(repr(made).encode()).hexdigest()
        == "b50fef0794412d97d5e1eaf5a4313f024f4e391e70b987b249af4c814a95a680"
    )


def test_a_plain_body_is_the_text_of_the_same_words():
    """Text for text: the words whose ids an exact body sends, less what the tokenizer puts before them."""
    requests = [planned(tokens, seed=seed) for seed, tokens in enumerate((1, 5, 40))]
    exact = prompts(requests, vocabulary(), "completions")
    for one, plain in zip(exact, prompts(requests, vocabulary(), "completions", "plain"), strict=True):
        assert plain.token_ids is None
        assert plain.text == "".join(f" {WORDS[token - 100]}" for token in one.token_ids)
    begun = prompts(requests, vocabulary(overhead=1), "completions", "plain")
    assert [len(prompt.text.split()) for prompt in begun] == [1, 4, 39]


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 2**63 - 1)), max_size=20), st.integers(0, 40))
def test_counts_are_exact(pairs, overhead):
    """Ids: as many as asked for. Words: that less the chat template's overhead, at least one, each after one space."""
    requests = [planned(tokens, seed, seq) for seq, (tokens, seed) in enumerate(pairs)]
    for request, prompt in zip(requests, prompts(requests, vocabulary(overhead=overhead), "completions"), strict=True):
        assert (prompt.seq, prompt.text, len(prompt.token_ids)) == (request.seq, None, request.target_prompt_tokens)
        assert set(prompt.token_ids) <= set(IDS)
    for request, prompt in zip(requests, prompts(requests, vocabulary(overhead=overhead), "chat"), strict=True):
        first, *words = prompt.text.split(" ")
        assert (first, prompt.token_ids) == ("", None)
        assert len(words) == max(1, request.target_prompt_tokens - overhead)
        assert set(words) <= set(WORDS)


def test_completions_without_ids_get_text():
    """Where the target does not tell ids, completions are text; an unknown overhead counts as none."""
    (prompt,) = prompts([planned(9)], vocabulary(ids=None, overhead=None), "completions")
    assert prompt.text.count(" ") == 9


@given(st.integers(0, 2**63 - 1), st.integers(1, 200), st.integers(1, 200))
def test_a_prompt_depends_on_its_seed_only(seed, short, more):
    """Alone, in a batch or asked for longer, the same seed gives the same beginning."""
    (alone,) = prompts([planned(short, seed)], vocabulary(), "completions")
    others = [planned(40, seed ^ 1), planned(short + more, seed), planned(3, seed ^ 2)]
    longer = list(prompts(others, vocabulary(), "completions"))[1]
    assert longer.token_ids[:short] == alone.token_ids


def test_batch_size_does_not_show(monkeypatch):
    """Prompts are the same however they are batched."""
    requests = plan().requests
    whole = list(prompts(requests, vocabulary(), "chat"))
    monkeypatch.setattr("harness.measure.plan.prompts._BATCH_TOKENS", 50)
    assert list(prompts(requests, vocabulary(), "chat")) == whole


def test_no_two_prompts_share_a_prefix():
    """Of 20,000 prompts, warm-up included, no two agree in their first 16 tokens, nor even in 6 (V^-6 = 1.6e-20 a pair)."""
    drawn = plan("fixed:16x1", 20_000, 100)
    heads = {p.token_ids[:6] for p in prompts(drawn.requests + drawn.warmup, vocabulary(), "completions")}
    assert len(heads) == 20_100


def test_words_are_equally_likely():
    """64,000 draws from 64 words: each about 1,000 times (5 standard deviations), at the first place too."""
    drawn = plan("fixed:64x1", 1000).requests
    counts = dict.fromkeys(range(64), 0)
    firsts = dict.fromkeys(range(64), 0)
    for prompt in prompts(drawn, vocabulary(ids=tuple(range(64))), "completions"):
        firsts[prompt.token_ids[0]] += 1
        for token in prompt.token_ids:
            counts[token] += 1
    assert all(abs(count - 1000) < 5 * 32 for count in counts.values())
    assert all(abs(count - 15.6) < 5 * 4 for count in firsts.values())


def test_prompts_are_made_as_they_are_asked_for():
    """An endless plan costs only what is taken from it."""

    def endless():
        seq = 0
        while True:
            yield planned(1000, seq, seq)
            seq += 1

    assert [p.seq for p in islice(prompts(endless(), vocabulary(), "completions"), 200)] == list(range(200))


@pytest.mark.parametrize("empty", [vocabulary(words=()), vocabulary(ids=())])
def test_empty_vocabulary_is_an_error(empty):
    """No word, no exact prompt: said before anything is sent."""
    with pytest.raises(ConfigError, match="no word"):
        next(prompts([planned(3)], empty, "completions"))
