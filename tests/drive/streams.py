"""Streams of all dialects, written by hand from the vendors' documents, out of one plain description of what a server did.

A reply is a list of pieces in their order: `Piece("thinking", 3)` are three tokens that come one to a chunk, `Piece("hidden", 5)` five that
are counted and never sent, `Piece("summary", 2)` two chunks of another model's words. `events` writes them as one API does, each with the number of the piece
that it bears (None: it bears nothing).

Shapes: https://platform.openai.com/docs/api-reference/chat-streaming, https://platform.openai.com/docs/api-reference/responses-streaming,
https://platform.claude.com/docs/build-with-claude/streaming, the types of openai 3.54.0 and anthropic 2.13.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Event = tuple[bytes, int | None]


@dataclass(frozen=True)
class Piece:
    """`kind`: text | refusal | thinking | summary | hidden | call."""

    kind: str
    tokens: int


@dataclass(frozen=True)
class Usage:
    """As the server counts: the prompt is all of `uncached`, `cached`, `written_5m` and `written_1h`. `tells`: it says how many of the
    output tokens were reasoning."""

    uncached: int = 8
    cached: int = 0
    written_5m: int = 0
    written_1h: int = 0
    tells: bool = True

    @property
    def prompt(self) -> int:
        return self.uncached + self.cached + self.written_5m + self.written_1h


def output_of(pieces: Sequence[Piece]) -> int:
    return sum(piece.tokens for piece in pieces if piece.kind != "summary")


def reasoning_of(pieces: Sequence[Piece]) -> int:
    return sum(piece.tokens for piece in pieces if piece.kind in ("thinking", "hidden"))


def sse(value: dict[str, Any], *, named: bool) -> bytes:
    name = f"event: {value['type']}\n" if named else ""
    return f"{name}data: {json.dumps(value)}\n\n".encode()


def events(api: str, pieces: Sequence[Piece], usage: Usage, finish: str = "") -> Iterator[Event]:
    """The whole stream of an API."""
    return {"completions": _completions, "chat": _chat, "responses": _responses, "messages": _messages}[api](
        pieces, usage, finish
    )


def bearing(value: dict[str, Any], number: int | None, *, named: bool = True) -> Event:
    return sse(value, named=named), number


# ---------------------------------------------------------------- chat completions and completions

_CHAT = {
    "text": lambda: {"content": "a"},
    "refusal": lambda: {"refusal": "no"},
    "thinking": lambda: {"reasoning_content": "hm"},
    "call": lambda: {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
}


def _openai_usage(pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
    told = {"completion_tokens_details": {"reasoning_tokens": reasoning_of(pieces)}} if usage.tells else {}
    written = usage.written_5m + usage.written_1h
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": output_of(pieces),
        "total_tokens": usage.prompt + output_of(pieces),
        "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": written},
    } | told


def _chat(pieces: Sequence[Piece], usage: Usage, finish: str) -> Iterator[Event]:
    def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": None} | more],
        }

    yield bearing(chunk({"role": "assistant", "content": ""}), None, named=False)
    for number, piece in enumerate(pieces):
        if piece.kind == "call":  # its name first, empty arguments beside it
            call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
            yield bearing(chunk({"tool_calls": [call]}), number, named=False)
        if piece.kind in _CHAT:
            for _ in range(piece.tokens - (piece.kind == "call")):
                yield bearing(chunk(_CHAT[piece.kind]()), number, named=False)
    yield bearing(chunk({}, finish_reason=finish or "stop"), None, named=False)
    yield bearing({"choices": [], "usage": _openai_usage(pieces, usage)}, None, named=False)
    yield b"data: [DONE]\n\n", None


def _completions(pieces: Sequence[Piece], usage: Usage, finish: str) -> Iterator[Event]:
    for number, piece in enumerate(pieces):
        for _ in range(piece.tokens if piece.kind == "text" else 0):
            yield bearing({"choices": [{"index": 0, "text": "a", "finish_reason": None}]}, number, named=False)
    yield bearing({"choices": [{"index": 0, "text": "", "finish_reason": finish or "stop"}]}, None, named=False)
    yield bearing({"choices": [], "usage": _openai_usage(pieces, usage)}, None, named=False)
    yield b"data: [DONE]\n\n", None


# ---------------------------------------------------------------- OpenAI Responses

_ITEM = {
    "text": {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []},
    "thinking": {"id": "rs_1", "type": "reasoning", "summary": [], "content": []},
    "call": {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": ""},
}
_ITEM |= {"refusal": _ITEM["text"], "summary": _ITEM["thinking"], "hidden": _ITEM["thinking"]}
_DELTA = {
    "text": ("response.output_text.delta", {"delta": "a", "logprobs": [], "content_index": 0}),
    "refusal": ("response.refusal.delta", {"delta": "no", "content_index": 0}),
    "thinking": ("response.reasoning_text.delta", {"delta": "hm", "content_index": 0}),
    "summary": ("response.reasoning_summary_text.delta", {"delta": "It thinks.", "summary_index": 0}),
    "call": ("response.function_call_arguments.delta", {"delta": "{"}),
}


def _responses_usage(pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
    lifetimes = {"ttl_30m_tokens": usage.written_5m, "ttl_12h_tokens": usage.written_1h}
    written = {"cache_write_tokens": usage.written_5m + usage.written_1h, "cache_write_tokens_details": lifetimes}
    told = {"output_tokens_details": {"reasoning_tokens": reasoning_of(pieces)}} if usage.tells else {}
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached} | written,
        "output_tokens": output_of(pieces),
        "total_tokens": usage.prompt + output_of(pieces),
    } | told


def _responses(pieces: Sequence[Piece], usage: Usage, finish: str) -> Iterator[Event]:
    """`finish`: why it is incomplete; empty for one that is complete."""
    response = {
        "id": "resp_1",
        "object": "response",
        "status": "in_progress",
        "error": None,
        "output": [],
        "usage": None,
    }
    yield bearing({"type": "response.created", "response": response}, None)
    yield bearing({"type": "response.in_progress", "response": response}, None)
    for number, piece in enumerate(pieces):
        item, place = _ITEM[piece.kind], {"output_index": number}
        named = number if piece.kind == "call" else None
        yield bearing({"type": "response.output_item.added", "item": item} | place, named)
        if piece.kind in ("text", "refusal"):
            part = {"type": "output_text", "text": "", "annotations": []}
            yield bearing({"type": "response.content_part.added", "item_id": item["id"], "part": part} | place, None)
        if piece.kind in _DELTA:
            kind, delta = _DELTA[piece.kind]
            for _ in range(piece.tokens - (piece.kind == "call")):
                bears = None if piece.kind == "summary" else number
                yield bearing({"type": kind, "item_id": item["id"]} | delta | place, bears)
        if piece.kind == "text":
            done = {"type": "response.output_text.done", "item_id": item["id"], "text": "a" * piece.tokens}
            yield bearing(done | place, None)
        yield bearing({"type": "response.output_item.done", "item": item | {"status": "completed"}} | place, None)
    end = {"status": "incomplete", "incomplete_details": {"reason": finish}} if finish else {"status": "completed"}
    response = response | end | {"usage": _responses_usage(pieces, usage)}
    yield bearing({"type": f"response.{end['status']}", "response": response}, None)


# ---------------------------------------------------------------- Anthropic Messages

_BLOCK = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "hidden": {"type": "redacted_thinking", "data": "EmwKAhgB"},
    "call": {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
}
_BLOCK |= {"refusal": _BLOCK["text"], "summary": _BLOCK["thinking"]}
_BLOCK_DELTA = {
    "text": {"type": "text_delta", "text": "a"},
    "refusal": {"type": "text_delta", "text": "no"},
    "thinking": {"type": "thinking_delta", "thinking": "hm"},
    "summary": {"type": "thinking_delta", "thinking": "It thinks."},
    "call": {"type": "input_json_delta", "partial_json": "{"},
}


def _messages(pieces: Sequence[Piece], usage: Usage, finish: str) -> Iterator[Event]:
    written = {"ephemeral_5m_input_tokens": usage.written_5m, "ephemeral_1h_input_tokens": usage.written_1h}
    given = {
        "input_tokens": usage.uncached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": usage.written_5m + usage.written_1h,
    }
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None}
    message |= {"usage": given | {"cache_creation": written, "output_tokens": 3, "service_tier": "standard"}}
    yield bearing({"type": "message_start", "message": message}, None)
    for number, piece in enumerate(pieces):
        at = {"index": number}
        calls = piece.kind == "call"
        yield bearing(
            {"type": "content_block_start", "content_block": _BLOCK[piece.kind]} | at, number if calls else None
        )
        if not number:
            yield bearing({"type": "ping"}, None)
        if piece.kind in _BLOCK_DELTA:
            for _ in range(piece.tokens - calls):
                yield bearing({"type": "content_block_delta", "delta": _BLOCK_DELTA[piece.kind]} | at, number)
        if piece.kind in ("thinking", "summary"):
            signed = {"type": "signature_delta", "signature": "EqQBCgIYAhIM"}
            yield bearing({"type": "content_block_delta", "delta": signed} | at, None)
        yield bearing({"type": "content_block_stop"} | at, None)
    told = {"output_tokens_details": {"thinking_tokens": reasoning_of(pieces)}} if usage.tells else {}
    delta = {"stop_reason": finish or "end_turn", "stop_sequence": None}
    yield bearing({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_of(pieces)} | told}, None)
    yield bearing({"type": "message_stop"}, None)
