"""Replies of the Messages API, event by event."""

from __future__ import annotations

import json

import pytest

from harness.measure.drive.dialect import error_message, reply, spoken
from harness.measure.drive.turns import Content
from harness.records import Endpoint

VLLM = "messages of vLLM"


def read(*values: dict, content: Content | None = None, of: str = "messages"):
    found = reply(of, content)
    for number, value in enumerate(values):
        found.take(json.dumps(value).encode(), number)
    return found


def start(**usage) -> dict:
    return {"type": "message_start", "message": {"type": "message", "content": [], "usage": usage}}


def block(**content) -> dict:
    return {"type": "content_block_start", "index": 0, "content_block": content}


def delta(**piece) -> dict:
    return {"type": "content_block_delta", "index": 0, "delta": piece}


def end(reason: str = "end_turn", **usage) -> dict:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


TEXT = delta(type="text_delta", text="a")
THINKING = delta(type="thinking_delta", thinking="hm")
STOP = {"type": "content_block_stop", "index": 0}


@pytest.mark.parametrize(
    ("value", "visible", "reasoning"),
    [
        (TEXT, 0, 0),
        (THINKING, None, 1),
        (delta(type="input_json_delta", partial_json="{"), 0, 0),
        (block(type="tool_use", id="t", name="f", input={}), 0, 0),
        (block(type="server_tool_use", id="t", name="web_search", input={}), 0, 0),
        (block(type="text", text="a"), 0, 0),
        (block(type="thinking", thinking="hm"), None, 1),
    ],
    ids=["text", "thinking", "arguments", "call", "server call", "text at once", "thinking at once"],
)
def test_what_bears_tokens(value, visible, reasoning):
    """Text, vLLM's thinking, a call's name and its arguments; thinking is not seen."""
    found = read(value, of=VLLM)
    assert (found.chunk_ns, found.first_visible_ns, found.reasoning_chunks) == ([0], visible, reasoning)


@pytest.mark.parametrize(
    "value",
    [
        start(input_tokens=3, output_tokens=1),
        block(type="text", text=""),
        block(type="thinking", thinking="", signature=""),
        block(type="redacted_thinking", data="EmwK"),
        block(type="web_search_tool_result", tool_use_id="t", content=[]),
        delta(type="signature_delta", signature="EqQB"),
        delta(type="citations_delta", citation={"cited_text": "a"}),
        delta(type="input_json_delta", partial_json=""),
        STOP,
        {"type": "ping"},
        {"type": "message_stop"},
        {"type": "of_tomorrow", "delta": {"text": "a"}},
        THINKING,
        block(type="thinking", thinking="hm"),
    ],
    ids=lambda value: " ".join(
        str(w) for w in (value["type"], (value.get("delta") or value.get("content_block") or {}).get("type")) if w
    ),
)
def test_what_bears_none(value):
    """Frames, signatures, citations, a tool's results, pings, what nobody knows yet, and a summary of the thinking."""
    assert read(value).chunk_ns == []


def test_a_prompt_is_all_three_of_its_parts():
    """input_tokens has neither what was read from the cache nor what was written into it."""
    written = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}
    found = read(
        start(input_tokens=2, cache_read_input_tokens=100, cache_creation_input_tokens=30, cache_creation=written),
        end(output_tokens=5),
    )
    assert (found.prompt, found.cached, found.written_5m, found.written_1h) == (132, 100, 10, 20)


def test_a_write_without_a_lifetime_is_of_five_minutes():
    """Which is the usual one; nothing is known of the other."""
    found = read(start(input_tokens=2, cache_creation_input_tokens=30, cache_read_input_tokens=0))
    assert (found.prompt, found.written_5m, found.written_1h) == (32, 30, None)


def test_usage_is_cumulative():
    """What the last event names replaces what the first one said, each by itself: vLLM 0.32.0 tells the cached tokens at the end alone."""
    found = read(
        start(input_tokens=20, output_tokens=0), end(input_tokens=4, cache_read_input_tokens=16, output_tokens=7)
    )
    assert (found.prompt, found.cached, found.output) == (20, 16, 7)


def test_output_is_known_at_the_end():
    """The first event's output_tokens are those written when it was sent: a reply that was cut has no count."""
    assert read(start(input_tokens=3, output_tokens=4), TEXT).output is None
    assert read(start(input_tokens=3, output_tokens=4), TEXT, end(output_tokens=9)).output == 9


@pytest.mark.parametrize(
    ("values", "told", "hidden"),
    [
        ((TEXT,), None, False),
        ((TEXT,), 0, False),
        ((TEXT,), 4, True),
        ((THINKING, TEXT), 4, True),
        ((THINKING, TEXT), None, True),
        ((block(type="thinking", thinking="", signature=""), TEXT), None, True),
        ((block(type="redacted_thinking", data="EmwK"), TEXT), None, True),
    ],
    ids=["none", "none told", "silent", "summary told", "summary", "omitted", "redacted"],
)
def test_reasoning_is_hidden_wherever_there_was_any(values, told, hidden):
    """What streams of it is a summary or nothing; how much there was is what usage says, or unknown."""
    details = {} if told is None else {"output_tokens_details": {"thinking_tokens": told}}
    found = read(*values, end(output_tokens=9, **details))
    assert (found.reasoning_hidden, found.reasoning) == (hidden, told)


def test_vllm_streams_its_reasoning():
    """Its Messages send the reasoning whole and do not count it apart; only where the target is known to be vLLM."""
    assert spoken(Endpoint("http://h/v1", "m", "messages", vllm_extensions=True)) == VLLM
    assert spoken(Endpoint("http://h/v1", "m", "messages")) == "messages"
    assert spoken(Endpoint("http://h/v1", "m", "responses", vllm_extensions=True)) == "responses"
    assert read(THINKING, TEXT, end(output_tokens=2), of=VLLM).reasoning_hidden is False


def test_how_it_ended():
    """The stop reason, and that the stream said so."""
    found = read(TEXT, end("max_tokens", output_tokens=1))
    assert (found.finish_reason, found.done) == ("max_tokens", False)
    found.take(b'{"type": "message_stop"}', 9)
    assert found.done


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "overloaded_error: Overloaded"),
        ({"type": "api_error"}, "error"),
        (None, "error"),
    ],
)
def test_an_error_in_the_stream(error, said):
    """Its message and its type."""
    assert read(TEXT, {"type": "error", "error": error}).error == said


def test_an_error_in_the_place_of_a_stream():
    """The body of an HTTP error names its type too; those of other APIs are read as before."""
    body = b'{"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}, "request_id": "req_1"}'
    assert error_message(body) == "rate_limit_error: slow down"
    assert error_message(b'{"error": {"message": "m", "type": "invalid_request_error", "code": null}}') == "m"
    assert error_message(b'{"type": "error", "message": "m"}') == "m"


def test_text_is_kept_for_a_later_turn():
    """Text alone, in order."""
    content = Content()
    read(block(type="text", text="a"), THINKING, delta(type="text_delta", text="b"), content=content)
    assert "".join(content.text) == "ab"


@pytest.mark.parametrize(
    "name", ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens"]
)
@pytest.mark.parametrize("tokens", [-1, 1 << 40])
def test_usage_that_cannot_be_is_refused(name, tokens):
    """As in the other dialects."""
    with pytest.raises(ValueError, match="cannot be"):
        read(end(**{name: tokens}))
