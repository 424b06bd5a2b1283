"""Bills against a script of their own: prices written out with their source, sums in plain Decimal, nothing of harness.price but `bill`.

Each case bills a seeded set of requests of many lengths and a round one whose dollars stand in a source or can be done by hand.
"""

from __future__ import annotations

import random
from decimal import Decimal as D

import pytest

from harness.config.price_ref import PriceRef
from harness.price.hosted import bill, find_price
from harness.price.hosted_cache import cache_of
from harness.price.prices import day_of

M = D(1_000_000)
# A request here: prompt, read from the cache, written for 5 minutes, written for an hour, output. $/M: (below, above) `tier` input tokens.
OPENAI_GPT55 = {
    "input": (5, 10),
    "read": (D("0.5"), 1),
    "output": (30, 45),
    "tier": 272_000,
}  # price anchors of Nov 2026: 5 -> 10 above 272k
HAIKU45 = {
    "input": (1, 1),
    "read": (D("0.1"), D("0.1")),
    "5m": (D("1.25"), D("1.25")),
    "1h": (2, 2),
    "output": (5, 5),
}  # Anthropic: 1/5; writes x1.25, x2
GPT5 = {
    "input": (D("1.25"), D("1.25")),
    "read": (D("0.125"), D("0.125")),
    "output": (10, 10),
}  # OpenAI: 1.25/10, cached 0.125
GPT5_MINI = {
    "input": (D("0.25"), D("0.25")),
    "read": (D("0.025"), D("0.025")),
    "output": (2, 2),
}  # OpenAI: 0.25/2, cached 0.025
O3_BEFORE = {"input": (10, 10), "output": (40, 40)}  # OpenAI, up to 9 June 2025
O3_AFTER = {"input": (2, 2), "read": (D("0.5"), D("0.5")), "output": (8, 8)}  # from 10 June 2025
GPT35 = {"input": (D("0.5"), D("0.5")), "output": (D("1.5"), D("1.5"))}  # OpenAI, since January 2024
GROQ_8B = {"input": (D("0.05"), D("0.05")), "output": (D("0.08"), D("0.08"))}  # Groq, llama-3.1-8b-instant
SONAR = {"input": (1, 1), "output": (1, 1), "fee": D("0.012")}  # Perplexity: 1/1 and $12 per 1,000 requests
POST = {"input": (D("1.5"), D("1.5")), "output": (2, 2)}  # a blog post's own table


def by_hand(requests, price) -> D:
    total = D(0)
    for prompt, read, five, hour, output in requests:
        at = 1 if prompt > price.get("tier", 10**12) else 0
        plain = price["input"]
        total += (prompt - read - five - hour) * D(plain[at]) / M
        for tokens, kind in ((read, "read"), (five, "5m"), (hour, "1h")):
            total += tokens * D(price.get(kind, plain)[at]) / M
        total += output * D(price["output"][at]) / M + price.get("fee", D(0))
    return total


def many(seed, *, longest=200_000, cached=True, written=False):
    draw = random.Random(seed)
    rows = []
    for _ in range(300):
        prompt = draw.choice([draw.randint(1, 2000), draw.randint(1, longest)])
        read = draw.randint(0, prompt) if cached else 0
        five = draw.randint(0, prompt - read) if written else 0
        hour = draw.randint(0, prompt - read - five) if written else 0
        rows.append((prompt, read, five, hour, draw.randint(1, 4000)))
    return rows


NOV = "20261124T113000Z"
CASES = {
    "1,000 short requests, tiers by request: $11, not $19": ("openai/gpt-5.5", NOV, OPENAI_GPT55, [(1000, 0, 0, 0, 200)] * 1000, "11"),
    "one request above the tier pays it whole": ("openai/gpt-5.5", NOV, OPENAI_GPT55, [(272_000, 0, 0, 0, 0), (272_001, 1, 0, 0, 0)], "4.080001"),
    "Haiku, 75 % read, no write": ("anthropic/claude-haiku-4-5", NOV, HAIKU45, [(8192, 6144, 0, 0, 512)] * 1000, "5.2224"),
    "Haiku, what is not read is written for 5 minutes": ("anthropic/claude-haiku-4-5", NOV, HAIKU45, [(8192, 6144, 2048, 0, 512)] * 1000, "5.7344"),
    "Haiku, a first write": ("anthropic/claude-haiku-4-5", NOV, HAIKU45, [(8192, 0, 8192, 0, 512)] * 1000, "12.80"),
    "Haiku, written for an hour": ("anthropic/claude-haiku-4-5", NOV, HAIKU45, [(8192, 0, 0, 8192, 512)] * 1000, "18.944"),
    "gpt-5-mini, nothing cached": ("openai/gpt-5-mini", NOV, GPT5_MINI, [(8192, 0, 0, 0, 512)] * 1000, "3.072"),
    "gpt-5, nothing cached": ("openai/gpt-5", NOV, GPT5, [(8192, 0, 0, 0, 512)] * 1000, "15.36"),
    "o3 the day before its price was cut": ("openai/o3", "20250609T235959Z", O3_BEFORE, [(1_000_000, 0, 0, 0, 1_000_000)], "50"),
    "o3 the day it was cut": ("openai/o3", "20250610T000000Z", O3_AFTER, [(1_000_000, 0, 0, 0, 1_000_000)], "10"),
    "the post's 10M requests at the list price, a thousandth": ("openai/gpt-3.5-turbo", NOV, GPT35, [(300, 0, 0, 0, 200)] * 10_000, "4.5"),
    "the same at an open 8B model": ("groq/llama-3.1-8b-instant", NOV, GROQ_8B, [(300, 0, 0, 0, 200)] * 10_000, "0.31"),
    "a fee per request": ("perplexity/sonar", NOV, SONAR, [(1000, 0, 0, 0, 500)] * 1000, "13.5"),
    "the post's own prices, 60 / 40, a thousandth": ("post/m", NOV, POST, [(300, 0, 0, 0, 200)] * 10_000, "8.5"),
}  # fmt: skip


def price_of(name, day):
    provider, _, model = name.partition("/")
    own = {"input_usd_per_million": 1.5, "output_usd_per_million": 2.0} if provider == "post" else {}
    return find_price(PriceRef(provider=provider, model=model, **own), day_of(day))


@pytest.mark.parametrize("case", CASES)
def test_the_bill_is_the_one_done_by_hand(case):
    """The known dollars by hand and by `bill`, and 300 seeded requests of all lengths to the last digit by both."""
    name, day, price, requests, usd = CASES[case]
    assert by_hand(requests, price) == D(usd)
    written = "5m" in price
    for rows in (
        requests,
        many(case, longest=400_000 if "tier" in price else 200_000, cached="read" in price, written=written),
    ):
        tokens = [(prompt, read, output, 0, five, hour) for prompt, read, five, hour, output in rows]
        assert bill(price_of(name, day), tokens).total_usd == by_hand(rows, price)


@pytest.mark.parametrize(
    ("declared", "usd"),
    [
        ({}, "10.752"),
        ({"cached_input_tokens": 0}, "10.752"),
        ({"cached_input_tokens": 6144}, "5.2224"),
        ({"cached_input_tokens": 6144, "cache_write_5m_tokens": 2048}, "5.7344"),
        ({"cache_write_5m_tokens": 8192}, "12.80"),
        ({"cache_write_1h_tokens": 8192}, "18.944"),
        ({"cached_input_tokens": 9000}, "3.3792"),
    ],
)
def test_declared_caching_has_known_dollars(declared, usd):
    """1,000 Haiku requests of 8,192 + 512 that our own server answered from its cache at 75 %: only what is declared of the API counts."""
    ref = PriceRef(provider="anthropic", model="claude-haiku-4-5", **declared)
    tokens = cache_of(ref).tokens([(8192, 6144, 512, 0)] * 1000)
    assert bill(find_price(ref, day_of(NOV)), tokens).total_usd == D(usd)
