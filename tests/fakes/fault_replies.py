"""Replies of an OpenAI-compatible server that misbehaves, by the fault's name; `fault_server` serves them.

Those whose fault is a matter of time, or of how a connection ends, are in the server itself.
"""

from __future__ import annotations

import gzip
import json

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
TOKENS = 3

# fault -> outcome of a client whose limit of that name is a second or less
FAULTS = {
    "ok": "ok",
    "slow_head": "timeout_first_token",
    "slow_head_done": "ok",
    "byte_chunks": "ok",
    "byte_writes": "ok",
    "chance_end": "ok",
    "chunk_extension": "ok",
    "trailer": "ok",
    "giant_line": "protocol_error",
    "chunk_size_small": "protocol_error",
    "chunk_size_large": "protocol_error",
    "chunk_size_word": "protocol_error",
    "gzip": "protocol_error",
    "redirect": "http_error",
    "continue_100": "ok",
    "status_400": "http_error",
    "status_429": "http_error",
    "status_429_date": "http_error",
    "status_500": "http_error",
    "status_500_html": "http_error",
    "status_503": "http_error",
    "error_event": "error_event",
    "error_first": "error_event",
    "error_json": "error_event",
    "json_reply": "protocol_error",
    "bad_json": "protocol_error",
    "not_http": "protocol_error",
    "reset_before": "reset",
    "reset_in": "reset",
    "reset_after": "ok",
    "close_before": "truncated",
    "close_in": "truncated",
    "half_closed": "ok",
    "hang": "timeout_first_token",
    "hang_after_head": "timeout_first_token",
    "hang_in": "timeout_idle",
    "drip": "timeout_total",
    "half_event": "truncated",
    "no_usage": "ok",
    "no_done": "ok",
    "no_finish": "truncated",
    "empty_done": "empty_reply",
    "empty_stop": "empty_reply",
    "empty_no_done": "empty_reply",
    "empty_hidden": "empty_reply",
    "several_tokens": "ok",
    "joined_events": "ok",
    "content_length": "ok",
    "close_delimited": "ok",
    "http_1_0": "ok",
    "crlf_events": "ok",
    "comments": "ok",
    "role_first": "ok",
    "reasoning": "ok",
    "hidden_reasoning": "ok",
    "tool_call": "ok",
    "leak_key": "http_error",
}


def event(text: str | None, finish: str | None = None, usage: dict | None = None, **more: object) -> bytes:
    """One completion event; `text` None: no choice at all."""
    choices = [] if text is None else [{"index": 0, "text": text, "finish_reason": finish}]
    return (
        b"data: " + json.dumps({"choices": choices, **({"usage": usage} if usage else {}), **more}).encode() + b"\n\n"
    )


def delta(finish: str | None = None, **what: object) -> bytes:
    """One chat event."""
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": what, "finish_reason": finish}]}).encode() + b"\n\n"
    )


def usage_of(tokens: int, reasoning: int | None = None) -> dict:
    """Usage of 8 prompt tokens and so many of output, with those that were reasoning where they are told."""
    told = {} if reasoning is None else {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    return {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": 8 + tokens, **told}


USAGE = event(None, usage=usage_of(TOKENS))
DONE = b"data: [DONE]\n\n"
STREAM = [event(" a"), event(" b"), event(" c", "length"), USAGE, DONE]


def chunk(data: bytes, size: str | None = None) -> bytes:
    return (size or f"{len(data):x}").encode() + b"\r\n" + data + b"\r\n"


def chunked(events: list[bytes]) -> bytes:
    return b"".join(map(chunk, events)) + b"0\r\n\r\n"


def plain(status: int, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def error_body(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": 1}}).encode()


def status_error(status: int) -> bytes:
    return plain(status, error_body(f"no luck\n with status_{status}"))


def error_event(message: str) -> bytes:
    return b"data: " + error_body(message) + b"\n\n"


_WHOLE = b"".join(STREAM)
_PACKED = gzip.compress(_WHOLE)
_END = b"0\r\n\r\n"
_ROLE = delta(role="assistant", content="")

# no stream of events at all
NO_STREAM = {
    "redirect": plain(307, b"", "location: http://127.0.0.1:1/elsewhere"),
    "status_400": status_error(400),
    "status_402": status_error(402),
    "status_429": plain(429, error_body("slow down"), "retry-after: 7"),
    "status_429_date": plain(429, error_body("slow down"), "retry-after: Wed, 21 Oct 2026 07:28:00 GMT"),
    "status_500": status_error(500),
    "status_500_html": plain(500, b"<html>oops</html>", kind="text/html"),
    "status_503": status_error(503),
    "error_json": plain(200, error_body("not today")),
    "json_reply": plain(200, b'{"choices": [{"index": 0, "text": " a b c", "finish_reason": "length"}]}'),
    "not_http": b"SSH-2.0-OpenSSH_9.9\r\n\r\n" + b"x" * 100,
}
# STREAM, framed in another way
FRAMES = {
    "byte_chunks": HEAD + b"".join(chunk(bytes([b])) for b in _WHOLE) + _END,
    "chunk_extension": HEAD + b"".join(chunk(e, f"{len(e):X};name=value") for e in STREAM) + _END,
    "trailer": HEAD + b"".join(map(chunk, STREAM)) + b"0\r\nx-sum: 1\r\n\r\n",
    "chunk_size_small": HEAD + chunk(STREAM[0]) + chunk(STREAM[1], "5") + chunked(STREAM[2:]),
    "chunk_size_large": HEAD + chunk(STREAM[0]) + chunk(STREAM[1], "fff") + chunked(STREAM[2:]),
    "chunk_size_word": HEAD + chunk(STREAM[0]) + chunk(STREAM[1], "size") + chunked(STREAM[2:]),
    "continue_100": b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + chunked(STREAM),
    "content_length": LENGTH_HEAD + b"content-length: %d\r\n\r\n" % len(_WHOLE) + _WHOLE,
    "gzip": LENGTH_HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(_PACKED) + _PACKED,
}
# other events, framed as they should be
EVENTS = {
    "ok": STREAM,
    "joined_events": [b"".join(STREAM[:2]), b"".join(STREAM[2:])],
    "crlf_events": [e.replace(b"\n", b"\r\n") for e in STREAM],
    "comments": [b": ping\n\n", STREAM[0], b": ping\n\n", *STREAM[1:]],
    "error_event": [STREAM[0], error_event("engine died"), DONE],
    "error_first": [error_event("engine died"), DONE],
    "bad_json": [STREAM[0], b"data: {oops\n\n", *STREAM[1:]],
    "no_usage": [*STREAM[:3], DONE],
    "no_done": STREAM[:4],
    "no_finish": STREAM[:2],
    "empty_done": [DONE],
    "empty_stop": [event("", "stop"), event(None, usage=usage_of(0)), DONE],
    "empty_no_done": [event("", "stop")],
    "empty_hidden": [_ROLE, delta("length"), event(None, usage=usage_of(9, reasoning=9)), DONE],
    "hidden_reasoning": [
        _ROLE,
        delta(content="a"),
        delta(content="b"),
        delta("stop", content="c"),
        event(None, usage=usage_of(TOKENS + 1000, reasoning=1000)),
        DONE,
    ],
    "several_tokens": [
        event(" a b", usage=usage_of(2)),
        event(" c d e", usage=usage_of(5)),
        event(" f", "length", usage=usage_of(6)),
        event(None, usage=usage_of(6)),
        DONE,
    ],
    "role_first": [_ROLE, delta(content=" a"), delta(content=" b"), delta("stop", content=" c"), USAGE, DONE],
    "reasoning": [
        delta(reasoning_content="h"),
        delta(reasoning="m"),
        delta("stop", content="a"),
        event(None, usage=usage_of(3, reasoning=2) | {"prompt_tokens_details": {"cached_tokens": 4}}),
        DONE,
    ],
    "tool_call": [
        delta(tool_calls=[{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        delta("tool_calls"),
        USAGE,
        DONE,
    ],
}
FIXED = NO_STREAM | FRAMES | {fault: HEAD + chunked(events) for fault, events in EVENTS.items()}


def fixed(fault: str, key: str) -> bytes | None:
    """The whole answer of faults that are only bytes."""
    if fault == "leak_key":
        return plain(401, error_body(f"key {key} is not valid; also sk-abcdefghijklmnop"))
    if fault == "giant_line":
        return HEAD + chunk(STREAM[0]) + chunk(b"data: " + b"x" * (50 * 1024 * 1024)) + chunked(STREAM[1:])
    return FIXED.get(fault)
