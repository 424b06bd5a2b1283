"""Response framing: each case whole, byte by byte, and with random bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.measure.drive.http1 import ENDS, TAIL_BYTES, HttpError, Response, has_done, may_end, usual_head

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
# bytes -> body, complete, reusable
CASES = {
    "chunked": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde", True, True),
    "chunk_that_looks_like_the_end": (CHUNKED + b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n", True, True),
    "extension": (CHUNKED + b"A;x=y\r\n0123456789\r\n0\r\n\r\n", b"0123456789", True, True),
    "trailer": (CHUNKED + b"1\r\na\r\n0\r\nx: y\r\n\r\n", b"a", True, True),
    "cut": (CHUNKED + b"3\r\nab", b"ab", False, True),
    "length": (HEAD + b"Content-Length: 3\r\n\r\nabc", b"abc", True, True),
    "length_zero": (HEAD + b"Content-Length: 0\r\n\r\n", b"", True, True),
    "no_content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True, True),
    "close": (HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\na", b"a", True, False),
    "to_the_end": (HEAD + b"\r\nabc", b"abc", False, False),
    "http_1_0": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", True, False),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\na", b"a", True, True),
    "no_reason": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", b"a", True, True),
}
BAD = {
    "not_http": b"SSH-2.0-x\r\n\r\n",
    "status": b"HTTP/1.1 OK\r\n\r\n",
    "size": CHUNKED + b"zz\r\n",
    "size_sign": CHUNKED + b"-1\r\n",
    "size_prefix": CHUNKED + b"0x5\r\nabcde\r\n",
    "chunk_too_long": CHUNKED + b"2\r\nabc\r\n",
    "length": HEAD + b"Content-Length: many\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
}


@pytest.mark.parametrize("name", CASES)
def test_body_comes_out_whole_and_byte_by_byte(name):
    """The body, the end and whether the connection lives on do not depend on how bytes were split."""
    stream, body, complete, reusable = CASES[name]
    for pieces in ([stream], [bytes([b]) for b in stream]):
        response = Response()
        assert b"".join(map(response.feed, pieces)) == body
        assert (response.complete, response.reusable) == (complete, reusable)


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_http_raises(name):
    """Bytes that break the framing raise HttpError, whole or byte by byte."""
    with pytest.raises(HttpError):
        Response().feed(BAD[name])
    with pytest.raises(HttpError):
        feed_bytewise(Response(), BAD[name])


def feed_bytewise(response: Response, data: bytes) -> None:
    for byte in data:
        response.feed(bytes([byte]))


def test_bytes_after_the_end_are_noticed():
    """What follows a finished response is counted and makes the connection unusable."""
    response = Response()
    response.feed(CASES["chunked"][0] + b"HTTP/1.1 ")
    assert response.complete
    assert response.surplus == 9
    assert not response.reusable


def test_close_ends_only_a_close_delimited_body():
    """End of input completes a body without length, and never a chunked one."""
    free, chunked = Response(), Response()
    free.feed(HEAD + b"\r\nabc")
    chunked.feed(CHUNKED + b"3\r\nabc\r\n")
    assert free.end_of_input()
    assert not chunked.end_of_input()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_any_chunks_and_any_split(chunks, cuts):
    """Random chunks, split at random, give back their bytes and the end."""
    stream = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    at = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    response = Response()
    pieces = [stream[a:b] for a, b in zip(at, at[1:], strict=False)]
    assert b"".join(map(response.feed, pieces)) == b"".join(chunks)
    assert response.complete
    assert response.surplus == 0


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_body_or_http_error(data):
    """Random bytes after a chunked head never raise anything but HttpError."""
    response = Response()
    with contextlib.suppress(HttpError):
        response.feed(CHUNKED + data)


def test_a_response_that_has_not_come_leaves_nothing_to_reuse():
    """Before its head is whole a response is neither complete nor reusable, and an end of input breaks it."""
    response = Response()
    assert response.feed(HEAD[:20]) == b""
    assert (response.complete, response.reusable, response.end_of_input()) == (False, False, False)


def test_what_ends_a_body_and_what_comes_after_it():
    """Only a body without length or chunks ends with its connection; a chunked one begins before a size; bytes beyond a
    length are counted and leave nothing to reuse."""
    to_the_end, chunked, length = Response(), Response(), Response()
    to_the_end.feed(HEAD + b"\r\nabc")
    assert not to_the_end.between_chunks
    chunked.feed(CHUNKED)
    assert chunked.between_chunks
    assert length.feed(HEAD + b"Content-Length: 3\r\n\r\nabcXY") == b"abc"
    assert (length.complete, length.surplus, length.reusable) == (True, 2, False)


@pytest.mark.parametrize(
    ("data", "again"),
    [
        (CHUNKED, True),
        (CHUNKED.upper().replace(b"OK", b"Ok") + b"3\r\nabc", True),
        (CHUNKED[:-2] + b"Connection: close\r\n\r\n", False),
        (CHUNKED + b"\r\nconnection: close\r\n", True),
        (CHUNKED[:-2], None),
        (CHUNKED.replace(b"200", b"404"), None),
        (HEAD + b"content-length: 32\r\n\r\n\r\ntransfer-encoding: chunked\r\n\r\n", None),
    ],
)
def test_the_head_of_a_usual_reply(data, again):
    """A chunked 200 whose head came whole, whatever stands in its body: may its connection be used again? None: another reply."""
    assert usual_head(data) is again


@pytest.mark.parametrize(
    ("data", "ends"),
    [
        (CHUNKED, False),
        (CHUNKED + b"0\r\n\r\n", True),
        (CHUNKED + b"0\r\n\r", False),
        (CHUNKED + b"3\r\nabc\r\n", False),
        (CHUNKED + ENDS, True),
    ],
)
def test_a_first_read_that_may_be_the_whole_reply(data, ends):
    """It ends as a last chunk does, beyond the end of the head itself."""
    assert may_end(data) is ends


def test_a_stream_that_said_that_it_is_over():
    """Only `[DONE]` right before the last chunk, and nothing behind it."""
    end = b"data: [DONE]\n\n\r\n0\r\n\r\n"
    assert len(end) == TAIL_BYTES
    assert has_done(b"x" + end)
    assert not any(has_done(tail) for tail in (end[1:], end + b"\n", end.replace(b"0", b"1")))
