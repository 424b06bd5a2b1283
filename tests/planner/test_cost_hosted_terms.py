"""Hosted contracts: limits as capacity, variants, commitments, provisioned units, two sources, two tokenizers."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.planner.demand import Load, curve, flat, load_above, shaped
from harness.planner.hosted_terms import (
    MeanRequest,
    RateLimits,
    limit_capacity,
    monthly_bill,
    provisioned_usd_per_hour,
)
from harness.planner.token_exchange import same_tokenizer
from harness.price.hosted import bill, cross_check, find_price, find_variant
from harness.price.prices import day_of
from tests.planner.steady_fleet import break_even

NOW = day_of("20261124T113000Z")
MINI = PriceRef(provider="openai", model="gpt-5-mini")
SHAPE = MeanRequest(
    input_tokens=1000, output_tokens=200, cached_input_tokens=400, max_tokens=500, e2e_s=4, usd_per_request="0.001"
)


@pytest.mark.parametrize(
    ("limits", "rps", "binding"),
    [
        (RateLimits(requests_per_minute=600), 10, "requests_per_minute"),
        (RateLimits(requests_per_day=86400), 1, "requests_per_day"),
        (RateLimits(input_tokens_per_minute=600_000), 10, "input_tokens_per_minute"),
        (RateLimits(input_tokens_per_minute=600_000, cached_input_counts=False), 600 / 36, "input_tokens_per_minute"),
        (RateLimits(output_tokens_per_minute=60_000), 5, "output_tokens_per_minute"),
        (RateLimits(tokens_per_minute=90_000), 1, "tokens_per_minute"),
        (RateLimits(concurrency=8), 2, "concurrency"),
        (RateLimits(spend_usd_per_month="2629.8"), 1, "spend_usd_per_month"),
        (RateLimits(requests_per_minute=600, concurrency=8), 2, "concurrency"),
    ],
)
def test_each_limit_is_a_rate(limits, rps, binding):
    """Every dimension by hand; the least binds; reserved tokens count max_tokens, cached input as the vendor counts it."""
    found = limit_capacity(limits, SHAPE)
    assert found.rps == pytest.approx(rps, rel=1e-3)
    assert found.binding == binding
    assert found.infeasible is None


def test_demand_above_the_limit_is_infeasible_not_expensive():
    """10 requests/s allowed: 10 pass, 10.1 are infeasible and the limit is named."""
    limits = RateLimits(requests_per_minute=600)
    assert limit_capacity(limits, SHAPE, load_above(flat(10))).infeasible is None
    assert "requests_per_minute" in limit_capacity(limits, SHAPE, load_above(flat(10.1))).infeasible


PEAK, DAY, MEAN = Load(10, 1, 1), Load(1, 10, 1), Load(1, 1, 10)


@pytest.mark.parametrize(
    ("limits", "load"),
    [
        (RateLimits(requests_per_minute=300), PEAK),
        (RateLimits(input_tokens_per_minute=300_000), PEAK),
        (RateLimits(output_tokens_per_minute=60_000), PEAK),
        (RateLimits(tokens_per_minute=450_000), PEAK),
        (RateLimits(concurrency=20), PEAK),
        (RateLimits(requests_per_day=5 * 86400), DAY),
        (RateLimits(tokens_per_day=5 * 86400 * 1500), DAY),
        (RateLimits(spend_usd_per_month=5 * 2629.8), MEAN),
    ],
)
def test_a_limit_is_held_against_the_load_of_its_own_time(limits, load):
    """5 requests/s allowed: 10 at the peak, in the busiest day or on average break the limits of that time, and no other."""
    for one in (PEAK, DAY, MEAN):
        found = limit_capacity(limits, SHAPE, one)
        assert found.rps == pytest.approx(5)
        assert (found.infeasible is not None) is (one is load)


def test_limits_of_a_day_at_their_value_and_just_beyond():
    """A day of 864,000 requests with a peak of 20 rps: a cap of that many holds, of one per mille less does not."""
    day = load_above(curve("d", [20.0, *[220 / 23] * 23]))
    assert limit_capacity(RateLimits(requests_per_day=864_000), SHAPE, day).infeasible is None
    assert "busiest day" in limit_capacity(RateLimits(requests_per_day=863_000), SHAPE, day).infeasible


def test_the_binding_limit_is_the_one_nearest_to_its_load():
    """A daily cap that is lower as a rate does not bind where the day is far from it and the peak is at its own limit."""
    both = RateLimits(requests_per_minute=600, requests_per_day=5 * 86400)
    assert limit_capacity(both, SHAPE, Load(9.9, 1, 1)).binding == "requests_per_minute"
    assert limit_capacity(both, SHAPE).binding == "requests_per_day"
    broken = limit_capacity(both, SHAPE, Load(11, 6, 1)).infeasible
    assert "requests_per_minute" in broken
    assert "requests_per_day" in broken


def test_the_burst_is_of_the_days_behind_an_averaged_one():
    """m-large at 100 rps above 110: 4.3 rps on the averaged day, but 76 in its trace's highest hour."""
    day = shaped("m-large", 100)
    limits = RateLimits(requests_per_minute=60 * 20)
    assert day.peak_rps - 110 < 20
    assert "peak demand 76 requests/s" in limit_capacity(limits, SHAPE, load_above(day, 110)).infeasible


def test_a_fee_per_request_is_paid_for_each():
    """perplexity/sonar, $12 per 1,000 requests beside $1/M: 1,000 requests of 1,000 tokens are $13, and a sum of them is not one."""
    price = find_price(PriceRef(provider="perplexity", model="sonar"), NOW)
    assert bill(price, [(500, 0, 500, 0)] * 1000).total_usd == 13
    assert bill(price, [(500_000, 0, 500_000, 0)]).total_usd == D("1.012")


def test_no_limits_is_none_and_not_infinity():
    """Nothing declared limits nothing."""
    assert limit_capacity(RateLimits(), SHAPE, load_above(flat(1e9))) == limit_capacity(RateLimits(), SHAPE)
    assert limit_capacity(RateLimits(), SHAPE).rps is None


def test_batch_variant_is_half_and_a_misspelt_one_is_an_error():
    """gpt-5-mini as batch: 0.125 / 1; 'batsh' would silently be the standard price, so it is refused, as is batch before its date."""
    usage = [(1_000_000, 0, 1_000_000, 0)]
    assert bill(find_variant(MINI, NOW, "batch"), usage).total_usd * 2 == bill(find_price(MINI, NOW), usage).total_usd
    for service, at in (("batsh", NOW), ("batch", day_of("20260101T000000Z"))):
        with pytest.raises(ConfigError, match="no price of this service"):
            find_variant(MINI, at, service)


def test_commitment_discount_and_billed_retries():
    """1M requests at $0.001, 2 % retried and billed, 10 % off: 918; a minimum of 1,500 is due and 582 of it unused."""
    found = monthly_bill("0.001", 1_000_000, discount="0.1", billed_retries="0.02", minimum_usd=1500)
    assert (found.used_usd, found.due_usd, found.unused_usd) == (D(918), D(1500), D(582))
    assert found.usd_per_request * 1_000_000 == D(918)  # the commitment is a sum of the month, in no price of a request


def test_provisioned_throughput_is_a_step_cost():
    """3 requests/s over units of 2 at $10: 2 units, $20; its crossings are those of a replica."""
    assert provisioned_usd_per_hour(3, 2, 10) == (2, D(20))
    assert provisioned_usd_per_hour(0, 2, 10, minimum_units=1) == (1, D(10))
    assert break_even(2, 10, "0.002").permanent_rps is not None


def test_two_sources_that_differ_are_flagged():
    """11 % apart is flagged with both numbers, 9 % is not."""

    def price(usd):
        return find_price(PriceRef(provider="a", model="b", input_usd_per_million=usd, output_usd_per_million=1.0), NOW)

    assert cross_check(price(1.0), price(1.09)) is None
    assert "input 1.0 against 1.13" in cross_check(price(1.0), price(1.13))


def test_two_tokenizers_need_an_exchange_rate():
    """Equal names are 1:1, a declared ratio is taken, otherwise it is an error and never silently 1."""
    assert same_tokenizer("qwen3", "qwen3", None) == 1
    assert same_tokenizer("qwen3", "o200k", 0.96) == D("0.96")
    for own, hosted in (("qwen3", "o200k"), (None, "o200k"), (None, None)):
        with pytest.raises(ConfigError, match="mixed tokenizers"):
            same_tokenizer(own, hosted, None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: limit_capacity(RateLimits(requests_per_minute=0), SHAPE),
        lambda: limit_capacity(RateLimits(concurrency=8), MeanRequest(input_tokens=1, output_tokens=1)),
        lambda: limit_capacity(RateLimits(), MeanRequest(input_tokens=1, output_tokens=1, cached_input_tokens=2)),
        lambda: monthly_bill("NaN", 1),
        lambda: monthly_bill("0.1", 0),
        lambda: monthly_bill("0.1", 1, discount=1),
        lambda: provisioned_usd_per_hour(1, 0, 1),
    ],
)
def test_bad_contracts_are_three_lines(make):
    """What cannot be is an error of three lines."""
    with pytest.raises(ConfigError) as error:
        make()
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(("volume", "is_over"), [(999_000, False), (1_001_000, True)], ids=["within", "over"])
def test_a_day_s_cap_is_held_against_the_busiest_day_s_sum(volume, is_over):
    """$1,000 a day at $0.001 each: 1,000,000 requests in the busiest 24 hours, whatever the mean day or the peak is."""
    shape = MeanRequest(input_tokens=1, output_tokens=1, usd_per_request="0.001")
    load = Load(peak_rps=1e6, day_rps=volume / 86_400, mean_rps=1.0)
    found = limit_capacity(RateLimits(spend_usd_per_day=1000), shape, load)
    assert (found.infeasible is not None) is is_over
    assert found.by_limit["spend_usd_per_day"] == pytest.approx(1e6 / 86_400)


@pytest.mark.parametrize(("volume", "is_over"), [(999_000, False), (1_001_000, True)], ids=["within", "over"])
def test_a_month_s_cap_is_held_against_the_month_s_sum(volume, is_over):
    """$1,000 a month at $0.001 each: 1,000,000 requests in 730.5 hours, however full a day of it is."""
    shape = MeanRequest(input_tokens=1, output_tokens=1, usd_per_request="0.001")
    load = Load(peak_rps=1e6, day_rps=1e6, mean_rps=volume / (730.5 * 3600))
    assert (limit_capacity(RateLimits(spend_usd_per_month=1000), shape, load).infeasible is not None) is is_over


@given(
    st.decimals("0.0001", "0.1", places=4),
    st.integers(1, 10**8),
    st.integers(1, 10**8),
    st.decimals("0", "100000", places=2),
)
def test_a_commitment_changes_no_price_of_a_request(each, count, other, minimum):
    """Any volume and minimum: a request costs the same; the month is its requests' sum or the minimum, whichever is more."""
    one, two = (monthly_bill(str(each), n, minimum_usd=str(minimum)) for n in (count, other))
    assert one.usd_per_request == two.usd_per_request == each
    assert one.due_usd == max(each * count, minimum)
    assert one.used_usd + one.unused_usd == one.due_usd
