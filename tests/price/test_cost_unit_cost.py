"""The self-hosted formula: known answers and laws that it must obey."""

from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.price.unit_cost import Split, split_by_price_ratio, usd_per_million_tokens, usd_per_served

PRICES = st.decimals("0.01", "500", places=4)
RATES = st.decimals("0.5", "200000", places=3)
SHARES = st.decimals("0.01", "1", places=4)


@pytest.mark.parametrize(
    ("utilisation", "usd"), [("0.1", "7.878"), ("0.25", "3.151"), ("0.5", "1.576"), ("1", "0.788")]
)
def test_seed_row_1_utilisation_is_not_inverted(utilisation, usd):
    """g5.12xlarge at 5.672 $/h and 2,000 tokens/s: an idle machine makes tokens dearer, not free."""
    assert round(usd_per_million_tokens(D("5.672"), D(2000), D(utilisation)), 3) == D(usd)


def test_seed_row_1_was_too_low_by_one_over_u():
    """The inverted formula, price x U over the tokens served, gives 0.788 whatever U is: too low by 1/U, 10 times at 0.1."""
    price, capacity, u = D("5.672"), D(2000), D("0.1")
    inverted = price * u / (capacity * u * 3600) * 10**6
    assert round(inverted, 3) == D("0.788")
    assert usd_per_million_tokens(price, capacity, u) == inverted * 10


@given(PRICES, RATES, SHARES, SHARES)
def test_cost_rises_strictly_as_utilisation_falls(price, rate, a, b):
    """Of two utilisations the lower one is dearer."""
    low, high = sorted((a, b))
    if low < high:
        assert usd_per_million_tokens(price, rate, low) > usd_per_million_tokens(price, rate, high)


@given(PRICES, RATES, SHARES, st.integers(1, 1000))
def test_scaling_the_price_scales_the_cost(price, rate, share, x):
    """x times the price is x times the cost."""
    scaled, once = usd_per_million_tokens(price * x, rate, share), usd_per_million_tokens(price, rate, share)
    assert abs(scaled - once * x) <= once * x * D("1e-24")


@given(PRICES, RATES, SHARES, st.integers(1, 10**6))
def test_cost_per_request_times_requests_is_what_was_paid(price, rate, share, seconds):
    """Requests served in the paid time, at their cost each, are the bill of the machine: nothing is lost or made up."""
    served = rate * seconds * share  # `seconds` paid, busy for `share` of them
    paid = price * seconds / 3600
    assert abs(usd_per_served(price, rate, share, D(1)) * served - paid) <= paid * D("1e-24")


@given(PRICES, RATES, RATES, SHARES, st.decimals("0.1", "50", places=2))
def test_split_adds_up_to_the_machine(price, given_tps, written_tps, share, ratio):
    """Input and output at their split costs are the whole price, in the declared ratio, and below the bounds."""
    split = split_by_price_ratio(price, given_tps, written_tps, share, ratio)
    per_served_second = (split.input_usd * given_tps + split.output_usd * written_tps) / 10**6
    assert abs(per_served_second - price / 3600 / share) <= per_served_second * D("1e-24")
    assert split.output_usd == ratio * split.input_usd
    assert split.input_usd < usd_per_million_tokens(price, given_tps, share)
    assert split.output_usd < usd_per_million_tokens(price, written_tps, share)


@pytest.mark.parametrize(
    ("price", "rate", "share"),
    [("1", "1", "0"), ("1", "1", "1.01"), ("1", "0", "1"), ("-1", "1", "1"), ("1", "1", "-0.5")],
)
def test_what_cannot_be_divided_is_refused(price, rate, share):
    """Utilisation outside (0, 1], no rate or a negative price: ConfigError, never an infinite or negative cost."""
    with pytest.raises(ConfigError):
        usd_per_million_tokens(D(price), D(rate), D(share))


def test_known_dollars_of_served_units():
    """$7,200 an hour at 1 a second, half used: $4 a second, 3 units $12; all of it used is $2; a free machine costs nothing."""
    assert usd_per_served(D(7200), D(1), D("0.5"), D(3)) == 12
    assert usd_per_served(D(7200), D(1), D(1), D(1)) == 2
    assert usd_per_served(D(0), D(1), D(1), D(1)) == 0
    assert usd_per_million_tokens(D(36), D(100), D("0.5")) == 200


def test_a_split_needs_a_ratio_and_has_known_dollars():
    """$36/h over 50 input and 10 output tokens/s at 5 to 1: 100 weighted a second, $100 and $500 a million; no ratio of 0."""
    assert split_by_price_ratio(D(36), D(50), D(10), D(1), D(5)) == Split(input_usd=D(100), output_usd=D(500))
    for ratio in (D(0), D(-1)):
        with pytest.raises(ConfigError, match="ratio"):
            split_by_price_ratio(D(36), D(50), D(10), D(1), ratio)
