"""Which API a run was against, at which price and for which service its requests are billed, and whose cache they are billed with."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.config.target import TargetSpec
from harness.price.hosted import bill, find_price, same_model
from harness.price.hosted_api import api_of, api_of_run, is_of, prices_of_run
from harness.price.hosted_cache import bill_of_run
from harness.price.hosted_service import service_price
from harness.price.prices import day_of
from harness.price.run_cost import cost_run, price_runs
from harness.records import LIST_PRICE, MEASURED
from tests.price.cost_summaries import summary

NOW = day_of("20261124T113000Z")
GATEWAY = "https://llm.example.net/v1"
MINI = PriceRef(provider="openai", model="gpt-5-mini")
HAIKU = PriceRef(provider="anthropic", model="claude-haiku-4-5")
HALF = ((1000, 500, 100, 0),) * 10


def against(url=GATEWAY, model="my-deployment", *, kind="hosted", usage=HALF, run_id="r", **target):
    config = {"targets": [{"name": "t", "kind": kind, "url": url, "model": model, **target}]}
    return replace(summary(kind=kind, usage=usage), model=model, config=config, run_id=run_id)


def declared(ref):
    return ref.model_dump(mode="json")


def line(report, name, at):
    return next(one for one in report.hosted[at] if one.name == name)


# ---------------------------------------------------------------- whose API


@pytest.mark.parametrize("ref", [MINI, PriceRef(provider="azure", model="gpt-5-mini")], ids=["gateway", "azure"])
def test_a_target_s_price_says_which_api_it_is_where_address_and_model_do_not(ref):
    """A gateway's address, a deployment's name: the price that the target declares is of that API, measured by its usage; another
    provider's price of the same model is a list price, without its cache."""
    run = against(price=declared(ref))
    assert is_of(ref, run)
    assert api_of_run(run).ref == ref
    other = PriceRef(provider="azure" if ref is MINI else "openai", model="gpt-5-mini")
    found = {
        made.basis: made.bill.cached_tokens for r in (ref, other) for made in [bill_of_run(r, find_price(r, NOW), run)]
    }
    assert found == {MEASURED: 5000, LIST_PRICE: 0}


def test_a_declared_price_outweighs_the_address():
    """A proxy at the provider's own address that resells at another price is not the provider."""
    own = PriceRef(provider="me", model="m", input_usd_per_million=1.0, output_usd_per_million=2.0)
    run = against("https://api.openai.com/v1", "gpt-5-mini", price=declared(own))
    assert (is_of(own, run), is_of(MINI, run)) == (True, False)


def test_without_a_declared_price_the_address_and_the_model_say_it():
    """api.openai.com and a model that the price book has; a gateway without a price is nobody's."""
    assert api_of_run(against("https://api.openai.com/v1", "gpt-5-mini")).ref == MINI
    assert api_of_run(against()).ref is None
    assert api_of_run(against("https://api.openai.com/v1", "gpt-5-mini", kind="vllm")) is None


OWN = PriceRef(provider="me", model="gpt-5-mini", input_usd_per_million=1.0, output_usd_per_million=2.0)
LISTED = MINI.model_copy(update={"cached_input_tokens": 7})


@pytest.mark.parametrize(
    ("url", "listed", "price"),
    [
        ("https://api.openai.com/v1", [OWN, LISTED], LISTED),
        ("https://api.openai.com/v1", [OWN], MINI),
        ("https://api.openai.com/v1", [HAIKU], MINI),
        ("https://api.groq.com/openai/v1", [OWN, LISTED], None),
        (GATEWAY, [LISTED], None),
        (GATEWAY, [LISTED, OWN], OWN),
        (GATEWAY, [OWN.model_copy(update={"model": "other"})], None),
        ("https://llm.me.example/v1", [OWN.model_copy(update={"input_usd_per_million": None, "output_usd_per_million": None})], PriceRef(provider="me", model="gpt-5-mini")),
    ],
    ids=["listed", "dollars of another", "another model", "not of this provider", "a list price", "dollars", "dollars of another model", "by its name"],
)  # fmt: skip
def test_a_listed_price_is_of_its_provider_s_address_or_gives_its_dollars(url, listed, price):
    """cost.hosted before the book where its provider is; at a gateway only with dollars, and where a provider of the book is, not at all."""
    run = against(url, "gpt-5-mini")
    cost = {"hosted": [declared(ref) for ref in listed]}
    assert api_of_run(replace(run, config={**run.config, "cost": cost})).ref == price
    target = TargetSpec(name="t", kind="hosted", url=url, model="gpt-5-mini")
    assert api_of(target, listed).ref == price


@pytest.mark.parametrize("model", ["whisper-1", "text-embedding-3-small", "no-such-model"])
def test_a_model_that_the_book_does_not_price_by_input_and_output_has_no_price(model):
    """Paid by the hour, for its input alone, or not in the book: no price, as where nobody of the book is."""
    assert api_of_run(against("https://api.openai.com/v1", model)).ref is None


def test_a_run_at_the_providers_address_is_billed_without_being_asked():
    """Neither declared nor listed: the price book's, measured; a gateway's run has no bill."""
    assert cost_run(against("https://api.openai.com/v1", "gpt-5-mini"), None, CostSpec()).basis == {MINI.name: MEASURED}
    assert cost_run(against(), None, CostSpec()).basis == {}


def test_a_server_of_ours_is_never_the_api():
    """The same price at a target that we started or adopted: a list price."""
    for kind in ("vllm", "adopt", "offline"):
        assert not is_of(MINI, against(kind=kind, price=declared(MINI)))


def test_a_run_against_an_api_is_billed_at_what_its_target_declares_without_being_asked():
    """No `cost: hosted` at all: the target's own price has its group, measured; one that is asked for too is not there twice."""
    run = against(price=declared(MINI))
    report = cost_run(run, None, CostSpec())
    assert report.basis == {"openai/gpt-5-mini": MEASURED}
    assert D(line(report, "hosted_usd_window", "openai/gpt-5-mini").usd) == report.bills["openai/gpt-5-mini"].total_usd
    both = cost_run(run, None, CostSpec(hosted=[HAIKU, MINI]))
    assert both.basis == {"openai/gpt-5-mini": MEASURED, "anthropic/claude-haiku-4-5": LIST_PRICE}
    assert "measured" in line(both, "hosted_usd_window", "openai/gpt-5-mini").inputs["basis"]
    assert "list price" in line(both, "hosted_usd_window", "anthropic/claude-haiku-4-5").inputs["basis"]


# ---------------------------------------------------------------- the service


@pytest.mark.parametrize(
    ("service", "times"), [("flex", D("0.5")), ("priority", None), ("default", D(1)), ("auto", D(1)), (None, D(1))]
)
def test_the_service_that_a_target_asks_for_is_the_one_that_is_billed(service, times):
    """flex is half, priority dearer, auto and default the standard: from `request: {service_tier: ..}` to the window's dollars."""
    run = against(price=declared(PriceRef(provider="openai", model="gpt-5")), request={"service_tier": service})
    report = cost_run(run, None, CostSpec())
    (name,) = report.bills
    standard = bill(find_price(PriceRef(provider="openai", model="gpt-5"), NOW), HALF).total_usd
    assert (report.bills[name].total_usd == standard * times) if times else (report.bills[name].total_usd > standard)
    assert name == ("openai/gpt-5" if times == 1 else f"openai/gpt-5 ({service})")
    assert same_model("gpt-5", name)


def test_flex_and_batch_say_when_their_replies_are_promised():
    """A completion window with its source; where none is known the inputs say that; the standard service has none."""
    gpt5 = PriceRef(provider="openai", model="gpt-5")
    assert service_price(gpt5, NOW, "batch").inputs["completion window"].startswith("24 hours")
    assert service_price(gpt5, NOW, "flex").inputs["completion window"].startswith("none, while the request waits")
    assert service_price(HAIKU, NOW, "batch").inputs["completion window"].startswith("24 hours")
    mistral = PriceRef(provider="mistral", model="mistral-small-latest")
    assert service_price(mistral, NOW, "batch").inputs["completion window"].startswith("not known here")
    assert "completion window" not in service_price(gpt5, NOW, "priority").inputs
    assert "completion window" not in service_price(gpt5, NOW, None).inputs


def test_flex_of_groq_costs_the_standard_price_and_says_by_whom():
    """The price book has no such variant, the vendor's page has: the same price, under its own name."""
    ref = PriceRef(provider="groq", model="llama-3.1-8b-instant")
    flex = service_price(ref, NOW, "flex")
    assert flex.model == find_price(ref, NOW).model
    assert flex.name == "groq/llama-3.1-8b-instant (flex)"
    assert "console.groq.com" in flex.inputs["service"]


def test_a_service_without_a_price_is_told_and_a_declared_price_is_its_own():
    """turbo of gpt-5-mini is nowhere: the run is still a run, with a warning that names the known ones, and other prices; with declared
    dollars it is billed at those."""
    paid = against(price=declared(MINI), request={"service_tier": "turbo"})
    report = cost_run(paid, None, CostSpec(hosted=[HAIKU]))
    assert list(report.bills) == [HAIKU.name]
    (warning,) = [w for w in report.warnings if "not billed at its own API" in w]
    assert "turbo" in warning
    assert "flex" in warning
    own = MINI.model_copy(update={"input_usd_per_million": 3.0, "output_usd_per_million": 4.0})
    (((_, price),), lacking) = prices_of_run(against(price=declared(own), request={"service_tier": "turbo"}), [], NOW)
    assert lacking is None
    assert bill(price, [(1_000_000, 0, 1_000_000, 0)]).total_usd == 7
    assert price.inputs["service"] == "turbo, the declared price is taken for this service's"
    with pytest.raises(ConfigError, match="no price of this model"):
        cost_run(paid, None, CostSpec(hosted=[PriceRef(provider="openai", model="gpt-55")]))


# ---------------------------------------------------------------- whose cache


def test_measured_writes_are_billed_as_measured():
    """Anthropic's usage of 300 read, 200 written for 5 minutes and 100 for an hour in each 1,000: to the digit, whatever is declared."""
    ref = HAIKU.model_copy(update={"cache_write_5m_tokens": 999})
    run = against(price=declared(ref), usage=((1000, 300, 100, 0, 200, 100),) * 10)
    found = bill_of_run(ref, find_price(ref, NOW), run)
    by_hand = 10 * (400 * D(1) + 300 * D("0.1") + 200 * D("1.25") + 100 * D(2) + 100 * D(5)) / 1_000_000
    assert found.bill.total_usd == by_hand
    assert found.inputs["cached input"] == "as this API's own usage says, measured"


def test_our_run_is_billed_at_the_share_that_the_api_read_in_a_run_beside_it():
    """Half of each prompt was read there: half of ours is billed as read, our own server's 900 of 1,000 never; the runs are named."""
    theirs = against(price=declared(MINI), run_id="theirs")
    ours = against("http://127.0.0.1:8000/v1", kind="vllm", usage=((1000, 900, 100, 0),) * 4, run_id="ours")
    reports = {r.run_id: r for r in price_runs([ours, theirs], CostSpec(hosted=[MINI]))}
    assert reports["ours"].bills[MINI.name].cached_tokens == 2000
    assert reports["ours"].basis == {MINI.name: LIST_PRICE}
    cached = line(reports["ours"], "hosted_usd_window", MINI.name).inputs["cached input"]
    assert cached == "50.0% of each prompt read, measured at this API by the usage of theirs"


@pytest.mark.parametrize("why", ["another workload", "INVALID", "another model", "no usage"])
def test_a_run_beside_that_says_nothing_of_this_cache_is_not_taken(why):
    """Another workload, an INVALID run, another model's price, a run without usage: nothing cached."""
    theirs = against(price=declared(MINI))
    theirs = {
        "another workload": lambda: replace(theirs, cell=replace(theirs.cell, workload="other")),
        "INVALID": lambda: replace(theirs, verdict=replace(theirs.verdict, state="INVALID")),
        "another model": lambda: against(price=declared(PriceRef(provider="openai", model="gpt-5"))),
        "no usage": lambda: replace(theirs, usage=()),
    }[why]()
    ours = against("http://127.0.0.1:8000/v1", kind="vllm")
    found = bill_of_run(MINI, find_price(MINI, NOW), ours, [ours, theirs])
    assert found.bill.cached_tokens == 0
    assert found.inputs["cached input"].startswith("none: no cached_input_tokens declared")
