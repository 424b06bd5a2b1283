"""Replies of the Responses API, event by event."""

from __future__ import annotations

import json

import pytest

from harness.measure.drive.dialect import reply
from harness.measure.drive.turns import Content


def read(*values: dict, content: Content | None = None):
    found = reply("responses", content)
    for number, value in enumerate(values):
        found.take(json.dumps(value).encode(), number)
    return found


def text(delta: str = "a") -> dict:
    return {
        "type": "response.output_text.delta",
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": delta,
    }


def end(kind: str = "completed", **response) -> dict:
    return {"type": f"response.{kind}", "response": {"status": kind} | response}


@pytest.mark.parametrize(
    "kind",
    ["output_text", "refusal", "function_call_arguments", "custom_tool_call_input", "mcp_call_arguments", "audio",
     "code_interpreter_call_code", "shell_call_command"],
)  # fmt: skip
def test_what_the_model_writes_for_somebody_is_visible(kind):
    """Text, a refusal and what any tool is called with."""
    found = read({"type": f"response.{kind}.delta", "delta": "x"})
    assert (found.chunk_ns, found.first_visible_ns, found.reasoning_chunks) == ([0], 0, 0)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "response.created", "response": {"status": "in_progress", "usage": None}},
        {"type": "response.output_item.added", "item": {"type": "message", "content": []}},
        {"type": "response.output_text.delta", "delta": ""},
        {"type": "response.output_text.done", "text": "abc"},
        {"type": "response.reasoning_summary_text.delta", "delta": "It thinks."},
        {"type": "response.function_call_arguments.done", "arguments": "{}"},
        {"type": "response.shell_call_output_content.delta", "delta": {"stdout": "x"}},
        {"type": "keepalive"},
    ],
    ids=lambda value: value["type"],
)
def test_what_bears_no_token(value):
    """Frames, repetitions, an empty piece, another model's summary, a tool's output, and what nobody knows yet."""
    assert read(value).chunk_ns == []


def test_reasoning_text_is_reasoning():
    """It bears tokens, and is not seen."""
    found = read({"type": "response.reasoning_text.delta", "delta": "hm"}, text())
    assert (found.chunk_ns, found.reasoning_chunks, found.first_visible_ns) == ([0, 1], 1, 1)


@pytest.mark.parametrize(
    ("values", "told", "hidden"),
    [
        ((), None, False),
        ((), 0, False),
        ((), 4, True),
        (({"type": "response.output_item.added", "item": {"type": "reasoning", "summary": []}},), None, True),
        (({"type": "response.reasoning_text.delta", "delta": "hm"},), 4, False),
    ],
    ids=["none", "none told", "silent", "item", "streamed"],
)
def test_reasoning_that_did_not_stream_is_hidden(values, told, hidden):
    """Usage counts it, or an item of it began, and no chunk held any; how much there was is what usage says, or unknown."""
    details = {} if told is None else {"output_tokens_details": {"reasoning_tokens": told}}
    found = read(*values, text(), end(usage={"output_tokens": 9} | details))
    assert (found.reasoning_hidden, found.reasoning) == (hidden, told)


def test_a_calls_name_is_its_first_token():
    """It comes with the item, before the arguments."""
    found = read(
        {"type": "response.output_item.added", "item": {"type": "function_call", "name": "f", "arguments": ""}}
    )
    assert (found.chunk_ns, found.first_visible_ns) == ([0], 0)


def test_usage_of_the_last_event():
    """Prompt, cached, written, output and reasoning tokens, as they are named there."""
    details = {"cached_tokens": 5, "cache_write_tokens": 3}
    usage = {
        "input_tokens": 20,
        "input_tokens_details": details,
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4},
    }
    found = read(text(), end(usage=usage))
    assert (found.prompt, found.cached, found.output, found.reasoning) == (20, 5, 9, 4)
    assert (found.written_5m, found.written_1h) == (3, None)
    assert found.done


def test_cache_writes_by_lifetime():
    """The shorter and the longer one, where usage names them."""
    written = {"cache_write_tokens": 7, "cache_write_tokens_details": {"ttl_30m_tokens": 5, "ttl_12h_tokens": 2}}
    found = read(end(usage={"input_tokens": 9, "input_tokens_details": written, "output_tokens": 1}))
    assert (found.written_5m, found.written_1h) == (5, 2)


@pytest.mark.parametrize(
    ("event", "finish"),
    [
        (end(), "completed"),
        (end("incomplete", incomplete_details={"reason": "max_output_tokens"}), "max_output_tokens"),
        # vLLM 0.32.0 ends with this event whatever the status is
        (
            end("completed", status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "max_output_tokens",
        ),
        ({"type": "response.completed"}, "completed"),
    ],
    ids=["completed", "incomplete", "vllm", "bare"],
)
def test_how_it_ended(event, finish):
    """The reason of an incomplete one, else its status."""
    found = read(text(), event)
    assert (found.finish_reason, found.done, found.error) == (finish, True, None)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None}, "rate_limit_exceeded: slow down"),
        ({"type": "error", "error": {"code": "server_error", "message": "boom"}}, "server_error: boom"),
        ({"error": {"message": "engine died", "code": 500}}, "engine died"),
        (end("failed", error={"code": "server_error", "message": "boom"}), "server_error: boom"),
        (end("failed", error=None), "the response failed"),
    ],
    ids=["event", "nested", "vllm", "failed", "unsaid"],
)  # fmt: skip
def test_what_went_wrong(event, error):
    """In every shape that it comes in."""
    assert read(text(), event).error == error


def test_a_failed_response_is_billed_as_its_usage_says():
    """The tokens are there beside the error."""
    found = read(end("failed", error={"message": "x"}, usage={"input_tokens": 3, "output_tokens": 2}))
    assert (found.prompt, found.output) == (3, 2)


def test_text_is_kept_for_a_later_turn():
    """Text alone, in order."""
    content = Content()
    read(text("a"), {"type": "response.reasoning_text.delta", "delta": "hm"}, text("b"), content=content)
    assert "".join(content.text) == "ab"


@pytest.mark.parametrize("tokens", [-1, 1 << 40])
def test_usage_that_cannot_be_is_refused(tokens):
    """As in the other dialects."""
    with pytest.raises(ValueError, match="cannot be"):
        read(end(usage={"input_tokens": tokens}))
