"""Hosted prices, bills and caches as whole values: every field, every word that is printed beside a figure."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import genai_prices
import pytest
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, Tier, TieredPrices

from harness.config import PriceRef
from harness.cost.hosted import (
    Bill,
    HostedPrice,
    Tokens,
    bill,
    book_model,
    find_price,
    first_tier,
    price_ratio,
    same_model,
    usage_problem,
)
from harness.cost.hosted_cache import HostedCache, RunBill, bill_of_run, cache_of, is_of, unbilled_writes
from harness.cost.prices import day_of
from harness.errors import ConfigError
from tests.cost.cost_summaries import RUN_ID, summary

NOW = day_of("20261124T113000Z")
HERE = f"genai-prices {genai_prices.__version__}"
PLAIN = PriceRef(provider="me", model="m", input_usd_per_million=1.5, output_usd_per_million=2)


def priced(**parts) -> HostedPrice:
    return HostedPrice("x", None, ModelPrice(**parts), {}, None)


# ---------------------------------------------------------------- prices


def test_an_own_price_is_what_was_declared():
    """Input and output alone: cached input costs the input's, no source, no date; each is said."""
    words = {
        "price": "$1.5 input, $1.5 cached input, $2.0 output per million tokens",
        "price source": "declared in the experiment",
        "price as of": "not given",
    }
    model = ModelPrice(input_mtok=D("1.5"), output_mtok=D(2))
    assert find_price(PLAIN, NOW) == HostedPrice("me/m", (D("1.5"), D("1.5"), D(2)), model, words, "not given")


def test_an_own_price_with_all_its_parts():
    """Cached input, both kinds of cache writes, source and date."""
    ref = PLAIN.model_copy(
        update={
            "cached_input_usd_per_million": 0.3,
            "cache_write_5m_usd_per_million": 1.9,
            "cache_write_1h_usd_per_million": 3.0,
            "source": "offer 7",
            "as_of": "2026-11-01",
        }
    )
    words = {
        "price": "$1.5 input, $0.3 cached input, $1.9 cache write for 5 minutes, $3.0 cache write for an hour, $2.0 output per million tokens",
        "price source": "offer 7",
        "price as of": "2026-11-01",
    }
    model = ModelPrice(
        input_mtok=D("1.5"), output_mtok=D(2), cache_read_mtok=D("0.3"), cache_write_5m_mtok=D("1.9"), cache_write_1h_mtok=D(3)
    )  # fmt: skip
    assert find_price(ref, NOW) == HostedPrice("me/m", (D("1.5"), D("0.3"), D(2)), model, words, "2026-11-01")
    only_hour = find_price(PLAIN.model_copy(update={"cache_write_1h_usd_per_million": 3.0}), NOW)
    assert only_hour.inputs["price"] == (
        "$1.5 input, $1.5 cached input, $3.0 cache write for an hour, $2.0 output per million tokens"
    )


def test_a_free_own_price_is_a_price():
    """0 is declared; one half of a price is not."""
    free = PLAIN.model_copy(update={"input_usd_per_million": 0.0, "output_usd_per_million": 0.0})
    assert find_price(free, NOW).own == (0, 0, 0)
    for half in ("input_usd_per_million", "output_usd_per_million"):
        with pytest.raises(ConfigError, match="incomplete"):
            find_price(PLAIN.model_copy(update={half: None}), NOW)


def test_a_price_of_the_book_says_where_it_is_from():
    """Every model that the book prices by tokens: its price, package and version, date, the vendor's page and a comment where there are."""
    snapshot = data_snapshot.get_snapshot()
    pages = comments = 0
    for provider in snapshot.providers:
        for model in provider.models[:3]:
            price = model.get_prices(NOW)
            if price.input_mtok is None or price.output_mtok is None:
                continue
            words = {
                "price": str(price),
                "price source": f"{HERE} (bundled data, read offline): {provider.id}/{model.id}",
                "price as of": f"in force on 2026-11-24 by the data of {HERE}",
            }
            if provider.pricing_urls:
                words["vendor's page"] = provider.pricing_urls[0]
            if model.price_comments:
                words["price comment"] = model.price_comments
            found = find_price(PriceRef(provider=provider.id, model=model.id), NOW)
            assert found == HostedPrice(f"{provider.id}/{model.id}", None, price, words, None)
            pages += not provider.pricing_urls
            comments += not model.price_comments
    assert comments > 10
    assert pages < len(snapshot.providers)


def test_a_model_is_the_one_of_just_that_id_else_the_one_that_matches():
    """Each listed id is itself; a dated name of a model is matched by the book's rules."""
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            assert book_model(PriceRef(provider=provider.id, model=model.id)) == (provider, model)
    assert book_model(PriceRef(provider="openai", model="gpt-5-mini-2025-08-07"))[1].id == "gpt-5-mini"


def test_misspelt_names_in_capitals_find_their_neighbours():
    """The nearest names whatever the case; else what to give oneself."""
    for ref, near in (
        (PriceRef(provider="OPENAY", model="gpt-5"), "openai"),
        (PriceRef(provider="openai", model="GPT-55"), "gpt-5.5"),
    ):
        with pytest.raises(ConfigError, match="no price") as error:
            book_model(ref)
        assert near in error.value.advice
    with pytest.raises(ConfigError) as error:
        book_model(PriceRef(provider="openai", model="qqqqqqqqqqq"))
    assert error.value.advice == "give input_usd_per_million and output_usd_per_million yourself"


def test_a_model_that_is_not_priced_by_tokens_is_refused():
    """Of those the book prices otherwise, each is an error that shows its price."""
    found = 0
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            price = model.get_prices(NOW)
            if price.input_mtok is None or price.output_mtok is None:
                with pytest.raises(ConfigError, match="not priced by input and output"):
                    find_price(PriceRef(provider=provider.id, model=model.id), NOW)
                found += (price.input_mtok is None) != (price.output_mtok is None)
    assert found > 0


def test_the_first_tier_and_the_ratio():
    """The price of short prompts, plain or tiered; output over input at it; no ratio to free input."""
    tiered = TieredPrices(base=D(2), tiers=[Tier(start=1000, price=D(4))])
    assert [first_tier(p) for p in (tiered, D(3), None)] == [2, 3, None]
    assert price_ratio(priced(input_mtok=tiered, output_mtok=D(8))) == 4
    assert price_ratio(priced(input_mtok=D(0), output_mtok=D(8))) is None


# ---------------------------------------------------------------- bills


def test_a_bill_names_every_part():
    """Two requests with every kind of token at eight prices and a fee, by hand."""
    price = priced(
        input_mtok=D(1000), cache_read_mtok=D(100), cache_write_mtok=D(9), cache_write_5m_mtok=D(2000), cache_write_1h_mtok=D(3000),
        output_mtok=D(10_000), output_reasoning_mtok=D(20_000), requests_kcount=D(500),
    )  # fmt: skip
    found = bill(price, [Tokens(100, 20, 30, 10, 5, 15), (200, 0, 40, 0)])
    assert found == Bill(
        requests=2, input_tokens=300, cached_tokens=20, written_tokens=20, output_tokens=70,
        fresh_usd=D("0.260"), cached_usd=D("0.002"), written_usd=D("0.010") + D("0.045"),
        output_usd=D("0.6") + D("0.2"), fees_usd=D(1),
    )  # fmt: skip
    assert (found.input_usd, found.total_usd) == (D("0.317"), D("2.117"))


def test_no_requests_are_a_bill_of_nothing():
    """No usage: zero of everything, with a fee per request or without."""
    for fee in ({}, {"requests_kcount": D(5)}):
        assert bill(priced(input_mtok=D(1), output_mtok=D(1), **fee), []) == Bill(0, 0, 0, 0, 0, *[D(0)] * 5)


@pytest.mark.parametrize(
    ("usage", "problem"),
    [
        ((10, 10, 5, 5), None),
        ((10, 4, 5, 0, 3, 3), None),
        ((0, 0, 0, 0), None),
        ((10, 11, 5, 0), "prompt, cached, output, reasoning = (10, 11, 5, 0)"),
        ((10, 0, 5, 6), "prompt, cached, output, reasoning = (10, 0, 5, 6)"),
        ((10, -1, 5, 0), "prompt, cached, output, reasoning = (10, -1, 5, 0)"),
        ((10, 4, 5, 0, 3, 4), "prompt, cached, output, reasoning = (10, 4, 5, 0), written = 7"),
        ((10, 10, 5, 0, 1, 0), "prompt, cached, output, reasoning = (10, 10, 5, 0), written = 1"),
        ((10, 10, 5, 0, 0, 1), "prompt, cached, output, reasoning = (10, 10, 5, 0), written = 1"),
    ],
)
def test_usage_adds_up_or_is_named(usage, problem):
    """Parts as large as the whole are fine, one token more is named with the request, writes too."""
    assert usage_problem([(1, 0, 1, 0), usage]) == problem


@pytest.mark.parametrize(
    ("measured", "hosted", "same"),
    [
        ("Qwen/Qwen3-8B", "qwen3-8b", True),
        ("Qwen/Qwen3-8B/", "a/b/qwen3_8b", True),
        ("llama-3.1-8b", "llama318b", True),
        ("qwen3-8b", "qwen3-8b-instruct", False),
        ("", "", False),
        ("-", "_", False),
    ],
)
def test_equal_names_are_one_model(measured, hosted, same):
    """Letters and digits after the last slash; no name is like no other."""
    assert same_model(measured, hosted) is same


# ---------------------------------------------------------------- caches

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
    price = priced(input_mtok=D(1), cache_read_mtok=D(1), output_mtok=D(10), **parts)
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
        "requests": "2",
        "prompt tokens": "1100",
        "of them cached": "120",
        "of them written to the cache": "70",
        "cached input": "60 of each prompt, declared; 30 written for 5 minutes, declared; 5 written for an hour, declared",
        "output tokens": "55",
        "of them reasoning": "20",
        **price.inputs,
    }
    assert found == RunBill(bill(price, [Tokens(1000, 60, 50, 20, 30, 5), Tokens(100, 60, 5, 0, 30, 5)]), words, ())
    assert list(found.inputs) == list(words)
