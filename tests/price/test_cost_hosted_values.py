"""Hosted prices and bills as whole values: every field, every word that is printed beside a figure."""

from __future__ import annotations

from decimal import Decimal as D

import genai_prices
import pytest
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, Tier, TieredPrices

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.price.hosted import (
    Bill,
    HostedPrice,
    Tokens,
    bill,
    book_model,
    find_price,
    first_tier,
    price_ratio,
    same_model,
    unit_prices,
    usage_problem,
)
from harness.price.prices import day_of

NOW = day_of("20261124T113000Z")
HERE = f"genai-prices {genai_prices.__version__}"
PLAIN = PriceRef(provider="me", model="m", input_usd_per_million=1.5, output_usd_per_million=2)


def priced(**parts) -> HostedPrice:
    return HostedPrice("x", ModelPrice(**parts), {}, None)


# ---------------------------------------------------------------- prices


def test_an_own_price_is_what_was_declared():
    """Input and output alone: cached input costs the input's, no source, no date; each is said."""
    words = {
        "price": "$1.5 input, $1.5 cached input, $2.0 output per million tokens",
        "price source": "declared in the experiment",
        "price as of": "not given",
    }
    model = ModelPrice(input_mtok=D("1.5"), output_mtok=D(2))
    assert find_price(PLAIN, NOW) == HostedPrice("me/m", model, words, "not given")


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
    assert find_price(ref, NOW) == HostedPrice("me/m", model, words, "2026-11-01")
    only_hour = find_price(PLAIN.model_copy(update={"cache_write_1h_usd_per_million": 3.0}), NOW)
    assert only_hour.inputs["price"] == (
        "$1.5 input, $1.5 cached input, $3.0 cache write for an hour, $2.0 output per million tokens"
    )


def test_a_free_own_price_is_a_price():
    """0 is declared; one half of a price is not."""
    free = PLAIN.model_copy(update={"input_usd_per_million": 0.0, "output_usd_per_million": 0.0})
    assert unit_prices(find_price(free, NOW)) == (0, 0)
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
            assert found == HostedPrice(f"{provider.id}/{model.id}", price, words, None)
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
