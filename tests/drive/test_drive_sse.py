"""The event-stream parser: each case whole, and byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.measure.drive.sse import MAX_LINE_BYTES, Event, SseError, SseParser

CASES = {
    "lf": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "cr": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "mixed": (b"data: a\r\n\ndata: b\r\r\n", [b"a", b"b"]),
    "multi_line": (b"data: a\ndata: b\ndata:\n\n", [b"a\nb\n"]),
    "comment": (b": hello\n\n:\ndata: a\n: in between\n\n", [b"a"]),
    "bom": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "bom_in_data": (b"data: \xef\xbb\xbfa\n\n", [b"\xef\xbb\xbfa"]),
    "no_space": (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
    "no_colon": (b"data\n\n", [b""]),
    "other_fields": (b"id: 1\nretry: 5\nfoo: x\ndata: a\n\n", [b"a"]),
    "empty_events": (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
    "unfinished": (b"data: a\n\ndata: b\n", [b"a"]),
    "done": (b"data: {}\n\ndata: [DONE]\n\n", [b"{}", b"[DONE]"]),
    "utf8": ("data: äöü€\n\n".encode(), ["äöü€".encode()]),
}


def parse(pieces: list[bytes]) -> list[bytes]:
    parser = SseParser()
    return [event.data for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize("name", CASES)
def test_events_come_out_whole_and_byte_by_byte(name):
    """Every case gives the same events however its bytes are split."""
    stream, expected = CASES[name]
    assert parse([stream]) == expected
    assert parse([bytes([b]) for b in stream]) == expected
    for i in range(len(stream)):
        assert parse([stream[:i], stream[i:]]) == expected


def test_event_name_is_kept():
    """An event field names the next event only."""
    assert SseParser().feed(b"event: error\ndata: a\n\ndata: b\n\n") == [Event(b"a", "error"), Event(b"b")]


def test_endless_line_is_an_error():
    """A line beyond the limit is refused instead of growing without bound."""
    parser = SseParser()
    for _ in range(MAX_LINE_BYTES // 65536):
        parser.feed(b"x" * 65536)
    with pytest.raises(SseError, match="longer than"):
        parser.feed(b"x" * 65536)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20), max_size=6),
    st.sampled_from(["\n", "\r", "\r\n"]),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_any_split_gives_the_same_events(texts, end, cuts):
    """Random texts, line ends and splits: what was written comes out."""
    stream = "".join(f"data: {text}{end}{end}" for text in texts).encode()
    at = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[a:b] for a, b in zip(at, at[1:], strict=False)]
    assert parse(pieces) == [text.encode() for text in texts]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_lines_of_an_event_stay_together_wherever_it_is_split(end):
    """CR | LF in two reads is one line end, not an empty line: an event of three lines is one event at every split."""
    stream = f"event: e{end}data: a{end}data: b{end}data: c{end}{end}data: d{end}{end}".encode()
    expected = [Event(b"a\nb\nc", "e"), Event(b"d")]
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            parser = SseParser()
            pieces = (stream[:first], stream[first:second], stream[second:])
            assert [event for piece in pieces for event in parser.feed(piece)] == expected, (first, second)
            assert parser.between != (end == "\r")  # after CR an LF may still come


def test_a_read_that_ends_in_cr_is_not_between_events():
    """The LF may still come: only then does the next read begin with an event."""
    parser = SseParser()
    assert parser.feed(b"data: a\r\n\r") == [Event(b"a")]
    assert not parser.between
    assert parser.feed(b"\n") == []
    assert parser.between


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=8))
def test_any_bytes_are_taken_without_an_exception(pieces):
    """Arbitrary bytes never raise, and give the same events however split."""
    whole = b"".join(pieces)
    assert parse(pieces) == parse([whole]) == parse([bytes([b]) for b in whole])
