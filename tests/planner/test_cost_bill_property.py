"""The bill for random prices and requests: the sum of an independent bill of every request; and whose cache is in it."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal as D

import genai_prices
import pytest
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, Tier, TieredPrices
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.planner.measured import Measured
from harness.planner.scenario.run import run_scenario
from harness.price.hosted import HostedPrice, Tokens, bill, find_price, find_variant, usage_problem
from harness.price.hosted_cache import bill_of_run, cache_of
from harness.price.prices import day_of
from harness.price.run_cost import cost_run
from tests.planner.scenario_values import scenario
from tests.price.cost_summaries import summary

NOW = day_of("20261124T113000Z")
M = D(1_000_000)
USD = st.decimals("0", "50", places=4)


@st.composite
def price_lists(draw):
    """(a price as plain data, the same as a genai-prices price): any part may lack its price, have tiers, or a fee per request."""
    plain = {}
    for key in ("input", "cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "output", "output_reasoning"):
        if key in {"input", "output"} or draw(st.booleans()):
            starts = draw(st.lists(st.integers(1, 3000), max_size=2, unique=True)) if draw(st.booleans()) else []
            plain[key] = (draw(USD), [(start, draw(USD)) for start in sorted(starts)])
    fee = draw(st.one_of(st.none(), st.decimals("0.01", "20", places=2)))
    keys = {
        f"{key}_mtok": TieredPrices(base=base, tiers=[Tier(start=s, price=p) for s, p in tiers]) if tiers else base
        for key, (base, tiers) in plain.items()
    }
    return (plain, fee), ModelPrice(**keys, **({} if fee is None else {"requests_kcount": fee}))


@st.composite
def requests(draw):
    prompt, output = draw(st.integers(0, 4000)), draw(st.integers(0, 2000))
    read = draw(st.integers(0, prompt))
    five = draw(st.integers(0, prompt - read))
    hour = draw(st.integers(0, prompt - read - five))
    return Tokens(prompt, read, output, draw(st.integers(0, output)), five, hour)


def one_by_hand(plain, fee, t) -> D:
    """A request's dollars, written anew: every token once, at the tier of this request's own input."""

    def rate(*kinds):
        base, tiers = next(plain[kind] for kind in kinds if kind in plain)
        for start, usd in tiers:
            if t.prompt > start:
                base = usd
        return base

    usd = (t.prompt - t.cached - t.written_5m - t.written_1h) * rate("input")
    usd += t.cached * rate("cache_read", "input")
    usd += t.written_5m * rate("cache_write_5m", "cache_write", "input")
    usd += t.written_1h * rate("cache_write_1h", "cache_write", "input")
    usd += (t.output - t.reasoning) * rate("output") + t.reasoning * rate("output_reasoning", "output")
    return usd / M + (fee or D(0)) / 1000


@settings(max_examples=400, deadline=None)
@given(price_lists(), st.lists(requests(), max_size=8), st.integers(1, 3))
def test_the_bill_is_the_sum_of_every_request_by_hand(prices, rows, times):
    """Tiers by request, cache reads and writes, reasoning, a fee per request; equal requests many times; parts sum to the total."""
    (plain, fee), model = prices
    rows *= times
    found = bill(HostedPrice("x", model, {}, None), rows)
    assert found.total_usd == sum((one_by_hand(plain, fee, t) for t in rows), D(0))
    assert found.fees_usd == (fee or 0) * len(rows) / D(1000)
    assert (found.requests, found.input_tokens) == (len(rows), sum(t.prompt for t in rows))
    assert found.cached_tokens == sum(t.cached for t in rows)
    assert found.written_tokens == sum(t.written_5m + t.written_1h for t in rows)


def book_models():
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            yield provider.id, model


def test_every_model_of_the_book_costs_what_the_book_s_own_calculation_says():
    """All models with input and output prices, at dates around their changes: two calculations of one request agree to the digit."""
    draw, checked = random.Random(11), 0
    for _, model in book_models():
        at = datetime(
            draw.choice([2025, 2026, 2027]), draw.randint(1, 12), draw.randint(1, 28), draw.randint(0, 23), tzinfo=UTC
        )
        price = model.get_prices(at)
        if price.input_mtok is None or price.output_mtok is None:
            continue
        prompt, output = draw.choice([50, 3000, 150_000, 199_999, 200_001, 300_000, 600_000]), draw.randint(0, 5000)
        cached = draw.randint(0, prompt)
        five, reasoning = draw.randint(0, prompt - cached), draw.randint(0, output)
        hour = draw.randint(0, prompt - cached - five)
        usage = genai_prices.Usage(
            input_tokens=prompt, cache_read_tokens=cached, cache_write_tokens=five + hour, cache_write_5m_tokens=five,
            cache_write_1h_tokens=hour, output_tokens=output, output_reasoning_tokens=reasoning,
        )  # fmt: skip
        mine = bill(HostedPrice("x", price, {}, None), [(prompt, cached, output, reasoning, five, hour)])
        assert mine.total_usd == price.calc_price(usage)["total_price"], model.id
        checked += 1
    assert checked > 2000


def test_batch_is_the_multiplier_of_every_part():
    """Haiku's batch at half: input, reads, writes and output each halve, so the whole does."""
    ref = PriceRef(provider="anthropic", model="claude-haiku-4-5")
    rows = [(8192, 4096, 512, 0, 1000, 1000), (100, 0, 5, 0, 0, 100)]
    assert bill(find_variant(ref, NOW, "batch"), rows).total_usd * 2 == bill(find_price(ref, NOW), rows).total_usd


def test_an_own_price_bills_its_cache_writes():
    """2 / 0.2 cached / 2.5 and 4 written / 10 per million, in one request of each kind; without write prices a write costs the input's."""
    given_prices = {"input_usd_per_million": 2.0, "cached_input_usd_per_million": 0.2, "output_usd_per_million": 10.0}
    writes = {"cache_write_5m_usd_per_million": 2.5, "cache_write_1h_usd_per_million": 4.0}
    row = [(10_000, 1000, 100, 0, 2000, 3000)]
    dear = find_price(PriceRef(provider="me", model="m", **given_prices, **writes), NOW)
    assert bill(dear, row).total_usd == D("0.008") + D("0.0002") + D("0.005") + D("0.012") + D("0.001")
    assert bill(find_price(PriceRef(provider="me", model="m", **given_prices), NOW), row).written_usd == 5000 * D(2) / M
    assert "$2.5 cache write for 5 minutes, $4.0 cache write for an hour" in dear.inputs["price"]


def test_an_hour_s_write_without_a_price_is_refused():
    """A model that charges for writes and has no price for an hour: an error, not the price for five minutes."""
    ref = {"provider": "aws", "model": _writes_for_5_minutes_only()}
    assert find_price(PriceRef(**ref, cache_write_5m_tokens=10), NOW)
    with pytest.raises(ConfigError, match="for an hour"):
        find_price(PriceRef(**ref, cache_write_1h_tokens=10), NOW)


def _writes_for_5_minutes_only() -> str:
    for provider, model in book_models():
        price = model.get_prices(NOW)
        if (
            provider == "aws"
            and price.cache_write_mtok is not None
            and price.cache_write_1h_mtok is None
            and price.input_mtok
        ):
            return model.id
    raise AssertionError("the book has no such model any more: choose another provider")


# ---------------------------------------------------------------- whose cache

MINI = PriceRef(provider="openai", model="gpt-5-mini")
USAGE = ((8192, 6144, 512, 0),) * 1000


def run_against(url, model="m", *, name="t", kind="hosted", usage=USAGE):
    config = {"targets": [{"name": name, "kind": kind, "url": url, "model": model}]}
    return replace(summary(kind=kind, usage=usage), model=model, config=config)


def window_usd(run, ref):
    lines = cost_run(run, None, CostSpec(hosted=[ref])).hosted[ref.name]
    return D(next(line.usd for line in lines if line.name == "hosted_usd_window"))


@settings(max_examples=150, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=6), st.sampled_from(["vllm", "adopt", "offline", "hosted"]))
@example([Tokens(8192, 6144, 512, 0)], "vllm")
def test_our_own_server_s_cache_never_changes_the_hosted_bill(rows, kind):
    """The same requests with any cache hits of the measured server, or none: one bill, by hand nothing cached."""
    hits = tuple((t.prompt, t.cached, t.output, t.reasoning) for t in rows)
    none = tuple((prompt, 0, output, reasoning) for prompt, _, output, reasoning in hits)
    mine = [
        window_usd(run_against("http://127.0.0.1:8000/v1", "gpt-5-mini", kind=kind, usage=u), MINI)
        for u in (hits, none)
    ]
    by_hand = sum((prompt * D("0.25") + output * 2 for prompt, _, output, _ in hits), D(0)) / M
    assert mine[0] == mine[1]
    assert mine[0] == pytest.approx(by_hand, rel=D("1e-11"))


def test_its_own_measured_cache_is_billed_where_the_run_was_against_that_api():
    """gpt-5-mini at api.openai.com, 75 % cached by its usage: $1.69; the same run priced at another host, or another model: without."""
    run = run_against("https://api.openai.com/v1", "gpt-5-mini")
    assert window_usd(run, MINI) == D("1.6896")
    assert "measured" in bill_of_run(MINI, find_price(MINI, NOW), run).inputs["cached input"]
    azure = PriceRef(provider="azure", model="gpt-5-mini")
    other = bill_of_run(azure, find_price(azure, NOW), run)
    assert other.bill.cached_tokens == 0
    assert "6144000 that the measured server found" in other.inputs["cached input"]
    assert bill_of_run(PriceRef(provider="openai", model="gpt-5"), find_price(MINI, NOW), run).bill.cached_tokens == 0
    own = PriceRef(provider="myhost", model="gpt-5-mini", input_usd_per_million=1.0, output_usd_per_million=2.0)
    at_home = run_against("https://llm.myhost.example/v1", "gpt-5-mini")
    assert bill_of_run(own, find_price(own, NOW), at_home).bill.cached_tokens == 6_144_000
    assert bill_of_run(own, find_price(own, NOW), run).bill.cached_tokens == 0
    adopted = replace(at_home, target_kind="adopt")  # a vLLM server of ours at that address
    assert bill_of_run(own, find_price(own, NOW), adopted).bill.cached_tokens == 0


def test_measured_beats_declared_and_declared_beats_none():
    """Declared 1,000 tokens count for another server's run, not for one against the API; each bill says which it took."""
    ref = MINI.model_copy(update={"cached_input_tokens": 1000})
    ours, its = run_against("http://h/v1", kind="vllm"), run_against("https://api.openai.com/v1", "gpt-5-mini")
    assert bill_of_run(ref, find_price(ref, NOW), ours).bill.cached_tokens == 1_000_000
    assert bill_of_run(ref, find_price(ref, NOW), its).bill.cached_tokens == 6_144_000
    assert cache_of(ref, ours).source == "1000 of each prompt, declared"
    assert cache_of(MINI, ours).source.startswith("none: no cached_input_tokens declared; the 6144000 that")
    assert cache_of(MINI, declared=700).read_tokens == 700
    assert cache_of(ref, declared=700).read_tokens == 1000
    assert cache_of(MINI.model_copy(update={"cached_input_tokens": 0}), declared=700).read_tokens == 0
    assert cache_of(ref, ratio=D("1.5")).read_tokens == 1500


@given(st.lists(requests(), min_size=1, max_size=6), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000))
def test_declared_caching_never_exceeds_a_prompt(rows, read, five, hour):
    """Whatever is declared, each request's parts fit into its prompt, and are the declared ones where it is long enough."""
    ref = MINI.model_copy(
        update={"cached_input_tokens": read, "cache_write_5m_tokens": five, "cache_write_1h_tokens": hour}
    )
    tokens = cache_of(ref).tokens([t[:4] for t in rows])
    assert usage_problem(tokens) is None
    for t, row in zip(tokens, rows, strict=True):
        assert (t.prompt, t.output, t.reasoning) == (row.prompt, row.output, row.reasoning)
        if read + five + hour <= t.prompt:
            assert (t.cached, t.written_5m, t.written_1h) == (read, five, hour)


def test_writes_that_are_left_out_are_told_with_what_they_would_cost():
    """Haiku from its cache and no write declared: both bills in the warning; none where a write is declared, free, or nothing is read."""
    ref = PriceRef(provider="anthropic", model="claude-haiku-4-5", cached_input_tokens=6144)
    run = run_against("http://h/v1", kind="vllm")
    (warning,) = bill_of_run(ref, find_price(ref, NOW), run).warnings
    assert "$5.222" in warning
    assert "$5.734" in warning
    assert any(warning == w for w in cost_run(run, None, CostSpec(hosted=[ref])).warnings)
    quiet = (
        ref.model_copy(update={"cache_write_5m_tokens": 2048}),
        ref.model_copy(update={"cached_input_tokens": 0}),
        MINI.model_copy(update={"cached_input_tokens": 6144}),
    )
    assert all(bill_of_run(q, find_price(q, NOW), run).warnings == () for q in quiet)


# ---------------------------------------------------------------- in a scenario


def scenario_usd_per_request(measured_usage=None, **part):
    spec = scenario(
        workload={"input_tokens": 8192, "output_tokens": 512, **part.pop("workload", {})},
        capacity={"requests_per_s": None, "run": "r"} if measured_usage else {},
        hosted=[{"provider": "openai", "model": "gpt-5-mini", "same_model": True, **part}],
    )
    measured = None
    if measured_usage:
        measured = Measured(10.0, 10.0, None, tuple(measured_usage), ("r",), ("m",), "20261120T000000Z", "measured", ())
    found = next(o for o in run_scenario(spec, measured).options if o.kind == "hosted")
    return found.usd_per_request * 1000, found


@pytest.mark.parametrize(
    "measured",
    [None, USAGE[:3], tuple((*u[:1], 0, *u[2:]) for u in USAGE[:3])],
    ids=["mean request", "hits", "no hits"],
)
@pytest.mark.parametrize(
    ("part", "usd"),
    [
        ({}, "3.072"),
        ({"workload": {"cached_input_tokens": 6144}}, "1.6896"),
        ({"cached_input_tokens": 6144}, "1.6896"),
        ({"cached_input_tokens": 0, "workload": {"cached_input_tokens": 6144}}, "3.072"),
        ({"workload": {"cached_input_tokens": 6144}, "tokenizer_ratio": 1.5}, "2.5344"),
    ],
)
def test_a_scenario_bills_the_declared_cache_with_or_without_a_run(measured, part, usd):
    """gpt-5-mini a thousand times: nothing, the workload's or the price's own declared cache; a run's own hits change nothing."""
    each, option = scenario_usd_per_request(measured, **part)
    assert each == D(usd)
    hits = measured is not None and measured[0][1] > 0
    assert ("found in its own cache are not this API's" in option.inputs["cached input"]) == (
        hits and usd == "3.072" and not part
    )
