"""Replies that no honest server sends: what once ended a worker, a run or a campaign, and their like.

`HOSTILE` names each with the outcome it must come to where TOKENS tokens were asked for. `answer` gives its bytes, in pieces: an
endless one goes on until the client hangs up.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

TOKENS = 3
KEY = b"topsecret-key-1"
DEEP = 60_000
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
_PIECE = 1 << 16

HOSTILE = {
    # heads
    "length_of_5000_digits": "protocol_error",
    "length_negative": "protocol_error",
    "length_in_arabic_digits": "protocol_error",
    "chunk_size_of_5000_digits": "protocol_error",
    "chunk_size_negative": "protocol_error",
    "status_999": "http_error",
    "status_000": "http_error",
    "status_of_5000_digits": "protocol_error",
    "head_without_end": "protocol_error",
    "head_of_nul": "protocol_error",
    "ten_thousand_headers": "protocol_error",
    "header_without_name": "protocol_error",
    "redirect_to_itself": "http_error",
    "endless_interim": "protocol_error",
    "interim_and_no_more": "timeout_total",
    # bodies of errors
    "error_of_brackets": "http_error",
    "error_nested": "http_error",
    "error_message_nested": "http_error",
    "error_with_surrogate": "http_error",
    "error_with_terminal_codes": "http_error",
    "error_of_64_mib": "protocol_error",
    "error_retry_after_of_5000_digits": "http_error",
    # events
    "event_of_brackets": "protocol_error",
    "event_nested": "protocol_error",
    "event_is_a_list": "protocol_error",
    "event_is_a_number_of_5000_digits": "protocol_error",
    "event_not_utf8": "protocol_error",
    "error_event_nested": "error_event",
    "choices_is_text": "protocol_error",
    "choice_is_null": "protocol_error",
    "delta_is_text": "protocol_error",
    "tool_call_is_text": "empty_reply",
    "tool_function_is_text": "empty_reply",
    "tool_calls_is_a_number": "empty_reply",
    "content_is_nested": "ok",
    "finish_is_an_object": "ok",
    "finish_of_1_mib": "ok",
    "token_ids_are_texts": "protocol_error",
    "usage_is_text": "protocol_error",
    "usage_negative": "protocol_error",
    "usage_of_30_digits": "protocol_error",
    "usage_beyond_64_bits": "protocol_error",
    "usage_is_nan": "protocol_error",
    "usage_grows_back": "ok",
    "text_with_surrogate": "protocol_error",
    "nul_bytes": "ok",
    "key_in_pieces": "protocol_error",
    "line_without_end": "protocol_error",
    # lengths
    "endless_tokens": "overrun",
    "endless_tokens_in_big_chunks": "overrun",
    "three_times_as_long": "overrun",
    "endless_comments": "protocol_error",
    "endless_body": "protocol_error",
    "giant_events": "protocol_error",
    "after_done_more": "protocol_error",
}
CHAT = ("delta_is_text", "tool_call_is_text", "tool_function_is_text", "tool_calls_is_a_number", "content_is_nested")
# what a client sees only when its patience ends: framing is judged where a reply's end is, or its limit
SLOW = ("interim_and_no_more", "chunk_size_negative", "chunk_size_of_5000_digits", "key_in_pieces")
IN_TURN = {
    "completions": [name for name in HOSTILE if name not in (*CHAT, *SLOW)],
    "chat": list(CHAT),
    "slow": list(SLOW),
}
ENDING = [name for name, outcome in HOSTILE.items() if outcome in ("http_error", "error_event", "empty_reply")]
ENDING += [
    name for name in HOSTILE if name.startswith(("event_", "usage_", "length_", "choice")) and HOSTILE[name] != "ok"
]


def _card(max_model_len: bytes) -> bytes:
    return b'{"data": [{"id": "golden", "max_model_len": ' + max_model_len + b"}]}"


MODELS = {
    "models_length_is_text": _card(b'"abc"'),
    "models_length_is_infinite": _card(b"1e999"),
    "models_length_is_a_list": _card(b"[1]"),
    "models_length_negative": _card(b"-1"),
    "models_length_of_5000_digits": _card(b"9" * 5000),
    "models_nested": b"[" * DEEP,
    "models_not_utf8": b'{"data": [{"id": "\xff"}]}',
    "models_is_a_list": b"[]",
    "models_data_is_text": b'{"data": "golden"}',
    "models_id_is_missing": b'{"data": [{}]}',
    "models_is_empty": b"",
}


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def chunked(*events: bytes) -> bytes:
    return HEAD + b"".join(map(chunk, events)) + b"0\r\n\r\n"


def says(**more: object) -> bytes:
    return b"data: " + json.dumps(more).encode() + b"\n\n"


def text(words: str = " a", finish: object = None, **more: object) -> bytes:
    return says(choices=[{"index": 0, "text": words, "finish_reason": finish}], **more)


def delta(finish: object = None, **what: object) -> bytes:
    return says(choices=[{"index": 0, "delta": what, "finish_reason": finish}])


def plain(status: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-type: application/json", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def nested(depth: int, inner: bytes = b"1") -> bytes:
    return b"[" * depth + inner + b"]" * depth


def answer(name: str) -> Iterator[bytes]:
    """The bytes of one hostile reply, in the pieces they are written in."""
    for part in (_heads, _errors, _events, _usages, _lengths):
        pieces = part(name)
        if pieces is not None:
            return iter((pieces,)) if isinstance(pieces, bytes) else pieces
    raise KeyError(name)


def _heads(name: str) -> bytes | Iterator[bytes] | None:
    begin = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    match name:
        case "length_of_5000_digits":
            return begin + b"content-length: " + b"9" * 5000 + b"\r\n\r\n" + text()
        case "length_negative":
            return begin + b"content-length: -1\r\n\r\n" + text()
        case "length_in_arabic_digits":
            return begin + "content-length: ٣".encode() + b"\r\n\r\n" + text()
        case "chunk_size_of_5000_digits":
            return HEAD + b"f" * 5000 + b"\r\n" + text()
        case "chunk_size_negative":
            return HEAD + b"-5\r\n" + text()
        case "status_999" | "status_000":
            return plain(name[-3:].encode() + b" X", b'{"error": {"message": "x"}}')
        case "status_of_5000_digits":
            return b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n"
        case "head_without_end":
            return itertools.chain((b"HTTP/1.1 200 OK\r\n",), itertools.repeat(b"x-a: " + b"b" * _PIECE))
        case "head_of_nul":
            return b"\0" * 1000 + b"\r\n\r\n"
        case "ten_thousand_headers":
            return begin + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 40) for i in range(10_000)) + b"\r\n" + text()
        case "header_without_name":
            return begin + b": nothing\r\n\r\n" + text()
        case "redirect_to_itself":
            return plain(b"307 X", b"", b"location: /")
        case "endless_interim":
            return itertools.repeat(INTERIM * (_PIECE // len(INTERIM)))
        case "interim_and_no_more":
            return INTERIM * 10
    return None


def _errors(name: str) -> bytes | Iterator[bytes] | None:
    match name:
        case "error_of_brackets":
            return plain(b"500 X", b"[" * DEEP)
        case "error_nested":
            return plain(b"500 X", nested(DEEP // 2))
        case "error_message_nested":
            return plain(b"500 X", b'{"error": {"message": ' + nested(700) + b"}}")
        case "error_with_surrogate":
            return plain(b"500 X", b'{"error": {"message": "half a \\ud800 pair"}}')
        case "error_with_terminal_codes":
            return plain(b"500 X", b'{"error": {"message": "\\u001b[2J\\u001b]0;owned\\u0007 gone"}}')
        case "error_of_64_mib":
            head = b"HTTP/1.1 500 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (1 << 26)
            return itertools.chain((head,), itertools.repeat(b" " * _PIECE, (1 << 26) // _PIECE))
        case "error_retry_after_of_5000_digits":
            return plain(b"429 X", b"{}", b"retry-after: " + b"9" * 5000)
        case "error_event_nested":
            return chunked(b'data: {"error": {"message": ' + nested(700) + b"}}\n\n", DONE)
    return None


def _events(name: str) -> bytes | Iterator[bytes] | None:
    match name:
        case "event_of_brackets":
            return chunked(b"data: " + b"[" * DEEP + b"\n\n", DONE)
        case "event_nested":
            return chunked(b"data: " + nested(DEEP // 2) + b"\n\n", DONE)
        case "event_is_a_list":
            return chunked(b"data: [1, 2]\n\n", DONE)
        case "event_is_a_number_of_5000_digits":
            return chunked(b"data: " + b"9" * 5000 + b"\n\n", DONE)
        case "event_not_utf8":
            return chunked(b'data: {"choices": [{"text": "\xff\xfe"}]}\n\n', DONE)
        case "choices_is_text":
            return chunked(says(choices="a"), DONE)
        case "choice_is_null":
            return chunked(says(choices=[None]), DONE)
        case "delta_is_text":
            return chunked(says(choices=[{"delta": "a"}]), DONE)
        case "tool_call_is_text":
            return chunked(delta(tool_calls=["x"]), delta("tool_calls"), DONE)
        case "tool_function_is_text":
            return chunked(delta(tool_calls=[{"function": "x"}]), delta("tool_calls"), DONE)
        case "tool_calls_is_a_number":
            return chunked(delta(tool_calls=7), delta("tool_calls"), DONE)
        case "content_is_nested":
            return chunked(delta(content=json.loads(nested(100))), delta("stop", content="b"), DONE)
        case "finish_is_an_object":
            return chunked(text(), text(" b", {"why": [1, {"a": None}]}), DONE)
        case "finish_of_1_mib":
            return chunked(text(), text(" b", "s" * (1 << 20)), DONE)
        case "token_ids_are_texts":
            return chunked(says(choices=[{"text": "a", "token_ids": ["x"]}]), DONE)
        case "text_with_surrogate":
            return chunked(b'data: {"choices": [{"text": "\\ud800", "finish_reason": "\\udfff"}]}\n\n', DONE)
        case "key_in_pieces":
            return HEAD + b"".join(chunk(KEY[at : at + 5]) for at in range(0, len(KEY), 5)) + b"zz\r\n"
        case "nul_bytes":
            return chunked(text(), b"\0" * 1000, b"data: \0\n\n", DONE)
    return None


def _usages(name: str) -> bytes | Iterator[bytes] | None:
    counts = {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}
    match name:
        case "usage_is_text":
            return chunked(text(), says(choices=[], usage="many"), DONE)
        case "usage_negative":
            return chunked(text(), says(choices=[], usage=counts | {"prompt_tokens": -5}), DONE)
        case "usage_of_30_digits":
            return chunked(text(), says(choices=[], usage=counts | {"completion_tokens": 10**30}), DONE)
        case "usage_beyond_64_bits":
            return chunked(text(), says(choices=[], usage=counts | {"completion_tokens": 1 << 63}), DONE)
        case "usage_is_nan":
            return chunked(text(), b'data: {"choices": [], "usage": {"completion_tokens": NaN}}\n\n', DONE)
        case "usage_grows_back":
            usages = [{"prompt_tokens": 8, "completion_tokens": n} for n in (1, 2, 1)]
            return chunked(*[text(usage=usage) for usage in usages], text("", "length"), DONE)
    return None


def _lengths(name: str) -> bytes | Iterator[bytes] | None:
    match name:
        case "line_without_end":
            return itertools.chain((HEAD,), itertools.repeat(chunk(b"x" * _PIECE)))
        case "endless_tokens":
            return itertools.chain((HEAD,), itertools.repeat(chunk(text())))
        case "endless_tokens_in_big_chunks":
            return itertools.chain((HEAD,), itertools.repeat(chunk(text(" a" * 16))))
        case "three_times_as_long":
            return chunked(*[text()] * (3 * TOKENS), text("", "stop"), DONE)
        case "endless_comments":
            return itertools.chain((HEAD,), itertools.repeat(chunk(b": " + b"p" * 1000 + b"\n\n")))
        case "endless_body":
            return itertools.chain((plain(b"200 OK", b"")[:-4].replace(b"content-length: 0", b"x: y") + b"\r\n\r\n",), itertools.repeat(b" " * _PIECE))  # fmt: skip
        case "giant_events":
            return itertools.chain((HEAD,), itertools.repeat(chunk(text(" a" * (1 << 22)))))
        case "after_done_more":
            return chunked(text(), text(" b", "stop"), DONE) + b"HTTP/1.1 200 OK\r\n\r\n"
    return None
