"""What the parsers of an answer hold at each byte, their limits to the byte, and the bodies sent, whole."""

from __future__ import annotations

import json

import pytest

from harness.base.errors import ConfigError
from harness.measure.drive.dialect import clean_error, encode, error_message
from harness.measure.drive.dialect.chat import ChatReply as Reply
from harness.measure.drive.http1 import MAX_HEAD_BYTES, HttpError, Response
from harness.measure.drive.sse import MAX_LINE_BYTES, Event, SseError, SseParser
from harness.records import Endpoint, PlannedRequest, Prompt

REQUEST = PlannedRequest(4, None, 3, 7, None, 1)


def states(*pieces):
    """Whether it is between events after each piece."""
    parser = SseParser()
    found = []
    for piece in pieces:
        parser.feed(piece)
        found.append(parser.between)
    return found


def test_where_an_event_stream_stands():
    """Between: an event has ended and nothing of the next has come, no BOM, no name, no LF that belongs to a CR."""
    assert not SseParser().between
    assert states(b"\xef", b"\xbb", b"\xbf", b"d", b"ata: a\n", b"\n", b"event: e", b"\n", b"\n", b": c", b"\n", b"data: x\r", b"\r", b"", b"\n") == [
        False, False, True, False, False, True, False, False, True, False, True, False, False, False, True,
    ]  # fmt: skip


def test_a_line_may_be_as_long_as_the_limit():
    """Whole or in parts; one byte more is refused, and a line that ended does not count for the next."""
    for parts in ([MAX_LINE_BYTES], [3, MAX_LINE_BYTES - 4, 1]):
        parser = SseParser()
        for size in parts:
            assert parser.feed(b":" * size) == []
        with pytest.raises(SseError, match=f"longer than {MAX_LINE_BYTES} bytes"):
            parser.feed(b":")
    parser = SseParser()
    parser.feed(b":" * MAX_LINE_BYTES)
    assert parser.feed(b"\ndata: a\n\n:") == [Event(b"a")]
    assert parser.feed(b":" * (MAX_LINE_BYTES - 1)) == []
    with pytest.raises(SseError):
        parser.feed(b":")


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"event: a\nevent: b\ndata: 1\n\n", [Event(b"1", "b")]),
        (
            b"event: a\n\ndata: 1\n\n",
            [Event(b"1", "message")],
        ),  # an event without data is none, and its name goes with it
        (b"event:\ndata: 1\n\n", [Event(b"1", "message")]),
        (b"event:  a:b \ndata: x:y\n\n", [Event(b"x:y", " a:b ")]),
        (b"event: \xff\ndata: 1\n\n", [Event(b"1", "\ufffd")]),
        (b"datax: 1\ndata : 2\n data: 3\n\n", []),
        (b"\xef\xbbdata: 1\n\ndata: 2\n\n", [Event(b"2", "message")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\ndata: 2\n\n", [Event(b"2", "message")]),
    ],
)
def test_fields_of_events(stream, events):
    """The last name counts, for one event; only the first BOM is skipped; fields are named exactly."""
    assert SseParser().feed(stream) == events
    parser = SseParser()
    assert [event for byte in stream for event in parser.feed(bytes([byte]))] == events


def head(*lines, first=b"HTTP/1.1 200 OK"):
    return b"\r\n".join([first, *lines]) + b"\r\n\r\n"


def fed(stream):
    response = Response()
    body = response.feed(stream)
    return body, response.status, response.headers, response.complete, response.reusable, response.surplus


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (head(b"X-A:  b \t", b"content-length:2") + b"ok", (b"ok", 200, {"x-a": "b", "content-length": "2"}, True, True, 0)),
        (head(b"A: 1", b"a: 2", b"Content-Length: 0") + b"xyz", (b"", 200, {"a": "2", "content-length": "0"}, True, False, 3)),
        (head(first=b"HTTP/1.1 304 x"), (b"", 304, {}, True, True, 0)),
        (head(b"Content-Length: 5", first=b"HTTP/1.1 204"), (b"", 204, {"content-length": "5"}, True, True, 0)),
        (head(first=b"HTTP/1.1 100") + head(first=b"HTTP/1.1 199 x") + head(b"Content-Length: 1", first=b"HTTP/1.1 404 x") + b"a",
         (b"a", 404, {"content-length": "1"}, True, True, 0)),
        (head(b"Connection: Keep-Alive", b"Content-Length: 1", first=b"HTTP/1.0 200 OK") + b"a",
         (b"a", 200, {"connection": "Keep-Alive", "content-length": "1"}, True, True, 0)),
        (head(b"Connection: CLOSE", b"Content-Length: 1") + b"a", (b"a", 200, {"connection": "CLOSE", "content-length": "1"}, True, False, 0)),
        (head(b"Transfer-Encoding: gzip, Chunked") + b"1\r\na\r\n00\r\n\r\n",
         (b"a", 200, {"transfer-encoding": "gzip, Chunked"}, True, True, 0)),
        (head(b"Transfer-Encoding: chunked", b"Content-Length: 9") + b"1 \t;x\r\na\r\n0\r\n\r\n",
         (b"a", 200, {"transfer-encoding": "chunked", "content-length": "9"}, True, True, 0)),
        (head(b"Connection: keep-alive") + b"abc", (b"abc", 200, {"connection": "keep-alive"}, False, False, 0)),
        (head(b"X: \xe9", b"Content-Length: 1") + b"a", (b"a", 200, {"x": "é", "content-length": "1"}, True, True, 0)),
    ],
)  # fmt: skip
def test_all_of_a_response(stream, found):
    """Body, status, headers, end, whether its connection lives on, and what came after it."""
    assert fed(stream) == found


@pytest.mark.parametrize(
    "stream",
    [head(b": x"), head(b"a : x"), head(b" a: x"), head(b"a"), head(first=b"HTTP/1.2 200 OK"), head(first=b"HTTP/1.1 20 OK"),
     head(first=b"HTTP/1.1 2000 OK"), head(first=b"HTTP/1.1  200"), head(first=b"XHTTP/1.1 200"), head(b"Content-Length: -1"),
     head(b"Content-Length: +1"), head(b"Content-Length: "), head(b"Content-Length: \xb2"), head(b"Content-Length: 1_0"),
     head(b"Transfer-Encoding: chunked") + b"\r\n", head(b"Transfer-Encoding: chunked") + b"1" * 16 + b"\r\n",
     head(b"Transfer-Encoding: chunked") + b" 1\r\na\r\n", head(b"Transfer-Encoding: chunked") + b"1\r\naxy",
     b"HTTQ", b"HTTP/2.0 "],
)  # fmt: skip
def test_what_breaks_the_framing(stream):
    """Names, versions, numbers and sizes that are none."""
    with pytest.raises(HttpError):
        Response().feed(stream)


def test_heads_and_size_lines_have_limits():
    """A head of 256 KiB that has not ended, and a size line of 4 KiB, are waited for; one byte more is refused."""
    response = Response()
    assert response.feed(b"HTTP/1.1 200 OK\r\n".ljust(MAX_HEAD_BYTES, b"x")) == b""
    with pytest.raises(HttpError, match=f"longer than {MAX_HEAD_BYTES} bytes"):
        response.feed(b"x")
    response = Response()
    response.feed(head(b"Transfer-Encoding: chunked"))
    assert response.feed(b"1;".ljust(4096, b"x")) == b""
    with pytest.raises(HttpError, match="does not end"):
        response.feed(b"x")
    response = Response()
    response.feed(head(b"Transfer-Encoding: chunked"))
    assert response.feed(b"1" * 15 + b"\r\na") == b"a"


def test_a_response_of_which_nothing_has_come():
    """No status, no headers, nothing left over, and nothing to reuse."""
    new = Response()
    assert (new.status, new.headers, new.surplus, new.reusable, new.complete) == (None, {}, 0, False, False)
    assert not new.between_chunks


def test_each_state_of_a_chunked_body():
    """Between chunks only where a size comes next and nothing of it has come."""
    response = Response()
    found = []
    for piece in (
        head(b"Transfer-Encoding: chunked"),
        b"2",
        b"\r",
        b"\n",
        b"a",
        b"b",
        b"\r",
        b"\n",
        b"0",
        b"\r\n",
        b"x: y\r\n",
        b"\r",
        b"\n",
    ):
        response.feed(piece)
        found.append((response.between_chunks, response.complete))
    assert found == [(True, False), *[(False, False)] * 6, (True, False), *[(False, False)] * 4, (False, True)]
    assert response.feed(b"zz") == b""
    assert (response.surplus, response.reusable) == (2, False)
    assert response.feed(b"z") == b""
    assert response.surplus == 3
    response = Response()
    assert [response.feed(p) for p in (head(b"Transfer-Encoding: chunked"), b"0\r\n\r", b"\nzz", b"z")] == [b""] * 4
    assert (response.surplus, response.complete) == (3, True)


def test_bodies_that_are_sent():
    """Every byte, for each API with vLLM's words and without, and with ids asked for where a later turn needs them."""
    usage = '"temperature":0,"stream":true,"stream_options":{"include_usage":true'
    vllm = ',"continuous_usage_stats":true},"ignore_eos":true,"min_tokens":7'
    said = '"messages":[{"role":"system","content":"s"},{"role":"user","content":"a b"}]'
    text, ids = Prompt(4, "a b", None), Prompt(4, "a b", (5, 6))
    talk = Prompt(4, "a b", None, (("system", "s"), ("user", "a b")))

    def sent(api, prompt, vllm_extensions, followed=False):
        return encode(
            Endpoint("http://h/v1", "m", api, vllm_extensions=vllm_extensions), REQUEST, prompt, followed=followed
        ).decode()

    assert sent("completions", text, False) == '{"model":"m","prompt":"a b","max_tokens":7,' + usage + "}}"
    assert (
        sent("completions", ids, False, followed=True) == '{"model":"m","prompt":[5,6],"max_tokens":7,' + usage + "}}"
    )
    assert sent("completions", ids, True) == '{"model":"m","prompt":[5,6],"max_tokens":7,' + usage + vllm + "}"
    assert (
        sent("completions", text, True, followed=True)
        == '{"model":"m","prompt":"a b","max_tokens":7,' + usage + vllm + ',"return_token_ids":true}'
    )
    assert sent("chat", talk, False) == '{"model":"m",' + said + ',"max_completion_tokens":7,' + usage + "}}"
    assert (
        sent("chat", ids, True)
        == '{"model":"m","messages":[{"role":"user","content":"a b"}],"max_tokens":7,' + usage + vllm + "}"
    )
    for api, prompt, what, value in (("completions", Prompt(4, None, None), "empty", "seq 4"), ("chat", Prompt(4, None, (5,)), "takes text", "seq 4"),
                                     ("embed", text, "unknown API", "embed")):  # fmt: skip
        with pytest.raises(ConfigError, match=what) as caught:
            sent(api, prompt, True)
        assert caught.value.value == value


def test_errors_as_they_are_recorded():
    """One line of at most 200 characters without the key and what looks like one; a body's message, or what stands for it."""
    assert (
        clean_error(" a\n b\tkey1 sk-12345 sk-123456/x bearer  abcdef+=~ BEARER .....-", "key1")
        == "a b *** sk-12345 *** *** ***"
    )
    assert clean_error("x" * 201, None) == "x" * 200
    assert clean_error(ValueError("v"), "") == "v"
    for body, message in (
        ({"error": {"message": "m", "detail": "d"}}, "m"), ({"error": {"message": "", "detail": "d"}}, "d"), ({"error": "e"}, "e"),
        ({"error": 5}, "5"), ({"detail": [1]}, "[1]"), ({"error": {}}, None), ({}, None), ([1], None), ("x", None),
    ):  # fmt: skip
        assert error_message(json.dumps(body).encode()) == message


def test_a_gap_of_usage():
    """After a chunk without usage the next that has some tells no single chunk's tokens; the one after it does."""
    reply = Reply()
    for at, usage in enumerate((1, None, 4, 6)):
        value = {"choices": [{"text": "a"}], "usage": None if usage is None else {"completion_tokens": usage}}
        assert reply.take(json.dumps(value).encode(), 10 + at)
    assert (reply.chunk_ns, reply.tokens, reply.output) == ([10, 11, 12, 13], [1, None, None, None], 6)
    assert reply.chunk_tokens() is None


def test_chunks_that_bear_nothing():
    """Usage that did not grow, an empty list of ids, no choices; an error ends nothing that was said before."""
    reply = Reply()
    for value in ({"choices": [{"text": "a"}], "usage": {"completion_tokens": 0}}, {"choices": [{"text": "", "token_ids": []}]}, {"choices": None},
                  {"choices": [{"delta": {"tool_calls": [{}, {"function": {}}]}}]}, {"choices": [{"delta": {"content": []}}]}):  # fmt: skip
        assert not reply.take_value(value, 5)
    assert (reply.chunk_ns, reply.reasoning_chunks, reply.emptiness()) == (
        [],
        0,
        "the stream ended (finish_reason none) without a token",
    )
    reply.take_value(
        {"choices": [{"text": "", "finish_reason": "stop"}], "usage": {"completion_tokens": 3, "prompt_tokens": 2}},
        6,
    )
    assert reply.chunk_ns == [6]
    assert reply.emptiness() == "the stream ended (finish_reason stop) without a token; usage counts 3 output tokens"
    reply.take_value({"error": {"message": "late"}}, 7)
    assert (reply.error, reply.output, reply.prompt, reply.tokens) == ("late", 3, 2, [3])


def test_several_choices():
    """Ids of all choices count; reasoning or something visible in any of them is seen."""
    reply = Reply()
    choices = [
        {"text": "", "token_ids": [1, 2]},
        {"delta": {"reasoning": "x"}, "token_ids": [3]},
        {"text": "a", "token_ids": None},
    ]
    assert reply.take(json.dumps({"choices": choices}).encode(), 9)
    assert (reply.tokens, reply.reasoning_chunks, reply.first_visible_ns) == ([3], 1, 9)


@pytest.mark.parametrize("depth", [200_000])
def test_an_event_that_is_nested_too_deep(depth):
    """Refused like any other that cannot be read."""
    with pytest.raises(ValueError):
        Reply().take(b'{"error":' + b"[" * depth + b"]" * depth + b"}", 1)
