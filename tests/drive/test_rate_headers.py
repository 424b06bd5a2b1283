"""What heads say of limits, in every family's own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.drive.rate_headers import read_limits, retry_after_s

DATE = "Thu, 26 Nov 2026 12:00:00 GMT"


def said(**headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {
        (s.kind, s.window_s, s.limit, s.remaining, s.reset_s, s.source)
        for s in read_limits(named | {"date": DATE}, 1, 2)
    }


def test_openai():
    """Requests and tokens, resets as durations, no window told."""
    found = said(
        x_ratelimit_limit_requests="60", x_ratelimit_remaining_requests="59", x_ratelimit_reset_requests="1s",
        x_ratelimit_limit_tokens="150000", x_ratelimit_remaining_tokens="149984", x_ratelimit_reset_tokens="6m0s",
    )  # fmt: skip
    assert found == {
        ("requests", None, 60, 59, 1.0, "x-ratelimit"),
        ("tokens", None, 150000, 149984, 360.0, "x-ratelimit"),
    }


def test_anthropic():
    """Four limits of a minute, resets as times by the reply's own date."""
    names = ("requests", "tokens", "input_tokens", "output_tokens")
    found = said(
        **{f"anthropic_ratelimit_{n}_{what}": value for n in names
           for what, value in (("limit", "50"), ("remaining", "7"), ("reset", "2026-11-26T12:00:30Z"))}
    )  # fmt: skip
    assert found == {(n, 60.0, 50, 7, 30.0, "anthropic") for n in names}


def test_ietf():
    """The structured fields with their policy, and the three fields of earlier drafts."""
    new = said(ratelimit='"burst";r=50;t=30', ratelimit_policy='"burst";q=100;w=60,"day";q=1000;w=86400')
    old = said(ratelimit_limit="100, 100;w=60", ratelimit_remaining="50", ratelimit_reset="30")
    apart = said(ratelimit_limit="10", ratelimit_remaining="0", ratelimit_reset="1", ratelimit_policy="10;w=1")
    assert new == {("requests", 60.0, 100, 50, 30.0, "ietf")}
    assert old == {("requests", 60.0, 100, 50, 30.0, "ietf")}
    assert apart == {("requests", 1.0, 10, 0, 1.0, "ietf")}


def test_windows_in_names_and_other_names():
    """Cerebras and Mistral name the time, Fireworks parts tokens, OpenRouter's reset is a Unix time in ms."""
    assert said(x_ratelimit_limit_requests_day="14400", x_ratelimit_remaining_requests_day="1") == {
        ("requests", 86_400.0, 14400, 1, None, "x-ratelimit")
    }
    assert said(x_ratelimit_limit_req_minute="60") == {("requests", 60.0, 60, None, None, "x-ratelimit")}
    assert said(x_ratelimit_limit_tokens_prompt="60000") == {("input_tokens", None, 60000, None, None, "x-ratelimit")}
    assert said(x_ratelimit_limit="20", x_ratelimit_remaining="3", x_ratelimit_reset="1795694445000") == {
        ("requests", None, 20, 3, 45.0, "x-ratelimit")
    }


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "Thu, 26 Nov 2026 12:01:00 GMT", "date": DATE}, 60.0),
        ({"retry-after": "Thu, 26 Nov 2026 11:00:00 GMT", "date": DATE}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "99999999999"}, None),
        ({}, None),
    ],
    ids=["seconds", "half", "ms_first", "date", "past", "words", "negative", "centuries", "none"],
)
def test_retry_after(headers, expected):
    """Seconds, ms or a date by the server's own clock; what cannot be is nothing."""
    assert retry_after_s(headers) == expected


NAMES = st.sampled_from(
    ["x-ratelimit-limit-requests", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens", "ratelimit", "ratelimit-policy",
     "ratelimit-limit", "anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-limit", "retry-after", "retry-after-ms", "date"]
)  # fmt: skip


@given(st.dictionaries(NAMES, st.one_of(st.text(max_size=40), st.integers(-5, 10**20).map(str), st.sampled_from(["1m", "5ms", "1e9", "NaN", "2026-13-01"]))))  # fmt: skip
def test_nothing_that_a_head_says_raises(headers):
    """Whatever stands there: samples of whole, non-negative numbers, or none."""
    retry = retry_after_s(headers)
    assert retry is None or retry >= 0
    for sample in read_limits(headers, 1, 2):
        assert all(value is None or value >= 0 for value in (sample.limit, sample.remaining, sample.reset_s))
