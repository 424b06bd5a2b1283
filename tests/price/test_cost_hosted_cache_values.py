"""Hosted caches as whole values: whose they are, what they read and write, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import pytest
from genai_prices.types import ModelPrice, Tier, TieredPrices

from harness.config.price_ref import PriceRef
from harness.price.hosted import HostedPrice, Tokens, bill, find_price
from harness.price.hosted_api import is_of
from harness.price.hosted_cache import HostedCache, RunBill, bill_of_run, cache_of, unbilled_writes
from harness.price.prices import day_of
from tests.price.cost_summaries import RUN_ID, summary

NOW = day_of("20261124T113000Z")
PLAIN = PriceRef(provider="me", model="m", input_usd_per_million=1.5, output_usd_per_million=2)
MINI = PriceRef(provider="openai", model="gpt-5-mini")
USAGE = ((1000, 300, 50, 20), (100, 90, 5, 0))


def run_at(url, *, model="gpt-5-mini", target="t", **config):
    made = replace(summary(kind="hosted", usage=USAGE), model=model)
    return replace(
        made, config={"targets": [{"name": "other", "url": "http://x"}, {"name": target, "url": url}], **config}
    )


def declaring(**more):
    return MINI.model_copy(update=more)


@pytest.mark.parametrize(
    ("ref", "words", "cache"),
    [
        (MINI, {}, HostedCache(0, 0, 0, "none: no cached_input_tokens declared")),
        (MINI, {"ours": 7}, HostedCache(0, 0, 0, "none: no cached_input_tokens declared; the 7 that the measured server found in its own cache are not this API's")),
        (MINI, {"declared": 30, "ours": 7}, HostedCache(30, 0, 0, "30 of each prompt, declared")),
        (declaring(cached_input_tokens=0), {"declared": 30, "ours": 7}, HostedCache(0, 0, 0, "0 of each prompt, declared")),
        (declaring(cached_input_tokens=40, cache_write_5m_tokens=20, cache_write_1h_tokens=10), {"ratio": D("1.5")}, HostedCache(60, 30, 15, "60 of each prompt, declared; 30 written for 5 minutes, declared; 15 written for an hour, declared")),
        (declaring(cache_write_1h_tokens=10), {}, HostedCache(0, 0, 10, "none: no cached_input_tokens declared; 10 written for an hour, declared")),
    ],
)  # fmt: skip
def test_the_cache_that_is_billed_says_what_it_is(ref, words, cache):
    """Nothing declared, declared elsewhere, declared as nothing, with writes and another tokenizer: numbers and words."""
    assert cache_of(ref, **words) == cache


def test_a_run_against_the_api_has_its_own_cache():
    """Measured at that API: the usage of each request, declared writes on top; a run elsewhere names what it found and has none."""
    its = run_at("https://api.openai.com/v1")
    assert cache_of(declaring(cache_write_5m_tokens=20, cached_input_tokens=5), its) == HostedCache(
        None, 20, 0, "as this API's own usage says, measured; 20 written for 5 minutes, declared"
    )
    elsewhere = cache_of(MINI, run_at("http://127.0.0.1"), ours=1)
    assert elsewhere.read_tokens == 0
    assert "; the 390 that the measured server found" in elsewhere.source


def test_tokens_of_a_cache():
    """Read as measured or as declared, never more than the prompt; writes take what is left, the hour's first."""
    assert HostedCache(None, 0, 0, "").tokens(USAGE) == (Tokens(1000, 300, 50, 20), Tokens(100, 90, 5, 0))
    assert HostedCache(60, 30, 20, "").tokens([*USAGE, (50, 0, 5, 0)]) == (
        Tokens(1000, 60, 50, 20, 30, 20), Tokens(100, 60, 5, 0, 20, 20), Tokens(50, 50, 5, 0, 0, 0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "run", "its"),
    [
        ("openai", run_at("https://api.openai.com/v1"), True),
        ("openai", run_at("https://api.openai.com/v1", model="gpt-5"), False),
        ("openai", replace(run_at("https://api.openai.com/v1"), target_kind="vllm"), False),
        ("openai", run_at("https://proxy.example/api.openai.com"), False),
        ("openai", run_at(None), False),
        ("openai", replace(run_at("https://api.openai.com/v1"), config={}), False),
        ("openai", replace(run_at("https://api.openai.com/v1", target="another")), False),
        ("myhost", run_at("https://LLM.MyHost.example:8443/v1"), True),
        ("myhost", run_at("http://myhost/v1"), True),
        ("llm.myhost.example", run_at("https://llm.myhost.example/v1/chat"), True),
        ("myhost", run_at("https://llm.example/myhost"), False),
        ("MyHost", replace(run_at("http://10.0.0.1"), cell=replace(run_at("").cell, target="myHOST")), True),
    ],
)
def test_whose_run_it_is(provider, run, its):
    """By the book's address of the provider; of one it does not know, by a part of the host's name or the target's own."""
    assert is_of(PriceRef(provider=provider, model="gpt-5-mini"), run) is its


READ = [Tokens(1000, 300, 50, 20), Tokens(100, 0, 5, 0)]


@pytest.mark.parametrize(
    ("tokens", "parts", "warned"),
    [
        (READ, {"cache_write_mtok": D(2)}, True),
        (READ, {"cache_write_5m_mtok": D(2)}, True),
        (READ, {"cache_write_mtok": D(9), "cache_write_5m_mtok": D(1)}, False),
        (READ, {"cache_write_mtok": D(1)}, False),
        (READ, {}, False),
        ([Tokens(1000, 0, 50, 20)], {"cache_write_mtok": D(2)}, False),
        ([*READ, Tokens(10, 0, 5, 0, 1, 0)], {"cache_write_mtok": D(2)}, False),
        ([*READ, Tokens(10, 0, 5, 0, 0, 1)], {"cache_write_mtok": D(2)}, False),
        (READ, {"cache_write_mtok": TieredPrices(base=D(2), tiers=[Tier(start=5000, price=D(9))])}, True),
    ],
)
def test_writes_that_cost_and_are_not_billed_are_told(tokens, parts, warned):
    """Where the cache was read, a write costs more than input and none is in the bill: both bills by hand. Else nothing."""
    model = ModelPrice(input_mtok=D(1), cache_read_mtok=D(1), output_mtok=D(10), **parts)
    price = HostedPrice("x", model, {}, None)
    # 1,100 prompt tokens at 1 and 55 output at 10: $0.00165 a bill of 1e-6 dollars; 800 of them written at 1 more
    assert unbilled_writes(price, tokens) == (
        "x charges for cache writes ($2 per million tokens) and none are in its bill of $0.00165: "
        "declare cache_write_5m_tokens; if all that was not read was written it is $0.00245"
        if warned
        else None
    )


def test_a_runs_bill_says_what_it_is_made_of():
    """Two requests with a declared cache: the bill, every count, the price's own words; no warning where writes are free."""
    ref = PLAIN.model_copy(update={"cached_input_tokens": 60, "cache_write_5m_tokens": 30, "cache_write_1h_tokens": 5})
    price = find_price(ref, NOW)
    found = bill_of_run(ref, price, replace(summary(usage=USAGE), model="m"))
    words = {
        "run": RUN_ID,
        "basis": "list price: the tokens of a run elsewhere, nothing of it measured at this API",
        "requests": "2",
        "prompt tokens": "1100",
        "of them cached": "120",
        "of them written to the cache": "70",
        "cached input": "60 of each prompt, declared; 30 written for 5 minutes, declared; 5 written for an hour, declared",
        "output tokens": "55",
        "of them reasoning": "20",
        **price.inputs,
    }
    assert found == RunBill(
        bill(price, [Tokens(1000, 60, 50, 20, 30, 5), Tokens(100, 60, 5, 0, 30, 5)]), words, (), "list price"
    )
    assert list(found.inputs) == list(words)
