"""The hosted bill of sums: exact where a price is linear, the mean request where it is not; and the way to break-even."""

from __future__ import annotations

from decimal import Decimal

import pytest
from genai_prices.types import ModelPrice, Tier, TieredPrices
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.monitor.hosted import Totals, bill_of_totals
from harness.monitor.paid import paid_servers
from harness.monitor.view import view
from harness.price.hosted import HostedPrice, Tokens, bill
from tests.monitor.known_fleet import HOSTED, HOUR_NS, START_NS, hours, measured, spec, usage, whole

LINEAR = HostedPrice(
    "them/m", ModelPrice(input_mtok=Decimal(3), cache_read_mtok=Decimal("0.3"), output_mtok=Decimal(15)), {}, None
)
TIERED = HostedPrice(
    "them/m",
    ModelPrice(
        input_mtok=TieredPrices(base=Decimal(3), tiers=[Tier(start=200, price=Decimal(6))]), output_mtok=Decimal(15), requests_kcount=Decimal(10)
    ),
    {},
    None,
)  # fmt: skip
REQUESTS = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 400), st.integers(0, 99)), min_size=1, max_size=30)


def _totals(requests) -> Totals:
    return Totals(len(requests), *(sum(r[at] for r in requests) for at in range(3)))


@given(REQUESTS)
@settings(max_examples=60, deadline=None)
def test_a_linear_price_needs_no_request(requests):
    """The bill of the sums is the bill of every request, to the last digit."""
    told = [(p, min(c, p), o) for p, c, o in requests]
    assert bill_of_totals(LINEAR, _totals(told)) == bill(LINEAR, [Tokens(p, c, o, 0) for p, c, o in told]).total_usd


@given(st.integers(1, 50), st.integers(1, 400), st.integers(0, 99), st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_requests_that_are_alike_are_billed_exactly_in_tiers_too(count, prompt, output, cached):
    told = (prompt, min(cached, prompt), output)
    assert bill_of_totals(TIERED, _totals([told] * count)) == bill(TIERED, [Tokens(*told, 0)] * count).total_usd


@given(REQUESTS)
@settings(max_examples=60, deadline=None)
def test_the_mean_request_keeps_every_token_and_fee(requests):
    """Below the tier nothing is assumed: the sums and the fees of all requests are in the bill."""
    told = [(p // 3 + 1, 0, o) for p, _, o in requests]
    assert bill_of_totals(TIERED, _totals(told)) == bill(TIERED, [Tokens(p, c, o, 0) for p, c, o in told]).total_usd


def _seen(pool, steps, **more):
    made = spec(pool)
    end = max(one.to_ns for one in steps)
    usages = whole(steps)
    return view(
        made, usages, paid_servers(made, usages, START_NS, end), from_ns=START_NS, to_ns=end, steps=steps, **more
    )


def _line(seen, name, kind="all"):
    group = next(g for g in seen.groups if g.kind == kind)
    return next(line for line in group.lines if line.name == name)


def test_our_cache_is_not_an_apis():
    """Billed without it unless declared; what it would be with it stands beside."""
    steps = [usage(requests=100, prompt=1e6, cached=9e5, output=1e5)]
    line = _line(_seen({"hosted": [HOSTED]}, steps), "hosted_usd")
    assert line.value == pytest.approx(1 + 0.4)
    assert "0.59 $ if it cached as ours did" in line.formula
    declared = _line(_seen({"hosted": [HOSTED | {"cached_input_tokens": 5000}]}, steps), "hosted_usd")
    assert declared.value == pytest.approx(0.5 + 0.05 + 0.4)


def test_the_cheapest_of_several_is_the_value_and_all_are_named():
    dear = HOSTED | {"model": "dear", "input_usd_per_million": 9.0}
    line = _line(_seen({"hosted": [dear, HOSTED]}, [usage(requests=100, prompt=1e6, output=1e5)]), "hosted_usd")
    assert line.value == pytest.approx(1.4)
    assert line.formula.index("them/dear 9.4 $") < line.formula.index("them/m 1.4 $")


def test_break_even_without_a_capacity_is_what_is_paid_now():
    """$4/h over $1.4e-2 a request: 0.0794 requests/s cost the same."""
    line = _line(_seen({"hosted": [HOSTED]}, [usage(requests=100, prompt=1e6, output=1e5)]), "break_even_rps")
    assert line.value == pytest.approx(4 / 3600 / 0.014)


def test_break_even_with_a_capacity_is_the_planners():
    """Replicas of 10/s at $4/h with headroom 0.7 and a spare, a request at $0.00048: the last crossing, and what flips it."""
    from harness.planner.breakeven import break_even_over_demand
    from harness.planner.demand import flat
    from harness.planner.fleet import FleetSpec

    steps = hours([3.0, 3.0, 3.0])
    ref = HOSTED | {"input_usd_per_million": 4.0}
    line = _line(_seen({"hosted": [ref]}, steps, measured=[measured()]), "break_even_rps")
    fleet = FleetSpec(capacity_rps=10, replica_usd_per_hour=4, headroom=0.7, spares=1, scaling="fixed")
    assert line.value == pytest.approx(break_even_over_demand(flat(3), fleet, Decimal("0.00048")).permanent_rps)
    assert "it flips at a replica for" in line.formula


def test_without_a_hosted_price_it_says_so():
    line = _line(_seen({}, [usage(requests=100, prompt=1e6, output=1e5)]), "hosted_usd")
    assert line.value is None
    assert "names no hosted API" in line.formula


def test_a_price_of_the_book_is_found():
    """A real model of genai-prices, by its provider's id."""
    steps = [usage(requests=100, prompt=1e6, output=1e5, start=START_NS, end=START_NS + HOUR_NS)]
    line = _line(_seen({"hosted": [{"provider": "groq", "model": "llama-3.1-8b-instant"}]}, steps), "hosted_usd")
    assert line.value == pytest.approx(0.05 + 0.008)
