"""Hosted bills, from own prices and from genai-prices, offline."""

import socket
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.price.hosted import bill, find_price, price_ratio
from harness.price.prices import day_of

NOW = day_of("20261124T113000Z")
GPT55 = PriceRef(provider="openai", model="gpt-5.5")  # 5 / 30, above 272,000 input tokens 10 / 45, cached 0.5
GROQ8B = PriceRef(provider="groq", model="llama-3.1-8b-instant")  # 0.05 / 0.08


def own(given, out, cached=None, **kw):
    return PriceRef(
        provider="me",
        model="m",
        input_usd_per_million=given,
        output_usd_per_million=out,
        cached_input_usd_per_million=cached,
        **kw,
    )


def usages():
    one = st.integers(1, 400_000).flatmap(
        lambda p: st.tuples(st.just(p), st.integers(0, p), st.integers(0, 5000), st.just(0))
    )
    return st.lists(one.flatmap(lambda u: st.tuples(*map(st.just, u[:3]), st.integers(0, u[2]))), max_size=12)


def test_tiers_go_by_request_11_dollars_and_not_19():
    """1,000 requests of 1,000 + 200 tokens are $11.00; the same tokens as one request would be $19.00."""
    price = find_price(GPT55, NOW)
    assert bill(price, [(1000, 0, 200, 0)] * 1000).total_usd == D("11.00")
    assert bill(price, [(1_000_000, 0, 200_000, 0)]).total_usd == D("19.00")


def test_one_long_request_among_short_ones_pays_its_own_tier():
    """Only the request above the threshold pays the higher tier."""
    price = find_price(GPT55, NOW)
    assert bill(price, [(1000, 0, 200, 0), (300_000, 0, 200, 0)]).total_usd == D("0.011") + D("3.009")


def test_cached_tokens_are_billed_at_the_cached_price():
    """400 of 1,000 prompt tokens from the cache: 600 x 5 + 400 x 0.5 per million."""
    assert bill(find_price(GPT55, NOW), [(1000, 400, 0, 0)]).input_usd == D("0.0032")
    assert bill(find_price(own(5.0, 30.0, 0.5), NOW), [(1000, 400, 0, 0)]).input_usd == D("0.0032")
    assert bill(find_price(own(5.0, 30.0), NOW), [(1000, 400, 0, 0)]).input_usd == D("0.005")


def test_reasoning_tokens_are_billed_once_as_output():
    """Reasoning is part of the output: 200 output tokens cost the same whether or not 150 of them are reasoning."""
    for ref in (GPT55, GROQ8B, own(5.0, 30.0)):
        price = find_price(ref, NOW)
        assert bill(price, [(10, 0, 200, 150)]) == bill(price, [(10, 0, 200, 0)])


def test_prices_are_those_of_the_day_of_the_run():
    """o3 was cut from 10/40 to 2/8 on 2025-06-10: a run before and one after pay different prices."""
    o3 = PriceRef(provider="openai", model="o3")
    tokens = [(1_000_000, 0, 1_000_000, 0)]
    assert bill(find_price(o3, day_of("20250609T235959Z")), tokens).total_usd == 50
    assert bill(find_price(o3, day_of("20250610T000000Z")), tokens).total_usd == 10


def test_seed_row_8_output_is_not_priced_as_input():
    """5 B tokens at 1.5 in and 2.0 out: $8,500 at 60/40 and $10,000 all output, not $7,500."""
    per_request = bill(find_price(own(1.5, 2.0), NOW), [(300, 0, 200, 0)] * 1000)
    assert per_request.total_usd * 10_000 == D(8500)
    assert bill(find_price(own(1.5, 2.0), NOW), [(0, 0, 500, 0)] * 1000).total_usd * 10_000 == D(10_000)


@pytest.mark.parametrize(("ref", "usd"), [(PriceRef(provider="openai", model="gpt-3.5-turbo"), 4500), (GROQ8B, 310)])
def test_seed_row_8_at_real_list_prices(ref, usd):
    """The same 10 M requests of 300 + 200 tokens: $4,500 at gpt-3.5-turbo's list price, $310 for an open 8B model."""
    assert bill(find_price(ref, NOW), [(300, 0, 200, 0)] * 1000).total_usd * 10_000 == usd


@given(usages(), st.sampled_from([GPT55, GROQ8B, own(1.5, 2.0, 0.25)]))
def test_the_bill_is_the_sum_of_its_requests(usage, ref):
    """Whatever shortcut is taken, the total equals the requests priced one by one."""
    price = find_price(ref, NOW)
    whole, parts = bill(price, usage), [bill(price, [u]) for u in usage]
    assert whole.total_usd == sum((p.total_usd for p in parts), D(0))
    assert whole.input_usd == sum((p.input_usd for p in parts), D(0))
    assert whole.output_usd == sum((p.output_usd for p in parts), D(0))
    assert (whole.requests, whole.input_tokens) == (len(usage), sum(u[0] for u in usage))


def test_no_socket_is_opened(monkeypatch):
    """Prices are read offline."""

    def refuse(*_args, **_kw):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert bill(find_price(GROQ8B, NOW), [(1_000_000, 0, 0, 0)]).total_usd == D("0.05")


@pytest.mark.parametrize(
    ("provider", "model", "value", "near"),
    [
        ("openai", "gpt-55", "openai/gpt-55", "gpt-5.5"),
        ("opnai", "gpt-5", "opnai", "openai"),
        ("groq", "llama-3.1-8b", "groq/", "llama-3.1-8b-instant"),
    ],
)
def test_unknown_names_get_the_nearest_ones(provider, model, value, near):
    """A misspelt provider or model is a ConfigError that names what it may have been."""
    with pytest.raises(ConfigError) as error:
        find_price(PriceRef(provider=provider, model=model), NOW)
    assert value in error.value.value
    assert near in error.value.advice


@pytest.mark.parametrize("usage", [(10, 11, 5, 0), (10, 0, 5, 6)])
def test_impossible_usage_is_refused(usage):
    """More cached than prompt, or more reasoning than output tokens: ConfigError, not a negative part of a bill."""
    for ref in (GROQ8B, own(1.0, 2.0)):
        with pytest.raises(ConfigError):
            bill(find_price(ref, NOW), [(10, 0, 5, 0), usage])


def test_half_an_own_price_is_refused():
    """Input without output: ConfigError, not a free output."""
    with pytest.raises(ConfigError):
        find_price(PriceRef(provider="me", model="m", input_usd_per_million=1.0), NOW)


def test_price_ratio_is_of_the_first_tier():
    """Output over input: 6 for 5/30, None where input is free."""
    assert price_ratio(find_price(GPT55, NOW)) == 6
    assert price_ratio(find_price(own(0.5, 1.5), NOW)) == 3
    assert price_ratio(find_price(own(0.0, 1.5), NOW)) is None


def test_inputs_name_package_version_model_and_date():
    """What is printed beside the figure: package and version, matched model, day."""
    inputs = find_price(GROQ8B, NOW).inputs
    assert "genai-prices 0." in inputs["price source"]
    assert "groq/llama-3.1-8b-instant" in inputs["price source"]
    assert "2026-11-24" in inputs["price as of"]
