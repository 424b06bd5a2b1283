"""A reply read from its raw bytes: the short way for usual reads gives what the careful one gives."""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.clock import Anchor
from harness.measure.drive.rows import Context, Raw, StampMap, _Reading, record
from harness.records import Phase, PlannedRequest

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
REQUEST = PlannedRequest(0, None, 8, 4, None, 0)
CONTEXT = Context(Phase.MEASURE, open_loop=False, api_key=None)


def chunk(body: bytes, size: bytes = b"%x") -> bytes:
    return size % len(body) + b"\r\n" + body + b"\r\n"


def event(tokens: int, text: str = " a", finish: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish}
    usage = {"prompt_tokens": 8, "completion_tokens": tokens}
    return b"data: " + json.dumps({"choices": [choice], "usage": usage}).encode() + b"\n\n"


def row_of(reads: list[bytes]):
    stamps = b"".join(struct.pack("=qq", 10, 1000 * i) for i in range(len(reads)))
    lengths = array("I", map(len, reads)).tobytes()
    raw = Raw(0, "", "", 1, 1, 1, 0, True, 1, 10**12, False, stamps, lengths, b"".join(reads))
    stamp_map = StampMap()
    stamp_map.add(Anchor(0, 0, 1))
    return record(raw, REQUEST, "r", 0, stamp_map, CONTEXT)


def both_ways(reads: list[bytes]):
    """The rows with and without the short way."""
    row_of(reads)  # lets it learn
    short = row_of(reads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.measure.drive.rows._beginnings", {})
        patch.setattr("harness.measure.drive.rows._learn", lambda _: None)
        return short, row_of(reads)


USUAL = [chunk(event(i)) for i in range(1, 5)]
ODD = [
    chunk(event(2), b"%X"),
    chunk(event(2), b"0%x"),
    chunk(event(2), b"%x;name=value"),
    chunk(event(2, "line\nend")),
    chunk(event(2) + event(3)),
    chunk(b"data: {\n\n"),
    chunk(b'data: {"choices":\ndata: [{"text": "b"}]}\n\n'),
    chunk(b'data: {"choices":\r[{"text": "b"}]}\n\n'),
    chunk(b'data:{"choices": [{"text": "b"}]}\n\n'),
    chunk(b'data: {"choices": [{"text": "b"}]}\n\ndata: x'),
    chunk(b'data: {"choices": null, "error": {"message": "engine died"}}\n\n'),
    chunk(b'data: {"choices": {}}\n\n'),
    chunk(b'data: {"choices": [null]}\n\n'),
    chunk(b"data: " + b"[" * 100_000 + b"\n\n"),
    chunk(b"data: [DONE]\n\n"),
    chunk(b": a comment\n\n"),
    chunk(event(2))[:-4],
    chunk(event(2))[:3],
    b"5\r\n" + chunk(event(2)),
    b"\r\n\r\n",
]
# a read with the length, the beginning and the end of a usual one, and not one: its chunk ends earlier
ODD.append(b"%x\r\n" % (len(event(2)) - 7) + event(2) + b"\r\n")


@pytest.mark.parametrize("place", [1, 2, 4])
@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_one_odd_read(odd, place):
    """Anything unusual among usual reads is the framing parser's, as if there were no short way."""
    reads = [HEAD, *USUAL[: place - 1], odd, *USUAL[place - 1 :], END]
    short, careful = both_ways(reads)
    assert short == careful


def test_a_usual_reply():
    """Four tokens, each stamped with its read; nothing merged; spellings of the size are learned."""
    for size in (b"%x", b"%X", b"000%x"):
        reads = [HEAD, *(chunk(event(i), size) for i in range(1, 4)), chunk(event(4, finish="length"), size), END]
        short, careful = both_ways(reads)
        assert short == careful
        assert (short.outcome, short.chunk_ns, short.chunk_tokens) == (
            "ok",
            tuple(10 * 10**9 + 1000 * i for i in range(1, 5)),
            (1, 1, 1, 1),
        )
        assert (short.merged_reads, short.finish_reason, short.prompt_tokens) == (0, "length", 8)


def test_usual_reads_take_the_short_way(monkeypatch):
    """All but a reply's first and last reads, once their lengths are known: what the parse costs depends on it."""
    reads = [HEAD, *USUAL, END]
    row_of(reads)
    careful = []
    read = _Reading._read
    monkeypatch.setattr(_Reading, "_read", lambda self, data, at: careful.append(data) or read(self, data, at))
    row_of(reads)
    assert careful == [HEAD, USUAL[0], END]


PIECES = st.lists(
    st.one_of(
        st.sampled_from([*USUAL, *ODD[:5], END]),
        st.tuples(
            st.sampled_from(USUAL), st.integers(0, 60), st.sampled_from([b"", b"\n", b"\r", b"x", b'"', b"}"])
        ).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + len(t[2]) :]),
    ),
    max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(PIECES, st.lists(st.integers(0, 900), max_size=3))
def test_both_ways_agree(pieces, cuts):
    """Reads mutated, doubled and cut anywhere: the same row."""
    stream = [HEAD, *pieces, END]
    joined = b"".join(stream)
    ends = sorted(
        {sum(map(len, stream[: i + 1])) for i in range(len(stream))} | {c for c in cuts if 0 < c < len(joined)}
    )
    reads = [joined[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    short, careful = both_ways(reads)
    assert replace(short, error=None) == replace(careful, error=None)
