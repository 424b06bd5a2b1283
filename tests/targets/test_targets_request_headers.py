"""Headers of requests, those of the load and those beside it."""

from __future__ import annotations

import pytest

from harness.base.errors import ConfigError
from harness.measure.drive.request_head import request_head
from harness.measure.request_headers import key_header, more_headers
from harness.measure.targets import identity
from harness.records import Endpoint

KEY = "k3y-of-a-test"


def head(api: str, **more) -> list[str]:
    return request_head(Endpoint("http://h/v1", "m", api, KEY, **more)).decode().split("\r\n")


@pytest.mark.parametrize(
    ("auth", "line"),
    [("bearer", f"authorization: Bearer {KEY}"), ("x-api-key", f"x-api-key: {KEY}"), ("api-key", f"api-key: {KEY}")],
)
def test_the_key_goes_into_the_header_that_is_named(auth, line):
    """And into no other; on the wire as in requests beside the load."""
    assert [found for found in head("chat", auth=auth) if KEY in found] == [line]
    with identity.client_of(Endpoint("http://h/v1", "m", "chat", KEY, auth=auth)) as http:
        found = [f"{name}: {value}" for name, value in http.headers.items() if KEY in value]
    assert found == [line]


@pytest.mark.parametrize(("api", "has"), [("messages", True), ("responses", False), ("chat", False)])
def test_messages_name_their_version(api, has):
    """Anthropic demands the header; the others do not know it. The load and requests beside it send the same."""
    assert ("anthropic-version: 2023-06-01" in head(api)) == has
    with identity.client_of(Endpoint("http://h/v1", "m", api, KEY)) as http:
        assert ("anthropic-version" in http.headers) == has


def test_the_users_header_replaces_one_of_the_api():
    """In any case of letters, and only once."""
    headers = more_headers("messages", {"Anthropic-Version": "2099-01-01", "x": "1"})
    assert headers == {"Anthropic-Version": "2099-01-01", "x": "1"}


@pytest.mark.parametrize("key", ["clé", "a\nb"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(key):
    """The error has three lines and the key in none of them."""
    with pytest.raises(ConfigError) as caught:
        key_header("bearer", key)
    assert key not in str(caught.value)
