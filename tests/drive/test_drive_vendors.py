"""Both drivers against an API in the vendors' documented shapes: the same request goes out, and the same row comes back."""

from __future__ import annotations

import re

import pytest

from harness.base.errors import ConfigError
from harness.measure.drive.driver import drive
from harness.measure.drive.sdk_call import Vendor
from harness.measure.job import Job
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt
from tests.drive.offering import LIMITS, Watching, offer
from tests.drive.streams import output_of, reasoning_of
from tests.fakes.vendor_server import CASES, EACH, KEY, USAGE, serving_vendors

pytestmark = pytest.mark.timing
APIS = ("completions", "chat", "responses", "messages")
DRIVERS = ("wire", "sdk")
TARGET = {
    "auth": "x-api-key",
    "headers": {"x-team": "7"},
    "request": {"service_tier": "flex", "temperature": None, "metadata": {"a": [1, None]}},
}


@pytest.fixture(scope="module")
def server():
    with serving_vendors() as running:
        yield running


@pytest.fixture(scope="module")
def asked(server):
    """Rows and requests of every API, driver and case; one worker each, for its start takes the time."""
    found = {}
    for api in APIS:
        for driver in DRIVERS:
            before = len(server.seen)
            rows, _ = offer(
                server.url("each"), 1 if api == "completions" else len(EACH), concurrency=1, driver=driver, api=api,
                vllm_extensions=False, api_key=KEY, tokens=36, of_target=TARGET,
            )  # fmt: skip
            rows.sort(key=lambda row: row.seq)
            found |= {
                (api, driver, case): (row, request)
                for case, row, request in zip(EACH, rows, server.seen[before:], strict=False)
            }
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("api", APIS[1:])
@pytest.mark.parametrize("driver", DRIVERS)
def test_tokens_of_a_row(asked, driver, api, case):
    """Prompt, cached and written ones, the output and its reasoning, and a chunk for each of the model's own pieces."""
    row, _ = asked[api, driver, case]
    pieces = CASES[case]
    assert (row.outcome, row.error) == ("ok", None)
    assert (row.prompt_tokens, row.cached_prompt_tokens) == (USAGE.prompt, USAGE.cached)
    lifetimes = (row.cache_written_5m_tokens, row.cache_written_1h_tokens)
    assert lifetimes == ((9, None) if api == "chat" else (7, 2))
    assert (row.output_tokens, row.reasoning_tokens) == (output_of(pieces), reasoning_of(pieces))
    assert len(row.chunk_ns) == sum(piece.tokens for piece in pieces if piece.kind in ("text", "call"))
    assert row.first_visible_ns == row.first_token_ns == row.chunk_ns[0]


@pytest.mark.parametrize("api", APIS)
def test_both_drivers_send_the_same_body(asked, api):
    """The user's fields in it, what was left out not in it, nothing of the SDK's own."""
    (_, (wire_path, _, wire)), (_, (sdk_path, _, sdk)) = (asked[api, driver, "text"] for driver in DRIVERS)
    assert wire_path == sdk_path
    assert sdk == wire
    assert (wire["service_tier"], wire["metadata"], "temperature" in wire) == ("flex", {"a": [1, None]}, False)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_the_key_goes_out_in_one_header(asked, driver, api):
    """The one that the target names, whatever the SDK would take; the target's own header and the request's name beside it."""
    row, (_, headers, _) = asked[api, driver, "text"]
    assert [name for name, value in headers.items() if KEY in value] == ["x-api-key"]
    assert "authorization" not in headers
    assert (headers["x-team"], headers["x-request-id"]) == ("7", row.request_id)
    assert headers.get("anthropic-version") == ("2023-06-01" if api == "messages" else None)


@pytest.mark.parametrize("case", ["refused", "broken"])
@pytest.mark.parametrize("api", APIS[1:])
def test_errors_read_the_same_and_without_the_key(asked, api, case):
    """A 401 and an error in mid-stream that both quote it: the vendor's words and its code, not the key."""
    wire, sdk = (asked[api, driver, case][0] for driver in DRIVERS)
    assert (wire.outcome, wire.http_status) == (("http_error", 401) if case == "refused" else ("error_event", 200))
    said = [re.sub(r"\*+", "*", row.error) for row in (wire, sdk)]  # the wire's veil keeps a key's length
    assert (sdk.outcome, sdk.http_status, said[1]) == (wire.outcome, wire.http_status, said[0])
    assert ("authentication_error" if api == "messages" else "invalid_api_key") in wire.error
    assert KEY not in wire.error


@pytest.mark.parametrize(("api", "key"), [("responses", "input"), ("messages", "messages")])
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_session_goes_on_from_the_real_reply(server, tmp_path, driver, api, key):
    """The second turn's messages: the first prompt, the reply's own text, and the plan's next words."""
    plan = [
        PlannedRequest(0, None, 10, 6, 1, 0, (), None, None),
        PlannedRequest(1, None, 20, 6, 1, 0, (), 0, 0),
    ]
    made = [Prompt(r.seq, "".join(f" w{i}" for i in range(r.target_prompt_tokens)), None) for r in plan]
    before, rows = len(server.seen), []
    drive(
        Job(plan, made, Load(concurrency=1), Phase.MEASURE, "run", tmp_path),
        Watching(rows.extend),
        Endpoint(server.url("text"), "golden", api, KEY),
        driver=driver,
        workers=1,
        timeouts=LIMITS,
    )
    assert [row.outcome for row in sorted(rows, key=lambda row: row.seq)] == ["ok", "ok"]
    messages = server.seen[before + 1][2][key]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"] == made[0].text
    assert messages[1]["content"] == "aaaaaa"
    assert messages[2]["content"].startswith(" w16 ")


@pytest.mark.parametrize("api", APIS)
def test_an_sdks_client_knows_no_key(api):
    """Whatever of it is printed, the key is not there: it is put into a request where that leaves."""
    config = {"api": api, "base_url": "http://127.0.0.1:9/v1", "headers": {"authorization": f"Bearer {KEY}"}}
    vendor = Vendor(config | {"ca_file": None, "proxy_url": None, "kept": True}, 1.0)
    shown = [
        repr(vendor.client),
        str(vars(vendor.client)),
        repr(vendor.client.default_headers),
        str(vendor.client.auth_headers),
    ]
    assert not [text for text in shown if KEY in text]


def test_the_anthropic_sdk_wants_a_base_that_ends_in_v1():
    """It adds /v1 itself; another base would be asked elsewhere than the wire driver does."""
    with pytest.raises(ConfigError, match="adds /v1/messages"):
        offer("http://127.0.0.1:9/api", 1, concurrency=1, driver="sdk", api="messages")
