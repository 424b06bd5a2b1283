"""Hosted contracts as whole values: every limit with its rate, bills, variants, and where two sources are apart."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from decimal import Decimal as D

import genai_prices
import pytest
from genai_prices.types import ModelPrice, Tier, TieredPrices

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.planner.demand import Load
from harness.planner.hosted_terms import (
    LimitCapacity,
    MeanRequest,
    MonthlyBill,
    RateLimits,
    limit_capacity,
    monthly_bill,
    provisioned_usd_per_hour,
)
from harness.price.hosted import HostedPrice, book_model, cross_check, find_price, find_variant, unit_prices
from harness.price.prices import day_of

NOW = day_of("20261124T113000Z")
MINI = PriceRef(provider="openai", model="gpt-5-mini")
SHAPE = MeanRequest(
    input_tokens=1000, output_tokens=200, cached_input_tokens=400, max_tokens=500, e2e_s=4, usd_per_request="0.001"
)


# ---------------------------------------------------------------- limits


def test_what_is_not_said_of_a_contract():
    """Nothing limits, cached input counts, no source; of a request, only its tokens are needed."""
    assert asdict(RateLimits()) == {
        "requests_per_minute": None,
        "requests_per_day": None,
        "input_tokens_per_minute": None,
        "output_tokens_per_minute": None,
        "tokens_per_minute": None,
        "tokens_per_day": None,
        "concurrency": None,
        "spend_usd_per_day": None,
        "spend_usd_per_month": None,
        "cached_input_counts": True,
        "source": "",
        "as_of": "",
    }
    assert asdict(MeanRequest(input_tokens=1, output_tokens=2)) == {
        "input_tokens": 1,
        "output_tokens": 2,
        "cached_input_tokens": 0,
        "max_tokens": None,
        "e2e_s": None,
        "usd_per_request": None,
    }


ALL = RateLimits(
    requests_per_minute=600, requests_per_day=864_000, input_tokens_per_minute=480_000, output_tokens_per_minute=84_000,
    tokens_per_minute=450_000, tokens_per_day=86_400 * 6000, concurrency=12, spend_usd_per_month="5259.6",
)  # fmt: skip
RATES = {
    "requests_per_minute": 10.0,  # 600 / 60
    "requests_per_day": 10.0,
    "input_tokens_per_minute": 8.0,  # 8,000 a second / 1,000
    "output_tokens_per_minute": 7.0,  # 1,400 / 200
    "tokens_per_minute": 5.0,  # 7,500 / (1,000 + 500)
    "tokens_per_day": 4.0,
    "concurrency": 3.0,  # 12 / 4 s
    "spend_usd_per_month": 2.0,  # 5,259,600 requests in 2,629,800 s
}


def test_all_limits_at_once():
    """Eight rates by hand; without a load the least binds, and nothing is infeasible."""
    assert limit_capacity(ALL, SHAPE) == LimitCapacity(2.0, "spend_usd_per_month", RATES, None)
    free = replace(ALL, spend_usd_per_month=None, concurrency=None, cached_input_counts=False)
    assert limit_capacity(free, SHAPE).binding == "tokens_per_day"
    assert limit_capacity(free, SHAPE).by_limit["input_tokens_per_minute"] == pytest.approx(8000 / 600)


def test_what_is_broken_is_said_with_both_rates():
    """Of a load of 9 at the peak, 3 in the day and 1 on average: each limit below its own, in the order of the contract."""
    found = limit_capacity(ALL, SHAPE, Load(9.0, 3.0, 1.0))
    assert (found.rps, found.binding, found.by_limit) == (3.0, "concurrency", RATES)
    assert found.infeasible == (
        "infeasible: peak demand 9 requests/s, input_tokens_per_minute allows 8; "
        "peak demand 9 requests/s, output_tokens_per_minute allows 7; "
        "peak demand 9 requests/s, tokens_per_minute allows 5; peak demand 9 requests/s, concurrency allows 3"
    )
    other = limit_capacity(ALL, SHAPE, Load(1.0, 4.5, 2.25))
    assert other.infeasible == (
        "infeasible: demand of the busiest day 4.5 requests/s, tokens_per_day allows 4; "
        "mean demand 2.25 requests/s, spend_usd_per_month allows 2"
    )
    assert limit_capacity(ALL, SHAPE, Load(0.0, 0.0, 0.0)).binding == "spend_usd_per_month"


def test_a_load_within_rounding_of_its_limit_holds():
    """A billionth above is rounding; a little more is not."""
    limits = RateLimits(requests_per_minute=600)
    for above, broken in ((1 + 1e-9, False), (1 + 1.1e-9, True)):
        found = limit_capacity(limits, SHAPE, Load(10 * above, 0.0, 0.0))
        assert (found.infeasible is not None) is broken


def test_what_a_request_does_not_use_is_not_limited():
    """No output, no cost, no time, no input but cached that does not count: those limits are not rates."""
    idle = MeanRequest(input_tokens=400, output_tokens=0, cached_input_tokens=400, e2e_s=0, usd_per_request=0)
    found = limit_capacity(replace(ALL, cached_input_counts=False), idle)
    assert set(found.by_limit) == {"requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day"}
    assert found.by_limit["tokens_per_minute"] == 7500 / 400
    none = MeanRequest(input_tokens=0, output_tokens=0)
    assert limit_capacity(RateLimits(tokens_per_minute=1), none) == LimitCapacity(None, None, {}, None)


def test_output_is_reserved_where_it_is_longer_than_max_tokens():
    """The longer of the two stands beside the input."""
    for most, reserved in ((None, 300), (100, 300), (900, 1000)):
        shape = MeanRequest(input_tokens=100, output_tokens=200, max_tokens=most)
        assert limit_capacity(RateLimits(tokens_per_minute=60_000), shape).rps == pytest.approx(1000 / reserved)


@pytest.mark.parametrize(
    ("limits", "shape", "named"),
    [
        (RateLimits(concurrency=1), replace(SHAPE, e2e_s=None), "turned into a rate"),
        (RateLimits(spend_usd_per_month=1), replace(SHAPE, usd_per_request=None), "turned into a rate"),
        (RateLimits(), replace(SHAPE, input_tokens=-1), "^tokens is"),
        (RateLimits(), replace(SHAPE, output_tokens=-1), "^output tokens is"),
        (RateLimits(), replace(SHAPE, max_tokens=-1), "^max tokens is"),
        (RateLimits(), replace(SHAPE, cached_input_tokens=1001), "more cached"),
        (RateLimits(tokens_per_day=0), SHAPE, "^tokens_per_day is"),
        (RateLimits(spend_usd_per_month=-1), SHAPE, "^spend_usd_per_month is"),
    ],
)
def test_what_is_no_limit_is_refused(limits, shape, named):
    """A limit without the number that makes it a rate, tokens below 0, more cached than given, limits of nothing."""
    with pytest.raises(ConfigError, match=named):
        limit_capacity(limits, shape)
    assert limit_capacity(RateLimits(), replace(SHAPE, cached_input_tokens=1000)).infeasible is None


# ---------------------------------------------------------------- variants, bills, units


def test_a_variant_is_the_books_price_for_that_service():
    """gpt-5-mini as batch: name, price, package, model, service and date."""
    _, model = book_model(MINI)
    (when,) = (variant.when for variant in model.price_variants if list(variant.when.values()) == ["batch"])
    price = model.get_prices(NOW, when)
    assert price.input_mtok * 2 == model.get_prices(NOW).input_mtok
    inputs = {
        "price": str(price),
        "price source": f"genai-prices {genai_prices.__version__}: openai/gpt-5-mini, batch",
        "price as of": "in force on 2026-11-24",
    }
    assert find_variant(MINI, NOW, "batch") == HostedPrice("openai/gpt-5-mini (batch)", price, inputs, None)


def test_services_that_are_not_in_force_are_not_known():
    """The known ones are named in order, of that day; where there are none, the way to give a price."""
    with pytest.raises(ConfigError) as error:
        find_variant(MINI, NOW, "batsh")
    assert error.value.value == "batsh on 2026-11-24"
    known = error.value.advice.removeprefix("known: ").split(", ")
    assert known == sorted(known)
    assert "batch" in known
    with pytest.raises(ConfigError) as error:
        find_variant(PriceRef(provider="perplexity", model="sonar"), NOW, "batch")
    assert error.value.advice.startswith("give its price yourself")


def test_a_months_bill():
    """At $0.001: plain; discounted and retried; below its minimum, all of it due and the rest unused; at it nothing is."""
    assert monthly_bill("0.001", 1000) == MonthlyBill(D(1), D(1), D(0), D("0.001"))
    found = monthly_bill("0.001", 1000, discount="0.5", billed_retries="0.2", minimum_usd=3)
    assert found == MonthlyBill(used_usd=D("0.6"), due_usd=D(3), unused_usd=D("2.4"), usd_per_request=D("0.0006"))
    assert monthly_bill("0.001", 1000, minimum_usd=1).unused_usd == 0
    assert monthly_bill(0, 1000).due_usd == 0
    assert monthly_bill("0.001", 1000, billed_retries=2).used_usd == 3


@pytest.mark.parametrize(
    ("name", "bad", "named"),
    [
        ("usd_per_request", -1, "hosted price"), ("usd_per_request", None, "hosted price"), ("requests", 0, "requests per month"),
        ("discount", 1, "discount"), ("discount", -0.1, "discount"), ("discount", "x", "discount is not"),
        ("minimum_usd", -1, "minimum commitment"), ("billed_retries", -0.1, "billed retries"),
    ],
)  # fmt: skip
def test_a_bill_that_cannot_be_is_refused_by_name(name, bad, named):
    """No price, no requests, a discount of everything or below none, a negative minimum or share."""
    with pytest.raises(ConfigError, match=named):
        monthly_bill(**{"usd_per_request": 1, "requests": 1, name: bad})


def test_units_are_whole_and_at_least_the_minimum():
    """Exactly two units' rate is two, more is three; none are needed for nothing, but one is bought, or as many as must be."""
    assert [provisioned_usd_per_hour(rps, "0.1", "2.5") for rps in ("0.2", "0.21")] == [(2, D(5)), (3, D("7.5"))]
    assert provisioned_usd_per_hour(0, 2, 10) == (1, D(10))
    assert provisioned_usd_per_hour(1, 2, 10, minimum_units=3) == (3, D(30))
    assert provisioned_usd_per_hour(1, 2, 0) == (1, D(0))
    for bad, named in (((-1, 2, 10), "demand"), ((1, 0, 10), "rate of a unit"), ((1, 2, -1), "price of a unit"), ((math.inf, 2, 10), "demand")):  # fmt: skip
        with pytest.raises(ConfigError, match=named):
            provisioned_usd_per_hour(*bad)


# ---------------------------------------------------------------- two sources


def own(given, out, name="a/b", **inputs):
    return HostedPrice(name, ModelPrice(input_mtok=D(given), output_mtok=D(out)), inputs, None)


def test_prices_of_a_unit_are_of_the_first_tier():
    """An own price's input and output, not its cached input; the book's below its tiers."""
    words = {"input_usd_per_million": 2, "cached_input_usd_per_million": 1, "output_usd_per_million": 8}
    assert unit_prices(find_price(PriceRef(provider="own", model="x", **words), NOW)) == (2, 8)
    tiered = TieredPrices(base=D(3), tiers=[Tier(start=9, price=D(6))])
    book = ModelPrice(input_mtok=tiered, output_mtok=D(9))
    assert unit_prices(HostedPrice("x", book, {}, None)) == (3, 9)


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        (("1", "4"), ("1", "4"), None),
        (("1", "4"), ("0.9", "3.6"), None),
        (("1", "4"), ("0.899", "4"), "input 1 against 0.899 $/M"),
        (("0.899", "4"), ("1", "4"), "input 0.899 against 1 $/M"),
        (("1", "4"), ("1", "9"), "output 4 against 9 $/M"),
        (("1", "0"), ("2", "4"), "input 1 against 2 $/M; output 0 against 4 $/M"),
        (("0", "0"), ("0", "0"), None),
    ],
)
def test_more_than_a_tenth_of_the_larger_is_apart(first, second, apart):
    """A tenth is not yet apart, a little more is, whichever is larger; free on both sides is equal."""
    said = cross_check(own(*first, **{"price source": "one"}), own(*second, name="c/d"))
    assert said == (
        apart and f"two sources of the price of a/b differ by more than 10 %: {apart} (one and unknown source)"
    )
