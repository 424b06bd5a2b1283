"""The bill of everything that was sent: by usage where a stream ended with it, nothing where a vendor says so, else unknown up to so much."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import pytest
from genai_prices.types import ModelPrice, Tier, TieredPrices
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.price.hosted import HostedPrice, Tokens, bill, worst_usd
from harness.price.hosted_cache import HostedCache
from harness.price.run_cost import cost_run
from harness.price.sent_bill import bill_of_sent
from harness.records import Outcome, SentRequest
from tests.planner.test_cost_bill_property import price_lists, requests
from tests.price.cost_summaries import summary

MEASURED = HostedCache(None, 0, 0, "measured")
PRICE = HostedPrice("x", ModelPrice(input_mtok=D(2), output_mtok=D(10)), {}, None)
OK = SentRequest(
    outcome="ok", http_status=200, sent_utc_s=0.0, ended_utc_s=1.0, usage=(1000, 0, 100, 0), asked_prompt_tokens=990,
    asked_output_tokens=100, bore_tokens=True, finished=True, retried=False,
)  # fmt: skip
LOST = replace(OK, usage=None, bore_tokens=False, finished=False, http_status=None)
ONE_USD = D("0.003")  # 1,000 x 2 + 100 x 10 a million


def of(provider="openai"):
    return PriceRef(provider=provider, model="m")


def billed(*sent, provider="openai", service=None):
    return bill_of_sent(of(provider), PRICE, service, MEASURED, sent)


def failed(outcome, status=None, **kw):
    return replace(LOST, outcome=outcome, http_status=status, **kw)


@pytest.mark.parametrize("outcome", [o.value for o in Outcome if o not in ("ok", "dropped")])
def test_what_was_sent_and_has_no_usage_is_unknown_up_to_its_worst_case(outcome):
    """Every outcome of a request that went out, where the vendor says nothing: not 0, and not billed either. A reply that we hung up on
    beyond twice the 100 tokens asked for had up to 264."""
    found = billed(OK, failed(outcome, 503))
    most_usd = ONE_USD + 164 * D("0.00001") if outcome == "overrun" else ONE_USD
    assert (found.billed.total_usd, found.unknown_usd) == (ONE_USD, most_usd)
    assert (found.unknown, found.free) == ({outcome: 1}, {})


@pytest.mark.parametrize("outcome", ["dropped", "connect_error", "timeout_connect", "cancelled"])
def test_what_never_went_out_costs_nothing(outcome):
    """No byte was sent: billed 0, known."""
    found = billed(OK, failed(outcome, sent_utc_s=None))
    assert (found.billed.total_usd, found.unknown_usd, sum(found.free.values())) == (ONE_USD, 0, 1)


@pytest.mark.parametrize(
    ("provider", "service", "sent", "is_free"),
    [
        ("openai", None, failed("http_error", 401), True),
        ("openai", None, failed("http_error", 429), False),
        ("openai", "flex", failed("http_error", 429), True),
        ("openai", "flex", failed("http_error", 500), False),
        ("azure", None, failed("http_error", 429), True),
        ("azure", None, failed("http_error", 400), False),
        ("azure", None, failed("http_error", 408), False),
        ("google", None, failed("http_error", 400), True),
        ("google", None, failed("http_error", 500), True),
        ("google", None, failed("http_error", 503), False),
        ("openrouter", None, failed("http_error", 502), True),
        ("openrouter", None, failed("error_event", 200, bore_tokens=True), True),
        ("openrouter", None, failed("empty_reply", 200), True),
        ("openrouter", None, failed("truncated", 200), False),
        ("groq", None, failed("http_error", 429), False),
        ("anthropic", None, failed("http_error", 529), False),
    ],
)
def test_what_a_vendor_says_that_it_does_not_bill_is_free_and_nothing_else(provider, service, sent, is_free):
    """By provider, status and service, as documented; all others are unknown."""
    found = billed(OK, sent, provider=provider, service=service)
    assert (sum(found.free.values()), sum(found.unknown.values())) == ((1, 0) if is_free else (0, 1))
    assert found.unknown_usd == (0 if is_free else ONE_USD)
    assert all(": " in why for why in found.free)  # what, and who says so


def test_usage_bills_a_reply_that_ended_whatever_we_call_it():
    """Empty, or twice as long as asked for, and ended with usage: by it. Cut by us with usage so far: unknown, at least of that length."""
    empty = replace(OK, outcome="empty_reply", usage=(1000, 0, 50, 50), bore_tokens=False)
    long = replace(OK, outcome="overrun", usage=(1000, 0, 300, 0))
    found = billed(empty, long)
    assert found.billed.total_usd == D("0.0025") + D("0.005")
    assert found.unknown_usd == 0
    cut = billed(replace(long, finished=False))
    assert (cut.billed.requests, cut.unknown_usd) == (0, D("0.005"))


def test_an_answered_request_without_usage_is_unknown():
    """An ok reply whose tokens nobody told, and one whose usage does not add up."""
    assert billed(replace(OK, usage=None)).unknown == {"ok": 1}
    assert billed(replace(OK, usage=(10, 20, 5, 0))).unknown == {"ok": 1}


def test_a_request_that_was_sent_twice_is_billed_once_and_perhaps_twice():
    """Its first try was cut before any reply: the second is billed, the first unknown."""
    found = billed(replace(OK, retried=True))
    assert (found.billed.requests, found.billed.total_usd, found.unknown_usd) == (1, ONE_USD, ONE_USD)
    assert found.unknown == {"sent before, and cut": 1}


def test_an_unknown_prompt_is_as_much_longer_as_any_that_was_counted():
    """A template of 10 tokens shows in the answered ones: the lost one's 990 are taken for 1,000."""
    assert billed(OK, LOST).unknown_usd == ONE_USD
    assert billed(LOST).unknown_usd == D("0.00298")


@settings(max_examples=300, deadline=None)
@given(price_lists(), requests(), st.integers(0, 500), st.integers(0, 500))
def test_no_request_costs_more_than_its_worst_case(prices, t, more_prompt, more_output):
    """Any tiers, cache reads and writes, reasoning, fees, and any request of at most so many tokens."""
    price = HostedPrice("x", prices[1], {}, None)
    assert bill(price, [t]).total_usd <= worst_usd(price, t.prompt + more_prompt, t.output + more_output)


def test_the_worst_case_is_reached():
    """Written for an hour above the tier, all output reasoning: $4 and $20 a million, and the fee."""
    price = HostedPrice(
        "x",
        ModelPrice(
            input_mtok=TieredPrices(base=D(1), tiers=[Tier(start=100, price=D(2))]), cache_write_1h_mtok=D(4), output_mtok=D(10),
            output_reasoning_mtok=D(20), requests_kcount=D(5),
        ),
        {},
        None,
    )  # fmt: skip
    dearest = bill(price, [Tokens(1000, 0, 100, 100, 0, 1000)]).total_usd
    assert worst_usd(price, 1000, 100) == dearest == D("0.004") + D("0.002") + D("0.005")


def test_a_run_s_costs_print_what_was_billed_and_what_is_unknown():
    """Beside the window, of a run against the API alone: 3 answered with the warm-up, 1 lost; and none of it for a run of ours."""
    ref = PriceRef(provider="openai", model="gpt-5-mini")
    config = {"targets": [{"name": "t", "price": ref.model_dump(mode="json")}]}
    run = replace(summary(kind="hosted", usage=((1000, 0, 100, 0),)), config=config, sent=(OK, OK, OK, LOST))
    lines = {line.name: line for line in cost_run(run, None, CostSpec()).hosted[ref.name]}
    each = D("0.00045")  # 1,000 x 0.25 + 100 x 2 a million
    assert D(lines["hosted_usd_window"].usd) == each
    assert D(lines["hosted_usd_run"].usd) == 3 * each
    assert D(lines["hosted_usd_run_unknown_up_to"].usd) == each
    assert "1 of which nobody knows" in lines["hosted_usd_run"].formula
    ours = cost_run(replace(run, target_kind="vllm"), None, CostSpec(hosted=[ref]))
    assert not {line.name for line in ours.hosted[ref.name]} & {"hosted_usd_run", "hosted_usd_run_unknown_up_to"}
