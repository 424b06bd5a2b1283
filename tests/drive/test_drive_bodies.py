"""Bodies of all four APIs: what is asked for by default, and what the user's own words make of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.measure.drive.dialect import encode, path
from harness.records import Endpoint, PlannedRequest, Prompt

APIS = ("completions", "chat", "responses", "messages")
REQUEST = PlannedRequest(0, None, 3, 7, None, 1)
TEXT = Prompt(0, "a b c", None)
TURNS = Prompt(0, "c", None, (("user", "a"), ("assistant", "b"), ("user", "c")))


def endpoint(api: str, **more) -> Endpoint:
    return Endpoint("http://h/v1", "m", api, **more)


def body(api: str, prompt: Prompt = TEXT, **more) -> dict:
    return json.loads(encode(endpoint(api, **more), REQUEST, prompt))


def test_a_responses_body():
    """Documented fields alone, a reply of the planned length at most, nothing kept by the API."""
    assert body("responses") == {
        "model": "m",
        "input": [{"role": "user", "content": "a b c"}],
        "max_output_tokens": 7,
        "temperature": 0,
        "stream": True,
        "store": False,
    }


def test_a_messages_body():
    """Documented fields alone; vLLM's extensions change nothing, for it has none here."""
    asked = {
        "model": "m",
        "max_tokens": 7,
        "messages": [{"role": "user", "content": "a b c"}],
        "temperature": 0,
        "stream": True,
    }
    assert body("messages") == body("messages", vllm_extensions=True) == asked


@pytest.mark.parametrize("shape", ["exact", "plain"])
def test_vllms_responses_write_the_planned_length(shape):
    """`ignore_eos` is all that vLLM takes there, whatever the body's shape."""
    assert body("responses", vllm_extensions=True, body=shape) == body("responses") | {"ignore_eos": True}


@pytest.mark.parametrize(("api", "key"), [("chat", "messages"), ("responses", "input"), ("messages", "messages")])
def test_a_session_is_sent_as_messages(api, key):
    """Roles and texts as they are, in order."""
    roles = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert body(api, TURNS)[key] == roles


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_token_ids_are_no_messages(api):
    """Only completions take ids; the error says what to use."""
    with pytest.raises(ConfigError, match=f"the {api} API takes text"):
        body(api, Prompt(0, None, (1, 2)))


@pytest.mark.parametrize(
    ("api", "below"),
    list(zip(APIS, ("/completions", "/chat/completions", "/responses", "/messages"), strict=True)),
)
def test_where_an_api_is(api, below):
    """Below the base URL."""
    assert path(endpoint(api)) == below


@pytest.mark.parametrize(
    ("api", "vllm", "limit"),
    [
        ("completions", False, "max_tokens"),
        ("chat", False, "max_completion_tokens"),
        ("chat", True, "max_tokens"),
        ("responses", False, "max_output_tokens"),
        ("messages", False, "max_tokens"),
    ],
)
def test_the_field_that_bounds_a_reply(api, vllm, limit):
    """By the API's documentation, or the one that the target names: exactly one of them is sent."""
    names = {"max_tokens", "max_completion_tokens", "max_output_tokens"}
    assert names & set(body(api, vllm_extensions=vllm)) == {limit}
    for named in names:
        asked = body(api, vllm_extensions=vllm, output_limit=named)
        assert {name: asked[name] for name in names & set(asked)} == {named: 7}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    ("temperature", "stream_options", "ignore_eos", "service_tier", "reasoning", "store", "max_tokens")
)


@given(
    api=st.sampled_from(APIS), vllm=st.booleans(), named=st.sampled_from((None, "max_tokens")),
    more=st.dictionaries(NAMES, VALUES),
)  # fmt: skip
def test_the_users_own_fields_come_last(api, vllm, named, more):
    """In every API: a field of `request` is sent as it is, null leaves one of ours out, and nothing else changes."""
    plain = endpoint(api, vllm_extensions=vllm, output_limit=named)
    before = json.loads(encode(plain, REQUEST, TEXT))
    after = json.loads(encode(replace(plain, request=more), REQUEST, TEXT))
    assert {k: v for k, v in after.items() if k not in more} == {k: v for k, v in before.items() if k not in more}
    assert {k: v for k, v in after.items() if k in more} == {k: v for k, v in more.items() if v is not None}
